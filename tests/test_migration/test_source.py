"""Reading old configs, and finding the lines of their keys."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from mmseg_kd.errors import ConfigError
from mmseg_kd.migration.source import KeyPath, OldConfig, Place


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding='utf-8')
    return path


TEXT = """\
norm_cfg = dict(type='SyncBN')
head = dict(
    type='Head',
    norm_cfg=norm_cfg,
    sizes=[1, 2, 3])
more = [dict(name='c')]
terms = [
    dict(name='a'),
    {'name': 'b',
     'config': {'alpha': 3}},
] + more
model: dict = dict(
    cfg_s=head,
    terms=[*terms, dict(name='d', x=terms)],
    **dict(extra=dict(
        deep=1)))
model['later'] = dict(
    key=2)
copied = dict(
    head, type='Other')
wide = head if True else norm_cfg
"""


@pytest.mark.parametrize(
    ('path', 'line'),
    [
        (('model',), 12),
        (('norm_cfg', 'type'), 1),
        (('model', 'cfg_s'), 13),
        (('model', 'cfg_s', 'type'), 3),
        (('model', 'cfg_s', 'norm_cfg'), 4),
        (('model', 'cfg_s', 'norm_cfg', 'type'), 1),
        (('model', 'cfg_s', 'sizes', 2), 5),
        (('terms', 1, 'config', 'alpha'), 10),
        (('model', 'terms', 1, 'name'), 9),
        (('model', 'terms', 2, 'name'), 6),
        (('model', 'terms', 3, 'name'), 14),
        (('model', 'terms', 3, 'x', 0, 'name'), 8),
        (('model', 'extra', 'deep'), 16),
        (('model', 'later', 'key'), 18),
        (('copied', 'type'), 20),
        (('copied', 'norm_cfg', 'type'), 1),
        (('wide', 'sizes'), 5),
        # What stands nowhere: the nearest key around it.
        (('model', 'cfg_s', 'absent', 'too'), 13),
        (('model', 'terms', 9), 14),
        (('absent',), 1),
    ],
)
def test_lines(tmp_path: Path, path: KeyPath, line: int) -> None:
    file = write(tmp_path / 'old.py', TEXT)
    assert OldConfig(file).place(path) == Place(str(file), line)


def test_lines_of_bases(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write(tmp_path / 'bases' / 'root.py', 'a = dict(\n    x=1,\n    y=dict(z=2))\n')
    write(tmp_path / 'bases' / 'next.py', "_base_ = 'root.py'\nb = 4\na = dict(\n    w=5)\n")
    write(tmp_path / 'bases' / 'other.py', 'shared = dict(\n    k=1)\n')
    write(
        tmp_path / 'top' / 'old.py',
        "_base_ = ['../bases/next.py', '../bases/other.py']\n"
        'a = dict(\n    y=dict(z=3))\n'
        'mine = _base_.shared\nyours = {{_base_.shared}}\n',
    )
    old = OldConfig(Path('top/old.py'))
    assert old.values['a'] == {'x': 1, 'y': {'z': 3}, 'w': 5}
    assert str(old.place(('a', 'y', 'z'))) == 'top/old.py:3'
    assert str(old.place(('a', 'x'))) == 'bases/root.py:2'
    assert str(old.place(('a', 'w'))) == 'bases/next.py:4'
    assert str(old.place(('b',))) == 'bases/next.py:2'
    assert str(old.place(('mine', 'k'))) == 'bases/other.py:2'
    assert str(old.place(('yours', 'k'))) == 'bases/other.py:2'
    assert old.bases == [Path(f'bases/{name}.py') for name in ('next', 'root', 'other')]


def test_the_last_assignment_counts_and_may_use_the_one_before(tmp_path: Path) -> None:
    file = write(
        tmp_path / 'old.py', 'a = dict(x=1,\n  y=2)\na = dict(\n  a, y=3)\nb = a\na = dict(z=1)\n'
    )
    old = OldConfig(file)
    assert old.values['b'] == {'x': 1, 'y': 3}
    assert old.place(('b', 'x')).line == 1
    assert old.place(('b', 'y')).line == 4
    assert old.place(('a', 'z')).line == 6


def test_variables_are_names_that_are_used(tmp_path: Path) -> None:
    write(tmp_path / 'base.py', 'one = 1\ntwo = 2\n')
    text = "_base_ = 'base.py'\nthree = 3\nfour = [three, _base_.one]\n"
    variables = OldConfig(write(tmp_path / 'old.py', text)).variables
    assert {'one', 'three'} <= variables
    assert not {'two', 'four'} & variables


def test_nothing_is_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / 'custom_module_of_old.py', 'raise RuntimeError\n')
    monkeypatch.syspath_prepend(str(tmp_path))
    text = "custom_imports = dict(imports=['custom_module_of_old'])\n"
    old = OldConfig(write(tmp_path / 'old.py', text))
    assert old.values['custom_imports'] == {'imports': ['custom_module_of_old']}
    assert 'custom_module_of_old' not in sys.modules


@pytest.mark.parametrize(
    ('text', 'message'),
    [
        ('a = b\n', "NameError: name 'b'"),
        ("_base_ = 'absent.py'\n", 'absent.py'),
        ('text = 1\n', 'text is reserved'),
    ],
)
def test_broken_files(tmp_path: Path, text: str, message: str) -> None:
    file = write(tmp_path / 'old.py', text)
    with pytest.raises(ConfigError) as error:
        OldConfig(file)
    assert str(error.value).startswith(f'{file}: cannot be read: ')
    assert message in str(error.value)


def test_broken_python(tmp_path: Path) -> None:
    write(tmp_path / 'base.py', 'x = 1\na = (\n')
    for file in ('base.py', 'old.py'):
        path = write(tmp_path / 'old.py', "_base_ = 'base.py'\n") if file == 'old.py' else file
        with pytest.raises(ConfigError) as error:
            OldConfig(tmp_path / path)
        assert str(error.value).startswith(f'{tmp_path / "base.py"}:2: cannot be read as Python: ')


def test_absent_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r'there is none at .*absent\.py'):
        OldConfig(tmp_path / 'absent.py')
    with pytest.raises(ConfigError, match=r'a \.py file'):
        OldConfig(write(tmp_path / 'old.yaml', 'a: 1\n'))
