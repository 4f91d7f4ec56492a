from __future__ import annotations

import itertools
import math
import re
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from conftest import (
    LogitLossChecks,
    kept,
    plain_group_loss,
    random_label,
    random_maps,
    value_and_gradient,
)
from torch import Tensor

from mmseg_kd.losses import CDLoss, CGDLoss


def plain_loss(student: Tensor, teacher: Tensor, tau: float, keep: Tensor) -> Tensor:
    return plain_group_loss(student, teacher, tau, keep, group_size=2)


class TestLogitLoss(LogitLossChecks):
    # Five channels: the last group has one.
    make = staticmethod(partial(CGDLoss, group_size=2))
    plain = staticmethod(plain_loss)


class TestShuffled(LogitLossChecks):
    # One group of all channels is the same in any order.
    make = staticmethod(partial(CGDLoss, group_size=5, shuffle_interval=3))
    plain = staticmethod(partial(plain_group_loss, group_size=5))

    @pytest.fixture(autouse=True)
    def first_iteration(self, at_iteration: Callable[[int], None]) -> None:
        at_iteration(0)


def test_by_hand() -> None:
    # Groups of two channels, one pixel: (1/2, 1/2) against (1/4, 3/4), and a last one alone.
    student = torch.zeros(1, 3, 1, 1, dtype=torch.float64)
    teacher = torch.tensor([0.0, math.log(3), 9.0], dtype=torch.float64).view(1, 3, 1, 1)
    loss = CGDLoss(group_size=2, resolution='student')
    value, gradient = value_and_gradient(loss, student, teacher)
    expected = 0.25 * math.log(0.25 / 0.5) + 0.75 * math.log(0.75 / 0.5)
    assert math.isclose(value, expected / 2, rel_tol=1e-12)
    expected_gradient = torch.tensor([0.125, -0.125, 0.0], dtype=torch.float64)
    torch.testing.assert_close(gradient.flatten(), expected_gradient)


@pytest.mark.parametrize('group_size', [1, 2, 3, 4, 7, 8])
@pytest.mark.parametrize('ignore_index', [None, 255])
def test_group_sizes(group_size: int, ignore_index: int | None) -> None:
    """Eight of seven channels too, and last groups with one and three of four."""
    student, teacher = random_maps(channels=7)
    label = random_label((3, 4))
    loss = CGDLoss(group_size, 2.0, resolution='student', ignore_index=ignore_index)
    keep = kept(label, ignore_index)
    torch.testing.assert_close(
        value_and_gradient(loss, student, teacher, label),
        value_and_gradient(lambda s: plain_group_loss(s, teacher, 2.0, keep, group_size), student),
        rtol=1e-10,
        atol=1e-14,
    )


def test_groups_of_one_are_channel_distillation() -> None:
    student, teacher = random_maps()
    options: dict[str, Any] = dict(tau=2.0, resolution='student')
    torch.testing.assert_close(
        CGDLoss(1, **options)(student, teacher), CDLoss(**options)(student, teacher)
    )


def test_more_than_all_channels_are_one_group() -> None:
    student, teacher = random_maps()
    five, fifty = (CGDLoss(size, resolution='student') for size in (5, 50))
    assert torch.equal(fifty(student, teacher), five(student, teacher))


def test_groups_are_consecutive_channels() -> None:
    student, teacher = random_maps(channels=4)
    loss = CGDLoss(2, resolution='student')
    value = loss(student, teacher)
    within = [1, 0, 3, 2]
    across = [0, 2, 1, 3]
    torch.testing.assert_close(loss(student[:, within], teacher[:, within]), value)
    assert not torch.isclose(loss(student[:, across], teacher[:, across]), value, rtol=1e-3)


def shuffled(interval: int = 10) -> CGDLoss:
    return CGDLoss(2, resolution='student', shuffle_interval=interval)


def test_shuffle_is_one_permutation_of_both(at_iteration: Callable[[int], None]) -> None:
    student, teacher = random_maps(channels=4)
    plain = CGDLoss(2, resolution='student')
    possible = torch.stack(
        [plain(student[:, o], teacher[:, o]) for o in map(list, itertools.permutations(range(4)))]
    )
    for iteration in range(0, 50, 10):
        at_iteration(iteration)
        value, gradient = value_and_gradient(shuffled(), student, teacher)
        assert torch.isclose(possible, value, rtol=1e-12).any()
        assert gradient.isfinite().all()


def test_shuffled_equal_inputs_give_zero(at_iteration: Callable[[int], None]) -> None:
    student, _ = random_maps(channels=6)
    for iteration in (0, 10, 20):
        at_iteration(iteration)
        assert shuffled()(student, student) == 0.0


def test_shuffle_is_kept_within_an_interval(at_iteration: Callable[[int], None]) -> None:
    student, teacher = random_maps(channels=12)
    values = {}
    for iteration in range(60):
        at_iteration(iteration)
        values[iteration] = shuffled()(student, teacher).item()
    for iteration, value in values.items():
        assert value == values[iteration // 10 * 10]
    assert len(set(values.values())) == 6


def test_shuffle_depends_on_the_iteration_alone(at_iteration: Callable[[int], None]) -> None:
    student, teacher = random_maps(channels=12)
    loss = shuffled()
    for iteration in range(0, 40, 5):
        at_iteration(iteration)
        before = loss(student, teacher)
    torch.manual_seed(99)
    resumed = shuffled()
    assert torch.equal(resumed(student, teacher), before)


def test_shuffle_leaves_the_random_state(at_iteration: Callable[[int], None]) -> None:
    at_iteration(0)
    state = torch.random.get_rng_state()
    shuffled()(*random_maps())
    assert torch.equal(torch.random.get_rng_state(), state)


def test_not_shuffled_by_default(at_iteration: Callable[[int], None]) -> None:
    student, teacher = random_maps(channels=12)
    values = set()
    for iteration in (0, 1, 1000):
        at_iteration(iteration)
        values.add(CGDLoss(2, resolution='student')(student, teacher).item())
    assert len(values) == 1


@pytest.mark.parametrize('argument', ['group_size', 'shuffle_interval'])
@pytest.mark.parametrize('value', [0, -3, 2.5, '10'])
def test_wrong_argument(argument: str, value: Any) -> None:
    with pytest.raises(ValueError, match=f'{argument}.*{re.escape(repr(value))}'):
        CGDLoss(**{argument: value})


def test_repr_names_what_was_set() -> None:
    loss = CGDLoss(7, 2.0, True, 'teacher', 255, 100)
    for part in ('group_size=7', 'tau=2.0', "'teacher'", 'ignore_index=255', 'interval=100'):
        assert part in repr(loss)
