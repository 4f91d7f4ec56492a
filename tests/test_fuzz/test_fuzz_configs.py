"""Configs with random faults: each is sound or a `KDError`, and never another exception."""

from __future__ import annotations

import copy
import math
import re
from pathlib import Path
from typing import Any

import pytest
from builders import CONFIG, good_config, term
from hypothesis import given, settings
from hypothesis import strategies as st
from mmengine.config import Config
from mmseg.registry import MODELS

from mmseg_kd.config.distillation_spec import parse_distillation
from mmseg_kd.config.file import apply_options, read_config_file
from mmseg_kd.config.load import check_keys
from mmseg_kd.config.runner import check_runner_config
from mmseg_kd.errors import ConfigError, KDError, Problems
from mmseg_kd.host.quiet import as_config_error

# Values of every kind, few of which belong anywhere.
SMALL_JUNK: list[Any] = [
    None,
    True,
    -1,
    0,
    1,
    2,
    2.5,
    float('nan'),
    float('inf'),
    '',
    'x',
    'a.b',
    '.',
    'builtins.dict',
    'math',
    b'x',
    (),
    [],
    {},
    [None],
    ['a', 1],
    (1, 2, 3),
    {'type': 'x'},
    {'type': None},
    {'type': 'KLLoss', 'tau': 'a'},
    {'type': dict},
    {3: 4},
    print,
]
# What may stand in the place of a number or of a word.
NUMBERS: list[Any] = [float('nan'), float('inf'), float('-inf'), 10**400, -1, 0, 2.5, True]
NAMES = ['', '.', 'a.b', 'math', 'builtins.dict', 'x', 'KLLoss']

# What no network survives that takes it for a size.
JUNK = [*SMALL_JUNK, 10**400, -(10**400), 1e308, 2**63]


@pytest.fixture(scope='module')
def good(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """A sound config; its files are seen from everywhere."""
    folder = tmp_path_factory.mktemp('good')
    cfg = good_config(folder)
    cfg['model']['teacher']['checkpoint'] = str(folder / 'teacher.pth')
    return cfg


@pytest.fixture(scope='module')
def several(good: dict[str, Any]) -> dict[str, Any]:
    """A sound model with two teachers."""
    model = copy.deepcopy(good['model'])
    model['teacher'] = [{**model['teacher'], 'name': name} for name in ('a', 'b')]
    layers = dict(a='decode_head.conv_seg', b='decode_head.conv_seg')
    model['distillation'] = [
        term(teacher=['a', 'b'], reduction='sum', teacher_weights=[1.0, 0.5], name='both'),
        term(teacher_layer=layers, teacher=[0, 1], reduction='mean'),
        term(teacher=['a', 'b'], reduction='random', connector=dict(type='ConvConnector')),
        term(teacher='b'),
    ]
    return model


def places(node: Any) -> list[tuple[Any, Any]]:
    """All containers in a config with each of their keys."""
    keys = list(node) if isinstance(node, dict) else list(range(len(node)))
    found = [(node, key) for key in keys]
    for key in keys:
        if isinstance(node[key], (dict, list)):
            found += places(node[key])
    return found


def spoil(data: Any, cfg: Any, junk: list[Any] = JUNK, most: int = 3) -> None:
    """Change a config in one to `most` places."""
    for _ in range(data.draw(st.integers(1, most), label='faults')):
        # A network has more entries than a term, and fewer that are read here.
        root = cfg
        terms = cfg.get('distillation')
        if terms and isinstance(terms, list) and data.draw(st.booleans(), label='in terms'):
            root = terms
        found = places(root)
        if not found:
            return
        node, key = found[data.draw(st.integers(0, len(found) - 1), label='place')]
        change = data.draw(
            st.sampled_from(['vary', 'replace', 'remove', 'misspell', 'add', 'wrap', 'swap']),
            label='how',
        )
        if change == 'vary' and junk is JUNK and isinstance(node[key], (int, float)):
            node[key] = data.draw(st.sampled_from(NUMBERS))
        elif change == 'vary' and isinstance(node[key], str):
            node[key] = data.draw(st.sampled_from(NAMES))
        elif change in ('vary', 'replace'):
            node[key] = copy.copy(data.draw(st.sampled_from(junk)))
        elif change == 'remove':
            del node[key]
        elif change == 'wrap':
            node[key] = [node[key]]
        elif change == 'swap':
            other, at = found[data.draw(st.integers(0, len(found) - 1), label='other place')]
            node[key] = copy.deepcopy(other[at])
        elif isinstance(node, list):
            node.append(copy.deepcopy(node[key]))
        elif change == 'misspell':
            node[f'{key}s'] = node.pop(key)
        else:
            node[data.draw(st.sampled_from(['', 'x', 'teacher', 'weight', 3, None]))] = 1


def assert_readable(error: KDError) -> None:
    """A message says something, at no great length, and shows no insides."""
    for one in getattr(error, 'errors', [error]):
        text = str(one)
        assert 10 < len(text) < 1000, text
        assert not re.search(r'object at 0x|Traceback', text), text


def parse(model: Any) -> None:
    problems = Problems()
    parts = (model.get(k) for k in ('student', 'teacher', 'distillation', 'data_preprocessor'))
    spec = parse_distillation(*parts, problems)
    try:
        problems.raise_if_any()
    except KDError as error:
        assert_readable(error)
        return
    assert spec.student is not None
    assert set(spec.teachers) == set(spec.names)
    names = [one.name for one in spec.terms]
    assert len(set(names)) == len(names)
    for one in spec.terms:
        assert set(one.layers.teachers) <= set(spec.names)
        weights = [one.weight_at(i) for i in (0, 15, 25, 10**6)]
        assert all(math.isfinite(weight) and weight >= 0 for weight in weights)


@given(data=st.data())
def test_a_distillation_is_sound_or_refused(data: Any, good: dict[str, Any]) -> None:
    model = copy.deepcopy(good['model'])
    spoil(data, model)
    parse(model)


@given(data=st.data())
def test_several_teachers_are_sound_or_refused(data: Any, several: dict[str, Any]) -> None:
    model = copy.deepcopy(several)
    spoil(data, model)
    parse(model)


@given(data=st.data())
def test_a_runners_config_is_sound_or_refused(data: Any, good: dict[str, Any]) -> None:
    cfg = copy.deepcopy(good)
    spoil(data, cfg)
    # Names at the top of a config are those of variables.
    config = Config({str(key): value for key, value in cfg.items()})
    for check in (check_keys, lambda c: check_runner_config(c, ('train', 'val', 'test'))):
        try:
            check(config)
        except KDError as error:
            assert_readable(error)


@settings(max_examples=max(settings.default.max_examples // 3, 8))
@given(data=st.data())
def test_networks_are_built_or_refused(data: Any, good: dict[str, Any]) -> None:
    model = copy.deepcopy(good['model'])
    spoil(data, model, SMALL_JUNK)
    model['type'] = 'DistillationWrapper'
    try:
        with as_config_error('model'):
            MODELS.build(model)
    except KDError as error:
        assert_readable(error)


PLACES = ['model', 'model.distillation', 'model.distillation.0.schedule', 'model.type', 'train_cfg']
PARTS = ['0', '1', '2', 'weight', 'x', '', '-1', '\u00b2']


@given(
    options=st.dictionaries(
        st.tuples(
            st.sampled_from(PLACES), st.lists(st.sampled_from(PARTS), max_size=3).map('.'.join)
        ).map('.'.join),
        st.sampled_from(JUNK),
        min_size=1,
        max_size=3,
    )
)
def test_options_apply_or_are_refused(options: dict[str, Any], good: dict[str, Any]) -> None:
    config = Config(copy.deepcopy(good))
    try:
        apply_options(config, copy.deepcopy(options), '--cfg-options')
    except ConfigError as error:
        assert_readable(error)
        return
    if len(options) > 1:  # one may lie inside another
        return
    [(name, value)] = options.items()
    node: Any = dict(config.items())
    for part in name.split('.'):
        node = node[int(part) if isinstance(node, list) else part]
    assert isinstance(value, dict) or node == value or value != value


@given(
    begin=st.integers(0, 4000),
    length=st.integers(0, 30),
    put=st.sampled_from(['', '(', "'", ' ', '\n', '\\', '\0', '=', 'é']),
)
def test_a_torn_file_is_read_or_refused(
    begin: int, length: int, put: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.getbasetemp() / 'torn.py'
    whole = CONFIG.format(base=[], work_dir='work', data='data', model=dict(type='A'))
    path.write_text(whole[:begin] + put + whole[begin + length :], encoding='utf-8')
    try:
        read_config_file(str(path))
    except ConfigError as error:
        assert_readable(error)
        assert str(error).startswith(str(path))


@given(
    content=st.one_of(st.binary(max_size=60), st.text(' ()[]{}_=.,:#@\'"\\\n', max_size=60)),
    suffix=st.sampled_from(['.py', '.json', '.yaml', '.txt']),
)
def test_any_bytes_are_read_or_refused(
    content: bytes | str, suffix: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.getbasetemp() / f'bytes{suffix}'
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    try:
        read_config_file(str(path))
    except ConfigError as error:
        assert_readable(error)


@given(
    bases=st.lists(st.sets(st.integers(0, 4), max_size=2), min_size=5, max_size=5),
)
def test_bases_in_a_circle_are_found(
    bases: list[set[int]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.getbasetemp() / 'bases'
    folder.mkdir(exist_ok=True)
    for index, of in enumerate(bases):
        names = [f'{one}.py' for one in sorted(of)]
        (folder / f'{index}.py').write_text(f'_base_ = {names!r}\nx{index} = 1', encoding='utf-8')

    def circles(index: int, above: tuple[int, ...]) -> bool:
        chain = (*above, index)
        return index in above or any(circles(base, chain) for base in bases[index])

    try:
        config = read_config_file(str(folder / '0.py'))
    except ConfigError as error:
        # Two bases over the same third are the host's to refuse.
        expected = '_base_ goes in a circle: ' if circles(0, ()) else 'Duplicate key'
        assert expected in str(error)
        return
    assert not circles(0, ())
    assert 'x0' in config


def test_folder_of_files(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match='there is no config file'):
        read_config_file(str(tmp_path))
