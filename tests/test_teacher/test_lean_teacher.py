"""Options that make a teacher's forward pass cheaper and leave what it teaches as it is."""

from __future__ import annotations

import contextlib
import gc
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from builders import (
    batch,
    build,
    counted,
    fcn_head,
    gradients,
    mit,
    resnet,
    same_tensors,
    save_weights,
    sgd,
    term,
    train,
    wrapper_config,
)
from torch import Tensor, nn

from mmseg_kd.config.network_spec import parse_network
from mmseg_kd.config.teacher_options import TeacherOptions
from mmseg_kd.errors import ConfigError, ManyErrors
from mmseg_kd.teacher.compiled import CompiledTaps
from mmseg_kd.teacher.fold_batchnorm import Folding
from mmseg_kd.teacher.side_stream import SideStream

Make = Callable[..., Any]

ZOO = 'mmseg::segformer/segformer_mit-b0_8xb2-160k_ade20k-512x512.py'
BN1 = 'backbone.layer1.0.bn1'  # an in-place ReLU follows
AUXILIARY = resnet(8, auxiliary_head=fcn_head(8, 0))

needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason='there is no CUDA')


@pytest.fixture
def make(tmp_path: Path) -> Make:
    """Build a wrapper whose teacher, by default a ResNet, has the options that are given."""

    def build_wrapper(
        *terms: dict[str, Any],
        student: dict[str, Any] | None = None,
        teacher: dict[str, Any] | None = None,
        **options: Any,
    ) -> Any:
        teacher = resnet(8) if teacher is None else teacher
        checkpoint = save_weights(teacher, tmp_path / 'teacher.pth')
        student = resnet(4) if student is None else student
        return build(wrapper_config(student, teacher, checkpoint, *terms, **options))

    return build_wrapper


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What a teacher says in the log."""
    lines: list[str] = []
    for module in ('teacher.teacher', 'teacher.compiled'):
        monkeypatch.setattr(
            f'mmseg_kd.{module}.print_log', lambda text, **kwargs: lines.append(text)
        )
    return lines


def taught(wrapper: Any, context: Any = None) -> list[Tensor]:
    """What the teacher gives to each loss in one training step."""
    seen: list[Tensor] = []
    handles = [
        one.loss.register_forward_pre_hook(lambda module, args: seen.append(args[1].clone()))
        for one in wrapper.terms.values()
    ]
    wrapper.eval()
    with context or contextlib.nullcontext():
        data = wrapper.data_preprocessor(batch(), training=True)
        wrapper(**data, mode='loss')
    for handle in handles:
        handle.remove()
    return seen


def assert_same(found: list[Tensor], expected: list[Tensor], rtol: float = 1e-4) -> None:
    """Whether tensors are the same to rounding."""
    assert len(found) == len(expected) > 0
    for ours, theirs in zip(found, expected, strict=True):
        assert theirs.std() > 1e-3
        torch.testing.assert_close(ours, theirs, rtol=rtol, atol=rtol * float(theirs.abs().max()))


def norms(network: nn.Module) -> int:
    return sum(isinstance(module, nn.BatchNorm2d) for module in network.modules())


# The config.


def test_defaults() -> None:
    expected = TeacherOptions(
        fold_bn=True,
        fused_attention=True,
        autocast=None,
        channels_last=False,
        compile=None,
        stream=False,
    )
    assert parse_network(resnet(4), 'teacher', is_teacher=True).options == expected
    assert parse_network(dict(config=ZOO), 'teacher', is_teacher=True).options == expected


def test_options_of_a_config() -> None:
    options = dict(
        fold_bn=False,
        fused_attention=False,
        autocast='bfloat16',
        channels_last=True,
        compile=True,
        stream=True,
    )
    spec = parse_network({**resnet(4), **options}, 'teacher', is_teacher=True)
    assert spec.options == TeacherOptions(**{**options, 'compile': {}})
    assert not set(options) & set(spec.model)
    spec = parse_network(dict(config=ZOO, compile=False), 'teacher', is_teacher=True)
    assert spec.options.compile is None
    arguments = dict(backend='eager', dynamic=False)
    spec = parse_network({**resnet(4), 'compile': arguments}, 'teacher', is_teacher=True)
    assert spec.options.compile == arguments


@pytest.mark.parametrize(
    ('option', 'message'),
    [
        (dict(fold_bn='yes'), r"teacher\.fold_bn: expected True or False, got 'yes'"),
        (dict(channels_last=1), r'teacher\.channels_last: expected True or False, got 1'),
        (dict(stream=None), r'teacher\.stream: expected True or False, got None'),
        (dict(autocast='bf16'), r"teacher\.autocast: .* got 'bf16'; nearest: bfloat16"),
        (dict(autocast=True), r'teacher\.autocast: expected None .* float32, got True'),
        (
            dict(compile='inductor'),
            r"compile: expected None, True, False or a dict .* got 'inductor'",
        ),
        (dict(compile=dict(back='x')), r"torch\.compile has no argument 'back'; nearest: backend"),
        (dict(fold_bm=True, config=ZOO), r"teacher: unknown key 'fold_bm'; nearest: fold_bn"),
    ],
)
def test_a_wrong_option_is_named(option: dict[str, Any], message: str) -> None:
    network = option if 'config' in option else {**resnet(4), **option}
    with pytest.raises(ConfigError, match=message):
        parse_network(network, 'teacher', is_teacher=True)


def test_wrong_options_are_reported_with_all_other_problems(make: Make) -> None:
    with pytest.raises(ManyErrors) as raised:
        make(term(loss='CDGLoss'), fold_bn=0, autocast='half', compile=3, stream='a')
    message = str(raised.value)
    for part in ('fold_bn', 'autocast', 'compile', 'stream', 'CDGLoss'):
        assert part in message
    assert len(raised.value.errors) == 5


def test_options_are_the_teachers_alone() -> None:
    with pytest.raises(ConfigError, match="student: unknown key 'fold_bn'"):
        parse_network(dict(config=ZOO, fold_bn=True), 'student')


def test_each_teacher_has_its_own(tmp_path: Path) -> None:
    checkpoint = save_weights(resnet(8), tmp_path / 'teacher.pth')
    teachers = [
        dict(**resnet(8), checkpoint=checkpoint, fold_bn=False, autocast='bfloat16'),
        dict(**resnet(8), checkpoint=checkpoint),
    ]
    wrapper = build(
        dict(
            type='DistillationWrapper',
            student=resnet(4),
            teacher=teachers,
            distillation=[term(teacher=0), term(teacher=1)],
        )
    )
    first, second = wrapper.teachers.values()
    assert norms(first) > 0
    assert norms(second) == 0
    assert [output.dtype for output in taught(wrapper)] == [torch.bfloat16, torch.float32]


# fold_bn.

TERMS = {
    'scores': (term(),),
    'in place': (term(BN1, BN1, 'CDLoss'),),
    'convolution': (term('backbone.layer1.0.conv1', 'backbone.layer1.0.conv1', 'CDLoss'),),
    'auxiliary': (term('auxiliary_head.conv_seg', 'auxiliary_head.conv_seg'), term()),
}


@pytest.mark.parametrize('terms', TERMS.values(), ids=TERMS)
def test_a_folded_teacher_teaches_the_same(make: Make, terms: tuple[dict[str, Any], ...]) -> None:
    network = AUXILIARY if terms is TERMS['auxiliary'] else resnet(8)
    plain, folded = (
        make(*terms, student=network, teacher=network, fold_bn=on) for on in (False, True)
    )
    assert norms(plain.teacher) > 5
    assert norms(folded.teacher) == (terms is TERMS['convolution'])
    expected = taught(plain)
    assert_same(taught(folded), expected)
    if terms is TERMS['in place']:
        assert all(bool((output < 0).any()) for output in expected)
    for theirs, ours in zip(train(plain, 3), train(folded, 3), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


def test_a_folded_teacher_is_that_of_its_checkpoint(make: Make, tmp_path: Path) -> None:
    wrapper = make(term(BN1, BN1))
    network = build(resnet(8), seed=5)
    network.load_state_dict(torch.load(tmp_path / 'teacher.pth'))
    images = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        expected = network.eval()(images, mode='tensor')
        assert_same([wrapper.teacher(images, mode='tensor')], [expected])


def test_folding_leaves_the_students_weights_and_dropout_as_they_are(make: Make) -> None:
    plain, wrapper = (make(term(), student=mit(8), fold_bn=on) for on in (False, True))
    assert same_tensors(plain.student.state_dict(), wrapper.student.state_dict())
    logs = [train(one, 1)[0]['decode.loss_ce'] for one in (plain, wrapper)]
    assert torch.equal(*logs)


def test_a_folded_teacher_is_frozen_and_cast(make: Make) -> None:
    wrapper = make(term()).to(torch.float64)
    assert all(p.dtype == torch.float64 for p in wrapper.teacher.parameters())
    assert not any(p.requires_grad for p in wrapper.teacher.parameters())
    assert all(g is not None for g in gradients(wrapper).values())


def test_what_was_folded_is_said_once(make: Make, said: list[str]) -> None:
    wrapper = make(term())
    train(wrapper, 2)
    (line,) = (line for line in said if 'BatchNorm' in line)
    count = norms(build(resnet(8)))
    assert line == f'Teacher: {count} BatchNorm layers are folded into convolutions.'


def test_what_cannot_be_folded_is_said(
    make: Make, said: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        'mmseg_kd.teacher.teacher.fold_batchnorm', lambda *args: Folding([], ['a', 'b'])
    )
    make(term())
    assert said[-1] == (
        'Teacher: BatchNorm is not folded where that would change the outputs: a, b.'
    )


def test_a_teacher_that_cannot_be_watched_runs_as_it_is(
    make: Make, said: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*args: Any) -> None:
        raise NotImplementedError('an operator of its own')

    monkeypatch.setattr('mmseg_kd.teacher.teacher.fold_batchnorm', fail)
    wrapper = make(term())
    assert said[-1] == (
        'Teacher: BatchNorm is not folded: NotImplementedError: an operator of its own'
    )
    assert norms(wrapper.teacher) > 0
    assert train(wrapper, 1)[0]['kd.kl'] > 0


# autocast.


@pytest.mark.parametrize(
    ('option', 'alone', 'with_the_student'),
    [
        (None, torch.float32, torch.bfloat16),
        ('float32', torch.float32, torch.float32),
        ('bfloat16', torch.bfloat16, torch.bfloat16),
        ('float16', torch.float16, torch.float16),
    ],
)
def test_precision_of_the_teacher(
    make: Make, option: str | None, alone: torch.dtype, with_the_student: torch.dtype
) -> None:
    wrapper = make(term(), autocast=option)
    dtypes: list[torch.dtype] = []
    wrapper.student.decode_head.conv_seg.register_forward_hook(
        lambda module, args, output: dtypes.append(output.dtype)
    )
    assert [output.dtype for output in taught(wrapper)] == [alone]
    amp = torch.autocast('cpu', dtype=torch.bfloat16)
    assert [output.dtype for output in taught(wrapper, amp)] == [with_the_student]
    assert dtypes == [torch.float32, torch.bfloat16]
    assert all(p.dtype == torch.float32 for p in wrapper.teacher.parameters())


@pytest.mark.parametrize('option', ['bfloat16', 'float16'])
def test_half_precision_is_near(make: Make, option: str) -> None:
    expected = taught(make(term()))
    found = [output.float() for output in taught(make(term(), autocast=option))]
    assert_same(found, expected, rtol=0.05)


@pytest.mark.parametrize(
    'loss', ['KLLoss', 'CDLoss', dict(type='CGDLoss', group_size=2), 'ATLoss', 'IFVDLoss']
)
def test_every_loss_takes_a_teacher_in_half_precision(make: Make, loss: Any) -> None:
    logs = [train(make(term(loss=loss, name='a'), autocast=one), 1)[0] for one in (None, 'float16')]
    assert logs[1]['kd.a'].dtype == torch.float32
    torch.testing.assert_close(logs[1]['kd.a'], logs[0]['kd.a'], rtol=0.1, atol=1e-4)
    assert not torch.equal(logs[1]['kd.a'], logs[0]['kd.a'])


# channels_last.


def in_channels_last(tensor: Tensor) -> bool:
    return tensor.is_contiguous(memory_format=torch.channels_last) and not tensor.is_contiguous()


@pytest.mark.parametrize('teacher', [resnet(8), mit(16)], ids=['resnet', 'mit'])
def test_channels_last_is_the_teachers_alone(make: Make, teacher: dict[str, Any]) -> None:
    plain, wrapper = (make(term(), teacher=teacher, channels_last=on) for on in (False, True))
    images: list[Tensor] = []
    for network in (wrapper.teacher, wrapper.student):
        network.backbone.register_forward_pre_hook(lambda module, args: images.append(args[0]))
    assert_same(taught(wrapper), taught(plain))
    assert [in_channels_last(one) for one in images] == [True, False]

    def kernels(network: nn.Module) -> list[bool]:
        weights = [m.weight for m in network.modules() if isinstance(m, nn.Conv2d)]
        return [in_channels_last(w) for w in weights if min(w.shape[1], w.shape[2]) > 1]

    assert len(kernels(wrapper.teacher)) > 1
    assert all(kernels(wrapper.teacher))
    assert not any(kernels(wrapper.student))
    assert all(kernels(wrapper.double().teacher))
    assert train(wrapper, 1)[0]['kd.kl'] > 0


def test_a_network_that_fails_in_channels_last_is_an_error(make: Make) -> None:
    teacher = resnet(8, decode_head={**fcn_head(16, 1), 'type': 'FlatteningHead'})
    assert train(make(term(), teacher=teacher), 1)[0]['kd.kl'] > 0
    with pytest.raises(ConfigError, match=r'teacher\.channels_last: .* leave the option out.*view'):
        make(term(), teacher=teacher, channels_last=True)


# compile.


class Backend:
    """A backend of torch.compile that counts what it gets, and can fail."""

    def __init__(self, error: str | None = None) -> None:
        self.error = error
        self.graphs = 0

    def __call__(self, graph: Any, inputs: Any) -> Any:
        self.graphs += 1
        if self.error is not None:
            raise RuntimeError(self.error)
        return graph.forward


@pytest.fixture
def fresh_compiler() -> Iterator[None]:
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


LATE = dict(schedule=dict(type='Jump', begin=2))
COMPILED = {
    'resnet': (AUXILIARY, (term(BN1, BN1, 'CDLoss'), term('auxiliary_head.conv_seg', **LATE))),
    'mit': (mit(16), (term('backbone.layers.0.1.0', 'backbone.layers.0.1.0', 'CDLoss'), term())),
}


@pytest.mark.usefixtures('fresh_compiler')
@pytest.mark.parametrize(('network', 'terms'), COMPILED.values(), ids=COMPILED)
def test_a_compiled_teacher_teaches_the_same(
    make: Make,
    network: dict[str, Any],
    terms: tuple[dict[str, Any], ...],
    said: list[str],
    at_iteration: Callable[[int], None],
) -> None:
    at_iteration(0)
    wrappers = [
        make(*terms, student=network, teacher=network, compile=one)
        for one in (False, dict(backend='aot_eager'))
    ]
    assert_same(*map(taught, wrappers))
    for theirs, ours in zip(*(train(wrapper, 2) for wrapper in wrappers), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)
    assert not [line for line in said if 'torch.compile' in line]


@pytest.mark.usefixtures('fresh_compiler')
def test_a_teacher_is_compiled_once_as_a_whole(
    make: Make, at_iteration: Callable[[int], None]
) -> None:
    backend = Backend()
    late = term('auxiliary_head.conv_seg', 'auxiliary_head.conv_seg', **LATE)
    wrapper = make(
        term(BN1, BN1), late, student=AUXILIARY, teacher=AUXILIARY, compile=dict(backend=backend)
    )
    for iteration in range(4):
        at_iteration(iteration)
        log = train(wrapper, 1)[0]
        with torch.no_grad():  # others may run it as it is
            wrapper.teacher(torch.randn(1, 3, 32, 32), mode='tensor')
        assert (log['kd.kl_2'] > 0) == (iteration >= 2)
        if iteration == 1:
            once = backend.graphs
    assert backend.graphs == once <= 2  # PyTorch 2.6 takes two for what is one in 2.15


@pytest.mark.usefixtures('fresh_compiler')
def test_a_compiled_teacher_keeps_no_output(make: Make) -> None:
    wrapper = make(term(), compile=dict(backend='eager'))
    train(wrapper, 1)
    seen: list[Any] = []
    handle = wrapper.terms['kl'].loss.register_forward_pre_hook(
        lambda module, args: seen.append(weakref.ref(args[1]))
    )
    train(wrapper, 1)
    handle.remove()
    with torch.no_grad():
        seen.append(weakref.ref(wrapper.teacher(torch.randn(1, 3, 32, 32), mode='tensor')))
    gc.collect()
    assert [reference() for reference in seen] == [None, None]


@pytest.mark.usefixtures('fresh_compiler')
def test_where_compiling_fails_the_teacher_runs_as_it_is(
    make: Make, said: list[str], at_iteration: Callable[[int], None]
) -> None:
    at_iteration(0)
    backend = Backend('no compiler\nand pages of reasons')
    terms = (term(BN1, BN1, 'CDLoss'), term(**LATE))
    plain, wrapper = (make(*terms, compile=one) for one in (False, dict(backend=backend)))
    expected, found = train(plain, 3), train(wrapper, 3)
    for theirs, ours in zip(expected, found, strict=True):
        assert all(torch.equal(ours[key], value) for key, value in theirs.items())
    (line,) = (line for line in said if 'torch.compile' in line)
    assert line.endswith(': torch.compile failed and is left out: RuntimeError: no compiler')
    assert backend.graphs == 1
    assert not any(module._forward_hooks for module in wrapper.teacher.modules())
    with counted(wrapper.teacher, 'decode_head.conv_seg') as counts:
        train(wrapper, 1)
    assert counts['decode_head.conv_seg'] == 0  # and stops early again


@pytest.mark.usefixtures('fresh_compiler')
def test_only_the_layers_that_are_asked_for_are_handed_out() -> None:
    network = build(resnet(8)).eval()
    layers = [BN1, 'backbone.layer1']
    taps = CompiledTaps(network, layers, (), {}, dict(backend='eager'), 'teacher')
    with torch.no_grad():
        assert set(taps(torch.randn(1, 3, 32, 32), ['backbone.layer1'])) == {'backbone.layer1'}


def test_arguments_that_torch_refuses_are_an_error(make: Make) -> None:
    with pytest.raises(ConfigError, match=r'teacher\.compile: InvalidBackend'):
        make(term(), compile=dict(backend='inductr'))


# stream.


def test_the_teacher_starts_before_the_student_and_is_joined_before_the_losses(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    order: list[str] = []
    joined: list[Tensor] = []

    @contextlib.contextmanager
    def fork(self: Any, read: Tensor) -> Iterator[None]:
        order.append('fork')
        yield
        order.append('teacher is under way')

    def join(self: Any, made: Any) -> None:
        order.append('join')
        joined.extend(made)

    monkeypatch.setattr(SideStream, 'fork', fork)
    monkeypatch.setattr(SideStream, 'join', join)
    wrapper = make(term(), stream=True)

    def note(name: str) -> Any:
        return lambda *_: order.append(name)

    wrapper.teacher.backbone.register_forward_pre_hook(note('teacher'))
    wrapper.student.backbone.register_forward_pre_hook(note('student'))
    wrapper.terms['kl'].loss.register_forward_pre_hook(note('loss'))
    (output,) = taught(wrapper)
    assert order == ['fork', 'teacher', 'teacher is under way', 'student', 'join', 'loss']
    assert len(joined) == 1
    assert torch.equal(joined[0], output)
    order.clear()
    taught(make(term(), stream=False))
    assert order == []


def test_on_the_cpu_a_stream_changes_nothing(make: Make) -> None:
    plain, wrapper = (make(term(), stream=on) for on in (False, True))
    for theirs, ours in zip(train(plain, 2), train(wrapper, 2), strict=True):
        assert all(torch.equal(ours[key], value) for key, value in theirs.items())


class FakeTensor:
    """Says on which streams its memory is used."""

    is_cuda = True
    device = torch.device('cuda', 0)

    def __init__(self, name: str, log: list[str]) -> None:
        self.name, self.log = name, log

    def record_stream(self, stream: Any) -> None:
        self.log.append(f'{self.name} is used on {stream.name}')


class FakeStream:
    def __init__(self, name: str, log: list[str]) -> None:
        self.name, self.log = name, log

    def wait_stream(self, other: Any) -> None:
        self.log.append(f'{self.name} waits for {other.name}')


def test_order_of_the_streams(monkeypatch: pytest.MonkeyPatch) -> None:
    log: list[str] = []
    current, made = FakeStream('current', log), []

    def new(device: Any) -> FakeStream:
        made.append(device)
        return FakeStream('side', log)

    @contextlib.contextmanager
    def on(stream: Any) -> Iterator[None]:
        log.append(f'on {stream.name}')
        yield
        log.append(f'off {stream.name}')

    monkeypatch.setattr(torch.cuda, 'Stream', new)
    monkeypatch.setattr(torch.cuda, 'current_stream', lambda device: current)
    monkeypatch.setattr(torch.cuda, 'stream', on)
    stream: Any = SideStream()
    for _ in range(2):
        with stream.fork(FakeTensor('image', log)):
            log.append('teacher')
        log.append('student')
        stream.join([FakeTensor('tap', log)])
    assert log == 2 * [
        'side waits for current',
        'on side',
        'teacher',
        'off side',
        'image is used on side',
        'student',
        'current waits for side',
        'tap is used on current',
    ]
    assert made == [FakeTensor.device]


@needs_cuda
def test_a_stream_gives_the_same_losses(make: Make) -> None:
    plain, wrapper = (
        make(term(), term(BN1, BN1, 'CDLoss'), stream=on).cuda() for on in (False, True)
    )
    side: set[int] = set()
    wrapper.teacher.backbone.register_forward_pre_hook(
        lambda *_: side.add(torch.cuda.current_stream().cuda_stream)
    )
    for seed in range(20):
        logs = [w.train().train_step(batch(seed=seed), sgd(w)) for w in (plain, wrapper)]
        for key in ('kd.kl', 'kd.cd'):
            torch.testing.assert_close(logs[1][key], logs[0][key], rtol=1e-3, atol=1e-4)
    assert torch.cuda.current_stream().cuda_stream not in side
    assert len(side) == 1


# All at once.


@pytest.mark.usefixtures('fresh_compiler')
def test_options_go_together(make: Make) -> None:
    options = dict(
        autocast='bfloat16', channels_last=True, compile=dict(backend='eager'), stream=True
    )
    terms = (term(), term(BN1, BN1, 'CDLoss'))
    wrapper = make(*terms, **options)
    found = taught(wrapper)
    assert [output.dtype for output in found] == [torch.bfloat16] * 2
    assert_same([output.float() for output in found], taught(make(*terms)), rtol=0.05)
    assert all(bool(value.isfinite().all()) for log in train(wrapper, 2) for value in log.values())


# fused_attention.


def test_fused_attention_gives_the_same(make: Make) -> None:
    layer = 'backbone.layers.1.2'
    plain, fused = (
        make(term(layer, layer), student=mit(8), teacher=mit(8), fused_attention=on)
        for on in (False, True)
    )
    attention = fused.teacher.backbone.layers[0][1][0].attn.attn
    weights: list[Any] = []
    attention.register_forward_hook(lambda module, args, output: weights.append(output[1]))
    for theirs, ours in zip(train(plain, 2), train(fused, 2), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)
    assert weights == [None, None]
    # The student's is as mmseg has it.
    assert not any(module._forward_pre_hooks for module in fused.student.modules())


def test_tapped_attention_weights_stay(make: Make) -> None:
    block = 'backbone.layers.{}.1.0.attn.attn'
    layers = [[block.format(0) + '.weights', block.format(0) + '.value']] * 2
    distillation = dict(
        student_layer=layers[0], teacher_layer=layers[1], loss=dict(type='AttentionValueLoss')
    )
    student = mit(8)
    plain, fused = (
        make(distillation, student=student, teacher=mit(8), fused_attention=on)
        for on in (False, True)
    )
    for theirs, ours in zip(train(plain, 1), train(fused, 1), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)
    hooked = {name for name, module in fused.teacher.named_modules() if module._forward_pre_hooks}
    assert hooked == {block.format(1)}


def test_a_layer_that_runs_several_times_gives_its_last_output(make: Make) -> None:
    # mmseg's ResNet calls one ReLU twice in a block, and puts out what the second call gives.
    block, relu = 'backbone.layer2.1', 'backbone.layer2.1.relu'
    of_block, of_relu = (taught(make(term(one, one, 'CDLoss'))) for one in (block, relu))
    assert_same(of_relu, of_block)


def weights_as_map(output: Any) -> torch.Tensor:
    return output[1][:, None]


def test_weights_that_a_function_takes_stay(make: Make) -> None:
    layer = f'backbone.layers.0.1.0.attn.attn | {__name__}:weights_as_map'
    distillation = term(layer, layer, 'FeatureLoss')
    wrapper = make(distillation, student=mit(8), teacher=mit(8), fused_attention=True)
    assert train(wrapper, 1)
