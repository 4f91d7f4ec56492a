"""The quickstart, with trainings and tests that only leave what real ones leave."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from PIL import Image
from run_logs import train_line, val_line, write_start

from mmseg_kd.config.load import load_config
from mmseg_kd.config.network_spec import trained_network_of
from mmseg_kd.engine import quickstart as engine
from mmseg_kd.engine.quickstart import PAIR, TEACHER, WEIGHTS, quickstart, seconds_per_step
from mmseg_kd.engine.step import StepFailedError, run_step
from mmseg_kd.errors import CheckpointError, ConfigError
from mmseg_kd.networks.build import build_network, without_initialisation


class Steps:
    """Stands in for `run_step`, and keeps the commands."""

    def __init__(self) -> None:
        self.commands: list[list[str]] = []
        # By a job's config the one whose weights its training leaves.
        self.trains: dict[str, str] = {}

    def __call__(self, title: str, command: Sequence[str], log: Path) -> None:
        kind, config = command[3:5]
        self.commands.append(list(command[3:]))
        folder = Path(command[command.index('--work-dir') + 1])
        if kind == 'train':
            write_start(folder, '20260101_000000', [train_line(4, 1.0, time=0.25)])
            spec = trained_network_of(load_config(self.trains.get(config, config), None))
            network = build_network(without_initialisation(spec.model), 'network')
            torch.save(network.state_dict(), folder / 'iter_4.pth')
        else:
            (folder / '1').mkdir(parents=True)
            metrics = dict(mIoU=10.0 + len(self.commands), mAcc=20.0)
            (folder / '1' / '1.json').write_text(json.dumps(metrics))


@pytest.fixture
def steps(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Steps:
    found = Steps()
    monkeypatch.chdir(tmp_path)  # no checkout
    monkeypatch.setattr(engine, 'run_step', found)
    return found


def test_too_few_iterations_for_a_schedule(steps: Steps, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match='iters: expected 2 or more'):
        quickstart(work_dir=tmp_path / 'work', data_root=str(tmp_path / 'scenes'), iters=1)
    assert not steps.commands


def test_steps_table_and_picture(steps: Steps, tmp_path: Path) -> None:
    work, data = tmp_path / 'work', str(tmp_path / 'scenes')
    rows = quickstart(work_dir=work, data_root=data, iters=4, train_images=2, val_images=5, seed=3)
    kinds = [command[:2] for command in steps.commands]
    students = (PAIR.format('baseline'), PAIR.format('cwd'))
    assert kinds == [
        ['test', TEACHER],
        *([kind, config] for config in students for kind in ('train', 'test')),
    ]
    of_teacher, first, *_ = steps.commands
    assert of_teacher[2] == WEIGHTS
    assert first[first.index('--seed') + 1] == '3'
    assert 'train_cfg.max_iters=4' in first
    assert f'val_dataloader.dataset.data_root={data}' in first
    assert not any(option.startswith('model.') for option in first)
    assert f'test_dataloader.dataset.data_root={data}' in of_teacher

    assert [row.network for row in rows] == ['teacher', 'student', 'student + CWD']
    assert [row.mIoU for row in rows] == [11.0, 13.0, 15.0]
    assert [row.seconds_per_step for row in rows] == [None, 0.25, 0.25]
    teacher, student, distilled = rows
    assert teacher.params > 2 * student.params
    assert (student.params, student.flops) == (distilled.params, distilled.flops)
    assert sorted(path.name for path in work.iterdir() if path.is_file()) == [
        'comparison.png',
        'results.json',
        'results.md',
    ]
    assert json.loads((work / 'results.json').read_text())[1]['mIoU'] == 13.0
    assert (work / 'results.md').read_text().count('\n') == 5
    assert Image.open(work / 'comparison.png').width == 5 * 256 + 6 * 8


def test_a_checkpoint_of_another_network_is_an_error(steps: Steps, tmp_path: Path) -> None:
    # They share the names of their first layers.
    steps.trains[PAIR.format('cwd')] = TEACHER
    with pytest.raises(CheckpointError, match=r'student \+ CWD: '):
        quickstart(
            work_dir=tmp_path / 'work',
            data_root=str(tmp_path / 'scenes'),
            iters=4,
            train_images=1,
            val_images=1,
        )


def test_a_failing_step_names_its_log_and_shows_its_end(tmp_path: Path) -> None:
    log = tmp_path / 'step.log'
    command = [sys.executable, '-c', 'print("the reason"); raise SystemExit(3)']
    with pytest.raises(StepFailedError, match=r'(?s)exit code 3.*step\.log.*the reason'):
        run_step('Train', command, log)
    assert log.read_text() == 'the reason\n'


def test_time_of_a_step_is_the_newest_run_s_with_a_torn_line_too(tmp_path: Path) -> None:
    write_start(tmp_path, '20260101_000000', [train_line(10, 1.0, time=9.0)])
    lines = [train_line(i, 1.0, time=time) for i, time in ((20, 0.1), (40, 0.2), (60, 0.3))]
    write_start(tmp_path, '20260102_000000', [*lines, val_line(60, 20.0), '{"loss": 1.'])
    assert seconds_per_step(tmp_path) == 0.2
