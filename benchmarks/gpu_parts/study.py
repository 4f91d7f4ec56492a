"""A comparison of methods on CamVid, with the teacher's scores kept, as long as the minutes last.

It goes on where it stopped when it is called again with the same folder.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tarfile
from pathlib import Path

import mmseg_kd.register  # noqa: F401  what configs name
from gpu_parts.part import ROOT, NotHereError, Part
from mmseg_kd.comparison.plan import Budget, read_plan

PLAN = 'distillation_configs/camvid/methods-240x320.py'
# A step costs about the same in each, so that equal steps are equal time.
METHODS = ('alone', 'cwd_stored', 'dist_stored')
ITERATIONS = 3600
IMAGES = 'data/camvid/images/train'
# What the plan begins with, made here where it is missing: its teacher, then that one's scores.
TEACHER = 'distillation_configs/camvid/regime-240x320.py::teacher-480x640_4x'
TEACHER_RUN = 'work_dirs/regime-240x320/teacher-480x640_4x/seed0'
WEIGHTS = TEACHER_RUN + '/student_best.pth'
SCORES = 'work_dirs/scores-480x640'
# A run at a time leaves most of a large GPU idle: its steps are many small kernels.
JOBS = 9
# What a run needs to write its checkpoint when it is told to stop.
MARGIN_S = 25

TOY_PLAN = """
_base_ = '{base}'
experiments = {{
    'alone': dict(options={{'model.distillation': []}}),
    'cgd': dict(),
}}
comparison = dict(baseline='alone', seeds=1, iterations=2)
train_dataloader = dict(dataset=dict(data_root='{data}'))
val_dataloader = dict(dataset=dict(data_root='{data}'))
test_dataloader = dict(dataset=dict(data_root='{data}'))
model = dict(teacher=dict(checkpoint='{teacher}'))
"""


def run(part: Part) -> None:
    with part.check('the comparison ends without a failed run') as figures:
        # Read in a rehearsal too: a plan that is gone would be found out on the lent machine.
        read_plan(str(ROOT / PLAN), budget=Budget(iterations=ITERATIONS), only=METHODS)
        arguments = [PLAN, '--only', *METHODS, '--budget', f'iterations={ITERATIONS}']
        arguments += ['--jobs', str(JOBS)]
        if part.rehearse:
            arguments = [str(_toy_plan(part.scratch)), '--jobs', '1']
        elif not (ROOT / IMAGES).is_dir():
            raise NotHereError(IMAGES)
        else:
            _prepare(part)
        folder = part.out / 'study'
        status = _until(part, 'compare', *arguments, '--work-dir', str(folder))
        figures['exit code'] = status
        part.note(f'`mmseg-kd compare {" ".join(arguments)}`')
        results = folder / 'results.md'
        if results.exists():
            part.note(results.read_text(encoding='utf-8'))
        _pack_logs(folder)
        assert status in (0, os.EX_TEMPFAIL), f'exit code {status}'


def _prepare(part: Part) -> None:
    """Train the teacher to its end and keep its scores; what was stopped goes on."""
    steps = [['pseudo-label', f'{TEACHER}:{WEIGHTS}', IMAGES, SCORES, '--scores']]
    # Weights alone were brought here.
    if (ROOT / TEACHER_RUN / 'last_checkpoint').exists() or not (ROOT / WEIGHTS).exists():
        steps.insert(0, ['train', TEACHER, '--resume', '--seed', '0', '--work-dir', TEACHER_RUN])
    for step in steps:
        status = _until(part, *step)
        if status == os.EX_TEMPFAIL:
            raise NotHereError(f'the end of {step[0]}, for which the time is over; run this again')
        assert status == 0, f'mmseg-kd {" ".join(step)}: exit code {status}'


def _until(part: Part, *arguments: str) -> int:
    """Run a command, and tell it to stop when the time is over; its exit code."""
    command = [sys.executable, '-m', 'mmseg_kd', *arguments]
    with subprocess.Popen(command, cwd=ROOT) as process:
        try:
            return process.wait(max(part.seconds_left - MARGIN_S, 0))
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGTERM)
            return process.wait()


def _pack_logs(folder: Path) -> None:
    """All curves in one file, which is easier to bring home than many."""
    with tarfile.open(folder / 'logs.tar.gz', 'w:gz') as archive:
        for pattern in ('*/*/config.py', '*/*/run.log', '*/*/*/vis_data/scalars.json'):
            for path in sorted(folder.glob(pattern)):
                archive.add(path, path.relative_to(folder))


def _toy_plan(scratch: Path) -> Path:
    """A plan of seconds: generated scenes, and a teacher with random weights."""
    import torch
    from mmengine.registry import init_default_scope
    from mmseg.registry import MODELS

    from mmseg_kd.config.load import load_config
    from mmseg_kd.datasets.toy_scenes.dataset import generate

    data, teacher, plan = scratch / 'scenes', scratch / 'teacher.pth', scratch / 'plan.py'
    generate(data, 8, 4, (128, 128), 0)
    init_default_scope('mmseg')
    model = load_config('configs/toy_scenes/resnet18-quarter_fpn_toy-128x128.py', None).model
    torch.save(MODELS.build(model).state_dict(), teacher)
    base = ROOT / 'distillation_configs/toy_scenes/resnet18_mobilenetv2-half_cgd_toy-128x128.py'
    plan.write_text(TOY_PLAN.format(base=base, data=data, teacher=teacher), encoding='utf-8')
    return plan
