from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from mmengine.logging import MessageHub

from mmseg_kd import schedules
from mmseg_kd.errors import IterationError, KDError
from mmseg_kd.host.iteration import at_iteration, current_iteration


@pytest.fixture(autouse=True)
def hub() -> Iterator[MessageHub]:
    """The current one, without an iteration until a test gives it one."""
    hub = MessageHub.get_instance('iteration')
    yield hub
    MessageHub._instance_dict.pop('iteration')


def test_the_runners(hub: MessageHub) -> None:
    hub.update_info('iter', 7)
    assert current_iteration() == 7


def test_a_loops_own() -> None:
    with at_iteration(0):
        assert current_iteration() == 0
    with at_iteration(41):
        assert current_iteration() == 41


def test_a_loops_own_comes_before_the_runners(hub: MessageHub) -> None:
    hub.update_info('iter', 7)
    with at_iteration(0):
        assert current_iteration() == 0
    assert current_iteration() == 7


def test_the_inner_one_counts_as_long_as_it_lasts() -> None:
    with at_iteration(1):
        with at_iteration(2):
            assert current_iteration() == 2
        assert current_iteration() == 1
        with pytest.raises(ZeroDivisionError), at_iteration(3):
            _ = 1 / 0
        assert current_iteration() == 1


def test_where_nobody_counts_is_an_error() -> None:
    with pytest.raises(
        IterationError, match=re.escape("mmengine's runner or inside `with at_iteration(i):`")
    ):
        current_iteration()
    with at_iteration(3):
        pass
    with pytest.raises(IterationError):
        current_iteration()


def test_the_error_is_no_wrong_value() -> None:
    assert issubclass(IterationError, KDError)
    assert issubclass(IterationError, RuntimeError)
    assert not issubclass(IterationError, ValueError)


@pytest.mark.parametrize('iteration', [-1, 2.0, True, '3', None])
def test_wrong_iteration(iteration: Any) -> None:
    with (
        pytest.raises(ValueError, match=f'a whole number >= 0, got {iteration!r}'),
        at_iteration(iteration),
    ):
        pass
    with pytest.raises(IterationError):
        current_iteration()


def test_another_thread_has_its_own() -> None:
    found = []

    def run() -> None:
        with at_iteration(5):
            found.append(current_iteration())

    with at_iteration(1):
        thread = threading.Thread(target=run)
        thread.start()
        thread.join()
        assert current_iteration() == 1
    assert found == [5]


def test_a_schedule_and_a_loop_together() -> None:
    warmup = schedules.LinearWarmup(end=4)
    factors = []
    for i in range(6):
        with schedules.at_iteration(i):
            factors.append(warmup(current_iteration()))
    assert factors == [0.0, 0.25, 0.5, 0.75, 1.0, 1.0]


def test_it_can_be_asked_for_in_what_is_compiled() -> None:
    torch._dynamo.reset()

    @torch.compile(backend='eager')
    def scaled(x: torch.Tensor) -> torch.Tensor:
        return x * current_iteration()

    for i in (2, 3):
        with at_iteration(i):
            assert scaled(torch.ones(1)) == i
    torch._dynamo.reset()
