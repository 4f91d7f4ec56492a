"""Which backend takes which maps."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from conftest import random_maps

from mmseg_kd.losses import functional
from mmseg_kd.losses.kernels import dispatch, piecewise, triton_divergence


class OnGpu:
    """Stands in for a map on a GPU."""

    is_cuda, device, dtype = True, torch.device('cuda:0'), torch.float32


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What was logged."""
    lines: list[str] = []
    monkeypatch.setattr(dispatch, '_say_once', lines.append)
    return lines


def test_pieces_on_a_cpu(said: list[str]) -> None:
    student, teacher = random_maps()
    for given in (teacher, [teacher]):
        backend, taken = dispatch._chosen(student, given)
        assert backend is piecewise
        assert taken is teacher
    assert not said


def test_the_plain_formula_for_several_teachers(said: list[str]) -> None:
    student, teacher = random_maps()
    assert dispatch._chosen(student, (teacher, student)) == (functional, [teacher, student])
    assert 'several teachers' in ''.join(said)


@pytest.mark.parametrize('can_take', [True, False])
def test_kernels_on_a_gpu_where_they_can_take_the_maps(
    can_take: bool, said: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Any] = []
    monkeypatch.setattr(
        triton_divergence, 'can_take', lambda *maps: bool(asked.append(maps)) or can_take
    )
    student: Any = OnGpu()
    teacher: Any = OnGpu()
    backend, taken = dispatch._chosen(student, [teacher])
    assert asked == [(student, teacher)]
    assert taken is teacher
    assert backend is (triton_divergence if can_take else piecewise)
    assert ('by plain operations' in ''.join(said)) == (not can_take)
