"""What pip installs works without a checkout."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import pytest
from builders import ROOT

SOURCES = ('setup.py', 'pyproject.toml', 'MANIFEST.in', 'requirements.txt', 'README.md', 'LICENSE')
FOLDERS = ('mmseg_kd', 'configs', 'distillation_configs')
PIP = (sys.executable, '-m', 'pip')
OFFLINE = ('--no-deps', '--no-index', '--quiet')
SHORT = (
    '--cfg-options',
    *('train_cfg.max_iters=2', 'train_cfg.val_interval=2', 'default_hooks.checkpoint.interval=2'),
    *('train_dataloader.num_workers=0', 'train_dataloader.persistent_workers=False'),
    *('val_dataloader.num_workers=0', 'val_dataloader.persistent_workers=False'),
)
PAIR = 'mmseg_kd::distillation_configs/toy_scenes/resnet18_mobilenetv2-half_cgd_toy-128x128.py'


def run(*command: str, cwd: Path) -> str:
    """Run a program that must end well; returns what it prints."""
    environment = {k: v for k, v in os.environ.items() if k not in ('PYTHONPATH', 'PYTHONHOME')}
    environment['OMP_NUM_THREADS'] = '1'
    done = subprocess.run(
        command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    return done.stdout


@pytest.fixture(scope='module')
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The programs of an environment with a wheel, and with what it needs from this one."""
    folder = tmp_path_factory.mktemp('wheel')
    source = folder / 'source'
    for name in FOLDERS:
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns('__pycache__'))
    for name in SOURCES:
        shutil.copy(ROOT / name, source)
    wheel = ('wheel', '--no-build-isolation', '--wheel-dir', str(folder), '.')
    run(*PIP, *wheel, *OFFLINE, cwd=source)
    shutil.rmtree(source)
    environment = folder / 'environment'
    venv.create(environment, symlinks=True, with_pip=False)
    python = environment / 'bin' / 'python'
    [file] = folder.glob('*.whl')
    run(*PIP, '--python', str(python), 'install', str(file), *OFFLINE, cwd=folder)
    # What is installed beside it there is found first; .pth files of the other are not read.
    [packages] = environment.glob('lib/python*/site-packages')
    paths = {sysconfig.get_path(name) for name in ('purelib', 'platlib')}
    (packages / 'hosts.pth').write_text('\n'.join(paths), encoding='utf-8')
    return environment / 'bin'


@pytest.mark.slow
def test_a_wheel_lists_and_trains_what_is_shipped(installed: Path, tmp_path: Path) -> None:
    where = run(
        str(installed / 'python'), '-c', 'import mmseg_kd; print(mmseg_kd.__file__)', cwd=tmp_path
    )
    assert Path(where.strip()).is_relative_to(installed.parent)
    command = str(installed / 'mmseg-kd')
    listed = run(command, 'experiments', cwd=tmp_path)
    assert 'mmseg_kd::distillation_configs/ade20k/group_size.py::\n' in listed
    assert f'\n{PAIR.rpartition("/")[0]}/\n' in listed
    run(command, 'toy-scenes', '--train', '8', '--val', '2', '--size', '64', '64', cwd=tmp_path)
    # The teacher's weights come along.
    run(command, 'train', PAIR, '--work-dir', 'student', *SHORT, cwd=tmp_path)
    assert (tmp_path / 'student' / 'student_best.pth').is_file()
