"""What tests of several files share: fixtures, plain formulas, and what all losses must do."""

from __future__ import annotations

import gc
import logging
import re
from collections import OrderedDict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import pytest
import torch
from hypothesis import HealthCheck, settings
from mmengine.logging import MessageHub, MMLogger
from mmengine.registry import init_default_scope
from mmengine.runner import Runner
from mmengine.visualization import Visualizer
from mmseg.visualization import SegLocalVisualizer
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import mmseg_kd.register  # noqa: F401  what the dicts of tests name
from mmseg_kd.losses import LogitMaps
from mmseg_kd.registry import KD_LOSSES

# Fixtures; tests import this file by its name, so there is no second one.
pytest_plugins = ['browser', 'report_project', 'comparison_project']

# Data, weights and published vectors that a checkout may have beside it.
SHARED = Path(__file__).resolve().parents[2] / 'shared'

# On tensors and images this small threads cost ten times more than they bring. OpenCV's would
# besides be waited for for ever by a process that is forked later and sets their number.
torch.set_num_threads(1)
cv2.setNumThreads(0)

# How many examples hypothesis tries: few in the suite, always the same; many, and others each
# time, with `pytest tests/test_fuzz --hypothesis-profile=deep`.
settings.register_profile(
    'suite',
    max_examples=100,
    derandomize=True,
    database=None,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
settings.register_profile(
    'deep', parent=settings.get_profile('suite'), max_examples=2000, derandomize=False
)
# The one that the command line names is loaded after this one.
settings.load_profile('suite')

# Where the first backward pass of a process comes after its first torch.compile, PyTorch starts
# threads of its own for it, and no process that is forked then, as tests fork trainings, has one.
torch.ones(1, requires_grad=True).sum().backward()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Whole processes first: none of them is begun last, with nothing left for other workers."""
    items.sort(key=lambda item: item.get_closest_marker('slow') is None)


def pytest_collection_finish() -> None:
    """Leave what is there before the first test out of garbage collections.

    mmengine asks for one with each data set, and over all modules and tests it takes long.
    """
    gc.collect()
    gc.freeze()


def needs_shared(relative: str) -> pytest.MarkDecorator:
    """Skip a test where `relative` is not in the folder ../shared.

    >>> @needs_shared('vectors/segdistill.npz')
    ... def test_published_vectors(): ...
    """
    return pytest.mark.skipif(
        not (SHARED / relative).exists(), reason=f'there is no ../shared/{relative}'
    )


@pytest.fixture(autouse=True)
def quiet_mmseg(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Names in model dicts are mmseg's, its log keeps to warnings; logs and plots are the test's.

    A run is called by the second it begins in: one of the same second would get the log of another,
    and go on with its counts. A visualiser is called the same in all runs, and writes to the first
    one's folder.
    """
    of_runs, of_tests = (MessageHub, MMLogger), (Visualizer, SegLocalVisualizer)
    before = {kind: kind._instance_dict for kind in (*of_runs, *of_tests)}
    for kind in before:
        kind._instance_dict = OrderedDict()
    init_default_scope('mmseg')
    MMLogger.get_current_instance().setLevel(logging.WARNING)
    loggers: list[logging.Logger] = []
    set_up = Runner.setup_env

    def setup_env(self: Runner, cfg: Any) -> None:
        loggers.extend(MMLogger._instance_dict.values())
        for kind in of_runs:
            kind._instance_dict = OrderedDict()
        set_up(self, cfg)

    monkeypatch.setattr(Runner, 'setup_env', setup_env)
    yield
    for logger in (*loggers, *MMLogger._instance_dict.values()):
        for handler in logger.handlers:
            handler.close()
    for kind, instances in before.items():
        kind._instance_dict = instances


@pytest.fixture
def at_iteration() -> Iterator[Callable[[int], None]]:
    """A function that sets the runner's iteration, which is as before after the test.

    >>> def test_start(at_iteration):
    ...     at_iteration(500)
    """
    hub = MessageHub.get_current_instance()
    before = hub.runtime_info.get('iter')

    def set_iteration(iteration: int) -> None:
        # The hub is looked up anew: a runner inside the test makes one of its own.
        MessageHub.get_current_instance().update_info('iter', iteration)

    yield set_iteration
    if before is None:
        hub.runtime_info.pop('iter', None)
    else:
        hub.update_info('iter', before)


def random_maps(
    size: tuple[int, int] = (3, 4),
    teacher_size: tuple[int, int] | None = None,
    channels: int = 5,
    images: int = 2,
    seed: int = 0,
) -> tuple[Tensor, Tensor]:
    """Logits of student and teacher in float64."""
    generator = torch.Generator().manual_seed(seed)
    student = torch.randn(images, channels, *size, generator=generator, dtype=torch.float64)
    size = teacher_size or size
    teacher = torch.randn(images, channels, *size, generator=generator, dtype=torch.float64)
    return 2 * student, 3 * teacher


def random_label(size: tuple[int, int], images: int = 2, seed: int = 0) -> Tensor:
    """Class indices 0 to 4, a third of them 255."""
    generator = torch.Generator().manual_seed(seed)
    label = torch.randint(0, 5, (images, *size), generator=generator)
    return label.masked_fill(torch.rand(label.shape, generator=generator) < 1 / 3, 255)


def value_and_gradient(loss: Any, student: Tensor, *others: Any) -> tuple[Tensor, Tensor]:
    """The loss, and its gradient with respect to `student`."""
    student = student.detach().requires_grad_()
    value = loss(student, *others)
    (gradient,) = torch.autograd.grad(value, student)
    return value.detach(), gradient


class Largest(TorchDispatchMode):
    """Remembers the size of the largest tensor of floats that an operation makes."""

    values = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(out):
            if isinstance(leaf, Tensor) and leaf.is_floating_point():
                self.values = max(self.values, leaf.numel())
        return out


def plain_resize(x: Tensor, size: tuple[int, int]) -> Tensor:
    """Bilinear interpolation between pixel centres (align_corners=False), pixel by pixel."""
    h, w = x.shape[-2:]
    rows = []
    for i in range(size[0]):
        y = min(max((i + 0.5) * h / size[0] - 0.5, 0.0), h - 1.0)
        top, bottom = int(y), min(int(y) + 1, h - 1)
        row = []
        for j in range(size[1]):
            z = min(max((j + 0.5) * w / size[1] - 0.5, 0.0), w - 1.0)
            left, right = int(z), min(int(z) + 1, w - 1)
            upper = (1 - z + left) * x[..., top, left] + (z - left) * x[..., top, right]
            lower = (1 - z + left) * x[..., bottom, left] + (z - left) * x[..., bottom, right]
            row.append((1 - y + top) * upper + (y - top) * lower)
        rows.append(torch.stack(row, -1))
    return torch.stack(rows, -2)


def plain_nearest(label: Tensor, size: tuple[int, int]) -> Tensor:
    """Nearest-neighbour interpolation of labels (N, H, W), pixel by pixel."""
    n, height, width = label.shape
    out = label.new_zeros(n, *size)
    for i in range(size[0]):
        for j in range(size[1]):
            out[:, i, j] = label[:, i * height // size[0], j * width // size[1]]
    return out


def kept(label: Tensor, ignore_index: int | None) -> Tensor:
    """Whether a pixel takes part."""
    if ignore_index is None:
        return torch.ones_like(label, dtype=torch.bool)
    return label != ignore_index


def plain_divergence(student: Tensor, teacher: Tensor, tau: float) -> Tensor:
    """KL(teacher || student) between the softmax distributions over two vectors."""
    q = (student / tau).exp()
    p = (teacher / tau).exp()
    q, p = q / q.sum(), p / p.sum()
    return (p * (p / q).log()).sum()


def plain_group_loss(
    student: Tensor, teacher: Tensor, tau: float, keep: Tensor, group_size: int
) -> Tensor:
    """The divergence over a group's channels and kept pixels, mean over groups and images."""
    values = [
        plain_divergence(
            student[n, c : c + group_size][:, keep[n]].flatten(),
            teacher[n, c : c + group_size][:, keep[n]].flatten(),
            tau,
        )
        for n in range(student.shape[0])
        for c in range(0, student.shape[1], group_size)
    ]
    return sum(values, start=student.new_zeros(())) / len(values)


class LogitLossChecks:
    """What each loss between logits must do; a subclass says which loss it is.

    `make` builds it, and `plain(student, teacher, tau, keep)` is its formula over the pixels
    where the booleans `keep` (N, h, w) are true.
    """

    make: Any
    plain: Any

    def test_registered(self) -> None:
        loss = self.make()
        assert KD_LOSSES.get(type(loss).__name__) is type(loss)

    @pytest.mark.parametrize('tau', [1.0, 0.3, 4.0])
    def test_equal_inputs_give_zero_and_no_gradient(self, tau: float) -> None:
        student, _ = random_maps()
        value, gradient = value_and_gradient(
            self.make(tau=tau), student, student.clone(), random_label((7, 9))
        )
        assert value.ndim == 0
        assert value.abs() < 1e-14
        assert gradient.abs().max() < 1e-14

    @pytest.mark.parametrize(
        ('resolution', 'size'), [('label', (7, 9)), ('student', (3, 4)), ('teacher', (5, 3))]
    )
    @pytest.mark.parametrize('ignore_index', [None, 255])
    def test_formula_at_each_resolution(
        self, resolution: str, size: tuple[int, int], ignore_index: int | None
    ) -> None:
        student, teacher = random_maps((3, 4), (5, 3))
        label = random_label((7, 9))
        keep = kept(plain_nearest(label, size), ignore_index)
        assert keep.any(2).any(1).all()

        def formula(student: Tensor) -> Tensor:
            return self.plain(plain_resize(student, size), plain_resize(teacher, size), 1.0, keep)

        loss = self.make(resolution=resolution, ignore_index=ignore_index)
        torch.testing.assert_close(
            value_and_gradient(loss, student, teacher, label),
            value_and_gradient(formula, student),
            rtol=1e-10,
            atol=1e-14,
        )

    @pytest.mark.parametrize('size', [(6, 8), (2, 2), (3, 4), (1, 1), (3, 11)])
    def test_formula_at_labels_of_any_size(self, size: tuple[int, int]) -> None:
        student, teacher = random_maps((3, 4), (4, 3))
        keep = torch.ones(2, *size, dtype=torch.bool)
        expected = self.plain(plain_resize(student, size), plain_resize(teacher, size), 1.0, keep)
        actual = self.make()(student, teacher, torch.zeros(2, *size, dtype=torch.long))
        torch.testing.assert_close(actual, expected, rtol=1e-10, atol=1e-14)

    @pytest.mark.parametrize('tau', [0.5, 4, 20.0])
    def test_tau(self, tau: float) -> None:
        student, teacher = random_maps()
        keep = torch.ones(2, 3, 4, dtype=torch.bool)
        value, gradient = value_and_gradient(
            self.make(tau=tau, resolution='student'), student, teacher
        )
        expected, expected_gradient = value_and_gradient(
            lambda s: self.plain(s, teacher, tau, keep), student
        )
        torch.testing.assert_close(value, expected, rtol=1e-10, atol=0.0)
        torch.testing.assert_close(gradient, expected_gradient, rtol=1e-10, atol=1e-14)

    def test_tau_squared_is_a_factor(self) -> None:
        student, teacher = random_maps()
        loss = self.make(tau=3.0, resolution='student')(student, teacher)
        scaled = self.make(tau=3.0, tau_squared=True, resolution='student')(student, teacher)
        torch.testing.assert_close(scaled, 9 * loss)

    def test_batch_is_the_mean_of_its_images(self) -> None:
        student, teacher = random_maps(images=3)
        loss = self.make(resolution='student')
        each = [loss(student[n : n + 1], teacher[n : n + 1]) for n in range(3)]
        torch.testing.assert_close(loss(student, teacher), torch.stack(each).mean())

    def test_no_growth_with_the_picture(self) -> None:
        student, teacher = random_maps()
        loss = self.make(resolution='student')
        tiled = loss(student.repeat(1, 1, 4, 3), teacher.repeat(1, 1, 4, 3))
        torch.testing.assert_close(tiled, loss(student, teacher))

    def test_gradient_to_the_student_only(self) -> None:
        student, teacher = (x.requires_grad_() for x in random_maps())
        self.make(resolution='student')(student, teacher).backward()
        assert student.grad is not None
        assert student.grad.abs().max() > 1e-4
        assert teacher.grad is None

    def test_numerical_gradient(self) -> None:
        student, teacher = random_maps((2, 3), (3, 2), channels=3)
        label = random_label((4, 5))
        loss = self.make(tau=2.0, ignore_index=255)
        student.requires_grad_()
        assert torch.autograd.gradcheck(lambda s: loss(s, teacher, label), (student,))

    @pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
    def test_half_precision_is_computed_in_float32(self, dtype: torch.dtype) -> None:
        student, teacher = (x.to(dtype) for x in random_maps())
        label = random_label((7, 9))
        loss = self.make(tau=2.0, ignore_index=255)
        value, gradient = value_and_gradient(loss, student, teacher, label)
        expected, expected_gradient = value_and_gradient(
            loss, student.float(), teacher.float(), label
        )
        assert value.dtype == torch.float32
        assert gradient.dtype == dtype
        torch.testing.assert_close(value, expected, rtol=1e-6, atol=0.0)
        torch.testing.assert_close(gradient, expected_gradient.to(dtype))

    def test_teacher_of_another_dtype(self) -> None:
        student, teacher = (x.float() for x in random_maps())
        loss = self.make(resolution='student')
        assert torch.equal(loss(student, teacher.half()), loss(student, teacher.half().float()))

    def test_float32_under_autocast(self) -> None:
        student, teacher = (x.float() for x in random_maps())
        loss = self.make(resolution='student')
        inside = []
        divergence = loss.divergence

        def spy(maps: LogitMaps) -> Tensor:
            inside.append((maps.student_NChw.dtype, torch.is_autocast_enabled('cpu')))
            return divergence(maps)

        loss.divergence = spy
        with torch.autocast('cpu', dtype=torch.bfloat16):
            value = loss(student.bfloat16(), teacher)
        assert value.dtype == torch.float32
        assert inside == [(torch.float32, False)]

    @pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16, torch.float32])
    @pytest.mark.parametrize('ignore_index', [None, 255])
    def test_large_logits(self, dtype: torch.dtype, ignore_index: int | None) -> None:
        student, teacher = (1e4 * x.sign() for x in random_maps())
        label = random_label((7, 9))
        loss = self.make(ignore_index=ignore_index)
        with torch.autocast('cpu', dtype=torch.bfloat16):
            value, gradient = value_and_gradient(loss, student.to(dtype), teacher.to(dtype), label)
        exact = loss(student.to(dtype).double(), teacher.to(dtype).double(), label)
        assert 1e3 < exact < 1e5
        torch.testing.assert_close(value, exact.float(), rtol=1e-4, atol=0.0)
        assert gradient.isfinite().all()

    @pytest.mark.parametrize('fill', [0.0, 1e4, -1e30])
    def test_ignored_pixels_change_nothing(self, fill: float) -> None:
        student, teacher = random_maps()
        label = random_label((3, 4))
        ignored = (label == 255)[:, None].expand_as(student)
        loss = self.make(resolution='student', ignore_index=255)
        value, gradient = value_and_gradient(loss, student, teacher, label)
        for other_student, other_teacher in (
            (student.masked_fill(ignored, fill), teacher),
            (student, teacher.masked_fill(ignored, fill)),
        ):
            torch.testing.assert_close(
                value_and_gradient(loss, other_student, other_teacher, label),
                (value, gradient),
                rtol=1e-12,
                atol=1e-15,
            )
        assert gradient[ignored].count_nonzero() == 0
        assert gradient[~ignored].count_nonzero() > 0

    def test_labels_mask_at_the_students_size(self) -> None:
        student, teacher = random_maps()
        label = random_label((3, 4))
        fine = label.repeat_interleave(3, 1).repeat_interleave(2, 2)
        loss = self.make(resolution='student', ignore_index=255)
        assert torch.equal(loss(student, teacher, fine), loss(student, teacher, label))

    def test_nothing_is_ignored_by_default(self) -> None:
        student, teacher = random_maps()
        label = random_label((7, 9))
        loss = self.make()
        assert torch.equal(
            loss(student, teacher, label), loss(student, teacher, torch.zeros_like(label))
        )

    @pytest.mark.parametrize('dtype', [torch.float16, torch.float32, torch.float64])
    @pytest.mark.parametrize('resolution', ['label', 'student'])
    def test_all_ignored_gives_zero(self, dtype: torch.dtype, resolution: str) -> None:
        student, teacher = (x.to(dtype) for x in random_maps())
        value, gradient = value_and_gradient(
            self.make(tau=0.5, ignore_index=255, resolution=resolution),
            student,
            teacher,
            torch.full((2, 7, 9), 255),
        )
        assert value == 0.0
        assert torch.equal(gradient, torch.zeros_like(gradient))

    def test_one_image_all_ignored(self) -> None:
        student, teacher = random_maps()
        label = random_label((3, 4))
        label[0] = 255
        loss = self.make(resolution='student', ignore_index=255)
        value, gradient = value_and_gradient(loss, student, teacher, label)
        formula = self.plain(student, teacher, 1.0, label != 255)
        torch.testing.assert_close(value, formula, rtol=1e-10, atol=0.0)
        assert torch.equal(gradient[0], torch.zeros_like(gradient[0]))
        assert gradient[1].isfinite().all()

    def test_non_contiguous_inputs(self) -> None:
        student, teacher = random_maps((4, 3), channels=10)
        loss = self.make(ignore_index=255)
        label = random_label((9, 7))
        cases = [
            (student.transpose(2, 3), teacher.transpose(2, 3), label.transpose(1, 2)),
            (student[:, ::2], teacher[:, 1::2], label),
            (student.to(memory_format=torch.channels_last), teacher, label[:, ::2, ::2]),
        ]
        for tensors in cases:
            assert not all(x.is_contiguous() for x in tensors)
            torch.testing.assert_close(
                value_and_gradient(loss, *tensors),
                value_and_gradient(loss, *(x.contiguous() for x in tensors)),
            )

    def test_inputs_stay_as_they_are(self) -> None:
        student, teacher = random_maps()
        label = random_label((3, 4))
        before = [x.clone() for x in (student, teacher, label)]
        self.make(tau=2.0, ignore_index=255)(student, teacher, label)
        assert all(
            torch.equal(a, b) for a, b in zip((student, teacher, label), before, strict=True)
        )

    @pytest.mark.parametrize(
        ('argument', 'value'),
        [
            ('tau', 0),
            ('tau', -1.5),
            ('tau', float('inf')),
            ('tau', float('nan')),
            ('tau', '2'),
            ('resolution', 'both'),
            ('ignore_index', '255'),
        ],
    )
    def test_wrong_argument(self, argument: str, value: Any) -> None:
        with pytest.raises(ValueError, match=f'{argument}.*{re.escape(repr(value))}'):
            self.make(**{argument: value})

    def test_shapes_that_do_not_match(self) -> None:
        student, teacher = random_maps()
        loss = self.make(resolution='student')
        with pytest.raises(ValueError, match=re.escape('(2, 5, 3, 4) and (2, 4, 3, 4)')):
            loss(student, teacher[:, :4])
        with pytest.raises(ValueError, match=re.escape('(2, 5, 3, 4) and (1, 5, 3, 4)')):
            loss(student, teacher[:1])
        with pytest.raises(ValueError, match=r'maps \(N, C, h, w\).*\(2, 5, 3\) and \(2, 5, 3\)'):
            loss(student[..., 0], teacher[..., 0])

    @pytest.mark.parametrize('shape', [(2, 1, 7, 9), (1, 7, 9), (7, 9)])
    def test_labels_of_a_wrong_shape(self, shape: tuple[int, ...]) -> None:
        student, teacher = random_maps()
        with pytest.raises(ValueError, match=re.escape(f'N=2, got {shape}')):
            self.make(ignore_index=255)(student, teacher, torch.zeros(shape, dtype=torch.long))

    def test_labels_are_needed(self) -> None:
        student, teacher = random_maps()
        with pytest.raises(ValueError, match="resolution 'label' needs labels"):
            self.make()(student, teacher)
        with pytest.raises(ValueError, match='ignore_index needs labels'):
            self.make(resolution='student', ignore_index=255)(student, teacher)
