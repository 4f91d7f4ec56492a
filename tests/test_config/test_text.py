"""Config values as Python text."""

from __future__ import annotations

from typing import Any

import pytest
from mmengine.config import Config

from mmseg_kd.config.text import WIDTH, Name, resolve, write
from mmseg_kd.errors import ConfigError

VALUES: dict[str, Any] = dict(
    empty=[dict(), [], ()],
    one=(1,),
    numbers=[0.5, 6e-05, -1, True, None, float('inf'), -float('inf')],
    quotes='it\'s "so"\n',
    keys={'a.b': 1, 'class': 2, 'plain': 3, 4: 5},
    # Just as wide as a line, and one wider.
    fits='x' * (WIDTH - len("fits = ''") - 1),
    long=['x' * 40, 'y' * 40, dict(z='z' * 10)],
    deep=dict(a=dict(b=dict(c=['c' * 60, 'd' * 60], e=('f' * 60, 'g' * 60)))),
)


def test_text_says_the_values() -> None:
    text = write(VALUES)
    assert Config.fromstring(text, '.py').to_dict() == VALUES
    lines = text.splitlines()
    assert max(map(len, lines)) < WIDTH
    assert "keys = {'a.b': 1, 'class': 2, 'plain': 3, 4: 5}" in lines
    assert 'one = (1,)' in lines


def test_layout() -> None:
    text = write(dict(a=dict(b=['c' * 50, 'd' * 50], e=1)))
    expected = f"""\
a = dict(
    b=[
        '{'c' * 50}',
        '{'d' * 50}',
    ],
    e=1,
)
"""
    assert text == expected


def test_a_line_is_broken_where_it_is_too_long() -> None:
    shorter = dict(a=['x' * (WIDTH - len("a = ['']") - 1)])
    longer = dict(a=['x' * (WIDTH - len("a = ['']"))])
    assert write(shorter).count('\n') == 1
    assert write(longer).count('\n') == 3


def test_names_stand_for_what_they_hold() -> None:
    values = dict(a=[1, dict(b=2)], c=dict(d=Name('a')), e=Name('c'))
    assert write(values) == 'a = [1, dict(b=2)]\nc = dict(d=a)\ne = c\n'
    assert resolve(values['e'], values) == {'d': [1, {'b': 2}]}


@pytest.mark.parametrize('value', [object(), {1, 2}, [lambda: None]])
def test_what_no_config_has(value: Any) -> None:
    with pytest.raises(ConfigError, match='in a config, got'):
        write(dict(a=value))
