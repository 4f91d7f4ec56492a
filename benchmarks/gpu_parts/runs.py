"""Whole runs in processes of their own: killed, stopped, launched, exported, on two ranks."""

from __future__ import annotations

import math
import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch

from gpu_parts.part import ROOT, NotHereError, Part

sys.path.insert(0, str(ROOT / 'tests'))

import builders
from builders import BN, GN, batch, build, resnet, save_weights, term, wrapper_config
from everything import write_everything
from exact_resume import assert_same
from mmengine.model import MMDistributedDataParallel
from mmengine.registry import init_default_scope
from torch import Tensor, distributed
from training_runs import Training, free_port, write_project

import mmseg_kd.register  # noqa: F401  what configs name
from mmseg_kd.errors import ExportError
from mmseg_kd.export.student import export_student
from mmseg_kd.hooks.stop_signal_hook import STOPPED
from mmseg_kd.schedules import at_iteration

# A run's last iteration, and that after which it is killed.
LAST, KILLED = 40, 16
SYNC_BN = dict(type='SyncBN', requires_grad=True)
RANKS, IMAGES = 2, 2

# Longer than anybody waits.
ENDLESS = """
train_cfg = dict(type='IterBasedTrainLoop', max_iters=1000000, val_interval=1000000)
default_hooks['checkpoint'] = dict(type='CheckpointHook', by_epoch=False, interval=1000000)
"""
LAUNCHED = """
train_cfg = dict(type='IterBasedTrainLoop', max_iters=8, val_interval=4)
"""


def run(part: Part) -> None:
    """Begin all runs at once, and see what becomes of them."""
    init_default_scope('mmseg')
    with Runs(part) as runs:
        everything = _begin(runs)
        with part.check('a run is killed in the middle') as figures:
            _kill(runs, everything, figures)
        with part.check('a run that is told to stop writes its checkpoint') as figures:
            _check_stopped(runs, figures)
        with part.check('equal runs with --deterministic end with the same bits') as figures:
            _check_same(runs, 'again', figures)
        with part.check('killed and resumed, it ends with the same bits') as figures:
            _check_same(runs, 'killed', figures)
        with part.check('mmseg-kd launch 1: DDP and SyncBN') as figures:
            _check_launched(runs, figures)
        for norm, name in ((GN, 'GN'), (SYNC_BN, 'SyncBN')):
            with part.check(f'two ranks with gloo and {name} give the gradients of one') as figures:
                _check_ranks(part, norm, figures)
        for to in ('mmseg', 'onnx'):
            with part.check(f'the student is exported to {to}') as figures:
                _check_exported(runs, everything, to, figures)


class Runs:
    """Trainings under way, by name; none outlives the context."""

    def __init__(self, part: Part) -> None:
        self.part = part
        self.folder = part.scratch
        self.begun: dict[str, float] = {}
        self._processes: dict[str, Training] = {}
        self._codes: dict[str, int] = {}

    def __enter__(self) -> Runs:
        return self

    def __exit__(self, *_: object) -> None:
        for name, process in self._processes.items():
            process.kill()
            print(f'--- {name}\n{process.output()[-4000:]}', flush=True)

    def begin(self, name: str, config: Path, *options: str, launch: bool = False) -> None:
        """Train `config` into the folder `name`."""
        part = self.part
        command = [str(config), '--work-dir', str(self.folder / name), *options]
        command += ['--device', part.device]
        # A process that has begun with CUDA cannot be forked; where none has, a fork is quick.
        program = [] if part.rehearse else [sys.executable, '-m', 'mmseg_kd', 'train']
        if launch:
            program = [sys.executable, '-m', 'mmseg_kd', 'launch', '--standalone', '1', 'train']
        self._codes.pop(name, None)
        self.begun[name] = time.monotonic()
        self._processes[name] = Training(command, self.folder / f'{name}.log', program=program)

    def __getitem__(self, name: str) -> Training:
        return self._processes[name]

    def wait(self, name: str) -> int:
        """The exit code of a run."""
        if name not in self._codes:
            self._codes[name] = self[name].wait(max(self.part.seconds_left - 5, 1))
        return self._codes[name]

    def wait_for(self, name: str, text: str) -> None:
        """Until a run has said `text`."""
        self[name].wait_for(text, seconds=max(self.part.seconds_left - 5, 1))

    def seconds(self, name: str) -> float:
        """How long ago a run began."""
        return round(time.monotonic() - self.begun[name], 1)


def _begin(runs: Runs) -> Path:
    """Begin all that has to wait for nothing; the config of the runs that are compared."""
    folder = runs.folder
    for name in ('everything', 'small', 'synchronised'):
        (folder / name).mkdir()
    everything = write_everything(folder / 'everything')
    for name in ('killed', 'whole', 'again'):
        runs.begin(name, everything, '--deterministic')
    endless = Path(write_project(folder / 'small', ENDLESS))
    runs.begin('stopped', endless, *([] if runs.part.rehearse else ['--amp']))
    synchronised = Path(write_project(folder / 'synchronised', LAUNCHED))
    text = synchronised.read_text(encoding='utf-8').replace("'BN'", "'SyncBN'")
    assert text.count("'SyncBN'") > 1
    synchronised.write_text(text, encoding='utf-8')
    runs.begin('launched', synchronised, launch=True)
    return everything


def _kill(runs: Runs, config: Path, figures: dict[str, Any]) -> None:
    runs.wait_for('killed', f'Iter(train) [{KILLED}/{LAST}]')
    os.kill(runs['killed'].pid, signal.SIGKILL)
    assert runs.wait('killed') == -signal.SIGKILL
    figures['seconds to that'] = runs.seconds('killed')
    figures['lines of the log'] = runs['killed'].output().count('Iter(train)')
    (runs.folder / 'killed.log').rename(runs.folder / 'before.log')
    runs.begin('killed', config, '--deterministic', '--resume')


def _check_same(runs: Runs, name: str, figures: dict[str, Any]) -> None:
    for one in ('whole', name):
        assert runs.wait(one) == 0, _end_of(runs[one].output())
    figures['seconds'] = runs.seconds(name)
    names = assert_same(runs.folder / 'whole', runs.folder / name)
    figures['checkpoints'] = len(names)
    assert f'iter_{LAST}.pth' in names, names


def _end_of(output: str) -> str:
    return output.strip()[-1500:]


def _check_launched(runs: Runs, figures: dict[str, Any]) -> None:
    code = runs.wait('launched')
    output = runs['launched'].output()
    assert code == 0, _end_of(output)
    figures['seconds'] = runs.seconds('launched')
    assert 'Distributed launcher: pytorch' in output
    assert ('gloo takes the place of NCCL' in output) == runs.part.rehearse
    _check_finite(torch.load(runs.folder / 'launched' / 'iter_8.pth', weights_only=False))


def _check_finite(checkpoint: Mapping[str, Any]) -> None:
    for name, tensor in checkpoint['state_dict'].items():
        assert tensor.isfinite().all(), name


def _check_stopped(runs: Runs, figures: dict[str, Any]) -> None:
    runs['stopped'].wait_for('Iter(train)', 20, max(runs.part.seconds_left - 5, 1))
    begun = time.monotonic()
    os.kill(runs['stopped'].pid, signal.SIGTERM)
    figures['exit code'] = runs.wait('stopped')
    figures['seconds'] = round(time.monotonic() - begun, 2)
    output = runs['stopped'].output()
    assert figures['exit code'] == STOPPED, _end_of(output)
    (path,) = (runs.folder / 'stopped').glob('iter_*.pth')
    figures['checkpoint'] = path.name
    assert f'Go on from {path}' in output
    checkpoint = torch.load(path, map_location='cpu', weights_only=False)
    _check_finite(checkpoint)
    assert checkpoint['meta']['iter'] == int(path.stem.removeprefix('iter_')) >= 20
    if not runs.part.rehearse:
        figures['scale'] = checkpoint['optimizer']['loss_scaler']['scale']


def _check_exported(runs: Runs, config: Path, to: str, figures: dict[str, Any]) -> None:
    assert runs.wait('whole') == 0
    checkpoint = runs.folder / 'whole' / f'iter_{LAST}.pth'
    try:
        exported = export_student(config, checkpoint, to=to, images=2)
    except ExportError as error:
        if 'is not installed' in str(error):
            raise NotHereError(str(error)) from error
        raise
    file = exported.files[to]
    figures['against PyTorch'] = str(file.agreement)
    assert file.path.stat().st_size > 0
    assert file.agreement.labels > 0.999


# Two ranks on one GPU, which NCCL refuses and gloo does not.


def _model(norm: dict[str, Any], checkpoint: Path) -> dict[str, Any]:
    teacher = resnet(8, norm=GN)
    features = 'backbone.layer1'
    return wrapper_config(
        resnet(4, norm=norm, dropout=0.0),
        teacher,
        str(checkpoint) if checkpoint.exists() else save_weights(teacher, checkpoint),
        term(loss='KLLoss', weight=2.0),
        term(loss=dict(type='CGDLoss', group_size=2, tau=2.0, shuffle_interval=1), weight=3.0),
        term(features, features, 'CDLoss', weight=10.0),
    )


def _gradients(model: Any, images: slice) -> dict[str, Tensor]:
    """Of one step on some images of the batch."""
    data = {key: value[images] for key, value in batch(RANKS * IMAGES).items()}
    model.train()
    with at_iteration(1):
        model.train_step(data, builders.KeepsGradients(builders.sgd(model).optimizer))
    return {
        name.removeprefix('module.'): p.grad.detach().cpu() for name, p in model.named_parameters()
    }


def run_rank(rank: int, port: int, model: dict[str, Any], device: str, folder: str) -> None:
    """What each rank does."""
    init_default_scope('mmseg')
    distributed.init_process_group(
        'gloo',
        init_method=f'tcp://127.0.0.1:{port}',
        rank=rank,
        world_size=RANKS,
        timeout=timedelta(seconds=30),
    )
    # Ranks that start from other weights get those of rank 0.
    network = MMDistributedDataParallel(
        build(model, seed=rank).to(device), device_ids=[0] if device == 'cuda' else None
    )
    own = slice(rank * IMAGES, (rank + 1) * IMAGES)
    torch.save(_gradients(network, own), Path(folder) / f'{rank}.pth')
    distributed.destroy_process_group()


def _check_ranks(part: Part, norm: dict[str, Any], figures: dict[str, Any]) -> None:
    if part.rehearse and norm is SYNC_BN:
        raise NotHereError('SyncBN works on GPUs alone')
    folder = part.scratch / norm['type']
    folder.mkdir()
    model = _model(norm, part.scratch / 'teacher.pth')
    port = free_port()
    context = multiprocessing.get_context('fork' if part.rehearse else 'spawn')
    ranks = [
        context.Process(target=run_rank, args=(rank, port, model, part.device, str(folder)))
        for rank in range(RANKS)
    ]
    try:
        for rank in ranks:
            rank.start()
        # Alone BatchNorm sees all images, as SyncBN does on the ranks.
        alone = _model(BN if norm is SYNC_BN else norm, part.scratch / 'teacher.pth')
        expected = _gradients(build(alone, seed=0).to(part.device), slice(None))
        for rank in ranks:
            rank.join(max(min(60, part.seconds_left - 5), 1))
    finally:
        for rank in ranks:
            rank.kill()
    assert [rank.exitcode for rank in ranks] == [0] * RANKS, [rank.exitcode for rank in ranks]
    whole = math.hypot(*(float(gradient.norm()) for gradient in expected.values()))
    for rank in range(RANKS):
        found = torch.load(folder / f'{rank}.pth')
        assert found.keys() == expected.keys()
        apart = math.hypot(*(float((found[n] - g).norm()) for n, g in expected.items()))
        figures[f'rank {rank} off by'] = apart / whole
        assert apart <= 1e-3 * whole, figures
