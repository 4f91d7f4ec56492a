"""Training and testing through the command line: whole runs, and what is refused."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from builders import (
    ROOT,
    mit,
    resnet,
    save_weights,
    term,
    wrapper_config,
    write_config,
    write_dataset,
)
from mmengine.model import BaseModel
from PIL import Image
from training_runs import forked_ranks, free_port, ranks_environment

from mmseg_kd.cli import test as test_command
from mmseg_kd.cli import train as train_command
from mmseg_kd.config.load import load_config
from mmseg_kd.errors import ConfigError

WAIT_S = 240
WARMUP = 1000
no_cuda = pytest.mark.skipif(torch.cuda.is_available(), reason='there is a CUDA device')


class Project:
    """A data set, a teacher's weights and configs in one folder.

    Args:
        folder: An empty folder.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.data = write_dataset(folder / 'data')
        self.work = folder / 'work'
        self.teacher = resnet(8)
        self.checkpoint = save_weights(self.teacher, folder / 'teacher.pth')

    def config(
        self,
        *terms: dict[str, Any],
        name: str = 'tiny.py',
        student: dict[str, Any] | None = None,
        teacher: dict[str, Any] | None = None,
        checkpoint: str | None = None,
        extra: str = '',
    ) -> str:
        """Write a config, by default of a sound distillation, with `extra` lines at its end."""
        model = wrapper_config(
            student or resnet(4, norm=dict(type='SyncBN', requires_grad=True)),
            teacher or self.teacher,
            checkpoint or self.checkpoint,
            *(terms or (term(), term('backbone.layer1', 'backbone.layer1', 'CDLoss'))),
        )
        path = write_config(self.folder, model, self.data, name)
        path.write_text(path.read_text(encoding='utf-8') + extra, encoding='utf-8')
        return str(path)

    def scalars(self) -> list[dict[str, float]]:
        """What the newest run in the work folder logged, by iteration."""
        path = max(self.work.glob('*/vis_data/scalars.json'))
        return [json.loads(line) for line in path.read_text(encoding='utf-8').splitlines()]


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return Project(tmp_path)


def environment() -> dict[str, str]:
    # The package beside these tests, whichever is installed.
    tools = {'PYTHON': sys.executable, 'PYTHONPATH': str(ROOT), 'PORT': str(free_port())}
    return {**os.environ, **tools, 'OMP_NUM_THREADS': '1'}


def start(*command: str) -> subprocess.Popen[str]:
    """Start a tool as a user does, in a process group of its own."""
    program = ['bash'] if command[0].endswith('.sh') else [sys.executable]
    return subprocess.Popen(
        [*program, *command],
        cwd=ROOT,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def run(*command: str) -> tuple[int, str, str]:
    """Run a tool to its end; returns exit code, stdout and stderr."""
    process = start(*command)
    try:
        out, err = process.communicate(timeout=WAIT_S)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
    return process.returncode, out, err


def succeed(*command: str) -> str:
    """Run a tool that must end well; returns stdout."""
    code, out, err = run(*command)
    assert code == 0, f'{out[-2000:]}\n{err[-4000:]}'
    return out


def miou_in(out: str) -> float:
    """The mean IoU that a test printed."""
    return float(re.findall(r'mIoU: ([\d.]+)', out)[-1])


def measure(project: Project, name: str, *args: str) -> dict[str, float]:
    """Test in this process, in a work folder `name` of its own; returns the metrics."""
    config = project.config(name=f'{name}.py')
    folder = project.folder / name
    assert test_command.main([config, *args, '--work-dir', str(folder)]) == 0
    [report] = folder.glob('*/*.json')
    metrics: dict[str, float] = json.loads(report.read_text(encoding='utf-8'))
    return {key: value for key, value in metrics.items() if 'time' not in key}


# Whole runs.


@pytest.mark.slow
def test_a_killed_run_goes_on_and_its_checkpoints_are_measured(project: Project) -> None:
    config = project.config(term(weight=2.0, schedule=dict(type='LinearWarmup', end=WARMUP)))
    endless = start('tools/train.py', config, '--cfg-options', 'train_cfg.max_iters=100000')
    last = project.work / 'last_checkpoint'
    deadline = time.monotonic() + WAIT_S
    try:
        while not last.exists() or 'iter_2.pth' in last.read_text(encoding='utf-8'):
            assert endless.poll() is None, endless.communicate()
            assert time.monotonic() < deadline
            time.sleep(0.02)
    finally:
        os.killpg(endless.pid, signal.SIGKILL)
    endless.communicate(timeout=WAIT_S)
    assert endless.returncode == -signal.SIGKILL
    [done] = map(int, re.findall(r'iter_(\d+)\.pth', last.read_text(encoding='utf-8')))

    end = done + 3
    time.sleep(1)  # folders of runs are named by the second
    options = ('--cfg-options', f'train_cfg.max_iters={end}')
    out = succeed('tools/train.py', config, '--resume', *options)
    assert f'iter: {done}' in out
    rows = [row for row in project.scalars() if 'kd.kl' in row]
    assert [row['step'] for row in rows] == [done + 1, done + 2, done + 3]
    for row in rows:
        assert row['kd_weight.kl'] == pytest.approx(2.0 * (row['step'] - 1) / WARMUP)
        assert row['loss'] == pytest.approx(row['decode.loss_ce'] + row['kd.kl'], rel=1e-3)

    # The checkpoint has no teacher in it, and its student is a plain one.
    checkpoint = project.work / f'iter_{end}.pth'
    weights = torch.load(checkpoint, weights_only=False)['state_dict']
    assert {key.split('.')[0] for key in weights} == {'student'}
    plain = project.folder / 'student.pth'
    torch.save({key.removeprefix('student.'): value for key, value in weights.items()}, plain)
    found = measure(project, 'of_wrapper', str(checkpoint))
    assert found == measure(project, 'of_student', str(plain))
    assert 0 < found['mIoU'] < 100

    masks, painted = project.folder / 'masks', project.folder / 'painted'
    folders = ('--out', str(masks), '--show-dir', str(painted))
    out = succeed('tools/test.py', config, str(checkpoint), '--tta', *folders)
    assert 0 < miou_in(out) < 100
    assert sorted(path.name for path in masks.iterdir()) == ['0.png', '1.png', '2.png']
    for path in masks.iterdir():
        mask = np.asarray(Image.open(path))
        assert mask.shape == (32, 32)
        assert mask.max() < 5
    assert len([path for path in painted.rglob('*') if path.suffix in ('.png', '.jpg')]) == 3


def train_rank(rank: int, port: int, config: str) -> None:
    os.environ.update(ranks_environment(rank, 2, port))
    options = ['--launcher', 'pytorch', '--cfg-options', 'train_cfg.max_iters=2']
    assert train_command.main([config, *options]) == 0


@pytest.mark.slow
def test_two_processes_train_and_test(project: Project) -> None:
    config = project.config()
    # The script that trains is run where ranks die.
    with forked_ranks(train_rank, free_port(), config):
        pass
    checkpoint = str(project.work / 'iter_2.pth')
    # The last of three images is with one rank alone.
    out = succeed('tools/dist_test.sh', config, checkpoint, '2')
    assert miou_in(out) == pytest.approx(measure(project, 'alone', checkpoint)['mIoU'], abs=0.011)


@pytest.mark.slow
def test_an_error_is_all_that_a_user_sees(project: Project) -> None:
    config = project.config(term('decode_head.conv_sge'), term(loss='CGD'))
    code, _, err = run('tools/train.py', config)
    assert code == 1
    lines = err.splitlines()
    assert lines[0] == 'error: 2 problems:'
    assert len(lines) == 3
    assert 'nearest: decode_head.conv_seg' in err
    assert 'nearest: CWD, CGDLoss, CDLoss' in err


def test_teacher_is_measured(project: Project) -> None:
    of_teacher = measure(project, 'of_teacher', '--teacher')
    other = save_weights(project.teacher, project.folder / 'other.pth', seed=8)
    assert of_teacher != measure(project, 'of_other', other, '--teacher')
    assert of_teacher == measure(project, 'of_file', project.checkpoint, '--teacher')
    # At the size that it sees in the distillation.
    size = '--cfg-options', 'model.teacher.input_size=(64,96)'
    assert of_teacher != measure(project, 'of_larger', '--teacher', *size)


# What is refused, before the first iteration.


@pytest.fixture
def refuse(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Callable[..., str]:
    """Run a command that must end in an error; returns what it says on stderr."""

    def fail(*args: Any, **kwargs: Any) -> None:
        raise AssertionError('an iteration has begun')

    monkeypatch.setattr(BaseModel, 'train_step', fail)

    def refused(*args: str, command: Any = train_command) -> str:
        capsys.readouterr()
        assert command.main(args) == 1
        err = capsys.readouterr().err
        assert err.startswith('error: ')
        assert 'Traceback' not in err
        assert len(err.splitlines()) <= 4
        return err

    return refused


@pytest.mark.parametrize(
    ('one', 'parts'),
    [
        (
            term('decode_head.conv_sge'),
            ("the student has no layer 'decode_head.conv_sge'", 'nearest: decode_head.conv_seg'),
        ),
        (term(loss='CGDLos'), ("there is no kd_loss 'CGDLos'", 'nearest: CGDLoss')),
        (term(loss=dict(type='KLLoss', tua=1.0)), ("no argument 'tua'", 'nearest: tau')),
    ],
    ids=['layer', 'loss', 'argument'],
)
def test_a_wrong_term_is_refused(
    project: Project, refuse: Callable[..., str], one: dict[str, Any], parts: tuple[str, ...]
) -> None:
    err = refuse(project.config(one))
    assert all(part in err for part in parts)


@pytest.mark.parametrize(
    ('extra', 'parts'),
    [
        ('optim_wraper = dict()', ("unknown key 'optim_wraper'", "did you mean 'optim_wrapper'")),
        (
            "optim_wrapper['optimizer'] = dict(type='AdamWW', lr=1.0)",
            ("there is no optimizer 'AdamWW'", 'nearest: AdamW'),
        ),
        (
            "optim_wrapper['optimizer'] = dict(type='SGD', learning_rate=1.0)",
            ('learning_rate', 'SGD'),
        ),
        ("train_pipeline.insert(0, dict(type='LoadImage'))", ("no transform 'LoadImage'",)),
        ("default_hooks['logger'] = dict(type='LogHook')", ("no hook 'LogHook'", 'LoggerHook')),
        ("train_cfg = dict(type='IterLoop', max_iters=3)", ("no loop 'IterLoop'",)),
        ("val_evaluator = dict(type='IoU')", ("no metric 'IoU'", 'IoUMetric')),
        ('x = (', ('SyntaxError',)),
        ('x = 1 / 0', ('ZeroDivisionError',)),
    ],
    ids=[
        'misspelt key',
        'optimiser',
        "optimiser's argument",
        'transform',
        'hook',
        'loop',
        'metric',
        'syntax',
        'exception',
    ],
)
def test_a_wrong_config_is_refused(
    project: Project, refuse: Callable[..., str], extra: str, parts: tuple[str, ...]
) -> None:
    err = refuse(project.config(extra=extra + '\n'))
    assert all(part in err for part in parts), err


def test_a_missing_base_is_refused(project: Project, refuse: Callable[..., str]) -> None:
    config = Path(project.config())
    text = config.read_text(encoding='utf-8').replace('runtime.py', 'absent_base.py')
    config.write_text(text, encoding='utf-8')
    assert 'absent_base.py' in refuse(str(config))


def test_variables_of_a_config_are_no_misspelt_keys(project: Project) -> None:
    extra = 'del tta_pipeline\ntest_pipelines = train_loader = norm_cfg = img_scale = None\n'
    load_config(project.config(extra=extra), None)


def test_a_missing_config_is_refused(project: Project, refuse: Callable[..., str]) -> None:
    assert 'there is no config file' in refuse(str(project.folder / 'absent.py'))
    assert 'segformer/segformer_mit-b5' in refuse('mmseg::segformer/segformer_mit-b0.py')


def test_a_missing_teacher_file_is_refused(project: Project, refuse: Callable[..., str]) -> None:
    err = refuse(project.config(checkpoint=str(project.folder / 'absent.pth')))
    assert 'absent.pth: there is no such checkpoint file' in err


def test_a_truncated_teacher_file_is_refused(project: Project, refuse: Callable[..., str]) -> None:
    path = Path(project.checkpoint)
    path.write_bytes(path.read_bytes()[:3000])
    assert 'teacher.pth: torn or no checkpoint' in refuse(project.config())


def test_weights_of_another_teacher_are_refused(
    project: Project, refuse: Callable[..., str]
) -> None:
    save_weights(mit(8), Path(project.checkpoint))
    err = refuse(project.config())
    assert 'does not fit the teacher' in err or 'belongs to another network' in err


def test_class_counts_that_differ_are_refused(project: Project, refuse: Callable[..., str]) -> None:
    seven = resnet(8, classes=7)
    checkpoint = save_weights(seven, project.folder / 'seven.pth')
    err = refuse(project.config(term(), teacher=seven, checkpoint=checkpoint))
    assert 'the student tells 5 classes apart and the teacher 7' in err
    features = term('backbone.layer1', 'backbone.layer1')
    err = refuse(project.config(features, student=resnet(4, classes=7)))
    assert 'BaseSegDataset has 5 classes and the network num_classes=7' in err


@pytest.mark.parametrize('split', ['train', 'val'])
def test_an_empty_folder_is_refused(
    project: Project, refuse: Callable[..., str], split: str
) -> None:
    for path in (project.data / 'images' / split).iterdir():
        path.unlink()
    err = refuse(project.config())
    assert f'{split} data: ' in err
    assert 'no' in err
    assert f'images/{split}' in err


@pytest.mark.parametrize('split', ['train', 'val'])
def test_a_missing_folder_is_refused(
    project: Project, refuse: Callable[..., str], split: str
) -> None:
    (project.data / 'images' / split).rename(project.data / 'moved')
    err = refuse(project.config())
    assert f'{split} data: ' in err
    assert f'images/{split}' in err


@pytest.mark.parametrize('split', ['train', 'val'])
def test_a_mask_with_a_value_that_is_no_class_is_refused(
    project: Project, refuse: Callable[..., str], split: str
) -> None:
    path = project.data / 'annotations' / split / '1.png'
    Image.fromarray(np.full((32, 32), 5, dtype=np.uint8)).save(path)
    err = refuse(project.config())
    assert '1.png holds the value 5; expected 0 to 4 or 255 (ignored)' in err
    assert err.startswith(f'error: {split} data: ')


def test_a_missing_mask_is_refused(project: Project, refuse: Callable[..., str]) -> None:
    (project.data / 'annotations' / 'train' / '2.png').unlink()
    assert '2.png is missing' in refuse(project.config())


@no_cuda
def test_cuda_is_refused_where_there_is_none(project: Project, refuse: Callable[..., str]) -> None:
    err = refuse(project.config(), '--device', 'cuda')
    assert 'CUDA' in err
    assert '--device' in err


def test_a_resume_from_a_missing_file_is_refused(
    project: Project, refuse: Callable[..., str]
) -> None:
    err = refuse(project.config(), '--resume', str(project.folder / 'iter_9.pth'))
    assert 'iter_9.pth' in err
    assert re.search(r'no such|not exist|can not be found|cannot be found', err)


def test_an_override_is_checked_like_the_config(
    project: Project, refuse: Callable[..., str]
) -> None:
    err = refuse(project.config(), '--cfg-options', 'model.distillation.0.loss.type=KL')
    assert "there is no kd_loss 'KL'" in err


def test_debug_shows_where_an_error_comes_from(project: Project) -> None:
    with pytest.raises(ConfigError, match='has no layer'):
        train_command.main([project.config(term('x')), '--debug'])


def test_test_refuses_what_it_cannot_measure(project: Project, refuse: Callable[..., str]) -> None:
    def refused(*args: str) -> str:
        return refuse(*args, command=test_command)

    config = project.config()
    assert 'expected a checkpoint' in refused(config)
    assert 'absent.pth: there is no such checkpoint file' in refused(config, 'absent.pth')
    err = refused(config, project.checkpoint)  # the student is half as wide
    assert 'Give the checkpoint of the same architecture' in err
    plain = project.config(extra='model = model["student"]\n')
    assert 'the config is no distillation' in refused(plain, project.checkpoint, '--teacher')
    without = project.config(extra='del tta_pipeline\n')
    err = refused(without, project.checkpoint, '--teacher', '--tta')
    assert '--tta: expected tta_pipeline' in err
