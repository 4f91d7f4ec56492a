"""What is measured once, and what again."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from mmengine.logging import MMLogger
from report_project import Project
from torch import Tensor, nn

from mmseg_kd.cli.report import main
from mmseg_kd.report import measuring
from mmseg_kd.report.measurement import operations
from mmseg_kd.report.measuring import measure_runs
from mmseg_kd.report.run import TEACHER, Run, read_runs
from mmseg_kd.report.subject import Subject


@pytest.fixture
def runs(project: Project, tmp_path: Path) -> list[Run]:
    """A student and its baseline, of which nothing was measured."""
    folders = [tmp_path / source.name for source in (project.student, project.baseline)]
    for source, folder in zip((project.student, project.baseline), folders, strict=True):
        shutil.copytree(source, folder, ignore=shutil.ignore_patterns('report'))
    return [run for run in read_runs([str(folder) for folder in folders]) if run.has_folder]


def test_another_ignored_label_is_another_measurement(runs: list[Run]) -> None:
    run = runs[0]
    assert run.config is not None
    before = Subject(run).folder
    assert Subject(run).folder == before
    run.config.test_evaluator['ignore_index'] = 1
    assert Subject(run).folder != before


def test_a_teacher_is_measured_as_it_sees_the_images(project: Project, tmp_path: Path) -> None:
    folder = tmp_path / 'student'
    shutil.copytree(project.student, folder, ignore=shutil.ignore_patterns('report'))
    [config] = folder.glob('*/vis_data/config.py')
    text = config.read_text(encoding='utf-8') + "\nmodel['teacher']['input_size'] = (48, 64)\n"
    config.write_text(text, encoding='utf-8')
    seen = []
    folders = []
    for source in (project.student, folder):
        [teacher] = [run for run in read_runs([str(source)]) if run.role == TEACHER]
        subject = Subject(teacher)
        folders.append(subject.folder.name)
        subject.network.backbone.register_forward_pre_hook(
            lambda _, args: seen.append(tuple(args[0].shape[-2:]))
        )
        subject.predictions([0])
    assert seen[1] == (48, 64) != seen[0]
    assert folders[0] != folders[1]


def test_what_was_measured_before_an_interrupt_is_kept(
    runs: list[Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    measure = Subject.measure

    def interrupted(subject: Subject, progress: Callable[[int, int], None]) -> Any:
        if subject.run is runs[1]:
            raise KeyboardInterrupt
        return measure(subject, progress)

    monkeypatch.setattr(Subject, 'measure', interrupted)
    with pytest.raises(KeyboardInterrupt):
        measure_runs(runs)
    first, second = (Subject(run).measured for run in runs)
    assert first is not None
    assert len(first.images) == 3
    assert second is None


def test_networks_that_were_timed_apart_are_timed_again(
    runs: list[Run], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for run in runs:
        measure_runs([run], rounds=1)
        assert run.measured is not None
    assert len({run.measured.session for run in runs if run.measured}) == 2
    with monkeypatch.context() as patch:
        patch.setattr(measuring, 'time_networks', fail)
        measure_runs(runs)
    # Times that cannot be compared are not shown.
    assert [run.measured.seconds for run in runs if run.measured] == [None, None]
    assert runs[0].gaps['speed'] == ['Not timed: RuntimeError: no memory']
    capsys.readouterr()
    measure_runs(runs, rounds=1)
    assert capsys.readouterr().out == 'Timing 2 networks in turns\n'
    [session] = {run.measured.session for run in runs if run.measured}
    assert session
    measure_runs(runs)
    assert capsys.readouterr().out == ''


class Attention(nn.Module):
    """Pixels that attend to each other, without a matrix of weights that a trace would show."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, images: Tensor) -> Tensor:
        pixels = images.flatten(2).transpose(1, 2) * self.scale
        return nn.functional.scaled_dot_product_attention(pixels, pixels, pixels)


def test_attention_is_counted() -> None:
    # Twice 12 x 12 x 3, the pixels among themselves.
    assert operations(Attention(), [3, 4]) == 2 * 12 * 12 * 3


def test_what_cannot_be_traced_is_not_counted() -> None:
    assert operations(nn.Linear(5, 5), [3, 4]) is None


def test_warnings_are_seen(project: Project, tmp_path: Path) -> None:
    folder = tmp_path / 'run'
    shutil.copytree(project.baseline, folder, ignore=shutil.ignore_patterns('report'))
    # Where its measurement would go there is a file, and its best checkpoint is torn.
    (folder / 'report').write_text('', encoding='utf-8')
    [best] = folder.glob('best_mIoU_*.pth')
    best.write_bytes(best.read_bytes()[:1000])
    said: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: said.append(record.getMessage())  # type: ignore[method-assign]
    logger = MMLogger.get_current_instance()
    logger.addHandler(handler)
    try:
        assert main([str(folder), '--pictures', '0']) == 0
    finally:
        logger.removeHandler(handler)
    assert {line.partition(':')[0] for line in said} == {
        'Skipped',
        'Not kept, to be measured again',
    }


def fail(*args: Any) -> None:
    raise RuntimeError('no memory')
