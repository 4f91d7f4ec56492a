"""Comparisons on CamVid, with the teacher's scores kept, as long as the minutes last.

They go on where they stopped when this is called again with the same folder.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tarfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mmengine.config import Config

import mmseg_kd.register  # noqa: F401  what configs name
from gpu_parts.part import ROOT, NotHereError, Part
from mmseg_kd.comparison.plan import read_plan
from mmseg_kd.config.recipes import RECIPES


@dataclass(frozen=True)
class Study:
    """A plan with methods that take kept scores; what it begins with is made where it is missing.

    Attributes:
        name: Of its folder.
        plan: Its file. In it are the teacher's checkpoint and the folder of its scores.
        teacher: The experiment that trains the teacher, whose best checkpoint that is.
        taught: Methods beside the baseline, the first one with kept scores. A step costs about the
            same in each that takes these, so that equal steps are equal time.
        iterations: Of each.
        images: Those that scores are kept of.
    """

    name: str
    plan: str
    teacher: str
    taught: Sequence[str]
    iterations: int
    images: str = 'data/camvid/images/train'

    @property
    def methods(self) -> list[str]:
        """What is compared."""
        return ['alone', *self.taught]


CAMVID = 'distillation_configs/camvid/'
STUDIES = (
    Study(
        'few-masks',
        CAMVID + 'few-masks-240x320.py',
        CAMVID + 'few-masks-240x320.py::efficientnet-lite2',
        ['cwd_new', 'cwd-9_new', 'dist_new', 'all-masks'],
        1800,
    ),
    Study(
        'new-film',
        CAMVID + 'new-film-240x320.py',
        CAMVID + 'new-film-240x320.py::efficientnet-lite2',
        ['cwd_new', 'cwd-9_new'],
        1800,
    ),
    # All recipes at a converged budget, and ways to use them.
    Study(
        'recipes',
        CAMVID + 'new-film-120x160.py',
        CAMVID + 'new-film-240x320.py::efficientnet-lite2',
        ['cwd-auto_new', 'cwd-pkd_new', 'stages_new', 'strong', 'cwd_new_strong']
        + [f'{recipe}_new' for recipe in RECIPES],
        2400,
    ),
    Study(
        'methods',
        CAMVID + 'methods-240x320.py',
        CAMVID + 'regime-240x320.py::teacher-480x640_4x',
        ['cwd_stored', 'dist_stored'],
        3600,
    ),
)
# A run at a time leaves most of a large GPU idle: its steps are many small kernels.
JOBS = 9
# What a run needs to write its checkpoint when it is told to stop.
MARGIN_S = 25

TOY_PLAN = """
_base_ = '{base}'
load, changes = _base_.train_pipeline[:2], _base_.train_pipeline[2:-1]
pack = dict(type='PackStoredScores', folder='{scratch}/scores')
scores = [*load, dict(type='TrackPixels'), *changes, pack]
experiments = {{
    'larger': dict(options={{'model.student.config': '{teacher}'}}),
    'alone': dict(),
    'cwd': dict(
        options={{
            'model.teacher.stored': True,
            'model.distillation': [dict(recipe='cwd')],
            'train_dataloader.dataset.pipeline': scores,
        }}
    ),
}}
comparison = dict(
    baseline='alone', seeds=1, may_differ=['model.student', 'train_dataloader']
)
model = dict(teacher=dict(checkpoint='{scratch}/teacher/student_best.pth'))
train_dataloader = dict(dataset=dict(data_root='{scratch}/scenes'))
val_dataloader = dict(dataset=dict(data_root='{scratch}/scenes'))
test_dataloader = dict(dataset=dict(data_root='{scratch}/scenes'))
train_cfg = dict(max_iters=2, val_interval=2)
param_scheduler = []
default_hooks = dict(checkpoint=dict(interval=2))
"""


def run(part: Part) -> None:
    for study in [_toy_study(part.scratch)] if part.rehearse else STUDIES:
        with part.check(f'{study.name}: the comparison ends without a failed run') as figures:
            figures['exit code'] = status = _compare(part, study)
            assert status in (0, os.EX_TEMPFAIL), f'exit code {status}'
    if part.rehearse:
        with part.check('the plans can be read') as figures:
            for study in STUDIES:
                plan = read_plan(str(ROOT / study.plan), only=study.methods)
                figures[study.name] = ', '.join(_needed(plan.methods[study.taught[0]]))


def _compare(part: Part, study: Study) -> int:
    if not (ROOT / study.images).is_dir():
        raise NotHereError(study.images)
    _prepare(part, study)
    arguments = [study.plan, '--only', *study.methods]
    arguments += ['--budget', f'iterations={study.iterations}', '--jobs', str(JOBS)]
    folder = part.out / 'study' / study.name
    status = _until(part, 'compare', *arguments, '--work-dir', str(folder))
    part.note(f'`mmseg-kd compare {" ".join(arguments)}`')
    results = folder / 'results.md'
    if results.exists():
        part.note(results.read_text(encoding='utf-8'))
    _pack_logs(folder)
    return status


def _needed(method: Config) -> tuple[str, str]:
    """The teacher's checkpoint and the folder of its scores, of a method that takes them."""
    dataset = method.train_dataloader.dataset
    pipeline = dataset.get('datasets', [dataset])[0].pipeline
    return method.model.teacher.checkpoint, pipeline[-1].folder


def _prepare(part: Part, study: Study) -> None:
    """Train the teacher to its end and keep its scores; what was stopped goes on."""
    plan = read_plan(str(ROOT / study.plan), only=study.methods)
    weights, scores = _needed(plan.methods[study.taught[0]])
    teacher, work_dir = study.teacher, str(Path(weights).parent)
    steps = [['pseudo-label', f'{teacher}:{weights}', study.images, scores, '--scores']]
    # Weights alone were brought here.
    if (ROOT / work_dir / 'last_checkpoint').exists() or not (ROOT / weights).exists():
        steps.insert(0, ['train', teacher, '--resume', '--seed', '0', '--work-dir', work_dir])
    for step in steps:
        status = _until(part, *step)
        # A command without checkpoints ends by the signal itself.
        if status in (os.EX_TEMPFAIL, -signal.SIGTERM):
            raise NotHereError(f'the end of {step[0]}, for which the time is over; run this again')
        assert status == 0, f'mmseg-kd {" ".join(step)}: exit code {status}'


def _until(part: Part, *arguments: str) -> int:
    """Run a command, and tell it to stop when the time is over; its exit code."""
    seconds = part.seconds_left - MARGIN_S
    if seconds < MARGIN_S:
        raise NotHereError(f'time for {arguments[0]}; run this again')
    command = [sys.executable, '-m', 'mmseg_kd', *arguments]
    with subprocess.Popen(command, cwd=ROOT) as process:
        try:
            return process.wait(seconds)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGTERM)
            return process.wait()


def _pack_logs(folder: Path) -> None:
    """All curves in one file, which is easier to bring home than many."""
    with tarfile.open(folder / 'logs.tar.gz', 'w:gz') as archive:
        for pattern in ('*/*/config.py', '*/*/run.log', '*/*/*/vis_data/scalars.json'):
            for path in sorted(folder.glob(pattern)):
                archive.add(path, path.relative_to(folder))


def _toy_study(scratch: Path) -> Study:
    """A study of seconds on generated scenes, its teacher and scores included."""
    from mmseg_kd.datasets.toy_scenes.dataset import generate

    plan, images = scratch / 'plan.py', scratch / 'scenes' / 'images' / 'training'
    generate(scratch / 'scenes', 8, 4, (128, 128), 0)
    text = TOY_PLAN.format(
        base=ROOT / 'distillation_configs/_base_/toy-128x128_resnet18_mobilenetv2-half.py',
        teacher=ROOT / 'configs/toy_scenes/resnet18-quarter_fpn_toy-128x128.py',
        scratch=scratch,
    )
    plan.write_text(text, encoding='utf-8')
    return Study('toy', str(plan), f'{plan}::larger', ['cwd'], 2, str(images))
