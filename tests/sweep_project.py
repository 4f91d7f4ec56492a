"""A small sweep, and the command in a process of its own."""

from __future__ import annotations

from pathlib import Path

from builders import resnet, save_weights, term, wrapper_config, write_config, write_dataset
from comparison_project import fork_runs
from mmengine.registry import init_default_scope
from training_runs import Training

from mmseg_kd.cli import sweep

# Appended to a config of `write_dataset`.
SWEEP = """
train_cfg = dict(type='IterBasedTrainLoop', max_iters=4, val_interval=2)
default_hooks['checkpoint'].update(interval=2, max_keep_ckpts=1)
sweep = dict(
    space={
        'model.distillation.0.weight': [1.0, 3.0],
        'model.distillation.0.loss.tau': [1.0, 2.0],
    },
    held_out=dict(every=3, block=2),
)
"""


def write_sweep(folder: Path, extra: str = '') -> str:
    """Write a data set of twelve samples, a teacher and a plan; returns its path."""
    init_default_scope('mmseg')
    data = write_dataset(folder / 'data', train=12)
    teacher = resnet(8)
    checkpoint = save_weights(teacher, folder / 'teacher.pth')
    model = wrapper_config(resnet(4), teacher, checkpoint, term())
    path = write_config(folder, model, data, 'plan.py')
    path.write_text(path.read_text(encoding='utf-8') + SWEEP + extra, encoding='utf-8')
    return str(path)


def sweeping(plan: str, work_dir: Path, *options: str) -> Training:
    """`mmseg-kd sweep` in a process of its own."""
    logs = len(list(work_dir.parent.glob('*.log')))
    command = [plan, '--work-dir', str(work_dir), *options]
    log = work_dir.with_name(f'sweep{logs}.log')
    return Training(command, log, prepare=fork_runs, main=sweep.main)
