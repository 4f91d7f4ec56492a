"""`distillation=[dict(loss_name=..., loss_config=...)]` as terms of a DistillationWrapper."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from mmengine.config import ConfigDict

from mmseg_kd.checks import is_number
from mmseg_kd.errors import nearest
from mmseg_kd.migration.factors import convert_factors
from mmseg_kd.migration.layers import translate
from mmseg_kd.migration.networks import Network
from mmseg_kd.migration.section import Section
from mmseg_kd.networks.build import build_network
from mmseg_kd.networks.probe import probe

_BILINEAR = dict(mode='bilinear', align_corners=False)


def _channel(group_size: int) -> dict[str, Any]:
    return dict(loss_type='channel', group_size=group_size)


# What the named losses set in KLDLoss, the general one.
_CGD = dict(
    alpha=3,
    tau=2,
    resize_config=_BILINEAR,
    shuffle_config=dict(interval=1000),
    transform_config=_channel(10),
)
_SOFTMAX_LOSSES: dict[str, dict[str, Any]] = {
    'KLDLoss': {},
    'PDLoss': dict(resize_config=_BILINEAR, transform_config=dict(loss_type='pixel')),
    'CDLoss': dict(resize_config=_BILINEAR, transform_config=_channel(1)),
    'MTLoss': {},
    'CGDLoss': _CGD,
    'CGDLossWS': dict(
        **_CGD,
        warmup_config=dict(mode='linear', warmup_iters=2000),
        earlydecay_config=dict(mode='linear', earlydecay_start=110000, earlydecay_end=120000),
    ),
}

# These take no settings and are called the same.
_FEATURE_LOSSES = ('ATLoss', 'IFVDLoss')

# Their older spelling, without the divergence of the pixels, as in its last version.
_OLDER_FEATURE_LOSSES: dict[str, dict[str, Any]] = {
    'AT': dict(type='ATLoss', attention_weight=0.1),
    'IFVD': dict(type='IFVDLoss', variation_weight=100),
}

_LEFT_OUT = 'the term is left out'


def convert_terms(
    model: Section, student: Network, teachers: Sequence[Network]
) -> list[dict[str, Any]]:
    """Convert the list `distillation`; a term that cannot be converted is reported, left out.

    Args:
        model: The old model.
        student, teachers: Its networks.
    """
    terms: list[dict[str, Any]] = []
    entries = list(model.sections('distillation'))
    is_paired = len(entries) == len(teachers) and not any(map(_teacher_key, entries))
    for index, entry in enumerate(entries):
        with entry.tolerant():
            own = _pair(entry, index, len(teachers)) if is_paired else None
            terms += _convert_term(entry, student, teachers, own)
            # It asked for the angle in the logs, and that of the first term alone.
            entry.take('log_grad')
            entry.close()
    return terms


def asks_for_angles(model: Section) -> bool:
    """Whether the old model logged the angle between the gradients of task and term."""
    first: Any = next(iter(model.peek('distillation') or ()), None)
    return isinstance(first, Mapping) and 'log_grad' in first


def _pair(entry: Section, index: int, count: int) -> int:
    if count > 1:
        entry.note(f'names no teacher: with as many terms as teachers, it is for teacher {index}')
    return index


def _convert_term(
    entry: Section, student: Network, teachers: Sequence[Network], own: int | None
) -> list[dict[str, Any]]:
    """The terms of one entry: one for each teacher that it is for.

    Args:
        own: The number of the one teacher that it is paired with.
    """
    if any(isinstance(entry.peek(key), list | tuple) for key in ('student_layer', 'teacher_layer')):
        _report_two_layers(entry, student, teachers[0])
        return []
    before = len(entry.report.problems)
    loss = _convert_loss(entry)
    if loss is not None and len(entry.report.problems) > before:
        entry.note('left out as a whole: not all of its loss could be converted')
        loss = None
    layer = _convert_layer(entry, 'student_layer', student)
    entry.take('teacher_layer')
    terms = []
    for index in [own] if own is not None else _teachers_of(entry, len(teachers)):
        teacher_layer = _convert_layer(entry, 'teacher_layer', teachers[index])
        if loss is None or layer is None or teacher_layer is None:
            continue
        term = {'student_layer': layer, 'teacher_layer': teacher_layer, **copy.deepcopy(loss)}
        if term['loss']['type'] == 'IFVDLoss' and 'num_classes' not in term['loss']:
            term['loss'] |= _classes_of(teacher_layer, teachers[index])
        terms.append(term if len(teachers) == 1 else {**term, 'teacher': index})
    return terms


def _report_two_layers(entry: Section, student: Network, teacher: Network) -> None:
    """Attention and value of a block on each side, of which other losses were made."""
    old = entry.rest()
    now = {}
    for key, network in (('student_layer', student), ('teacher_layer', teacher)):
        names = old.get(key)
        names = names if isinstance(names, list | tuple) else [names]
        now[key] = [translate(str(name), network.tables).name for name in names]
    entry.problem(
        f'{old.get("loss_name")} is not here; see whether AttentionValueLoss will do, which takes '
        'the attention weights and the values of a block on each side, here '
        f'{now["student_layer"]} and {now["teacher_layer"]}; {_LEFT_OUT}',
        'student_layer',
    )


def _classes_of(layer: str, teacher: Network) -> dict[str, int]:
    """Labels that the old IFVDLoss took for classes: from 0 up to the channels of the layer."""
    if layer.endswith('conv_seg'):
        # Scores have as many channels as there are classes.
        return {}
    network = build_network(ConfigDict(teacher.model), 'teacher')
    found = probe(network, [layer], 'teacher')
    return dict(num_classes=found.taps.map(layer).shape[1])


def _convert_layer(entry: Section, key: str, network: Network) -> str | None:
    name = entry.take(key)
    if not isinstance(name, str):
        entry.problem(f'expected the name of a layer, got {name!r}; {_LEFT_OUT}', key)
        return None
    layer = translate(name, network.tables)
    if layer.name is None:
        entry.problem(f'{name}: {layer.remark}; {_LEFT_OUT}', key)
    elif layer.remark:
        entry.note(f'{name} is now {layer.name}: {layer.remark}', key)
    return layer.name


def _teacher_key(entry: Section) -> str | None:
    """The key with which an entry names its teacher, if it does."""
    return next((key for key in ('teacher_idx', 'teacher') if key in entry), None)


def _teachers_of(entry: Section, count: int) -> Iterator[int]:
    """The numbers of the teachers that a term is for."""
    key = _teacher_key(entry)
    if key is None:
        if count > 1:
            entry.note(f'names no teacher: one term for each of the {count}')
        yield from range(count)
        return
    index = entry.take(key)
    if type(index) is int and 0 <= index < count:
        yield index
    else:
        entry.problem(
            f'expected the number of a teacher, 0 to {count - 1}, got {index!r}; {_LEFT_OUT}', key
        )


def _convert_loss(entry: Section) -> dict[str, Any] | None:
    """`loss`, `weight` and what else a term has of it; None where the loss is not known."""
    name = entry.take('loss_name')
    config = _loss_config(entry)
    term: dict[str, Any] | None = None
    if name in _FEATURE_LOSSES:
        term = dict(loss=dict(type=name))
    elif name in _OLDER_FEATURE_LOSSES:
        term = dict(loss=_older_feature_loss(config, name))
        entry.note(
            'read as in its last version; before, its weight was another and maps of unlike sizes '
            'were not resized',
            'loss_name',
        )
    elif name in _SOFTMAX_LOSSES:
        preset = _SOFTMAX_LOSSES[name]
        config.values = {**preset, **config.values}
        if name == 'MTLoss':
            _read_turns(config)
        term = _softmax_loss(config)
    else:
        known = (*_SOFTMAX_LOSSES, *_FEATURE_LOSSES, *_OLDER_FEATURE_LOSSES)
        entry.problem(
            f'there is no loss {name!r} here ({nearest(str(name), known)}); {_LEFT_OUT}',
            'loss_name',
        )
        config.rest()
    config.close()
    return term


def _older_feature_loss(config: Section, name: str) -> dict[str, Any]:
    """`AT` or `IFVD`, whose student's map was resized to the teacher's."""
    loss = dict(_OLDER_FEATURE_LOSSES[name], kl_weight=0, resolution='teacher')
    if name == 'IFVD':
        loss['num_classes'] = config.number('classes', 150)
        # It took settings of any name and did without them.
        for key in list(config.rest()):
            config.note('dropped: it had no effect', key)
    return loss


def _read_turns(config: Section) -> None:
    """`MTLoss`: off before `latestart_config` and behind `earlystop_config`, at once."""
    start, stop = (config.number(f'{key}_config', 0) for key in ('latestart', 'earlystop'))
    config.values.pop('earlystop_config', None)
    if start:
        config.values['warmup_config'] = dict(mode='jump', warmup_iters=start)
    if stop:
        config.values['earlydecay_config'] = dict(
            mode='jump', earlydecay_start=stop, earlydecay_end=stop + 1
        )
    if config.take('rot_config'):
        config.problem(
            'the teachers took turns in their order, which no schedule does; see whether '
            'RandomTurn will do, which draws one for each iteration',
            'rot_config',
        )


def _loss_config(entry: Section) -> Section:
    """The settings of a loss; of a tuple, which a comma behind a dict makes, the first item."""
    value = entry.peek('loss_config')
    if isinstance(value, tuple) and value and isinstance(value[0], Mapping):
        entry.take('loss_config')
        return Section(value[0], (*entry.path, 'loss_config', 0), entry.report)
    return entry.section('loss_config') or Section({}, entry.path, entry.report)


def _softmax_loss(config: Section) -> dict[str, Any] | None:
    # The older spelling of the weight.
    key = 'weight' if 'weight' in config else 'alpha'
    alpha = config.number(key, 1, is_dropped=True)
    tau = config.number('tau', 1, is_dropped=True)
    schedule = convert_factors(config, alpha)
    settings: dict[str, Any] = dict(tau=tau)
    if not _convert_resizing(config):
        settings['resolution'] = 'student'
    interval = _shuffle_interval(config)
    kind, group_size = _kind_and_group(config)
    connector = _connector(config)
    _drop_older_settings(config)
    if kind == 'CGDLoss':
        settings = dict(group_size=group_size, **settings)
        if interval is not None:
            if interval != 1:
                config.note(
                    'the channels were shuffled in the iterations that the interval divides and '
                    'in no other; now the order that is drawn there stays until the next is drawn',
                    'shuffle_config',
                )
            settings['shuffle_interval'] = interval
    elif interval is not None:
        config.note(f'dropped: the order of the channels does not change {kind}', 'shuffle_config')
    if kind is None:
        return None
    term: dict[str, Any] = dict(loss=dict(type=kind, **settings), weight=alpha, **connector)
    return {**term, 'schedule': schedule} if schedule else term


def _connector(config: Section) -> dict[str, Any]:
    """`ff_config`, a convolution of the student's channels."""
    ff = config.section('ff_config')
    if ff is None:
        return {}
    channels, kernel = (ff.take('in_channels'), ff.take('out_channels')), ff.take('kernel_size', 1)
    ff.close()
    config.note(
        'the convolution is trained now; it was in no optimiser, and of attention it took the '
        'channels of one head',
        'ff_config',
    )
    if channels[0] != channels[1] and kernel == 1:
        # What a term gets by itself.
        return {}
    return dict(connector=dict(type='ConvConnector', kernel_size=kernel))


def _drop_older_settings(config: Section) -> None:
    """Settings that the older spelling has besides."""
    config.drop(
        'shift_config',
        'it had no effect in its last version; before, the channels moved on by one in each '
        'iteration',
        unless=[None, False],
    )
    # How tokens became maps, which is found out now.
    config.take('reshape_config')
    if config.take('mask_config'):
        config.problem('nothing here does the same', 'mask_config')


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
    older = config.peek('shuffle_config')
    if older is True or is_number(older):
        # The older spelling: in every iteration, whatever the number.
        config.take('shuffle_config')
        return 1 if older else None
    shuffling = config.section('shuffle_config')
    if shuffling is None:
        return None
    interval: int | None = shuffling.number('interval', is_dropped=True)
    shuffling.close()
    return interval


def _kind_and_group(config: Section) -> tuple[str | None, int]:
    """The loss, and how many channels a group of it has."""
    transform = config.section('transform_config')
    flat = config.number('group_size', is_dropped=True)
    if transform is None:
        config.problem(
            'without transform_config the softmax went over the columns of the picture, '
            f'which no loss here does; {_LEFT_OUT}'
        )
        return None, 0
    kind = transform.take('loss_type')
    group_size = transform.number('group_size', 1, is_dropped=True)
    if kind == 'spatial' and _is_one_pixel(transform):
        kind = 'pixel'
    transform.close()
    group_size = group_size if flat is None else flat
    if kind == 'pixel':
        return 'KLLoss', 0
    if kind == 'channel':
        return ('CDLoss' if group_size == 1 else 'CGDLoss'), group_size
    transform.problem(f"expected 'pixel' or 'channel', got {kind!r}; {_LEFT_OUT}", 'loss_type')
    return None, 0


def _is_one_pixel(transform: Section) -> bool:
    """Whether the patches of the older spelling are single pixels, all of them."""
    extent = [transform.take(*one) for one in (('kernel_size',), ('stride',), ('padding', 0))]
    return extent == [1, 1, 0]
