"""A small comparison whose processes are forks of the test's, which start sooner."""

from __future__ import annotations

import logging
import os
import signal
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import pytest
from builders import resnet, save_weights, wrapper_config, write_config, write_dataset
from mmengine.logging import MMLogger
from mmengine.registry import init_default_scope
from report_project import forget_runs
from training_runs import Training

from mmseg_kd.cli import compare
from mmseg_kd.comparison import queue, run, seconds, steps

# Appended to a config of `write_dataset`: a method without and one with a teacher, one that fails.
METHODS = """
train_cfg = dict(type='IterBasedTrainLoop', max_iters=8, val_interval=4)
default_hooks['checkpoint'].update(interval=2, max_keep_ckpts=1)
terms = [
    dict(
        student_layer='decode_head.conv_seg',
        teacher_layer='decode_head.conv_seg',
        loss=dict(type='KLLoss'),
    )
]
experiments = {
    'alone': dict(),
    'kl': dict(options={'model.distillation': terms}),
    'lost': dict(options={'model.distillation': [dict(terms[0], student_layer='nowhere')]}),
}
comparison = dict(baseline='alone', seeds=2)
"""


def write_plan(folder: Path, extra: str = '') -> str:
    """Write a data set, a teacher and a plan; returns its path."""
    init_default_scope('mmseg')
    MMLogger.get_current_instance().setLevel(logging.WARNING)
    data = write_dataset(folder / 'data')
    teacher = resnet(8)
    checkpoint = save_weights(teacher, folder / 'teacher.pth')
    path = write_config(folder, wrapper_config(resnet(4), teacher, checkpoint), data, 'plan.py')
    path.write_text(path.read_text(encoding='utf-8') + METHODS + extra, encoding='utf-8')
    return str(path)


class Forked:
    """What `process.start` starts, as a fork; the part of `Popen` that the queue uses."""

    def __init__(self, command: Sequence[str], environment: Mapping[str, str], log: Path) -> None:
        module, *arguments = command
        log.write_bytes(b'')
        read, write = os.pipe()
        self.stdin = os.fdopen(write, 'wb')

        def prepare() -> None:
            os.dup2(read, 0)

        main = {'run': run.main, 'steps': steps.main}[module]
        self.training = Training(arguments, log, environment, prepare, main=main)
        self.pid = self.training.pid
        self.returncode: int | None = None
        os.close(read)

    def poll(self) -> int | None:
        if self.returncode is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self.returncode = os.waitstatus_to_exitcode(status)
        return self.returncode

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)


def fork_runs() -> None:
    """For the rest of this process, forks take the place of new processes, and a poll is short."""
    for module in (queue, seconds):
        module.start = Forked  # type: ignore[assignment]
        module.POLL_S = 0.02


def comparing(plan: str, work_dir: Path, *options: str) -> Training:
    """`mmseg-kd compare` in a process of its own."""
    command = [plan, '--work-dir', str(work_dir), *options]
    logs = len(list(work_dir.parent.glob('*.log')))
    log = work_dir.with_name(f'compare{logs}.log')
    return Training(command, log, prepare=fork_runs, main=compare.main)


@pytest.fixture(scope='session')
def compared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path, str]]:
    """A plan, its work dir, and what the command printed; a method of it fails."""
    folder = tmp_path_factory.mktemp('comparison')
    plan = write_plan(folder)
    forget_runs()
    process = comparing(plan, folder / 'work')
    assert process.wait() == 1, process.output()
    yield plan, folder / 'work', process.output()
