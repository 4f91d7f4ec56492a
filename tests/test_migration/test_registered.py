"""Which arguments the classes of the hosts take."""

from __future__ import annotations

from typing import Any

import pytest
from mmengine.registry import Registry
from old_sections import problems, section

from mmseg_kd.migration.registered import REQUIRED, as_it_is, defaults, find

THINGS = Registry('thing')


class Base:
    def __init__(self, a: int, b: int = 2) -> None: ...


@THINGS.register_module()
class PassesOn(Base):
    def __init__(self, c: int = 3, **kwargs: Any) -> None: ...


@THINGS.register_module()
class KeepsToItself(Base):
    def __init__(self, d: int = 4, *args: Any) -> None: ...


@THINGS.register_module()
class HasNone(PassesOn): ...


@THINGS.register_module()
def function() -> None: ...


def test_defaults() -> None:
    assert defaults(PassesOn) == dict(a=REQUIRED, b=2, c=3)
    assert defaults(KeepsToItself) == dict(d=4)
    assert defaults(HasNone) == defaults(PassesOn)


@pytest.mark.parametrize('name', ['absent', 'function', 'mmcls.ConvNeXt', None, 3])
def test_what_is_no_class(name: Any) -> None:
    assert find(THINGS, name) is None


def test_words_that_stay_and_words_that_change() -> None:
    one = section(dict(type='Old', old_c=1, b=5, x=6), 'top')
    made = as_it_is(one, THINGS, 'thing', name='PassesOn', renamed={'old_c': 'c'})
    one.close()
    assert made == dict(type='PassesOn', c=1, b=5)
    assert problems(one) == ['top.x: PassesOn of mmseg 1.x has no such argument, left out']


def test_a_class_that_is_not_there() -> None:
    one = section(dict(type='PassOn', x=6), 'top')
    assert as_it_is(one, THINGS, 'thing') == dict(type='PassOn', x=6)
    (line,) = problems(one)
    assert line.startswith("top.type: there is no thing 'PassOn' in mmseg 1.x; nearest: PassesOn")
