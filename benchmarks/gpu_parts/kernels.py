"""Whether the kernels of the losses are right on this GPU.

What is right is the plain formula in float64, of the very maps that the kernels are given: on the
CPU for small maps, by torch's own operations on the GPU for those of real size. Triton compiles a
kernel anew for each dtype, and for each size or stride that is 1 or a multiple of 16, so that most
cases have odd sizes.

A value's error is relative to the value, or to 0.1 where that is more: a divergence is a difference
of logarithms of some 1 to 10. A gradient's is relative to its largest element. The kernels compute
in float32: a score of magnitude s is exact to s * 2**-24, and so is the exponential of it. A
gradient is rounded to the dtype of the map.
"""

from __future__ import annotations

import math
import multiprocessing
import os
import random
import shutil
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from gpu_parts.part import NotHereError, Part
from mmseg_kd.losses import CDLoss, CGDLoss, KLLoss, LogitLoss, functional
from mmseg_kd.losses import cross_entropy as losses_entropy
from mmseg_kd.losses.cross_entropy import cross_entropy_sums
from mmseg_kd.losses.kernels import dispatch, piecewise, triton_divergence, triton_kernels

Size = tuple[int, int]
Loss = Callable[[Tensor], Tensor]
Result = tuple[Tensor, Tensor]

FP32, FP16, BF16 = torch.float32, torch.float16, torch.bfloat16
# No section is begun with less time than this.
LEAST_SECONDS = 6
# Until what runs under the sanitizer must end, when all else has.
SANITIZER_SECONDS = 20


@dataclass(frozen=True)
class Case:
    """Maps, where they are compared, and how.

    Attributes:
        student, teacher, size: Of the maps and of the result.
        group_size: Channels in a group; None for the divergence of pixels.
        mask: 'all': there is none; 'random', 'nowhere', 'one': a single pixel, or 'last image'.
        dtypes: Of student and teacher.
        layouts: Of both maps in memory, see `LAYOUTS`.
        spread: The standard deviation of the scores.
    """

    student: Size
    teacher: Size
    size: Size
    group_size: int | None = None
    images: int = 2
    channels: int = 5
    mask: str = 'all'
    tau: float = 2.0
    align_corners: bool = False
    dtypes: tuple[torch.dtype, torch.dtype] = (FP32, FP32)
    layouts: tuple[str, str] = ('plain', 'plain')
    spread: float = 3.0
    seed: int = 0

    def __str__(self) -> str:
        def by(size: Size) -> str:
            return f'{size[0]}x{size[1]}'

        told = [
            f'{self.images}x{self.channels}',
            f'{by(self.student)}, {by(self.teacher)} at {by(self.size)}',
            'pixels' if self.group_size is None else f'groups of {self.group_size}',
            f'tau {self.tau}, mask {self.mask}, spread {self.spread}, seed {self.seed}',
            *(str(dtype).removeprefix('torch.') for dtype in self.dtypes),
            *self.layouts,
        ]
        return '; '.join(told) + ('; corners aligned' if self.align_corners else '')

    def maps(self, device: str) -> list[Tensor]:
        """The student's map and the teacher's."""
        generator = torch.Generator(device).manual_seed(self.seed)
        both = []
        for size, dtype, layout in zip(
            (self.student, self.teacher), self.dtypes, self.layouts, strict=True
        ):
            shape = (self.images, self.channels, *size)
            x = torch.randn(shape, generator=generator, device=device) * self.spread
            both.append(LAYOUTS[layout](x.to(dtype)))
        return both

    def mask_NHW(self, device: str) -> Tensor | None:
        """The mask, or None where there is none."""
        shape = (self.images, *self.size)
        mask_NHW = torch.zeros(shape, dtype=torch.bool, device=device)
        if self.mask == 'all':
            return None
        if self.mask == 'random':
            generator = torch.Generator(device).manual_seed(self.seed + 1)
            mask_NHW = torch.rand(shape, generator=generator, device=device) > 0.4
        elif self.mask == 'one':
            mask_NHW[-1, self.size[0] // 2, -1] = True
        elif self.mask == 'last image':
            mask_NHW[-1] = True
        else:
            assert self.mask == 'nowhere'
        return mask_NHW


def _sliced(x_NChw: Tensor) -> Tensor:
    n, c, h, w = x_NChw.shape
    # One element off the start of an allocation: no vector load is aligned.
    wide_NChw = x_NChw.new_full((n, c + 1, h + 2, 2 * w + 1), torch.nan)
    view_NChw = wide_NChw[:, 1:, 1:-1, 1::2]
    view_NChw.copy_(x_NChw)
    return view_NChw


LAYOUTS: dict[str, Callable[[Tensor], Tensor]] = {
    'plain': lambda x: x,
    'channels last': lambda x: x.contiguous(memory_format=torch.channels_last),
    'transposed': lambda x: x.mT.contiguous().mT,
    'sliced': _sliced,
    'expanded': lambda x: x[:1, :, :, :1].expand(x.shape),
}


def in_kernels(
    case: Case,
    teacher_NChw: Tensor,
    mask_NHW: Tensor | None = None,
    module: Any = triton_divergence,
) -> Loss:
    """The loss of the student's map, by the kernels or by another module's operations."""
    options: dict[str, Any] = dict(
        size=case.size, tau=case.tau, mask_NHW=mask_NHW, align_corners=case.align_corners
    )
    if case.group_size is None:
        return lambda x: module.pixel_divergence(x, teacher_NChw, **options)
    options['group_size'] = case.group_size
    return lambda x: module.group_divergence(x, teacher_NChw, **options)


def plainly(case: Case, teacher_NChw: Tensor, mask_NHW: Tensor | None) -> Loss:
    """The same by the formulas."""

    def resized(x_NChw: Tensor) -> Tensor:
        if x_NChw.shape[2:] == case.size:
            return x_NChw
        return F.interpolate(x_NChw, case.size, mode='bilinear', align_corners=case.align_corners)

    options: dict[str, Any] = dict(tau=case.tau, mask_NHW=mask_NHW)
    if case.group_size is None:
        return lambda x: functional.pixel_divergence(resized(x), resized(teacher_NChw), **options)
    options['group_size'] = case.group_size
    return lambda x: functional.group_divergence(resized(x), resized(teacher_NChw), **options)


def result(loss: Loss, student_NChw: Tensor, factor: float = 1.0) -> Result:
    """The loss, and the gradient of it times `factor`."""
    student_NChw = student_NChw.detach().requires_grad_()
    value = loss(student_NChw)
    (gradient_NChw,) = torch.autograd.grad(value, student_NChw, torch.full_like(value, factor))
    return value.detach(), gradient_NChw


@dataclass(frozen=True)
class Errors:
    """Of a value and of a gradient, and what is allowed."""

    value: float
    gradient: float
    allowed_value: float
    allowed_gradient: float

    @property
    def share(self) -> float:
        """Of what is allowed; NaN counts as beyond it."""
        shares = (self.value / self.allowed_value, self.gradient / self.allowed_gradient)
        return max(math.inf if math.isnan(share) else share for share in shares)


def errors(
    found: Loss, expected: Loss, student_NChw: Tensor, exact_NChw: Tensor, magnitude: float
) -> Errors:
    """Of `found` at a map, against `expected` at the same one in float64.

    Args:
        magnitude: Of the scores that exponentials are taken of.
    """
    exact_value, exact_gradient = result(expected, exact_NChw)
    largest = exact_gradient.abs().max().item()
    # The mean over the pixels leaves gradients that float16 does not hold: as a gradient scaler
    # does, they are made some 1 at most.
    factor = 2.0 ** -math.floor(math.log2(largest)) if 0 < largest < math.inf else 1.0
    value, gradient = result(found, student_NChw, factor)
    assert value.dtype == FP32, value.dtype
    assert gradient.dtype == student_NChw.dtype, gradient.dtype
    device = exact_gradient.device
    distance = (gradient.to(device).double() / factor - exact_gradient).abs().max().item()
    # The exponentials and logarithms of a GPU are approximate in their last two bits.
    rounding = 2.0**-19 * (8 + magnitude)
    return Errors(
        value=abs(value.item() - exact_value.item()) / max(abs(exact_value.item()), 0.1),
        gradient=distance / largest if largest else distance,
        allowed_value=rounding,
        allowed_gradient=rounding + torch.finfo(student_NChw.dtype).eps / 2,
    )


def case_errors(
    case: Case, device: str, at: str = 'cpu', module: Any = triton_divergence
) -> Errors:
    """Of the kernels in a case, against the formula in float64 on the device `at`."""
    student_NChw, teacher_NChw = case.maps(device)
    mask_NHW = case.mask_NHW(device)
    expected = plainly(
        case, teacher_NChw.to(at).double(), None if mask_NHW is None else mask_NHW.to(at)
    )
    magnitude = max(x.abs().max().item() for x in (student_NChw, teacher_NChw)) / case.tau
    return errors(
        in_kernels(case, teacher_NChw, mask_NHW, module),
        expected,
        student_NChw,
        student_NChw.to(at).double(),
        magnitude,
    )


def compare(
    part: Part,
    name: str,
    cases: Sequence[Case],
    errors_of: Callable[[Case], Errors] | None = None,
) -> None:
    """One check over many cases: all are tried, the worst are told."""
    with part.check(name) as figures:
        errors_of = errors_of or (lambda case: case_errors(case, part.device))
        begun = time.monotonic()
        found: list[tuple[Errors, Case]] = []
        failed: list[str] = []
        for case in cases:
            if part.seconds_left < LEAST_SECONDS:
                failed.append(f'no time for {len(cases) - len(found) - len(failed)} cases')
                break
            try:
                found.append((errors_of(case), case))
            except Exception as error:
                failed.append(f'{case}: {type(error).__name__}: {error}')
                if not is_alive(part):
                    break
        figures['cases'] = len(found)
        if found:
            figures['largest error of a value'] = f'{max(e.value for e, _ in found):.1e}'
            figures['of a gradient'] = f'{max(e.gradient for e, _ in found):.1e}'
            worst, case = max(found, key=lambda pair: pair[0].share)
            figures['of what is allowed'] = f'{worst.share:.0%}' if worst.share < 1e9 else 'NaN'
            figures['worst'] = str(case)
        figures['seconds'] = round(time.monotonic() - begun, 1)
        failed += [f'{case}: {e}' for e, case in found if not e.share <= 1]
        if failed:
            raise AssertionError(f'{len(failed)} cases: ' + '\n'.join(failed))


def is_alive(part: Part) -> bool:
    """Whether the process can still use the device: an address out of range ends that for good."""
    try:
        torch.zeros(1, device=part.device).add_(1).item()
    except RuntimeError:
        return False
    return True


# What follows are the sections, in the order of `SECTIONS`.


def self_test(part: Part) -> None:
    """That the kernels are taken at all."""
    with part.check('the self-test takes the kernels') as figures:
        if part.rehearse:
            raise NotHereError('in the interpreter maps are on the CPU, which no kernel takes')
        case = Case((5, 7), (5, 7), (9, 13))
        begun = time.monotonic()
        # What is warned of is why they are not.
        with warnings.catch_warnings(record=True) as warned:
            warnings.simplefilter('always')
            for dtypes in ((FP32, FP32), (FP16, FP16), (BF16, FP32)):
                maps = replace(case, dtypes=dtypes).maps(part.device)
                can_take = triton_divergence.can_take(*maps)
                told = '; '.join(str(one.message) for one in warned)
                assert can_take, f'{dtypes}: {told}'
                backend = dispatch.backend_of(*maps)
                assert backend is triton_divergence, backend
            figures['seconds with compiling'] = round(time.monotonic() - begun, 1)
            # It is asked once, in whatever mode the first loss is computed.
            for mode in (torch.inference_mode(), torch.autocast(part.device, BF16)):
                with mode:
                    works = triton_divergence._is_right.__wrapped__(maps[0].device)
                told = '; '.join(str(one.message) for one in warned)
                assert works, f'{mode}: {told}'


ODD = (3, 5, 7, 11, 17, 33, 49)
TAUS = (0.5, 1.0, 2.0, 4.0, 8.0)
MASKS = ('all', 'random', 'random', 'nowhere', 'one', 'last image')


def random_cases(count: int, most: int) -> list[Case]:
    """Cases of float32 with odd sizes up to `most`: each seed is one."""
    return [_random_case(seed, [size for size in ODD if size <= most]) for seed in range(count)]


def _random_case(seed: int, odd: list[int]) -> Case:
    draw = random.Random(seed)
    student: Size = (draw.choice(odd), draw.choice(odd))
    teacher: Size = student if draw.random() < 0.6 else (draw.choice(odd), draw.choice(odd))
    sizes: list[Size] = [
        (draw.choice(odd), draw.choice(odd)),
        (student[0] * 3, student[1] * 3 + 2),
        (student[0] * 2 - 1, student[1] + 2),
        student,
        (student[0] // 4 * 2 + 1, student[1] // 4 * 2 + 1),
    ]
    channels = draw.choice((3, 5, 19) if odd[-1] > 17 else (3, 5))
    return Case(
        student,
        teacher,
        draw.choice(sizes),
        group_size=draw.choice((None, None, None, 1, 2, 7, channels, channels + 4)),
        channels=channels,
        mask=draw.choice(MASKS),
        tau=draw.choice(TAUS),
        align_corners=draw.random() < 0.3,
        spread=draw.choice((1.0, 3.0, 10.0)),
        seed=seed,
    )


def small_maps(part: Part) -> None:
    """Against the formula in float64 on the CPU."""
    # The interpreter is slow: of each kind it gets the first.
    first = 1 if part.rehearse else None
    base = Case((17, 33), (17, 33), (49, 97), channels=19, mask='random')
    if part.rehearse:
        base = Case((2, 3), (2, 3), (3, 5), images=1, channels=3, mask='random')
    groups = (None, 3)
    compare(
        part,
        'random cases of float32',
        random_cases(6, most=5) if part.rehearse else random_cases(120, most=49),
    )
    for dtypes in ((FP16, FP16), (BF16, BF16), (FP32, BF16), (FP16, FP32)):
        student, teacher = (str(dtype).removeprefix('torch.') for dtype in dtypes)
        compare(
            part,
            f'{student}, teacher {teacher}',
            [
                replace(base, dtypes=dtypes, group_size=group_size, tau=tau)
                for group_size in groups
                for tau in (1.0, 4.0)[:first]
            ],
        )
    compare(
        part,
        'huge scores',
        [
            replace(base, spread=spread, tau=tau, group_size=group_size, dtypes=dtypes)
            for group_size in groups
            for spread, tau, dtypes in (
                (1e3, 0.5, (FP32, FP32)),
                (1e30, 1e28, (FP32, FP32)),
                (6e3, 1.0, (FP16, FP16)),
            )[:first]
        ],
    )
    names = list(LAYOUTS)[1:]
    compare(
        part,
        'strides of maps',
        [
            replace(base, layouts=layouts, group_size=group_size)
            for layouts in zip(names, names[1:] + names[:1], strict=True)
            for group_size in groups
        ],
    )
    one: Size = (1, 1)
    compare(
        part,
        'sizes of 1 and multiples of 16',
        [
            replace(
                base, student=student, teacher=teacher, size=size, channels=c, group_size=group_size
            )
            for student, teacher, size, c in (
                (one, one, (4, 3), 3),
                (one, (2, 3), one, 1),
                ((16, 32), (16, 32), (64, 128), 16),
                ((32, 16), (16, 16), (64, 64), 32),
            )[: 2 if part.rehearse else None]
            for group_size in groups
            # Of a single channel the divergence of pixels is 0, and so is its gradient.
            if c > 1 or group_size is not None
        ],
    )


def real_maps(part: Part) -> None:
    """Against the formula in float64, on the GPU where there is one."""
    if part.rehearse:
        ade = cityscapes = Case((2, 2), (2, 2), (4, 5), images=1, channels=3)
        other: Size = (3, 2)
    else:
        ade = Case((128, 128), (128, 128), (512, 512), channels=150)
        cityscapes = Case((128, 256), (128, 256), (1024, 2048), channels=19, images=1)
        other = (64, 96)
    with part.check('float64 formulas, the GPU against the CPU') as figures:
        case = Case((17, 33), (11, 17), (49, 97), group_size=2, mask='random')
        both = []
        for device in ('cpu', part.device):
            student_NChw, teacher_NChw = (x.double().to(device) for x in case.maps('cpu'))
            mask_NHW = case.mask_NHW('cpu')
            assert mask_NHW is not None
            both.append(result(plainly(case, teacher_NChw, mask_NHW.to(device)), student_NChw))
        (value, gradient), (other_value, other_gradient) = both
        distance = (gradient - other_gradient.cpu()).abs().max() / gradient.abs().max()
        figures['error'] = f'{max(distance.item(), abs(value - other_value.cpu()).item()):.1e}'
        assert distance < 1e-10, figures
    for name, cases in (
        ('KL', [ade, replace(cityscapes, mask='random', tau=1.0)]),
        ('CD', [replace(ade, group_size=1, tau=4.0)]),
        ('CGD', [replace(ade, group_size=10, mask='random'), replace(cityscapes, group_size=19)]),
        (
            'half precision, unequal sizes',
            [
                replace(ade, teacher=other, dtypes=(BF16, BF16), mask='random'),
                replace(ade, teacher=other, dtypes=(FP16, FP16), group_size=10),
            ],
        ),
    ):
        compare(
            part,
            f'real size: {name}',
            cases,
            lambda case: case_errors(case, part.device, at=part.device),
        )


@contextmanager
def deterministic(warn_only: bool) -> Iterator[None]:
    """Operations that have no deterministic way warn or raise; and new memory is full of NaN."""
    torch.use_deterministic_algorithms(True, warn_only=warn_only)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(False)


def chosen_cases(part: Part) -> list[Case]:
    """Of both kinds, masked and not, with equal and with unequal sizes; several blocks each."""
    sizes: list[tuple[Size, Size, Size]] = [
        ((9, 33), (9, 33), (19, 67)),
        ((9, 33), (5, 7), (19, 67)),
    ]
    if part.rehearse:
        sizes = [((2, 3), (2, 3), (3, 3)), ((2, 3), (3, 2), (3, 3))]
    return [
        Case(*three, group_size=group_size, mask=mask, images=1 if part.rehearse else 2)
        for three in sizes
        for group_size in (None, 2)
        for mask in (('random',) if part.rehearse else ('all', 'random'))
    ]


def bits(part: Part) -> None:
    """That equal inputs give equal bits, whatever the memory held and whichever the stream."""
    cases = chosen_cases(part)

    def both(case: Case) -> tuple[Loss, Tensor]:
        student_NChw, teacher_NChw = case.maps(part.device)
        return in_kernels(case, teacher_NChw, case.mask_NHW(part.device)), student_NChw

    def must_be_equal(before: Result, after: Result, case: Case) -> None:
        assert torch.equal(before[0], after[0]), f'{case}: {before[0]} is not {after[0]}'
        number = (before[1] != after[1]).sum().item()
        assert not number, f'{case}: {number} elements of {after[1].numel()} of the gradient'
        assert before[1].isfinite().all(), case

    with part.check('the same bits from memory full of NaN') as figures:
        for case in cases:
            expected = result(*both(case))
            with deterministic(warn_only=True):
                assert torch.empty(3, device=part.device).isnan().all(), 'memory is not poisoned'
                found = result(*both(case))
            must_be_equal(expected, found, case)
        figures['cases'] = len(cases)
    with part.check('the same bits each time') as figures:
        times = 1 if part.rehearse else 10
        for case in cases:
            expected = result(*both(case))
            for _ in range(times):
                must_be_equal(expected, result(*both(case)), case)
        figures['cases'] = len(cases)
    with part.check('the same bits on another stream') as figures:
        if part.rehearse:
            raise NotHereError('only a GPU has streams')
        for case in cases:
            loss, student_NChw = both(case)
            expected = result(loss, student_NChw)
            late_NChw = torch.full_like(student_NChw, torch.nan)
            stream = torch.cuda.Stream()
            stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(stream):
                # What would run on the default stream would be too early, and read NaN.
                torch.cuda._sleep(50_000_000)
                late_NChw.copy_(student_NChw)
                found = result(loss, late_NChw)
            stream.synchronize()
            must_be_equal(expected, found, case)
        figures['cases'] = len(cases)


def not_finite(part: Part) -> None:
    """Scores that are infinite or NaN: the compiler and the interpreter order these differently."""
    size: Size = (3, 3)
    cases = [Case(size, size, size, g, 1, mask='random') for g in (None, 2)]
    fills = (torch.nan,) if part.rehearse else (torch.nan, torch.inf, -torch.inf, -1e30)
    with part.check('what the mask hides may hold anything') as figures:
        for case in cases:
            student_NChw, teacher_NChw = case.maps(part.device)
            mask_NHW = case.mask_NHW(part.device)
            assert mask_NHW is not None
            expected = result(in_kernels(case, teacher_NChw, mask_NHW), student_NChw)
            for fill in fills:
                student, teacher = (
                    x.masked_fill(~mask_NHW[:, None], fill) for x in (student_NChw, teacher_NChw)
                )
                found = result(in_kernels(case, teacher, mask_NHW), student)
                assert torch.equal(found[0], expected[0]), (fill, str(case))
                assert torch.equal(found[1], expected[1]), (fill, str(case))
        figures['cases'] = len(fills) * len(cases)
    with part.check('what is not finite elsewhere is never a finite loss') as figures:
        figures['cases'] = 0
        for case in cases:
            for to_size in (size, (2, 2)):
                for side in (0, 1):
                    for fill in fills[:3]:
                        both = case.maps(part.device)
                        both[side][0, 2, 1, 1] = fill
                        of_size = replace(case, size=to_size, mask='all')
                        value, gradient_NChw = result(in_kernels(of_size, both[1]), both[0])
                        told = f'{fill} on side {side}: {value}, {of_size}'
                        assert not value.isfinite(), told
                        # A score of minus infinity has the probability 0.
                        assert fill == -torch.inf or not gradient_NChw.isfinite().all(), told
                        figures['cases'] += 1


def vanishing(part: Part) -> None:
    """Peaks that no result has, far above all that are: exponentials less the peak are 0."""
    size = (8, 8) if part.rehearse else (64, 64)
    groups = (3,) if part.rehearse else (None, 1, 3)
    for name, height, to_size in (
        ('a mask leaves out', 200.0, (2 * size[0], 2 * size[1])),
        ('interpolation leaves out', 500.0, (size[0] // 4, size[1] // 4)),
    ):
        with part.check(f'peaks that {name}') as figures:
            found = []
            for group_size in groups:
                case = Case(size, size, to_size, group_size, images=1, tau=1.0)
                student_NChw, teacher_NChw = case.maps(part.device)
                student_NChw[:, :3, 2, 2] += height
                teacher_NChw[:, 1, 0, 0] += height
                mask_NHW = torch.ones(1, *to_size, dtype=torch.bool, device=part.device)
                if to_size > size:
                    mask_NHW[:, :2, :2] = mask_NHW[:, 3:7, 3:7] = False
                    # One of the pixels with some of the student's peak is left.
                    mask_NHW[:, 6, 6] = True
                found.append(
                    errors(
                        in_kernels(case, teacher_NChw, mask_NHW),
                        plainly(case, teacher_NChw.cpu().double(), mask_NHW.cpu()),
                        student_NChw,
                        student_NChw.cpu().double(),
                        height,
                    )
                )
            figures['errors'] = [f'{e.value:.1e} and {e.gradient:.1e}' for e in found]
            assert all(e.share <= 1 for e in found), found


def large_offsets(part: Part) -> None:
    """Addresses that need more than 32 bits."""
    far = 2**9 if part.rehearse else 2**31

    def needs(gib: float) -> None:
        free = math.inf
        if not part.rehearse:
            torch.cuda.empty_cache()
            free = torch.cuda.mem_get_info()[0] / 2**30
        if free < gib:
            raise NotHereError(f'{gib:.0f} GiB of memory, of which {free:.0f} are free')

    for name in 'C' if part.rehearse else 'NChw':
        with part.check(f'a stride of {name} that leads beyond {far} elements') as figures:
            needs(14)
            figures['cases'] = far_strides(part, name, far)
    with part.check(f'maps of more than {far} elements') as figures:
        needs(56)
        far_maps(part, far)
    with part.check(f'a result of more than {far} pixels') as figures:
        needs(36)
        far_pixels(part, far)
    with part.check(f'cross-entropy: scores and labels beyond {far} elements') as figures:
        needs(62)
        far_labels(part, far)
    if not part.rehearse:
        torch.cuda.empty_cache()


def must_be_close(found: Result, expected: Result, what: str) -> None:
    """The same values, added up in another order."""

    def told(text: str) -> str:
        return f'{what}: {text}'

    torch.testing.assert_close(found[0], expected[0], rtol=1e-5, atol=1e-7, msg=told)
    atol = 1e-5 * expected[1].abs().max().item()
    torch.testing.assert_close(found[1], expected[1], rtol=0.0, atol=atol, msg=told)


def far_strides(part: Part, name: str, far: int) -> int:
    """Maps of which one dimension is wide apart, against the same side by side."""
    dim = 'NChw'.index(name)
    # Every dimension has been in a case of equal sizes or of unequal ones.
    teacher_size: Size = (3, 5) if name in 'Nh' else (4, 3)
    cases = [Case((3, 5), teacher_size, (5, 7), g, 3, 4, dtypes=(FP16, FP16)) for g in (None, 3)]
    for case in cases:
        near = case.maps(part.device)
        wide = []
        for x_NChw in near:
            shape, stride = x_NChw.shape, list(x_NChw.stride())
            stride[dim] = far // (shape[dim] - 1) + 11
            last = sum((size - 1) * step for size, step in zip(shape, stride, strict=True))
            assert last > far and stride[dim] > x_NChw.numel()
            memory = torch.empty(last + 1, dtype=FP16, device=part.device)
            wide.append(memory.as_strided(shape, stride).copy_(x_NChw))
        found = result(in_kernels(case, wide[1]), wide[0])
        must_be_close(found, result(in_kernels(case, near[1]), near[0]), str(case))
    return len(cases)


def far_maps(part: Part, far: int) -> None:
    """Large maps of which a small result takes every seventh value, against these alone."""
    c, k = (3, 3) if part.rehearse else (19, 7)
    side = math.isqrt(far // c) // k + 1
    near = [torch.randn(1, c, side, side, device=part.device).mul(3).to(FP16) for _ in range(2)]
    # On these every value of the result falls.
    taken = (..., slice(k // 2, None, k), slice(k // 2, None, k))
    student_NChw, teacher_NChw = (
        torch.zeros(1, c, side * k, side * k, device=part.device, dtype=FP16) for _ in range(2)
    )
    assert student_NChw.numel() > far
    student_NChw[taken], teacher_NChw[taken] = near
    # As a gradient scaler does, for float16.
    factor = float(side**2)
    for group_size in (None, 7):
        case = Case((side, side), (side, side), (side, side), group_size, 1, c)
        expected = result(in_kernels(case, near[1]), near[0], factor)
        value, gradient_NChw = result(in_kernels(case, teacher_NChw), student_NChw, factor)
        # Values of float16, whose last bit may be the other one.
        exact = (expected[0], gradient_NChw[taken].float())
        torch.testing.assert_close(
            exact[1], expected[1].float(), rtol=2e-3, atol=1e-5 * expected[1].abs().max().item()
        )
        must_be_close((value, value), (expected[0], expected[0]), str(case))
        gradient_NChw[taken] = 0
        assert not gradient_NChw.any(), f'a gradient where none is: {case}'


def far_pixels(part: Part, far: int) -> None:
    """Three times the same image with a large result: each must give what it gives alone."""
    side, native = math.isqrt(far // 3) + 1, 3 if part.rehearse else 257
    assert 3 * side**2 > far
    mask_1HW = torch.rand(1, side, side, device=part.device) > 0.4
    mask_NHW = mask_1HW.repeat(3, 1, 1)
    for group_size in (None, 2):
        case = Case((native, native), (native, native), (side, side), group_size, 1, 2)
        student_1Chw, teacher_1Chw = case.maps(part.device)
        expected = result(in_kernels(case, teacher_1Chw, mask_1HW), student_1Chw)
        student_NChw, teacher_NChw = (x.expand(3, -1, -1, -1) for x in (student_1Chw, teacher_1Chw))
        value, gradient_NChw = result(in_kernels(case, teacher_NChw, mask_NHW), student_NChw)
        for image in range(3):
            found = (value, gradient_NChw[image, None] * 3)
            must_be_close(found, expected, f'image {image}, {case}')


def far_labels(part: Part, far: int) -> None:
    """Three times the same image with many labels; and scores with wide strides."""
    side, native = math.isqrt(far // 3) + 1, 3 if part.rehearse else 257
    assert 3 * side**2 > far
    one = Entropy(((native, native), (side, side)), images=1, channels=2)
    score_1Chw, label_1HW = one.score_NChw(part.device), one.label_NHW(part.device)
    expected = one.sums_and_gradient(score_1Chw, label_1HW, triton_divergence)
    value, gradient_NChw, correct = one.sums_and_gradient(
        score_1Chw.expand(3, -1, -1, -1), label_1HW.expand(3, -1, -1), triton_divergence
    )
    assert correct == 3 * expected[2]
    for image in range(3):
        must_be_close((value / 3, gradient_NChw[image, None]), expected[:2], f'image {image}')
    del label_1HW
    few = Entropy(((3, 5), (5, 7)), dtype=FP16, channels=4)
    near_NChw, label_NHW = few.score_NChw(part.device), few.label_NHW(part.device)
    memory = torch.empty(far + 11 + near_NChw.numel(), dtype=FP16, device=part.device)
    wide_NChw = memory.as_strided(near_NChw.shape, [far + 11, *near_NChw.stride()[1:]])
    wide_NChw.copy_(near_NChw)
    found, expected = (
        few.sums_and_gradient(x, label_NHW, triton_divergence) for x in (wide_NChw, near_NChw)
    )
    must_be_close(found[:2], expected[:2], 'wide strides')


@dataclass(frozen=True)
class Entropy:
    """Scores and labels of a cross-entropy.

    Attributes:
        sizes: Of the scores and of the labels.
        is_weighted: There are weights of classes, one of them 0.
        ignored: The share of the pixels that are.
    """

    sizes: tuple[Size, Size]
    dtype: torch.dtype = FP32
    is_weighted: bool = True
    ignored: float = 0.3
    align_corners: bool = False
    layout: str = 'plain'
    spread: float = 4.0
    images: int = 2
    channels: int = 19

    def score_NChw(self, device: str) -> Tensor:
        """The scores."""
        shape = (self.images, self.channels, *self.sizes[0])
        generator = torch.Generator(device).manual_seed(0)
        score_NChw = torch.randn(shape, generator=generator, device=device) * self.spread
        return LAYOUTS[self.layout](score_NChw.to(self.dtype))

    def label_NHW(self, device: str) -> Tensor:
        """The labels."""
        generator = torch.Generator(device).manual_seed(1)
        shape = (self.images, *self.sizes[1])
        label_NHW = torch.randint(self.channels, shape, generator=generator, device=device)
        is_ignored_NHW = torch.rand(shape, generator=generator, device=device) < self.ignored
        return label_NHW.masked_fill(is_ignored_NHW, 255)

    def sums(self, label_NHW: Tensor, module: Any) -> Callable[[Tensor], tuple[Tensor, Tensor]]:
        """What the module makes of scores."""
        weight_C = self._weight_C(label_NHW.device)
        return lambda x: module.cross_entropy_sums(x, label_NHW, weight_C, 255, self.align_corners)

    def sums_and_gradient(
        self, score_NChw: Tensor, label_NHW: Tensor, module: Any
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The loss, its gradient, and the pixels as labelled."""
        sums = self.sums(label_NHW, module)
        return *result(lambda x: sums(x)[0], score_NChw), sums(score_NChw)[1]

    def plainly(self, label_NHW: Tensor) -> Loss:
        """The loss by PyTorch."""
        weight_C = self._weight_C(label_NHW.device)

        def loss(x: Tensor) -> Tensor:
            weight = None if weight_C is None else weight_C.to(x)
            x = self.resized(x)
            return F.cross_entropy(x, label_NHW, weight, ignore_index=255, reduction='sum')

        return loss

    def resized(self, x_NChw: Tensor) -> Tensor:
        """Scores at the size of the labels."""
        if self.sizes[0] == self.sizes[1]:
            return x_NChw
        return F.interpolate(
            x_NChw, self.sizes[1], mode='bilinear', align_corners=self.align_corners
        )

    def _weight_C(self, device: torch.device) -> Tensor | None:
        return torch.linspace(0, 2, self.channels, device=device) if self.is_weighted else None


def entropy_module(part: Part, score_NChw: Tensor) -> Any:
    """What takes cross-entropy in these checks: the choice of the dispatch, on a GPU."""
    if part.rehearse:
        return triton_divergence if runs_interpreted() else piecewise
    return dispatch.backend_of(score_NChw)


def cross_entropy(part: Part) -> None:
    """The fused cross-entropy and its accuracy."""
    small: tuple[Size, Size] = ((2, 3), (3, 5)) if part.rehearse else ((17, 33), (49, 97))
    plain = Entropy(small, images=1, channels=3) if part.rehearse else Entropy(small)
    # Of more than one piece on a GPU.
    real = Entropy(((128, 128), (512, 512)), channels=150)
    streets = Entropy(((128, 256), (1024, 2048)), ignored=0.1)
    for name, entropy in (
        ('float32', replace(plain, is_weighted=False, ignored=0.0)),
        ('float32, weights, ignored pixels', plain),
        ('float16, weights, ignored pixels', replace(plain, dtype=FP16)),
        ('bfloat16, ignored pixels', replace(plain, dtype=BF16, is_weighted=False)),
        (
            'corners aligned, channels last',
            replace(plain, align_corners=True, layout='channels last'),
        ),
        ('a slice', replace(plain, layout='sliced')),
        ('of one size', replace(plain, sizes=(small[1], small[1]))),
        ('of larger scores', replace(plain, sizes=(small[1], small[0]))),
        ('multiples of 16', replace(plain, sizes=((16, 32), (64, 128)), channels=16)),
        ('one pixel', replace(plain, sizes=((1, 1), (1, 1)), is_weighted=False, ignored=0.0)),
        ('huge scores', replace(plain, spread=1e3)),
        ('all pixels ignored', replace(plain, ignored=1.1)),
        ('real size, weights, ignored pixels', real),
        ('real size, bfloat16', replace(real, dtype=BF16, is_weighted=False)),
        ('real size, 19 classes', streets),
    ):
        # The interpreter is slow.
        if part.rehearse and math.prod(entropy.sizes[1]) > 64:
            continue
        with part.check(f'cross-entropy: {name}') as figures:
            module = entropy_module(part, entropy.score_NChw(part.device))
            figures['taken'] = module.__name__.rpartition('.')[2]
            # On a GPU the way of the losses, through the dispatch.
            ours = module if part.rehearse else losses_entropy
            compare_cross_entropy(figures, part, entropy, ours)
            assert part.rehearse or module is triton_divergence, 'the kernels are not taken'
    with part.check('cross-entropy: the same bits each time, from memory full of NaN') as figures:
        found = []
        for is_poisoned in (False, True, False):
            with deterministic(warn_only=True) if is_poisoned else nullcontext():
                score_NChw, label_NHW = plain.score_NChw(part.device), plain.label_NHW(part.device)
                module = entropy_module(part, score_NChw)
                found.append(plain.sums_and_gradient(score_NChw, label_NHW, module))
        for again in found[1:]:
            torch.testing.assert_close(again, found[0], rtol=0.0, atol=0.0)
        figures['times'] = len(found)
    with part.check('cross-entropy: ignored pixels may hold anything') as figures:
        entropy = replace(plain, sizes=((3, 3), (3, 3)), ignored=0.5)
        score_NChw, label_NHW = entropy.score_NChw(part.device), entropy.label_NHW(part.device)
        module = entropy_module(part, score_NChw)

        def after(score_NChw: Tensor) -> tuple[Tensor, Tensor, Tensor]:
            return entropy.sums_and_gradient(score_NChw, label_NHW, module)

        expected = after(score_NChw)
        is_ignored_N1HW = (label_NHW == 255)[:, None]
        for fill in (torch.nan, torch.inf, -torch.inf, -1e30):
            found_there = after(score_NChw.masked_fill(is_ignored_N1HW, fill))
            torch.testing.assert_close(found_there, expected, rtol=0.0, atol=0.0)
        for fill in (torch.nan, torch.inf):
            value, *_ = after(torch.full_like(score_NChw, fill))
            assert not value.isfinite(), (fill, value)
        figures['ignored'] = is_ignored_N1HW.sum().item()
        assert figures['ignored'] > 0, 'none is ignored'


def compare_cross_entropy(
    figures: dict[str, Any], part: Part, entropy: Entropy, module: Any
) -> None:
    """Value, gradient and accuracy against float64: on the CPU, of real sizes on the GPU."""
    at = part.device if math.prod(entropy.sizes[1]) > 2**16 else 'cpu'
    score_NChw, label_NHW = entropy.score_NChw(part.device), entropy.label_NHW(part.device)
    exact_NChw, there_NHW = score_NChw.to(at).double(), label_NHW.to(at)
    magnitude = score_NChw.abs().max().item()
    sums = entropy.sums(label_NHW, module)
    found = errors(
        lambda x: sums(x)[0], entropy.plainly(there_NHW), score_NChw, exact_NChw, magnitude
    )
    figures['error of the value'] = f'{found.value:.1e}'
    figures['of the gradient'] = f'{found.gradient:.1e}'
    figures['of what is allowed'] = f'{found.share:.0%}'
    correct = sums(score_NChw)[1].item()
    best_N2HW, class_N2HW = entropy.resized(exact_NChw).topk(2, dim=1)
    hits = (class_N2HW[:, 0] == there_NHW).sum().item()
    # Where two classes are all but equal either may be the larger one in float32.
    is_near_NHW = best_N2HW[:, 0] - best_N2HW[:, 1] < magnitude * 2**-21
    near = (is_near_NHW & (there_NHW != 255)).sum().item()
    figures['pixels as labelled'] = f'{correct} instead of {hits}, of {near} nobody can say'
    assert found.share <= 1, found
    assert abs(correct - hits) <= near, figures


def _by_setter() -> None:
    torch.set_float32_matmul_precision('high')


def _by_flag() -> None:
    torch.backends.cuda.matmul.allow_tf32 = True


def _by_both() -> None:
    _by_setter()
    _by_flag()


def _in_the_newer_way() -> None:
    if not hasattr(torch.backends.cuda.matmul, 'fp32_precision'):
        raise NotHereError(f'PyTorch {torch.__version__} has no such setting')
    torch.backends.cuda.matmul.fp32_precision = 'tf32'


TF32_WAYS: dict[str, Callable[[], None]] = {
    'set_float32_matmul_precision': _by_setter,
    'allow_tf32': _by_flag,
    'both of these': _by_both,
    'fp32_precision': _in_the_newer_way,
}


@contextmanager
def small_pieces() -> Iterator[None]:
    """Maps are cut into several pieces, however small they are."""
    before = piecewise.PIECE_CPU, piecewise.PIECE_CUDA, piecewise.COLUMNS
    piecewise.PIECE_CPU, piecewise.PIECE_CUDA, piecewise.COLUMNS = 2**9, 2**9, 4
    try:
        yield
    finally:
        piecewise.PIECE_CPU, piecewise.PIECE_CUDA, piecewise.COLUMNS = before


def pieces(part: Part) -> None:
    """What is taken where the kernels are not, with TF32 allowed too."""
    cases = [*chosen_cases(part), *random_cases(4 if part.rehearse else 24, most=17)]
    cases = [replace(case, seed=case.seed + 1) for case in cases]

    def errors_of(case: Case) -> Errors:
        return case_errors(case, part.device, module=piecewise)

    compare(part, 'in one piece', cases, errors_of)
    with small_pieces():
        compare(part, 'in small pieces', cases, errors_of)
    if not part.rehearse:
        real = Case((128, 128), (128, 128), (512, 512), group_size=10, channels=150, mask='random')
        compare(
            part,
            'pieces of real size',
            [real, replace(real, group_size=None)],
            lambda case: case_errors(case, part.device, at=part.device, module=piecewise),
        )
    small = Entropy(((5, 7), (13, 17)), channels=5)
    with part.check('cross-entropy in pieces') as figures:
        compare_cross_entropy(figures, part, small, piecewise)
        with small_pieces():
            compare_cross_entropy(figures, part, replace(small, dtype=FP16), piecewise)
    for name, allow in TF32_WAYS.items():
        with part.check(f'pieces with TF32 allowed by {name}') as figures, precision_as_before():
            x = torch.randn(64, 64, device=part.device)
            exact = x.double() @ x.double()
            allow()
            product = x @ x
            error = (product - exact).abs().max().item()
            figures['error of a product outside'] = f'{error:.1e}'
            for case in cases:
                found = errors_of(case)
                assert found.share <= 1, f'{case}: {found}'
            figures['cases'] = len(cases)
            assert torch.equal(x @ x, product), 'the setting is another than before'
            if error < 1e-3:
                raise NotHereError('TF32 makes no difference on this device')


@contextmanager
def precision_as_before() -> Iterator[None]:
    """What the body allows of float32's matrix products is allowed for the body alone."""
    old = torch.get_float32_matmul_precision()
    both = [x.matmul for x in (torch.backends.cuda, torch.backends.mkldnn) if hasattr(x, 'matmul')]
    newer = [(x, x.fp32_precision) for x in both if hasattr(x, 'fp32_precision')]
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(old)
        for matmul, precision in newer:
            matmul.fp32_precision = precision


def modes(part: Part) -> None:
    """The registered losses as they are used: under autocast, and in compiled code."""
    case = (
        Case((5, 7), (5, 7), (13, 17))
        if part.rehearse
        else Case((17, 33), (17, 33), (49, 97), channels=19)
    )
    generator = torch.Generator().manual_seed(0)
    label_NHW = torch.randint(case.channels, (case.images, *case.size), generator=generator)
    label_NHW[torch.rand(label_NHW.shape, generator=generator) < 0.3] = 255
    mask_NHW = label_NHW != 255
    label_NHW = label_NHW.to(part.device)
    losses = {
        'KL': (KLLoss(tau=2.0, ignore_index=255), replace(case, tau=2.0)),
        'CD': (CDLoss(tau=4.0, ignore_index=255), replace(case, tau=4.0, group_size=1)),
        'CGD': (
            CGDLoss(group_size=2, tau=2.0, ignore_index=255),
            replace(case, tau=2.0, group_size=2),
        ),
    }

    def under_autocast(loss: LogitLoss, teacher_NChw: Tensor) -> Loss:
        def value(x: Tensor) -> Tensor:
            with torch.autocast(part.device, teacher_NChw.dtype):
                found: Tensor = loss(x, teacher_NChw, label_NHW)
            return found

        return value

    for dtype in (FP16, BF16):
        with part.check(f'autocast to {dtype}'.replace('torch.', '')) as figures:
            for name, (loss, of_loss) in losses.items():
                both = replace(of_loss, dtypes=(dtype, dtype)).maps(part.device)
                magnitude = max(x.abs().max().item() for x in both) / of_loss.tau
                exact = [x.cpu().double() for x in both]
                found = errors(
                    under_autocast(loss, both[1]),
                    plainly(of_loss, exact[1], mask_NHW),
                    both[0],
                    exact[0],
                    magnitude,
                )
                figures[name] = f'{found.value:.1e} and {found.gradient:.1e}'
                assert found.share <= 1, (name, found)

    student_NChw, teacher_NChw = case.maps(part.device)

    def value_of(loss: LogitLoss) -> Loss:
        return lambda x: loss(x, teacher_NChw, label_NHW)

    with part.check('with deterministic algorithms alone') as figures:
        before = [result(value_of(loss), student_NChw) for loss, _ in losses.values()]
        with deterministic(warn_only=False):
            after = [result(value_of(loss), student_NChw) for loss, _ in losses.values()]
            try:
                result(lambda x: cross_entropy_sums(x, label_NHW)[0], student_NChw)
                figures['cross-entropy'] = 'runs'
            except RuntimeError as error:
                # Its matrix products need a setting of the environment.
                figures['cross-entropy'] = str(error)[:160]
        torch.testing.assert_close(after, before, rtol=0.0, atol=0.0)

    def step_of(loss: LogitLoss) -> Loss:
        def step(x: Tensor) -> Tensor:
            score_NChw = (x * 2).tanh() * 3
            total, _ = cross_entropy_sums(score_NChw, label_NHW)
            value: Tensor = loss(score_NChw, teacher_NChw, label_NHW)
            return value + total / label_NHW.numel()

        return step

    for backend in ('eager',) if part.rehearse else ('eager', 'inductor'):
        with part.check(f'in code compiled by {backend}') as figures:
            if part.seconds_left < 30 and not part.rehearse:
                raise NotHereError('no time left')
            for name, (loss, _) in list(losses.items())[: 1 if part.rehearse else None]:
                step = step_of(loss)
                expected = result(step, student_NChw)
                begun = time.monotonic()
                compiled = torch.compile(step, backend=backend)
                for _ in range(2):
                    torch.testing.assert_close(result(compiled, student_NChw), expected)
                figures[f'seconds of {name}'] = round(time.monotonic() - begun, 1)


def sanitized() -> None:
    """Every kernel once, in the process that the sanitizer watches."""
    for mask in ('all', 'random'):
        for teacher in ((9, 33), (5, 7)):
            for group_size in (None, 2):
                case = Case((9, 33), teacher, (19, 67), group_size, mask=mask)
                student_NChw, teacher_NChw = case.maps('cuda')
                result(in_kernels(case, teacher_NChw, case.mask_NHW('cuda')), student_NChw)
    entropy = Entropy(((9, 33), (19, 67)))
    sums = entropy.sums(entropy.label_NHW('cuda'), triton_divergence)
    result(lambda x: sums(x)[0], entropy.score_NChw('cuda'))
    torch.cuda.synchronize()
    print('all kernels ran', flush=True)


@contextmanager
def sanitizer(part: Part) -> Iterator[None]:
    """NVIDIA's compute-sanitizer on the kernels, beside what the body does."""
    tool = shutil.which('compute-sanitizer', path=f'{os.environ["PATH"]}:/usr/local/cuda/bin')
    told = part.out / 'sanitizer.txt'
    process = None
    if tool is not None and not part.rehearse:
        code = 'from gpu_parts.kernels import sanitized; sanitized()'
        with told.open('w') as log:
            process = subprocess.Popen(
                [tool, '--tool', 'memcheck', '--error-exitcode', '9', sys.executable, '-c', code],
                cwd=Path(__file__).parents[1],
                # Each tensor has memory of its own: in the blocks of the allocator, which are
                # larger, all addresses would be valid.
                env=os.environ | {'PYTORCH_NO_CUDA_MEMORY_CACHING': '1'},
                stdout=log,
                stderr=subprocess.STDOUT,
            )
    try:
        yield
    finally:
        with part.check('no address out of range, by compute-sanitizer') as figures:
            if process is None:
                raise NotHereError('there is no GPU, or no compute-sanitizer on the PATH')
            try:
                status = process.wait(max(min(part.seconds_left - 3, SANITIZER_SECONDS), 1))
            except subprocess.TimeoutExpired as error:
                process.kill()
                raise NotHereError('it took too long') from error
            text = told.read_text(errors='replace')
            figures['it says'] = text.strip().splitlines()[-1] if text.strip() else 'nothing'
            if 'ERROR SUMMARY' not in text:
                raise NotHereError(f'it does not run here: {text[-500:]}')
            assert status == 0, text[:3000]
            assert 'all kernels ran' in text, text[:3000]


SECTIONS = (
    self_test,
    small_maps,
    real_maps,
    bits,
    not_finite,
    vanishing,
    large_offsets,
    # What follows runs without Triton.
    cross_entropy,
    pieces,
    modes,
)


def run(part: Part) -> None:
    """All sections."""
    begin = SECTIONS.index(cross_entropy) if part.rehearse else 0
    if part.rehearse:
        with part.check("Triton's interpreter") as figures:
            if not triton_kernels.HAS_TRITON:
                raise NotHereError('Triton is not installed')
            figures['version'] = version('triton')
            if not runs_interpreted():
                raise NotHereError(f'it does not work with NumPy {version("numpy")}')
            begin = 0
    with sanitizer(part):
        run_sections(part, begin)


@cache
def runs_interpreted() -> bool:
    """Whether Triton's interpreter runs the kernels: to that of Triton 3.6 NumPy may be too new."""
    if not triton_kernels.HAS_TRITON:
        return False
    case = Case((2, 2), (2, 2), (2, 2))
    student_NChw, teacher_NChw = case.maps('cpu')
    try:
        in_kernels(case, teacher_NChw)(student_NChw)
    except Exception as error:
        if 'only 0-dimensional arrays can be converted' in str(error):
            return False
        raise
    return True


def run_sections(part: Part, begin: int = 0) -> None:
    """Those from number `begin` on."""
    for number, section in enumerate(SECTIONS[begin:], begin):
        if part.seconds_left < LEAST_SECONDS:
            part.note(f'no time left for {section.__name__}')
            continue
        begun = time.monotonic()
        section(part)
        part.row('sections', section=section.__name__, seconds=round(time.monotonic() - begun, 1))
        if not is_alive(part):
            part.note(f'in {section.__name__} this process lost the GPU; a new one goes on')
            process = multiprocessing.get_context('spawn').Process(
                target=run_sections, args=(part, number + 1)
            )
            process.start()
            process.join()
            return
