"""What only draws, logs or measures never ends a training."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from mmseg_kd.engine.survival import keep_logging_aside
from mmseg_kd.host import aside as module
from mmseg_kd.host.aside import aside


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    lines: list[str] = []
    monkeypatch.setattr(module, 'print_log', lambda text, **_: lines.append(text))
    return lines


def test_a_failure_is_a_warning_and_is_given_up(said: list[str]) -> None:
    given_up: list[bool] = []
    with aside('Pictures', lambda: given_up.append(True)):
        raise ZeroDivisionError('division by zero')
    assert given_up == [True]
    [line] = said
    assert line.startswith('Pictures: ZeroDivisionError: division by zero')
    with aside('Pictures', lambda: given_up.append(True)):
        pass
    assert given_up == [True] and len(said) == 1


def test_ctrl_c_is_no_failure() -> None:
    with pytest.raises(KeyboardInterrupt), aside('Pictures', lambda: None):
        raise KeyboardInterrupt


def test_a_backend_that_fails_is_left_out_and_the_others_go_on(said: list[str]) -> None:
    class Backend:
        def __init__(self, fails: bool) -> None:
            self.fails = fails
            self.calls: list[Any] = []

        def add_scalars(self, scalars: Any, step: int = 0) -> None:
            self.calls.append((scalars, step))
            if self.fails:
                raise ConnectionError('the service is gone')

        add_scalar = add_image = add_scalars

    backends = dict(service=Backend(fails=True), file=Backend(fails=False))
    keep_logging_aside(SimpleNamespace(visualizer=SimpleNamespace(_vis_backends=backends)))
    for step in range(3):
        for backend in backends.values():
            backend.add_scalars(dict(loss=1.0), step=step)
    assert len(backends['service'].calls) == 1
    assert len(backends['file'].calls) == 3
    [line] = said
    assert 'Logging to service' in line and 'the service is gone' in line
