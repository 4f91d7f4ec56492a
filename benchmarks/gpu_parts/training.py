"""Whether a training step on a GPU is what it is on a CPU, and what a teacher's options change."""

from __future__ import annotations

import gc
import math
import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from gpu_parts.part import ROOT, Part

sys.path.insert(0, str(ROOT / 'tests'))

import builders
from builders import batch, build, mit, preprocessor, resnet, save_weights, term, wrapper_config
from mmengine.config import Config
from mmengine.logging import MMLogger
from mmengine.registry import init_default_scope

import mmseg_kd.register  # noqa: F401  what configs name
from gpu_parts import counts, mixed_precision
from mmseg_kd.schedules import at_iteration

# Sums in another order: what float32 and some thirty layers with BatchNorm make of it.
LOSS_TOLERANCE, GRADIENT_TOLERANCE = 1e-4, 2e-3

# How far a teacher's option may move the losses of some steps from those of the plain teacher.
ROUNDING = 1e-3
OPTIONS: dict[str, tuple[dict[str, Any], float]] = {
    'stream': (dict(stream=True), 0.0),
    "autocast='float32'": (dict(autocast='float32'), 0.0),
    'fold_bn': (dict(fold_bn=True), ROUNDING),
    'fused_attention': (dict(fused_attention=True), ROUNDING),
    'channels_last': (dict(channels_last=True), ROUNDING),
    "autocast='bfloat16'": (dict(autocast='bfloat16'), 0.05),
    "autocast='float16'": (dict(autocast='float16'), 0.01),
    'fold_bn, fused_attention, channels_last, stream': (
        dict(fold_bn=True, fused_attention=True, channels_last=True, stream=True),
        ROUNDING,
    ),
    # The compiler takes longest.
    'compile': (dict(compile=True), ROUNDING),
    'compile, stream': (dict(compile=True, stream=True), ROUNDING),
}
PLAIN = dict(fold_bn=False, fused_attention=False)


@dataclass(frozen=True)
class Sizes:
    """How large the networks and their batches are."""

    width: int
    images: int
    side: int
    steps: int

    def batch(self, seed: int) -> dict[str, Any]:
        """Images and masks, a tenth of which is ignored."""
        size = (self.side, self.side)
        return batch([size] * self.images, seed=seed, blank=0.1)


def run(part: Part) -> None:
    """All checks that one process can make."""
    prepare()
    gc.freeze()  # mmengine collects garbage often: not all that was imported, each time
    Config.pretty_text = ''  # its formatting takes most of the time of runs this short
    sizes = Sizes(4, 2, 32, 2) if part.rehearse else Sizes(32, 4, 256, 4)
    models = {name: one(part, sizes) for name, one in NETWORKS.items()}
    for name, model in models.items():
        check_step(part, name, model, sizes)
    check_reproducible(part, models['ResNet'], sizes)
    mixed_precision.check(part)
    counts.check(part)
    check_memory(part, models['ResNet'], sizes)
    for option in OPTIONS:
        for name, model in models.items():
            check_option(part, option, name, model, sizes)


def prepare() -> None:
    """Float32 in full, the same bits each time, and little in the log."""
    # cuBLAS reads it when it starts.
    os.environ.setdefault('CUBLAS_WORKSPACE_CONFIG', ':4096:8')
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cudnn.deterministic = True
    torch.use_deterministic_algorithms(True, warn_only=True)
    init_default_scope('mmseg')
    MMLogger.get_current_instance().setLevel('WARNING')


def resnet_pair(part: Part, sizes: Sizes) -> dict[str, Any]:
    """ResNets with terms of scores and features, without dropout."""
    layer = 'backbone.layer2'
    teacher = without_dropout(resnet(2 * sizes.width), sizes)
    return wrapper_config(
        without_dropout(resnet(sizes.width, norm=builders.BN), sizes),
        teacher,
        save_weights(teacher, part.scratch / 'resnet.pth'),
        term(loss=dict(type='KLLoss', tau=2.0), name='kl'),
        term(loss=dict(type='CGDLoss', group_size=2, tau=2.0, shuffle_interval=1), name='cgd'),
        term('backbone.layer1', 'backbone.layer1', 'CDLoss', name='cd'),
        term(loss='ATLoss', name='at'),
        term(layer, layer, dict(type='IFVDLoss', kl_weight=0.0), name='ifvd'),
    )


def mit_pair(part: Part, sizes: Sizes) -> dict[str, Any]:
    """Mix transformers with terms of scores and of attention, without dropout."""
    attention = 'backbone.layers.0.1.0.attn.attn'
    taps = [f'{attention}.weights', f'{attention}.value']
    teacher = without_dropout(mit(2 * sizes.width), sizes)
    return wrapper_config(
        without_dropout(mit(sizes.width), sizes),
        teacher,
        save_weights(teacher, part.scratch / 'mit.pth'),
        term(loss=dict(type='CDLoss', tau=4.0), name='cd'),
        dict(
            student_layer=taps,
            teacher_layer=taps,
            loss=dict(type='AttentionValueLoss'),
            name='attention',
        ),
    )


NETWORKS = {'ResNet': resnet_pair, 'MiT': mit_pair}


def without_dropout(model: dict[str, Any], sizes: Sizes) -> dict[str, Any]:
    """Nothing random in it, for images of `sizes`."""
    model['data_preprocessor'] = preprocessor((sizes.side, sizes.side))
    model['decode_head']['dropout_ratio'] = 0.0
    if model['backbone']['type'] == 'MixVisionTransformer':
        model['backbone'] |= dict(drop_rate=0.0, drop_path_rate=0.0)
    return model


@dataclass(frozen=True)
class Step:
    """What came of a step: losses by name, and gradients by parameter, on the CPU."""

    losses: Mapping[str, float]
    gradients: Mapping[str, Tensor]


def take_step(network: nn.Module, sizes: Sizes, iteration: int = 0) -> Step:
    """One step's losses and gradients; the weights stay as they are."""
    with at_iteration(iteration):
        network.train()
        network.zero_grad()
        keep = builders.KeepsGradients(builders.sgd(network).optimizer)
        log = network.train_step(sizes.batch(iteration), keep)
    gradients = {
        name: p.grad.double().cpu() for name, p in network.named_parameters() if p.grad is not None
    }
    return Step(losses_of(log), gradients)


def losses_of(log: Mapping[str, Tensor]) -> dict[str, float]:
    """The losses and terms of a log."""
    found = {name: value.item() for name, value in log.items() if 'acc' not in name}
    assert all(math.isfinite(value) for value in found.values()), found
    return found


def farthest(ours: Mapping[str, float], theirs: Mapping[str, float]) -> tuple[float, str]:
    """The largest relative difference of two logs, and where it is."""
    assert ours.keys() == theirs.keys(), ours.keys() ^ theirs.keys()
    return max(
        (abs(ours[name] - theirs[name]) / max(abs(theirs[name]), 1e-6), name) for name in ours
    )


def check_step(part: Part, name: str, model: dict[str, Any], sizes: Sizes) -> None:
    """A step on the GPU against the same on the CPU."""
    with part.check(f'{name}: losses and gradients of a step as on the CPU') as figures:
        expected = take_step(build(model), sizes)
        found = take_step(build(model).to(part.device), sizes)
        assert found.gradients.keys() == expected.gradients.keys()
        figures['of losses'], where = farthest(found.losses, expected.losses)
        figures['in'] = where
        norms = {n: float(gradient.norm()) for n, gradient in expected.gradients.items()}
        wrong = {
            n: float((found.gradients[n] - gradient).norm())
            for n, gradient in expected.gradients.items()
        }
        assert all(math.isfinite(norm) for norm in wrong.values())
        whole = math.hypot(*norms.values())
        figures['of gradients'] = math.hypot(*wrong.values()) / whole
        # What is next to nothing may be rounding alone, as a bias before BatchNorm has it.
        large = [n for n, norm in norms.items() if norm > 1e-3 * whole]
        figures['of one gradient'], where = max((wrong[n] / norms[n], n) for n in large)
        figures['of'] = where
        assert figures['of losses'] <= LOSS_TOLERANCE, figures
        assert figures['of gradients'] <= GRADIENT_TOLERANCE, figures
        assert figures['of one gradient'] <= 5 * GRADIENT_TOLERANCE, figures


@dataclass(frozen=True)
class Trained:
    """What came of some steps: the losses of each, and the weights at the end."""

    losses: list[dict[str, float]]
    weights: Mapping[str, Tensor]


def train(part: Part, model: dict[str, Any], sizes: Sizes, **options: Any) -> Trained:
    """Take some steps with a teacher that has `options`, all handed to the GPU without a pause."""
    model = {**model, 'teacher': {**model['teacher'], **PLAIN, **options}}
    network = build(model).to(part.device)
    optimiser = builders.sgd(network)
    batches = [sizes.batch(seed) for seed in range(sizes.steps)]
    logs = []
    network.train()
    for iteration, data in enumerate(batches):
        with at_iteration(iteration):
            logs.append(network.train_step(data, optimiser))
    weights = {key: tensor.cpu() for key, tensor in network.state_dict().items()}
    return Trained([losses_of(log) for log in logs], weights)


_PLAIN: dict[str, Trained] = {}


def check_reproducible(part: Part, model: dict[str, Any], sizes: Sizes) -> None:
    """Whether equal runs give equal bits, without which no option can be asked to."""
    with part.check('two equal runs end with the same bits'):
        one, other = (train(part, model, sizes) for _ in range(2))
        assert one.losses == other.losses
        assert builders.same_tensors(one.weights, other.weights)


def check_option(part: Part, option: str, name: str, model: dict[str, Any], sizes: Sizes) -> None:
    """Some steps with an option of the teacher against those without."""
    options, tolerance = OPTIONS[option]
    if part.rehearse and options.get('compile'):
        # All of it but the C++ compiler, which takes a minute.
        options = {**options, 'compile': dict(backend='aot_eager')}
    promise = 'the same bits' if tolerance == 0 else f'losses to {tolerance:g}'
    with part.check(f'{name}, teacher with {option}: {promise}') as figures, said() as lines:
        if name not in _PLAIN:
            _PLAIN[name] = train(part, model, sizes)
        plain, found = _PLAIN[name], train(part, model, sizes, **options)
        assert len(found.losses) == len(plain.losses) == sizes.steps
        worst = max(map(farthest, found.losses, plain.losses))
        figures['farthest'], figures['in'] = worst
        failed = [line for line in lines if 'failed and is left out' in line]
        assert not failed, failed
        assert figures['farthest'] <= tolerance, worst
        if tolerance == 0:
            assert builders.same_tensors(found.weights, plain.weights), 'the weights differ'


@contextmanager
def said() -> Iterator[list[str]]:
    """What teachers say in the log: where a compiler fails they go on without it."""
    from mmseg_kd.teacher import compiled

    lines: list[str] = []
    before = compiled.print_log
    compiled.print_log = lambda text, **_: lines.append(text)
    try:
        yield lines
    finally:
        compiled.print_log = before


def check_memory(part: Part, model: dict[str, Any], sizes: Sizes) -> None:
    """Whether steps leave something behind."""
    with part.check('30 steps leave no memory behind') as figures:
        network = build(model).to(part.device)
        optimiser = builders.sgd(network)
        network.train()
        held = []
        for iteration in range(6 if part.rehearse else 30):
            with at_iteration(iteration):
                network.train_step(sizes.batch(iteration % 3), optimiser)
            held.append(held_bytes(part))
        figures['bytes after 3 steps'], figures['at the end'] = held[2], held[-1]
        assert held[-1] <= held[2], held


def held_bytes(part: Part) -> int:
    """What tensors hold on the GPU, or in a rehearsal anywhere."""
    gc.collect()
    if not part.rehearse:
        return torch.cuda.memory_allocated()
    tensors = (one for one in gc.get_objects() if isinstance(one, Tensor))
    return sum({one.data_ptr(): one.nbytes for one in tensors}.values())
