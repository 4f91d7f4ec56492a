"""Steps of a pipeline, one function for each that is written otherwise today."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from mmseg.registry import TRANSFORMS

from mmseg_kd.migration.registered import as_it_is, find
from mmseg_kd.migration.section import Section

Step = dict[str, Any]

# Steps that may stand behind Normalize without a difference: they move pixels, or none.
_INDEPENDENT_OF_VALUES = {
    'Collect',
    'DefaultFormatBundle',
    'ImageToTensor',
    'LoadAnnotations',
    'Normalize',
    'Pad',
    'RandomCrop',
    'RandomFlip',
}


@dataclass
class Pipeline:
    """A pipeline as far as it has been converted.

    Attributes:
        steps: Today's steps, without the last, PackSegInputs.
        preprocessor: Arguments of the data preprocessor, which now normalises and pads.
        reduce_zero_label: Whether label 0 becomes 255 and the others move down by one.
        scale: In tests: what images are resized to, as arguments of Resize.
        alternatives: Of test-time augmentation, where there is some: lists to pick one step of.
    """

    steps: list[Step] = field(default_factory=list)
    preprocessor: dict[str, Any] = field(default_factory=dict)
    reduce_zero_label: bool = False
    scale: Step | None = None
    alternatives: list[list[Step]] = field(default_factory=list)


def convert_step(step: Section, pipeline: Pipeline) -> None:
    """Convert one step and put it where it belongs today."""
    kind = step.peek('type')
    if 'mean' in pipeline.preprocessor and kind not in _INDEPENDENT_OF_VALUES:
        step.problem(f'{kind} stood behind Normalize, which now comes last of all')
    convert = _STEPS.get(kind) if isinstance(kind, str) else None
    if convert is not None:
        step.take('type')
        convert(step, pipeline)
        step.close()
        return
    converted = as_it_is(step, TRANSFORMS, 'transform')
    if find(TRANSFORMS, kind) is not None:
        pipeline.steps.append(converted)


def _load_annotations(step: Section, pipeline: Pipeline) -> None:
    pipeline.reduce_zero_label = bool(step.take('reduce_zero_label', False))
    step.drop('file_client_args', 'files are read from the disk', unless=[None])
    loading = as_it_is(step, TRANSFORMS, 'transform', name='LoadAnnotations')
    pipeline.steps.append(loading)


def _resize(step: Section, pipeline: Pipeline) -> None:
    scale, ratios = step.take('img_scale'), step.take('ratio_range')
    mode = step.take('multiscale_mode', 'range')
    # The default of mmseg 0.x; today's is the opposite.
    keep = dict(keep_ratio=step.take('keep_ratio', True))
    scales = [scale] if _is_size(scale) else list(scale or [])
    resize: Step
    if ratios is not None and len(scales) == 1:
        resize = dict(type='RandomResize', scale=scales[0], ratio_range=ratios, **keep)
    elif ratios is not None:
        step.problem('random sizes need one img_scale now that they are ratios of', 'ratio_range')
        return
    elif len(scales) == 1:
        resize = dict(type='Resize', scale=scales[0], **keep)
    elif scales and mode == 'value':
        resize = dict(type='RandomChoiceResize', scales=scales, **keep)
    elif scales:
        resize = dict(type='RandomResize', scale=scales, **keep)
    elif pipeline.scale is not None:
        resize = dict(type='Resize', **pipeline.scale, **keep)
    else:
        step.problem('expected img_scale, got none; the step is left out')
        return
    pipeline.steps.append(resize)


def _aligned_resize(step: Section, pipeline: Pipeline) -> None:
    """SegFormer's: as `Resize`, then both sides up to a multiple of some number."""
    divisor = step.take('size_divisor', 32)
    _resize(step, pipeline)
    pipeline.steps.append(dict(type='ResizeToMultiple', size_divisor=divisor))


def _random_flip(step: Section, pipeline: Pipeline) -> None:
    flip: Step = dict(type='RandomFlip', prob=step.take('prob', step.take('flip_ratio')))
    direction = step.take('direction', 'horizontal')
    if flip['prob'] is None:
        step.note('dropped: without prob it never flipped')
        return
    if direction != 'horizontal':
        flip['direction'] = direction
    pipeline.steps.append(flip)


def _normalize(step: Section, pipeline: Pipeline) -> None:
    pipeline.preprocessor |= dict(
        mean=list(step.take('mean', [])),
        std=list(step.take('std', [])),
        bgr_to_rgb=step.take('to_rgb', True),
    )


def _pad(step: Section, pipeline: Pipeline) -> None:
    size, divisor = step.take('size'), step.take('size_divisor')
    value, label = step.take('pad_val', 0), step.take('seg_pad_val', 255)
    if 'mean' in pipeline.preprocessor:
        pipeline.preprocessor |= dict(pad_val=value, seg_pad_val=label)
        pipeline.preprocessor |= dict(size_divisor=divisor) if size is None else dict(size=size)
        return
    # The old size is height and width, today's is width and height.
    extent = dict(size_divisor=divisor) if size is None else dict(size=tuple(size)[::-1])
    pipeline.steps.append(dict(type='Pad', **extent, pad_val=dict(img=value, seg=label)))


def _collect(step: Section, pipeline: Pipeline) -> None:
    step.take('keys')
    step.drop('meta_keys', 'PackSegInputs keeps what mmseg 1.x needs')


def _nothing(step: Section, pipeline: Pipeline) -> None:
    """What PackSegInputs does now."""
    step.rest()


def _multi_scale_flip(step: Section, pipeline: Pipeline) -> None:
    """One scale and no flip for the test; all of them for test-time augmentation."""
    sizes = _test_sizes(step.take('img_scale'), step.take('img_ratios'))
    flip, direction = step.take('flip', False), step.take('flip_direction', 'horizontal')
    if not sizes:
        step.problem('expected img_scale or img_ratios, got neither')
        step.rest()
        return
    pipeline.scale = sizes[0]
    for inner in step.sections('transforms'):
        if inner.peek('type') != 'RandomFlip':
            with inner.tolerant():
                convert_step(inner, pipeline)
    if len(sizes) == 1 and not flip:
        return
    step.note(
        'the test takes one scale and no flip; mmseg-kd test --tta takes all, as the old test did'
    )
    for one in pipeline.steps:
        if one['type'] == 'Resize':
            kept = {key: one[key] for key in ('type', 'keep_ratio')}
            pipeline.alternatives.append([{**kept, **size} for size in sizes])
        elif one['type'] == 'ResizeToMultiple':
            pipeline.alternatives.append([one])
    directions = [direction] if isinstance(direction, str) else list(direction)
    flips: list[Step] = [dict(type='RandomFlip', prob=0.0, direction=directions[0])]
    if flip:
        flips += [dict(type='RandomFlip', prob=1.0, direction=one) for one in directions]
    pipeline.alternatives.append(flips)


def _test_sizes(scale: Any, ratios: Any) -> list[Step]:
    """Arguments of Resize for each size of a test, the plain one first."""
    ratios = list(ratios) if isinstance(ratios, list | tuple) else [ratios] if ratios else []
    ratios.sort(key=lambda ratio: ratio != 1.0)
    scales = [scale] if _is_size(scale) else list(scale or [])
    if ratios and scales:
        scales = [tuple(int(side * ratio) for side in scales[0]) for ratio in ratios]
    elif ratios:
        return [dict(scale_factor=ratio) for ratio in ratios]
    return [dict(scale=one) for one in scales]


def _is_size(scale: Any) -> bool:
    """Whether it is one size, a pair of numbers, and not a list of sizes."""
    return isinstance(scale, list | tuple) and bool(scale) and isinstance(scale[0], int)


_STEPS: dict[str, Callable[[Section, Pipeline], None]] = {
    'AlignResize': _aligned_resize,
    'AlignedResize': _aligned_resize,
    'Collect': _collect,
    'DefaultFormatBundle': _nothing,
    'ImageToTensor': _nothing,
    'LoadAnnotations': _load_annotations,
    'MultiScaleFlipAug': _multi_scale_flip,
    'Normalize': _normalize,
    'Pad': _pad,
    'RandomFlip': _random_flip,
    'Resize': _resize,
}
