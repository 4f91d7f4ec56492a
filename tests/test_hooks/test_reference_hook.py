from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from mmengine.hooks import LoggerHook
from mmengine.visualization import LocalVisBackend, TensorboardVisBackend
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from mmseg_kd.errors import ConfigError
from mmseg_kd.hooks import ReferenceHook


class Kept:
    """A backend that keeps what it is given."""

    def __init__(self) -> None:
        self.entries: list[dict[str, float]] = []

    def add_scalars(self, entries: dict[str, float], step: int) -> None:
        self.entries.append({**entries, 'step': step})

    def close(self) -> None: ...


def runner_with(folder: Path, by_epoch: bool = False, hierarchy: bool = False) -> Any:
    """What the hook sees of a runner that logs to the disk, to TensorBoard and elsewhere."""
    backends = [LocalVisBackend(str(folder)), TensorboardVisBackend(str(folder)), Kept()]
    return SimpleNamespace(
        iter=0,
        epoch=0,
        hooks=[LoggerHook(log_metric_by_epoch=by_epoch)],
        log_processor=SimpleNamespace(log_with_hierarchy=hierarchy),
        visualizer=SimpleNamespace(_vis_backends={str(i): one for i, one in enumerate(backends)}),
    )


def draw(hook: ReferenceHook, runner: Any, *validations: tuple[int, int]) -> None:
    hook.before_train(runner)
    for runner.iter, runner.epoch in validations:
        hook.after_val_epoch(runner, dict(mIoU=1.0))
    for backend in runner.visualizer._vis_backends.values():
        backend.close()


def points(folder: Path, tag: str) -> list[tuple[int, float]]:
    events = EventAccumulator(str(folder)).Reload()
    return [(event.step, event.value) for event in events.Scalars(tag)]


def write_run(work_dir: Path, name: str, *lines: str) -> None:
    folder = work_dir / name / 'vis_data'
    folder.mkdir(parents=True)
    (folder / 'scalars.json').write_text('\n'.join(lines), encoding='utf-8')


def test_a_line_each_in_the_chart_of_the_metric(tmp_path: Path) -> None:
    hook = ReferenceHook(mIoU=dict(teacher=64.5, baseline=54))
    runner = runner_with(tmp_path)
    draw(hook, runner, (400, 1), (800, 2))
    for name, value in (('teacher', 64.5), ('baseline', 54.0)):
        # The tag of the student's own curve, in a run beside it.
        assert points(tmp_path / f'mIoU_{name}', 'mIoU') == [(0, value), (400, value), (800, value)]
    expected = {'mIoU_teacher': 64.5, 'mIoU_baseline': 54.0}
    kept = runner.visualizer._vis_backends['2'].entries
    assert kept == [{**expected, 'step': step} for step in (0, 400, 800)]
    # The log of a run has what was measured, and nothing else.
    assert not (tmp_path / 'scalars.json').exists()


def test_where_the_log_has_its_metrics(tmp_path: Path) -> None:
    """By epoch, and under names with 'val/' before them."""
    runner = runner_with(tmp_path, True, True)
    draw(ReferenceHook(mIoU=dict(teacher=64.5)), runner, (400, 1))
    assert points(tmp_path / 'val_mIoU_teacher', 'val/mIoU') == [(0, 64.5), (1, 64.5)]
    assert [entry['step'] for entry in runner.visualizer._vis_backends['2'].entries] == [0, 1]


def test_the_last_validation_of_another_run(tmp_path: Path) -> None:
    write_run(tmp_path, '20260101_000000', '{"mIoU": 1.0, "step": 9}')
    write_run(
        tmp_path,
        '20260102_000000',
        '{"mIoU": 50.0, "step": 400}',
        '{"val/mIoU": 54.5, "mIoU_teacher": 60.0, "step": 800}',
        '{"mIoU": NaN, "step": 840}',
        '{"loss": 1.0, "iter": 850, "step": 850}',
        '{"mIo',  # it was killed
    )
    # No validation yet, and nothing at all.
    write_run(tmp_path, '20260103_000000', '{"loss": 2.0, "iter": 50, "step": 50}')
    write_run(tmp_path, '20260104_000000', '')
    hook = ReferenceHook(mIoU=dict(baseline=str(tmp_path)))
    assert hook.metrics == dict(mIoU=dict(baseline=54.5))


def test_a_metric_that_is_not_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    monkeypatch.setattr(
        'mmseg_kd.hooks.reference_hook.print_log', lambda text, **_: said.append(text)
    )
    draw(ReferenceHook(mIou=dict(teacher=1.0)), runner_with(tmp_path), (400, 1))
    assert said == ["ReferenceHook: the validation has no metric 'mIou'; nearest: mIoU."]


@pytest.mark.parametrize(
    ('metrics', 'message'),
    [
        ({}, r'expected lines such as mIoU=dict\(teacher=64.65\), got none'),
        (dict(mIoU=64.65), r'mIoU: expected lines such as dict\(teacher=64.65\), got 64.65'),
        (dict(mIoU={}), r'mIoU: expected lines .*, got {}'),
        (dict(mIoU={'a/b': 1.0}), r'mIoU.a/b: expected a name of letters'),
        (dict(mIoU=dict(teacher=None)), r'mIoU.teacher: expected a number or the work dir'),
        (dict(mIoU=dict(teacher=float('nan'))), r'expected a number or the work dir .*, got nan'),
        (dict(mIoU=dict(teacher='nowhere')), r"expected a work dir with .*, got 'nowhere'"),
    ],
)
def test_wrong_lines(metrics: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        ReferenceHook(**metrics)


def test_a_run_without_the_metric(tmp_path: Path) -> None:
    write_run(tmp_path, '20260101_000000', '{"mDice": 1.0, "step": 9}')
    with pytest.raises(ConfigError, match='have not measured it; nearest: mDice'):
        ReferenceHook(mIoU=dict(teacher=str(tmp_path)))
