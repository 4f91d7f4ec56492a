"""Three short trainings that the report is made of: a student, its baseline and their teacher."""

from __future__ import annotations

import logging
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path

import pytest
from builders import resnet, term, wrapper_config, write_config, write_dataset
from mmengine.logging import MessageHub, MMLogger
from mmengine.registry import init_default_scope
from mmseg.visualization import SegLocalVisualizer

from mmseg_kd.cli import train
from mmseg_kd.cli.report import main

# Names that would be markup, close a script, or end a column of a table in a log.
HOSTILE = (
    '<img src=x onerror=alert(1)>',
    '</script><script>alert(2)</script>',
    '"double" & \'single\'',
    'pipe | name',
    '{{ 7 * 7 }}',
)

OFTEN = """
train_cfg = dict(type='IterBasedTrainLoop', max_iters=4, val_interval=2)
default_hooks['checkpoint']['save_best'] = 'mIoU'
default_hooks['logger'] = dict(type='LoggerHook', interval=1, log_metric_by_epoch=False)
"""


@dataclass(frozen=True)
class Project:
    """Work dirs, and the configs that they were trained with.

    Attributes:
        folder: What all lies in.
        student, baseline, teacher: Work dirs.
        page: The report of all three.
    """

    folder: Path
    student: Path
    baseline: Path
    teacher: Path
    page: Path


def write_project_config(folder: Path, name: str, model: dict[str, object], data: Path) -> str:
    path = write_config(folder, model, data, f'{name}.py')
    text = path.read_text(encoding='utf-8').replace("('a', 'b', 'c', 'd', 'e')", repr(HOSTILE))
    path.write_text(text + OFTEN, encoding='utf-8')
    return str(path)


@pytest.fixture(scope='session')
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """Trained, measured and reported once."""
    return trained(tmp_path_factory.mktemp('project'))


def forget_runs() -> None:
    """Otherwise what a run made, of any test, is used again by the next, with its folder."""
    for shared in (MessageHub, MMLogger, SegLocalVisualizer):
        shared._instance_dict.clear()


def trained(folder: Path) -> Project:
    """Train all three, and write the page about them."""
    init_default_scope('mmseg')
    hubs = OrderedDict(MessageHub._instance_dict)
    data = write_dataset(folder / 'data')
    teacher = folder / 'teacher'
    checkpoint = str(teacher / 'iter_4.pth')
    schedule = [dict(type='LinearDecay', begin=1, end=4)]
    terms = (
        term(name='logits', weight=2.0, schedule=schedule),
        term('backbone.layer1', 'backbone.layer1', 'CDLoss', name='features'),
    )
    models = {
        'teacher': resnet(8),
        'student': wrapper_config(resnet(4), resnet(8), checkpoint, *terms),
        'baseline': wrapper_config(resnet(4), resnet(8), checkpoint),
    }
    for name, model in models.items():
        config = write_project_config(folder, name, model, data)
        forget_runs()
        assert train.main([config, '--work-dir', str(folder / name)]) == 0
    forget_runs()
    MMLogger.get_current_instance().setLevel(logging.WARNING)
    work = [folder / name for name in ('student', 'baseline', 'teacher')]
    page = folder / 'report.html'
    # Its teacher, without a folder of its own, is kept with it: copies need not measure it.
    assert main([str(work[0]), '--pictures', '1']) == 0
    assert main([*map(str, work), '--out', str(page), '--pictures', '3']) == 0
    MessageHub._instance_dict = hubs
    return Project(folder, *work, page)
