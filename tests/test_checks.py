from __future__ import annotations

from typing import Any

import pytest

from mmseg_kd.checks import is_device_name, is_integer, is_name, is_number


@pytest.mark.parametrize('value', [0, -1, 2.5, 1e308, 10**308])
def test_numbers(value: Any) -> None:
    assert is_number(value)


@pytest.mark.parametrize(
    'value', [True, float('nan'), float('inf'), -float('inf'), 10**309, '1', None, [1], 1j]
)
def test_what_is_no_number(value: Any) -> None:
    assert not is_number(value)


def test_whole_numbers() -> None:
    assert all(map(is_integer, (0, -3, 10**400)))
    assert not any(map(is_integer, (True, 2.0, '2', None)))


def test_names() -> None:
    assert all(map(is_name, ('a', 'b-3_C')))
    assert not any(map(is_name, ('', 'a b', 'a.b', 'a\n', 'é', 3, None)))


def test_names_of_devices() -> None:
    assert all(map(is_device_name, ('auto', 'cpu', 'cuda', 'cuda:0', 'cuda:12')))
    wrong = (
        '',
        'gpu',
        'CUDA',
        'cuda:',
        'cuda:01',
        'cuda:-1',
        'cuda:1 ',
        'cpu:0',
        'cpu\n',
        'mps',
        1,
    )
    assert not any(map(is_device_name, wrong))
