"""`distillation=[dict(loss_name=..., loss_config=...)]` as terms of a DistillationWrapper."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from mmseg_kd.errors import nearest
from mmseg_kd.migration.factors import convert_factors
from mmseg_kd.migration.networks import Network
from mmseg_kd.migration.section import Section

_BILINEAR = dict(mode='bilinear', align_corners=False)


def _channel(group_size: int) -> dict[str, Any]:
    return dict(loss_type='channel', group_size=group_size)


# What the named losses set in KLDLoss, the general one.
_CGD = dict(alpha=3, tau=2, resize_config=_BILINEAR, transform_config=_channel(10))
_SOFTMAX_LOSSES: dict[str, dict[str, Any]] = {
    'KLDLoss': {},
    'PDLoss': dict(resize_config=_BILINEAR, transform_config=dict(loss_type='pixel')),
    'CDLoss': dict(resize_config=_BILINEAR, transform_config=_channel(1)),
    'CGDLoss': _CGD,
    'CGDLossWS': dict(
        **_CGD,
        warmup_config=dict(mode='linear', warmup_iters=2000),
        earlydecay_config=dict(mode='linear', earlydecay_start=110000, earlydecay_end=120000),
    ),
}

# These take no settings and are called the same.
_FEATURE_LOSSES = ('ATLoss', 'IFVDLoss')


def convert_terms(
    model: Section, student: Network, teachers: Sequence[Network]
) -> list[dict[str, Any]]:
    """Convert the list `distillation`; a term that cannot be converted is reported, left out.

    Args:
        model: The old model.
        student, teachers: Its networks.
    """
    terms: list[dict[str, Any]] = []
    for entry in model.sections('distillation'):
        with entry.tolerant():
            terms += _convert_term(entry, student, teachers)
            entry.close()
    return terms


def _convert_term(
    entry: Section, student: Network, teachers: Sequence[Network]
) -> Iterator[dict[str, Any]]:
    """The terms of one entry: one for each teacher that it is for."""
    loss = _convert_loss(entry)
    layer = _convert_layer(entry, 'student_layer', student)
    entry.take('teacher_layer')
    for index in _teachers_of(entry, len(teachers)):
        teacher_layer = _convert_layer(entry, 'teacher_layer', teachers[index])
        if loss is None or layer is None or teacher_layer is None:
            continue
        term = dict(student_layer=layer, teacher_layer=teacher_layer, **loss)
        yield term if len(teachers) == 1 else {**term, 'teacher': index}


def _convert_layer(entry: Section, key: str, network: Network) -> str | None:
    name = entry.take(key)
    if not isinstance(name, str):
        entry.problem(f'expected the name of a layer, got {name!r}; the term is left out', key)
        return None
    layer = network.layer(name)
    if layer.name is None:
        entry.problem(f'{name}: {layer.remark}; the term is left out', key)
    elif layer.remark:
        entry.note(f'{name} is now {layer.name}: {layer.remark}', key)
    return layer.name


def _teachers_of(entry: Section, count: int) -> Iterator[int]:
    """The numbers of the teachers that a term is for."""
    keys = [key for key in ('teacher_idx', 'teacher') if key in entry]
    if not keys:
        if count > 1:
            entry.note(f'names no teacher: one term for each of the {count}')
        yield from range(count)
        return
    index = entry.take(keys[0])
    if type(index) is int and 0 <= index < count:
        yield index
    else:
        entry.problem(
            f'expected the number of a teacher, 0 to {count - 1}, got {index!r}; '
            'the term is left out',
            keys[0],
        )


def _convert_loss(entry: Section) -> dict[str, Any] | None:
    """`loss`, `weight` and `schedule` of a term; None where the loss is not known."""
    name = entry.take('loss_name')
    config = entry.section('loss_config') or Section({}, entry.path, entry.report)
    term: dict[str, Any] | None = None
    if name in _FEATURE_LOSSES:
        term = dict(loss=dict(type=name))
    elif name in _SOFTMAX_LOSSES:
        preset = _SOFTMAX_LOSSES[name]
        config.values = {**preset, **config.values}
        term = _softmax_loss(config)
    else:
        known = (*_SOFTMAX_LOSSES, *_FEATURE_LOSSES)
        entry.problem(
            f'there is no loss {name!r} here ({nearest(str(name), known)}); the term is left out',
            'loss_name',
        )
        config.rest()
    config.close()
    return term


def _softmax_loss(config: Section) -> dict[str, Any] | None:
    alpha, tau = config.number('alpha', 1), config.number('tau', 1)
    schedule = convert_factors(config, alpha)
    settings: dict[str, Any] = dict(tau=tau)
    if not _convert_resizing(config):
        settings['resolution'] = 'student'
    interval = _shuffle_interval(config)
    kind, group_size = _kind_and_group(config)
    if kind == 'CGDLoss':
        settings = dict(group_size=group_size, **settings)
        if interval is not None:
            config.note(
                'the channels were shuffled in the iterations that the interval divides and in '
                'no other; now the order that is drawn there stays until the next is drawn',
                'shuffle_config',
            )
            settings['shuffle_interval'] = interval
    elif interval is not None:
        config.note(f'dropped: the order of the channels does not change {kind}', 'shuffle_config')
    if kind is None:
        return None
    term: dict[str, Any] = dict(loss=dict(type=kind, **settings), weight=alpha)
    return {**term, 'schedule': schedule} if schedule else term


def _convert_resizing(config: Section) -> bool:
    """Whether the maps go to the labels' size; reports a way that is not there any more."""
    resizing = config.section('resize_config')
    if resizing is None:
        return False
    mode, corners = resizing.take('mode', 'bilinear'), resizing.take('align_corners', False)
    if mode != 'bilinear':
        resizing.problem(f'{mode}: maps are resized by bilinear interpolation now', 'mode')
    if corners:
        resizing.problem('maps are resized with align_corners=False now', 'align_corners')
    resizing.close()
    return True


def _shuffle_interval(config: Section) -> int | None:
    shuffling = config.section('shuffle_config')
    if shuffling is None:
        return None
    interval: int | None = shuffling.number('interval')
    shuffling.close()
    return interval


def _kind_and_group(config: Section) -> tuple[str | None, int]:
    """The loss, and how many channels a group of it has."""
    transform = config.section('transform_config')
    flat = config.number('group_size')
    if transform is None:
        config.problem(
            'without transform_config the softmax went over the columns of the picture, '
            'which no loss here does; the term is left out'
        )
        return None, 0
    kind = transform.take('loss_type')
    group_size = transform.number('group_size', 1)
    transform.close()
    group_size = group_size if flat is None else flat
    if kind == 'pixel':
        return 'KLLoss', 0
    if kind == 'channel':
        return ('CDLoss' if group_size == 1 else 'CGDLoss'), group_size
    transform.problem(
        f"expected 'pixel' or 'channel', got {kind!r}; the term is left out", 'loss_type'
    )
    return None, 0
