"""The losses' Triton kernels against the plain formulas.

Triton's interpreter runs them without a GPU, but only in a process where it is chosen before
Triton is imported: `test_in_the_interpreter` runs this file once more in such a process, which
takes the tests of `TestValues` alone.
"""

from __future__ import annotations

import importlib.util
import inspect
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from conftest import value_and_gradient
from interpreter import IS_INTERPRETED, run_in_interpreter
from torch import Tensor

from mmseg_kd.losses import functional
from mmseg_kd.losses.kernels import piecewise, triton_divergence, triton_kernels

triton = pytest.importorskip('triton', reason='Triton is not installed')

CHANNELS = 5

Sizes = tuple[tuple[int, int], tuple[int, int], tuple[int, int]]
Loss = Callable[[Tensor], Tensor]

# Of the student, the teacher and the result.
WHOLE: Sizes = ((3, 4), (3, 4), (6, 8))
SMALL: Sizes = ((2, 3), (2, 3), (4, 6))
UNEQUAL: Sizes = ((2, 3), (3, 2), (5, 7))
SAME: Sizes = ((3, 3), (3, 3), (3, 3))
DOWN: Sizes = ((5, 7), (4, 7), (2, 4))
ONE: Sizes = ((1, 1), (2, 2), (3, 4))


def maps(
    *sizes: tuple[int, int], images: int = 1, channels: int = CHANNELS, device: str = 'cpu'
) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [
        (torch.randn(images, channels, *size, generator=generator) * 3).to(device) for size in sizes
    ]


def random_mask(size: tuple[int, int], images: int = 1) -> Tensor:
    return torch.rand(images, *size, generator=torch.Generator().manual_seed(1)) > 0.4


def in_kernels(
    teacher: Tensor,
    size: tuple[int, int],
    group_size: int | None,
    mask: Tensor | None = None,
    tau: float = 2.0,
    align_corners: bool = False,
    module: Any = triton_divergence,
) -> Loss:
    """The loss of the student's map; without a group size that of pixels."""
    options = dict(size=size, tau=tau, mask_NHW=mask, align_corners=align_corners)
    if group_size is None:
        return lambda student: module.pixel_divergence(student, teacher, **options)
    return lambda student: module.group_divergence(
        student, teacher, group_size=group_size, **options
    )


def resized(x: Tensor, size: tuple[int, int], align_corners: bool) -> Tensor:
    if x.shape[2:] == size:
        return x
    return F.interpolate(x, size, mode='bilinear', align_corners=align_corners)


def plainly(
    teacher: Tensor,
    size: tuple[int, int],
    group_size: int | None,
    mask: Tensor | None = None,
    tau: float = 2.0,
    align_corners: bool = False,
) -> Loss:
    """The same by the formulas, in float64."""

    def at_size(x: Tensor) -> Tensor:
        return resized(x.double(), size, align_corners)

    if group_size is None:
        return lambda student: functional.pixel_divergence(
            at_size(student), at_size(teacher), tau=tau, mask_NHW=mask
        )
    return lambda student: functional.group_divergence(
        at_size(student), at_size(teacher), group_size=group_size, tau=tau, mask_NHW=mask
    )


def random_labels(size: tuple[int, int], images: int = 1, channels: int = CHANNELS) -> Tensor:
    label = torch.randint(channels, (images, *size), generator=torch.Generator().manual_seed(2))
    return label.where(random_mask(size, images), 255)


def random_class_weights(channels: int = CHANNELS) -> Tensor:
    # One of zero among them.
    return torch.linspace(0, 2, channels)


def entropy_in_kernels(
    label: Tensor, weight: Tensor | None = None, align_corners: bool = False
) -> Loss:
    """The cross-entropy of the student's map."""
    return lambda student: triton_divergence.cross_entropy_sums(
        student, label, weight, 255, align_corners
    )[0]


def entropy_plainly(
    label: Tensor, weight: Tensor | None = None, align_corners: bool = False
) -> Loss:
    """The same by PyTorch, in float64."""

    def loss(student: Tensor) -> Tensor:
        score = resized(student.double(), (label.shape[1], label.shape[2]), align_corners)
        weight_C = None if weight is None else weight.double()
        return F.cross_entropy(score, label, weight_C, reduction='sum', ignore_index=255)

    return loss


def right_plainly(student: Tensor, label: Tensor, align_corners: bool = False) -> Tensor:
    """How many pixels have their label's score largest."""
    score = resized(student.double(), (label.shape[1], label.shape[2]), align_corners)
    return (score.argmax(1) == label).sum()


def assert_equal(
    found: Loss, expected: Loss, student: Tensor, rtol: float = 1e-5, atol: float = 1e-9
) -> None:
    """Value and gradient are close; of gradients, relative to the largest."""
    value, gradient = value_and_gradient(found, student)
    expected_value, expected_gradient = value_and_gradient(expected, student)
    assert value.dtype == torch.float32
    assert gradient.dtype == student.dtype
    torch.testing.assert_close(value.double(), expected_value.double(), rtol=rtol, atol=1e-7)
    largest = expected_gradient.abs().max().item()
    torch.testing.assert_close(gradient, expected_gradient, rtol=rtol, atol=rtol * largest + atol)


@pytest.mark.skipif(IS_INTERPRETED, reason='this is that process')
def test_in_the_interpreter() -> None:
    run_in_interpreter(__file__)


# The interpreter computes with NumPy, which warns of every infinity.
@pytest.mark.filterwarnings('ignore::RuntimeWarning')
class TestValues:
    """In the interpreter."""

    __test__ = IS_INTERPRETED

    @pytest.mark.parametrize('align_corners', [False, True])
    @pytest.mark.parametrize('group_size', [None, 2])
    @pytest.mark.parametrize(
        ('sizes', 'is_masked'),
        [(WHOLE, False), (UNEQUAL, True), (SAME, True), (DOWN, False), (ONE, False)],
    )
    def test_value_and_gradient(
        self, sizes: Sizes, is_masked: bool, group_size: int | None, align_corners: bool
    ) -> None:
        student, teacher = maps(*sizes[:2], images=2)
        mask = random_mask(sizes[2], images=2) if is_masked else None
        arguments = (teacher, sizes[2], group_size, mask, 2.0, align_corners)
        assert_equal(in_kernels(*arguments), plainly(*arguments), student)

    @pytest.mark.parametrize('group_size', [1, 5, 9])
    def test_groups_of_one_of_all_and_of_more(self, group_size: int) -> None:
        student, teacher = maps(*SMALL[:2])
        arguments = (teacher, SMALL[2], group_size, random_mask(SMALL[2]), 0.7)
        assert_equal(in_kernels(*arguments), plainly(*arguments), student)

    @pytest.mark.parametrize('group_size', [None, 3])
    @pytest.mark.parametrize(
        'sizes', [((3, 5), (3, 5), (5, 9)), ((3, 5), (2, 4), (5, 9))], ids=['equal', 'unequal']
    )
    def test_several_blocks(
        self, sizes: Sizes, group_size: int | None, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        blocks = {'CHANNELS': 2, 'COLUMNS': 4, 'ROWS': 2, 'PIXEL_COLUMNS': 4, 'PIXEL_ROWS': 1}
        for name, size in blocks.items():
            monkeypatch.setattr(triton_divergence, name, size)
        student, teacher = maps(*sizes[:2])
        arguments = (teacher, sizes[2], group_size, random_mask(sizes[2]))
        assert_equal(in_kernels(*arguments), plainly(*arguments), student)

    @pytest.mark.parametrize('group_size', [None, 3])
    def test_hidden_images(self, group_size: int | None) -> None:
        student, teacher = maps(*SMALL[:2], images=2)
        mask = random_mask(SMALL[2], images=2)
        mask[0] = False
        arguments = (teacher, SMALL[2], group_size, mask)
        assert_equal(in_kernels(*arguments), plainly(*arguments), student)
        value, gradient = value_and_gradient(
            in_kernels(teacher, SMALL[2], group_size, torch.zeros_like(mask)), student
        )
        assert value == 0.0
        assert torch.equal(gradient, torch.zeros_like(gradient))

    @pytest.mark.parametrize('group_size', [None, 3])
    def test_what_is_hidden_may_hold_anything(self, group_size: int | None) -> None:
        student, teacher = maps(*SAME[:2])
        mask = random_mask(SAME[2])
        arguments = (teacher, SAME[2], group_size, mask)
        expected = value_and_gradient(in_kernels(*arguments), student)
        for fill in (torch.nan, torch.inf, -1e30):
            found = value_and_gradient(
                in_kernels(teacher.masked_fill(~mask[:, None], fill), *arguments[1:]),
                student.masked_fill(~mask[:, None], fill),
            )
            assert torch.equal(found[0], expected[0])
            assert torch.equal(found[1], expected[1])

    @pytest.mark.parametrize('group_size', [None, 3])
    def test_equal_maps_give_zero(self, group_size: int | None) -> None:
        student, _ = maps(*SMALL[:2])
        value, gradient = value_and_gradient(
            in_kernels(student.clone(), SMALL[2], group_size), student
        )
        assert value == 0.0
        assert torch.equal(gradient, torch.zeros_like(gradient))

    @pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
    @pytest.mark.parametrize('group_size', [None, 3])
    def test_half_precision_is_computed_in_float32(
        self, group_size: int | None, dtype: torch.dtype
    ) -> None:
        student, teacher = (x.to(dtype) for x in maps(*SMALL[:2]))
        value, gradient = value_and_gradient(in_kernels(teacher, SMALL[2], group_size), student)
        expected, expected_gradient = value_and_gradient(
            plainly(teacher, SMALL[2], group_size), student.float()
        )
        assert value.dtype == torch.float32
        torch.testing.assert_close(value.double(), expected, rtol=1e-5, atol=0.0)
        assert gradient.dtype == dtype
        torch.testing.assert_close(gradient, expected_gradient.to(dtype))

    def test_a_small_gradient_comes_through_float16_with_a_scaled_loss(self) -> None:
        student, teacher = (x.half() for x in maps(*SMALL[:2]))
        factor = 2.0**12
        teacher = student + (teacher * 2**-10)
        loss = in_kernels(teacher, SMALL[2], 3)
        _, gradient = value_and_gradient(lambda x: loss(x) * factor, student)
        _, expected = value_and_gradient(plainly(teacher, SMALL[2], 3), student.double())
        assert expected.abs().max() < 1e-4
        torch.testing.assert_close(gradient.double() / factor, expected, rtol=5e-3, atol=1e-8)

    @pytest.mark.parametrize('group_size', [None, 3])
    def test_strides_do_not_matter(self, group_size: int | None) -> None:
        student, teacher = maps(*SMALL[:2])
        mask = random_mask(SMALL[2])
        expected = value_and_gradient(in_kernels(teacher, SMALL[2], group_size, mask), student)
        changes: list[Callable[[Tensor], Tensor]] = [
            lambda x: x.to(memory_format=torch.channels_last),
            lambda x: x.transpose(2, 3).contiguous().transpose(2, 3),
            lambda x: torch.stack([x, x + 1], -1)[..., 0],
        ]
        strided_mask = mask.transpose(1, 2).contiguous().transpose(1, 2)
        for change_student, change_teacher in zip(changes, changes[1:] + changes[:1], strict=True):
            found = value_and_gradient(
                in_kernels(change_teacher(teacher), SMALL[2], group_size, strided_mask),
                change_student(student),
            )
            assert torch.equal(found[0], expected[0])
            assert torch.equal(found[1], expected[1])

    @pytest.mark.parametrize('group_size', [None, 3])
    def test_large_logits(self, group_size: int | None) -> None:
        student, teacher = (x * 1e3 for x in maps(*SMALL[:2]))
        arguments = (teacher, SMALL[2], group_size, random_mask(SMALL[2]))
        value, gradient = value_and_gradient(in_kernels(*arguments), student)
        expected, expected_gradient = value_and_gradient(plainly(*arguments), student)
        torch.testing.assert_close(value.double(), expected, rtol=1e-5, atol=0.0)
        torch.testing.assert_close(gradient, expected_gradient, rtol=0.0, atol=2e-5)

    @pytest.mark.parametrize('group_size', [None, 1, 3])
    @pytest.mark.parametrize('sign', [1, -1])
    def test_the_largest_values_may_come_last(self, group_size: int | None, sign: int) -> None:
        student, teacher = maps(*SMALL[:2])
        # Far more than an exponent of float32 holds, along the channels and along the pixels.
        slope = sign * torch.linspace(-500, 500, 30).view(CHANNELS, 2, 3)
        arguments = (teacher + slope, SMALL[2], group_size)
        assert_equal(in_kernels(*arguments), plainly(*arguments), student + slope, 1e-4, 1e-5)

    @pytest.mark.parametrize('group_size', [None, 3])
    @pytest.mark.parametrize('side', [0, 1])
    @pytest.mark.parametrize('sizes', [SAME, ((2, 2), (2, 2), (1, 1))], ids=['same', 'mixed'])
    def test_a_value_that_is_not_finite_is_never_a_finite_loss(
        self, sizes: Sizes, side: int, group_size: int | None
    ) -> None:
        for value in (torch.inf, -torch.inf, torch.nan):
            both = maps(*sizes[:2])
            both[side][0, 2, 1, 1] = value
            mask = torch.ones(1, *sizes[2], dtype=torch.bool)
            loss = in_kernels(both[1], sizes[2], group_size, mask)
            found, gradient = value_and_gradient(loss, both[0])
            assert not found.isfinite()
            # A logit of minus infinity has the probability 0.
            assert value == -torch.inf or not gradient.isfinite().all()

    @pytest.mark.parametrize('group_size', [None, 3])
    @pytest.mark.parametrize('side', [0, 1])
    def test_nor_is_a_map_of_minus_infinity_an_empty_one(
        self, side: int, group_size: int | None
    ) -> None:
        both = maps((2, 2), (2, 2))
        # Of one corner alone: between two of them everything is NaN.
        both[side][..., 1, 1] = -torch.inf
        assert not in_kernels(both[1], (1, 1), group_size)(both[0]).isfinite()

    def test_a_second_derivative_is_refused(self) -> None:
        student, teacher = maps(*SAME[:2])
        student.requires_grad_()
        loss = in_kernels(teacher, SAME[2], 3)
        (gradient,) = torch.autograd.grad(loss(student), student, create_graph=True)
        with pytest.raises(RuntimeError, match='second derivative'):
            gradient.sum().backward()

    def test_a_gradient_where_one_is_asked_for(self) -> None:
        student, teacher = maps(*SAME[:2])
        loss = in_kernels(teacher, SAME[2], 3)
        torch.testing.assert_close(loss(student), plainly(teacher, SAME[2], 3)(student).float())
        assert not loss(student).requires_grad

    @pytest.mark.parametrize('group_size', [None, 1, 3])
    def test_a_peak_that_the_mask_leaves_out(self, group_size: int | None) -> None:
        student, teacher = maps((4, 4), (4, 4))
        student[:, :3, 2, 2] += 200.0
        teacher[:, 1, 0, 0] += 200.0
        mask = torch.ones(1, 8, 8, dtype=torch.bool)
        # One pixel of those with most of the student's peak is left.
        mask[:, :2, :2] = mask[:, 3:7, 3:7] = False
        mask[:, 6, 6] = True
        for tau in (1.0, 0.25):
            arguments = (teacher, (8, 8), group_size, mask, tau)
            assert_equal(in_kernels(*arguments), plainly(*arguments), student, 1e-4, 1e-6)

    @pytest.mark.parametrize('group_size', [None, 1, 3])
    def test_a_spike_that_interpolation_leaves_out(self, group_size: int | None) -> None:
        student, teacher = maps((8, 8), (8, 8))
        # Of every 4 x 4 values those in the middle are taken: a quarter of the spikes, or none.
        student[:, :3, 2, 2] += 500.0
        teacher[:, 1, 0, 0] += 500.0
        arguments = (teacher, (2, 2), group_size, None, 1.0)
        assert_equal(in_kernels(*arguments), plainly(*arguments), student, 1e-4, 1e-6)

    @pytest.mark.parametrize('align_corners', [False, True])
    @pytest.mark.parametrize('is_weighted', [False, True])
    @pytest.mark.parametrize('sizes', [WHOLE, UNEQUAL, SAME, DOWN, ONE])
    def test_cross_entropy(self, sizes: Sizes, is_weighted: bool, align_corners: bool) -> None:
        (student,) = maps(sizes[0], images=2)
        label = random_labels(sizes[2], images=2)
        weight = random_class_weights() if is_weighted else None
        arguments = (label, weight, align_corners)
        assert_equal(entropy_in_kernels(*arguments), entropy_plainly(*arguments), student)
        _, correct = triton_divergence.cross_entropy_sums(
            student, label, weight, 255, align_corners
        )
        assert correct.dtype == torch.long
        assert correct == right_plainly(student, label, align_corners)

    def test_cross_entropy_of_several_blocks(self, monkeypatch: pytest.MonkeyPatch) -> None:
        blocks = {'CHANNELS': 2, 'COLUMNS': 4, 'ROWS': 2, 'PIXEL_COLUMNS': 4, 'PIXEL_ROWS': 1}
        for name, size in blocks.items():
            monkeypatch.setattr(triton_divergence, name, size)
        (student,) = maps((3, 5))
        label = random_labels((5, 9))
        assert_equal(entropy_in_kernels(label), entropy_plainly(label), student)
        _, correct = triton_divergence.cross_entropy_sums(student, label)
        assert correct == right_plainly(student, label)

    @pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
    def test_cross_entropy_of_half_precision(self, dtype: torch.dtype) -> None:
        student = maps((3, 4))[0].to(dtype)
        label = random_labels((6, 8))
        factor = 2.0**10
        loss = entropy_in_kernels(label)
        value, gradient = value_and_gradient(lambda x: loss(x) * factor, student)
        expected, expected_gradient = value_and_gradient(entropy_plainly(label), student.double())
        assert value.dtype == torch.float32
        assert gradient.dtype == dtype
        torch.testing.assert_close(value.double() / factor, expected, rtol=1e-5, atol=0.0)
        torch.testing.assert_close(gradient, (expected_gradient * factor).to(dtype))

    def test_cross_entropy_of_any_strides(self) -> None:
        (student,) = maps((3, 4), images=2)
        label = random_labels((6, 8), images=2)
        expected = value_and_gradient(entropy_in_kernels(label), student)
        strided = label.mT.contiguous().mT
        for change in (
            lambda x: x.to(memory_format=torch.channels_last),
            lambda x: torch.stack([x, x + 1], -1)[..., 0],
        ):
            found = value_and_gradient(entropy_in_kernels(strided), change(student))
            assert torch.equal(found[0], expected[0])
            assert torch.equal(found[1], expected[1])

    def test_the_first_of_the_largest_scores_is_the_class(self) -> None:
        student = torch.zeros(1, CHANNELS, 2, 2)
        student[:, 3] = student[:, 1] = 4.0
        for own in range(CHANNELS):
            label = torch.full((1, 4, 4), own)
            label[0, 0, 0] = 255
            _, correct = triton_divergence.cross_entropy_sums(student, label)
            assert correct == 15 * (own == 1)

    def test_scores_of_ignored_pixels_may_be_anything(self) -> None:
        (student,) = maps((3, 3))
        label = random_labels((3, 3))
        expected = value_and_gradient(entropy_in_kernels(label), student)
        for fill in (torch.nan, torch.inf, -1e30):
            filled = student.masked_fill((label == 255)[:, None], fill)
            found = value_and_gradient(entropy_in_kernels(label), filled)
            assert torch.equal(found[0], expected[0])
            assert torch.equal(found[1], expected[1])
        value, gradient = value_and_gradient(
            entropy_in_kernels(torch.full_like(label, 255)), student
        )
        assert value == 0.0
        assert not gradient.any()

    def test_cross_entropy_of_large_scores(self) -> None:
        # Along the channels more than an exponent holds, on a level of which float32 has few bits.
        student = maps((2, 3))[0] * 100 + torch.arange(CHANNELS).view(-1, 1, 1) * 100 + 1e4
        label = random_labels((4, 6))
        assert_equal(entropy_in_kernels(label), entropy_plainly(label), student, 1e-4)

    @pytest.mark.parametrize('sizes', [SAME, ((2, 2), (2, 2), (1, 1))], ids=['same', 'mixed'])
    def test_cross_entropy_of_what_is_not_finite(self, sizes: Sizes) -> None:
        for fill in (torch.inf, torch.nan):
            (student,) = maps(sizes[0])
            student[0, 2, 1, 1] = fill
            label = random_labels(sizes[2]).masked_fill(~random_mask(sizes[2]), 0)
            value, gradient = value_and_gradient(entropy_in_kernels(label), student)
            assert not value.isfinite()
            assert not gradient.isfinite().all()

    def test_labels_that_are_no_classes_are_refused(self) -> None:
        (student,) = maps((2, 3))
        for wrong in (CHANNELS, -1):
            label = random_labels((4, 6))
            label[0, 2, 2] = wrong
            with pytest.raises(RuntimeError, match='out of bounds'):
                entropy_in_kernels(label)(student)

    def test_cross_entropy_without_a_gradient(self) -> None:
        (student,) = maps((2, 3))
        label = random_labels((4, 6))
        loss = entropy_in_kernels(label)(student)
        torch.testing.assert_close(loss, entropy_plainly(label)(student).float())
        assert not loss.requires_grad


class Launches:
    """Stands in for a kernel and remembers the arguments of its launches."""

    def __init__(self, kernel: Any) -> None:
        self.kernel, self.arguments = kernel, []

    def __getitem__(self, grid: tuple[int, ...]) -> Callable[..., None]:
        return lambda *args, **options: self.arguments.append((args, options))


@pytest.fixture
def launches(monkeypatch: pytest.MonkeyPatch) -> list[Launches]:
    """Of all kernels, which do not run."""
    names = ('pixel_sums', 'exponentials')
    recorded = [Launches(getattr(triton_kernels, name)) for name in names]
    for name, of_kernel in zip(names, recorded, strict=True):
        monkeypatch.setattr(triton_kernels, name, of_kernel)
    return recorded


POINTERS = {
    torch.uint8: '*u8',
    torch.int32: '*i32',
    torch.int64: '*i64',
    torch.float32: '*fp32',
}


def compiled(kernel: Any, args: tuple[Any, ...], options: dict[str, Any], capability: int) -> Any:
    """The kernel as a launch with these arguments compiles it, without a GPU."""
    compiler = pytest.importorskip('triton.compiler')
    if 'constexprs' not in inspect.signature(compiler.ASTSource).parameters:
        pytest.skip(f'Triton {triton.__version__} is told of constants in another way')
    target = pytest.importorskip('triton.backends.compiler').GPUTarget('cuda', capability, 32)
    constants = {name: value for name, value in options.items() if name in kernel.arg_names}
    signature = dict.fromkeys(kernel.arg_names, 'constexpr')
    attributes = {}
    runtime = [name for name in kernel.arg_names if name not in constants]
    for name, value in zip(runtime, args, strict=True):
        if isinstance(value, Tensor):
            signature[name] = POINTERS[value.dtype]
        elif value == 1:
            constants[name] = 1
        else:
            signature[name] = 'i32'
        if isinstance(value, Tensor) or value % 16 == 0:
            attributes[(kernel.arg_names.index(name),)] = [['tt.divisibility', 16]]
    source = compiler.ASTSource(kernel, signature, constants, attributes)
    others = {name: value for name, value in options.items() if name not in kernel.arg_names}
    return triton.compile(source, target=target, options=others)


class TestOutsideTheInterpreter:
    __test__ = not IS_INTERPRETED

    @pytest.mark.parametrize('capability', [90, 80])
    def test_kernels_compile(
        self,
        capability: int,
        launches: list[Launches],
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        monkeypatch.setenv('TRITON_CACHE_DIR', str(tmp_path))
        for sizes, is_masked in ((((4, 16),) * 2 + ((16, 64),), True), (UNEQUAL, False)):
            student, teacher = maps(*sizes[:2], images=2)
            mask = random_mask(sizes[2], images=2) if is_masked else None
            kernels = triton_divergence.Kernels(sizes[2], mask, align_corners=False)
            for to in sizes[:2]:
                kernels.pixel_softmax(student, [to])
                kernels.exponentials(student, [to])
                kernels.exponentials(student, [to], student[..., 0, 0])
            kernels.largest(teacher)
            label = random_labels(sizes[2], images=2)
            kernels.cross_entropy(student, label, None, 255, [sizes[0]])
        for of_kernel in launches:
            assert of_kernel.arguments
            for args, options in of_kernel.arguments:
                assert 'ptx' in compiled(of_kernel.kernel, args, options, capability).asm

    def test_what_can_be_taken(self, monkeypatch: pytest.MonkeyPatch) -> None:
        student, teacher = maps(*SAME[:2])
        assert not triton_divergence.can_take(student, teacher)

        class OnGpu:
            is_cuda, device = True, torch.device('cuda:0')

            def __init__(self, dtype: torch.dtype = torch.float32) -> None:
                self.dtype = dtype

        works, capability = {OnGpu.device: True}, [(9, 0)]
        monkeypatch.setattr(triton_divergence, '_is_right', lambda device: works[device])
        monkeypatch.setattr(torch.cuda, 'get_device_capability', lambda device: capability[0])

        def can_take(student: Any, teacher: Any) -> bool:
            return triton_divergence.can_take(student, teacher)

        for dtype in (torch.float32, torch.float16, torch.bfloat16):
            assert can_take(OnGpu(dtype), OnGpu())
        assert not can_take(OnGpu(torch.float64), OnGpu())
        assert not can_take(OnGpu(), OnGpu(torch.float64))
        assert not can_take(OnGpu(), teacher)
        capability[0] = (7, 5)
        assert not can_take(OnGpu(), OnGpu())
        capability[0], works[OnGpu.device] = (8, 0), False
        assert not can_take(OnGpu(), OnGpu())

    def test_kernels_that_do_not_launch_are_a_warning(self) -> None:
        # Triton takes no tensor that lies where no GPU reads it.
        with pytest.warns(UserWarning, match='do not work on cpu: .*slower'):
            assert not triton_divergence._is_right.__wrapped__(torch.device('cpu'))

    def test_kernels_that_are_wrong_are_a_warning(self, monkeypatch: pytest.MonkeyPatch) -> None:
        device = torch.device('cpu')
        names = ('pixel_divergence', 'group_divergence', 'cross_entropy_sums')
        for name in names:
            monkeypatch.setattr(triton_divergence, name, getattr(piecewise, name))
        assert triton_divergence._is_right.__wrapped__(device)

        def wrong(name: str) -> Any:
            def loss(*args: Any, **options: Any) -> Any:
                found = getattr(piecewise, name)(*args, **options)
                return (found[0], found[1] + 1) if isinstance(found, tuple) else found * 1.01

            return loss

        for name in names:
            with monkeypatch.context() as patch:
                patch.setattr(triton_divergence, name, wrong(name))
                with pytest.warns(UserWarning, match='not (close|equal)'):
                    assert not triton_divergence._is_right.__wrapped__(device)

    @pytest.mark.parametrize(
        'mode', [torch.no_grad, torch.inference_mode, lambda: torch.autocast('cpu', torch.bfloat16)]
    )
    def test_the_mode_of_the_first_call_does_not_matter(self, mode: Any) -> None:
        losses = (
            piecewise.pixel_divergence,
            piecewise.group_divergence,
            piecewise.cross_entropy_sums,
            torch.device('cpu'),
        )
        expected = triton_divergence._try_out(*losses)
        with mode():
            found = triton_divergence._try_out(*losses)
        torch.testing.assert_close(found, expected, rtol=0.0, atol=0.0)

    def test_without_triton(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, 'triton', None)
        spec = importlib.util.spec_from_file_location('without_triton', triton_kernels.__file__)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        assert not module.HAS_TRITON
        monkeypatch.setattr(triton_divergence, 'triton_kernels', module)
        assert not triton_divergence.can_take(*maps(*SAME[:2]))


@pytest.mark.skipif(not torch.cuda.is_available(), reason='there is no GPU')
class TestOnGpu:
    __test__ = not IS_INTERPRETED

    @pytest.mark.parametrize('is_masked', [False, True])
    @pytest.mark.parametrize('group_size', [None, 1, 10])
    @pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16, torch.float16])
    @pytest.mark.parametrize('teacher_size', [(128, 128), (64, 96)])
    def test_value_and_gradient_of_pieces(
        self,
        teacher_size: tuple[int, int],
        dtype: torch.dtype,
        group_size: int | None,
        is_masked: bool,
    ) -> None:
        student, teacher = (
            x.to(dtype)
            for x in maps((128, 128), teacher_size, channels=150, device='cuda', images=2)
        )
        assert triton_divergence.can_take(student, teacher)
        size = (512, 512)
        mask = random_mask(size, images=2).cuda() if is_masked else None
        value, gradient = value_and_gradient(in_kernels(teacher, size, group_size, mask), student)
        expected, expected_gradient = value_and_gradient(
            in_kernels(teacher.double(), size, group_size, mask, module=piecewise),
            student.double(),
        )
        torch.testing.assert_close(value.double(), expected, rtol=1e-5, atol=1e-7)
        assert gradient.dtype == dtype
        rtol = {torch.float32: 1e-5, torch.bfloat16: 4e-3, torch.float16: 1e-3}[dtype]
        # Smaller ones are below what float16 holds.
        atol = 1e-5 * expected_gradient.abs().max().item() + 1e-7 * (dtype == torch.float16)
        torch.testing.assert_close(gradient.double(), expected_gradient, rtol=rtol, atol=atol)

    @pytest.mark.parametrize('group_size', [None, 3])
    @pytest.mark.parametrize('align_corners', [False, True])
    @pytest.mark.parametrize(
        'sizes', [WHOLE, UNEQUAL, SAME, DOWN, ONE, ((65, 33),) * 2 + ((97, 131),)]
    )
    def test_small_and_odd_sizes(
        self, sizes: Sizes, align_corners: bool, group_size: int | None
    ) -> None:
        student, teacher = maps(*sizes[:2], device='cuda', images=2)
        mask = random_mask(sizes[2], images=2).cuda()
        arguments = (teacher, sizes[2], group_size, mask, 2.0, align_corners)
        assert_equal(in_kernels(*arguments), plainly(*arguments), student)

    @pytest.mark.parametrize('group_size', [None, 3])
    def test_equal_inputs_give_equal_bits(self, group_size: int | None) -> None:
        student, teacher = maps((65, 33), (65, 33), device='cuda', images=2)
        first = value_and_gradient(in_kernels(teacher, (200, 131), group_size), student)
        for change in (torch.clone, lambda x: x.to(memory_format=torch.channels_last)):
            again = value_and_gradient(
                in_kernels(change(teacher), (200, 131), group_size), change(student)
            )
            assert torch.equal(first[0], again[0])
            assert torch.equal(first[1], again[1])

    @pytest.mark.parametrize('group_size', [None, 3])
    def test_no_map_at_the_size_of_the_result(self, group_size: int | None) -> None:
        student, teacher = maps((64, 64), (64, 64), channels=64, device='cuda', images=2)
        loss = in_kernels(teacher, (512, 512), group_size)
        loss(student.requires_grad_()).backward()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        loss(student).backward()
        # Gradients and their products; and for pixels two numbers each.
        held = 6 * student.numel() * 4 + 3 * 2 * 512 * 512 * 4
        assert torch.cuda.max_memory_allocated() - before < held < 2 * 64 * 512 * 512 * 4

    @pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16, torch.float16])
    @pytest.mark.parametrize('is_weighted', [False, True])
    def test_cross_entropy_of_pieces(self, is_weighted: bool, dtype: torch.dtype) -> None:
        student = maps((128, 128), channels=150, device='cuda', images=2)[0].to(dtype)
        assert triton_divergence.can_take(student)
        label = random_labels((512, 512), images=2, channels=150).cuda()
        weight = random_class_weights(150).cuda() if is_weighted else None
        value, gradient = value_and_gradient(entropy_in_kernels(label, weight), student)
        expected, expected_gradient = value_and_gradient(
            lambda x: piecewise.cross_entropy_sums(x, label, weight)[0], student.double()
        )
        torch.testing.assert_close(value.double(), expected, rtol=1e-5, atol=1e-7)
        assert gradient.dtype == dtype
        rtol = {torch.float32: 1e-5, torch.bfloat16: 4e-3, torch.float16: 1e-3}[dtype]
        atol = 1e-5 * expected_gradient.abs().max().item()
        torch.testing.assert_close(gradient.double(), expected_gradient, rtol=rtol, atol=atol)

    @pytest.mark.parametrize('align_corners', [False, True])
    @pytest.mark.parametrize('sizes', [WHOLE, UNEQUAL, SAME, DOWN, ONE])
    def test_cross_entropy_of_small_and_odd_sizes(self, sizes: Sizes, align_corners: bool) -> None:
        (student,) = maps(sizes[0], device='cuda', images=2)
        label = random_labels(sizes[2], images=2).cuda()
        arguments = (label, random_class_weights().cuda(), align_corners)
        assert_equal(entropy_in_kernels(*arguments), entropy_plainly(*arguments), student)
        _, correct = triton_divergence.cross_entropy_sums(student, label, None, 255, align_corners)
        assert correct == right_plainly(student, label, align_corners)

    @pytest.mark.skipif(torch.cuda.device_count() < 2, reason='there are not two GPUs')
    def test_on_another_than_the_current_gpu(self) -> None:
        student, teacher = maps(*WHOLE[:2], device='cuda:1', images=2)
        arguments = (teacher, WHOLE[2], 3)
        assert_equal(in_kernels(*arguments), plainly(*arguments), student)
