"""Which backend takes which maps."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from conftest import random_maps, value_and_gradient

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
    assert dispatch.backend_of(student, teacher) is piecewise
    options: dict[str, Any] = dict(size=(5, 7), group_size=2, tau=2.0)
    expected = piecewise.group_divergence(student, teacher, **options)
    for given in (teacher, [teacher]):
        assert dispatch.group_divergence_at(student, given, **options) == expected
    assert not said


def test_the_plain_formula_for_several_teachers(said: list[str]) -> None:
    student, teacher = random_maps()
    options: dict[str, Any] = dict(size=(5, 7), group_size=2, tau=2.0)
    expected = functional.group_divergence(student, [teacher, student], **options)
    assert dispatch.group_divergence_at(student, (teacher, student), **options) == expected
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
    backend = dispatch.backend_of(student, teacher)
    assert asked == [(student, teacher)]
    assert backend is (triton_divergence if can_take else piecewise)
    assert ('by plain operations' in ''.join(said)) == (not can_take)


@pytest.mark.parametrize('name', ['pixel_divergence', 'group_divergence'])
def test_compiled_code_runs_them_as_they_are(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    function, is_compiled = getattr(piecewise, name), []

    def recorded(*args: Any, **options: Any) -> Any:
        is_compiled.append(torch.compiler.is_compiling())
        return function(*args, **options)

    monkeypatch.setattr(piecewise, name, recorded)
    options: dict[str, Any] = dict(size=(5, 7), tau=2.0)
    if name == 'group_divergence':
        options['group_size'] = 2
    student, teacher = random_maps()

    def step(student: torch.Tensor) -> torch.Tensor:
        return getattr(dispatch, f'{name}_at')(student * 2, teacher, **options) + 1

    expected = value_and_gradient(step, student)
    found = value_and_gradient(torch.compile(step, backend='eager'), student)
    torch.testing.assert_close(found, expected)
    assert is_compiled == [False, False]
