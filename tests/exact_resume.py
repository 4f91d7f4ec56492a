"""A run that is killed and resumed ends as if it had never stopped: whole checkpoints, bit by bit.

Each run is a process of its own, forked from this one, which has the hosts imported already.
"""

from __future__ import annotations

import functools
import gc
import json
import multiprocessing
import os
import signal
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from everything import write_everything
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.logging import HistoryBuffer
from mmengine.optim.optimizer import amp_optimizer_wrapper
from mmengine.runner import Runner, loops
from mmengine.visualization import Visualizer
from training_runs import free_port

from mmseg_kd.cli import train
from mmseg_kd.engine import training
from mmseg_kd.engine.runner import build_runner

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(torch.cuda.is_available(), reason='exact on CPUs; CUDA allows no fork'),
]

WAIT_S = 240
CLOCKS = {'train/time', 'train/data_time', 'val/time', 'val/data_time'}
# What is of the process and not of the training: when it began, how long it will take, and the
# config's text, which says whether to resume.
OF_THE_PROCESS = {'time', 'experiment_name', 'eta', 'cfg', *CLOCKS}


@pytest.fixture
def config(tmp_path: Path) -> Path:
    return write_everything(tmp_path)


def add(config: Path, text: str) -> Path:
    """Put lines at the end of a config."""
    config.write_text(config.read_text(encoding='utf-8') + text, encoding='utf-8')
    return config


class Killer(Hook):
    """Kills its own process where a stage of an iteration begins."""

    priority = 'VERY_HIGH'

    def __init__(self, stage: str, iteration: int) -> None:
        self.iteration = iteration
        setattr(self, stage, self._kill)

    def _kill(self, runner: Runner, **_: Any) -> None:
        if runner.iter == self.iteration:
            os.kill(os.getpid(), signal.SIGKILL)


def run_rank(
    command: list[str], environment: dict[str, str], killed: tuple[str, int] | None
) -> None:
    """What a process does."""
    gc.freeze()  # mmengine collects garbage often: not all that came with the fork, each time
    os.environ.update(environment)
    # Visualisers are kept by their names, those too of runs in the process that forked.
    for kind in (Visualizer, *Visualizer.__subclasses__()):
        kind._instance_dict.clear()

    def build_with_killer(cfg: Config, *args: Any) -> Runner:
        runner = build_runner(cfg, *args)
        if killed is not None:
            runner.register_hook(Killer(*killed))
        return runner

    training.build_runner = build_with_killer
    raise SystemExit(train.main(command))


def run(
    config: Path,
    folder: Path,
    *options: str,
    ranks: int = 1,
    killed: tuple[str, int] | None = None,
    resume: bool | Path = False,
) -> None:
    """Train into `folder`, to the end or until the stage of an iteration named by `killed`."""
    port = str(free_port())
    command = [str(config), '--work-dir', str(folder)]
    if resume:
        command += ['--resume', *([] if resume is True else [str(resume)])]
    if ranks > 1:
        command += ['--launcher', 'pytorch']
    if options:
        command += ['--cfg-options', *options]
    processes = []
    for rank in map(str, range(ranks)):
        environment = dict(RANK=rank, LOCAL_RANK=rank, WORLD_SIZE=str(ranks))
        environment |= dict(LOCAL_WORLD_SIZE=str(ranks), MASTER_ADDR='127.0.0.1', MASTER_PORT=port)
        processes.append(
            multiprocessing.get_context('fork').Process(
                target=run_rank, args=(command, environment, killed)
            )
        )
    try:
        for process in processes:
            process.start()
        for process in processes:
            process.join(WAIT_S)
    finally:
        for process in processes:
            process.kill()
    codes = [process.exitcode for process in processes]
    if killed is None:
        assert codes == [0] * ranks
    else:  # a rank that has lost another one may fail before its own turn comes
        assert -signal.SIGKILL in codes
        assert 0 not in codes


def differences(ours: Any, theirs: Any, where: str = '') -> Iterator[str]:
    """The places in which two states differ in a bit, a type or a key."""
    if type(ours) is not type(theirs):
        yield f'{where}: {type(ours).__name__} and {type(theirs).__name__}'
    elif isinstance(ours, Mapping):
        for key in ours.keys() ^ theirs.keys():
            yield f'{where}.{key}: on one side only'
        for key in ours.keys() & theirs.keys() - OF_THE_PROCESS:
            yield from differences(ours[key], theirs[key], f'{where}.{key}')
    elif isinstance(ours, (list, tuple)):
        if len(ours) != len(theirs):
            yield f'{where}: {len(ours)} and {len(theirs)} entries'
        for index, pair in enumerate(zip(ours, theirs, strict=False)):
            yield from differences(*pair, f'{where}[{index}]')
    elif isinstance(ours, HistoryBuffer):
        yield from differences(ours.data, theirs.data, where)
    elif isinstance(ours, torch.Tensor):
        yield from differences(ours.numpy(), theirs.numpy(), where)
    elif isinstance(ours, np.ndarray):
        if (ours.dtype, ours.shape) != (theirs.dtype, theirs.shape):
            yield f'{where}: {ours.dtype} {ours.shape} and {theirs.dtype} {theirs.shape}'
        elif ours.tobytes() != theirs.tobytes():
            yield f'{where}: {np.count_nonzero(ours != theirs)} of {ours.size} values'
    elif repr(ours) != repr(theirs):
        yield f'{where}: {ours!r} and {theirs!r}'


def test_a_difference_is_named() -> None:
    def state(last: float, **others: Any) -> dict[str, Any]:
        history = HistoryBuffer([1.0, last], [1, 1])
        return dict(a=[torch.tensor([0.0, last])], b=history, c=dict(eta=last, x=last), **others)

    assert list(differences(state(float('nan')), state(float('nan')))) == []
    found = set(differences(state(0.0), state(-0.0, d=1)))
    assert {place.split(':')[0] for place in found} == {'.a[0]', '.b[0]', '.c.x', '.d'}
    assert '.c.x: 0.0 and -0.0' in found


def load(folder: Path, name: str) -> Any:
    """A checkpoint, with its paths relative to its folder."""
    found = torch.load(folder / name, map_location='cpu', weights_only=False)
    # The student in the stock format has none.
    info = found.get('message_hub', {}).get('runtime_info', {})
    for key, value in info.items():
        if isinstance(value, str):
            info[key] = value.replace(str(folder), '')
    return found


def assert_same(whole: Path, resumed: Path) -> list[str]:
    """See that two folders have the same checkpoints; returns their names."""
    names, others = (sorted(path.name for path in f.glob('*.pth')) for f in (whole, resumed))
    assert names == others
    for name in names:
        found = next(differences(load(whole, name), load(resumed, name), name), None)
        assert found is None, found
    return names


def log(folder: Path) -> dict[int, dict[str, float]]:
    """What the newest run in a folder logged of each iteration, without the times."""
    path = max(folder.glob('*/vis_data/scalars.json'))
    rows = [json.loads(line) for line in path.read_text(encoding='utf-8').splitlines()]
    return {
        row['step']: {k: v for k, v in row.items() if 'time' not in k and k != 'memory'}
        for row in rows
        if 'lr' in row
    }


@pytest.mark.parametrize('ranks', [1, 2, pytest.param(3, marks=pytest.mark.soak)])
def test_killed_and_resumed(tmp_path: Path, config: Path, ranks: int) -> None:
    whole = tmp_path / 'whole'
    # As --deterministic has it: the sum of three numbers depends on their order.
    options = [f'find_unused_parameters={ranks > 2}']
    run(config, whole, *options, ranks=ranks)
    for workers in (0, 2):
        options.append(f'train_dataloader.num_workers={workers}')
        folder = tmp_path / f'{workers} workers'
        run(config, folder, *options, ranks=ranks, killed=('before_train_iter', 23))
        assert load(folder, 'iter_21.pth')['meta']['iter'] == 21
        run(config, folder, *options, ranks=ranks, resume=True)
        names = assert_same(whole, folder)
        assert 'iter_40.pth' in names
        rows = log(folder)
        assert set(rows) == set(range(22, 41))
        assert all(rows[step] == log(whole)[step] for step in rows)
    # All of it was there, and at work.
    end = load(whole, 'iter_40.pth')
    assert set(end) >= {'state_dict', 'ema_state_dict', 'optimizer', 'param_schedulers'}
    assert len(end['param_schedulers']) == 4
    assert any('momentum_buffer' in state for state in end['optimizer']['state'].values())
    history = end['message_hub']['log_scalars']
    turns = [history[f'train/kd_weight.scores_teacher{i}'].data[0] for i in (0, 1)]
    assert all(0 < np.count_nonzero(turn) < 39 for turn in turns)


# The other ways to train, each resumed from checkpoints that a whole run left behind.

SHORT = """
train_cfg = dict(type='IterBasedTrainLoop', max_iters=10, val_interval=1000)
default_hooks['checkpoint'] = dict(type='CheckpointHook', by_epoch=False, interval=3)
"""


def resume_from_each(config: Path, work: Path, ends: str, **checkpoints: list[str]) -> None:
    """Train in one go, and again from each of `checkpoints`; the last one has to be the same.

    Args:
        config: The config.
        work: A folder for all.
        ends: The name of the last checkpoint.
        checkpoints: Names of checkpoints without their suffix, and options of the runs from there.
    """
    run(config, work / 'whole')
    for name, options in checkpoints.items():
        run(config, work / name, *options, resume=work / 'whole' / f'{name}.pth')
        ours, theirs = (load(work / folder, ends) for folder in ('whole', name))
        found = next(differences(ours, theirs, f'{name} to {ends}'), None)
        assert found is None, found


WORKERS = ['train_dataloader.num_workers=2']


OWN = """
teachers = model['teacher']
model['teacher'] = [*teachers, dict(name='average', type='EMATeacher', momentum=0.1)]
scores = dict(student_layer='decode_head.conv_seg', teacher_layer='decode_head.conv_seg')
scores |= dict(loss=dict(type='KLLoss'), teacher='average')
model['distillation'] = [*model['distillation'], scores]
model['task_schedule'] = dict(type='Jump', begin=5)
"""


def test_a_teacher_that_is_the_average_of_the_student(tmp_path: Path, config: Path) -> None:
    resume_from_each(add(config, SHORT + OWN), tmp_path, 'iter_10.pth', iter_3=[], iter_6=[])
    state = load(tmp_path / 'whole', 'iter_10.pth')['state_dict']
    assert state['averaged.average.updates'] == 10


def test_by_epochs(tmp_path: Path, config: Path) -> None:
    """Five images in batches of two: three iterations an epoch, of which the last has one image."""
    add(
        config,
        """
train_cfg = dict(type='EpochBasedTrainLoop', max_epochs=4, val_interval=2)
train_dataloader['sampler'] = dict(type='DefaultSampler', shuffle=True)
default_hooks['checkpoint'] = dict(type='CheckpointHook', by_epoch=False, interval=1)
custom_hooks.append(dict(type='CheckpointHook', by_epoch=True, interval=1))
""",
    )
    persistent = [*WORKERS, 'train_dataloader.persistent_workers=True']
    # After an epoch, after the first iteration of one, and after its last.
    resume_from_each(config, tmp_path, 'epoch_4.pth', epoch_2=WORKERS, iter_4=persistent, iter_6=[])


def test_by_iterations_with_a_sampler_that_ends(
    tmp_path: Path, config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The loop waits for two seconds after each pass.
    monkeypatch.setattr(loops, 'time', SimpleNamespace(sleep=lambda seconds: None))
    sampler = "\ntrain_dataloader['sampler'] = dict(type='DefaultSampler', shuffle=True)"
    add(config, SHORT + sampler)
    resume_from_each(config, tmp_path, 'iter_10.pth', iter_3=[], iter_6=WORKERS)


def test_between_two_updates(tmp_path: Path, config: Path) -> None:
    """Updates are at 4, 8 and 10, checkpoints at 3, 6 and 9."""
    add(config, SHORT + "optim_wrapper['accumulative_counts'] = 4")
    resume_from_each(config, tmp_path, 'iter_10.pth', iter_6=[], iter_9=[])
    gradients = load(tmp_path / 'whole', 'iter_6.pth')['exact_resume']['gradients']
    assert any(gradient.any() for gradient in gradients.values())
    assert not load(tmp_path / 'whole', 'iter_10.pth')['exact_resume']['gradients']


def test_mixed_precision(tmp_path: Path, config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a CPU: mmengine's wrapper asks for CUDA, torch's autocast and scaler do not."""
    scaler = functools.partial(torch.amp.GradScaler, device='cpu')
    monkeypatch.setattr(amp_optimizer_wrapper, 'GradScaler', scaler)
    monkeypatch.setattr(amp_optimizer_wrapper, 'is_cuda_available', lambda: True)
    amp = """
optim_wrapper.update(
    type='AmpOptimWrapper',
    dtype='bfloat16',
    loss_scale=dict(init_scale=256.0, growth_interval=4),
)
"""
    add(config, SHORT + amp)
    resume_from_each(config, tmp_path, 'iter_10.pth', iter_6=[])
    scalers = [
        load(tmp_path / 'whole', f'iter_{i}.pth')['optimizer']['loss_scaler'] for i in (3, 6)
    ]
    assert [state['scale'] for state in scalers] == [256.0, 512.0]
    assert [state['_growth_tracker'] for state in scalers] == [3, 2]


VALIDATION = """
train_cfg = dict(type='IterBasedTrainLoop', max_iters=12, val_interval=2)
default_hooks['checkpoint'] = dict(
    type='CheckpointHook', by_epoch=False, interval=2, save_best='mIoU'
)
custom_hooks[1] = dict(type='EarlyStoppingHook', monitor='mIoU', min_delta={}, patience={})
"""


@pytest.mark.parametrize(('ranks', 'killed'), [(1, 6), (2, 12)])
def test_killed_while_it_validated(tmp_path: Path, config: Path, ranks: int, killed: int) -> None:
    """A validation that was killed takes place, the last one too, and what hangs on it."""
    add(config, VALIDATION.format(0.01, 5))
    whole, folder = tmp_path / 'whole', tmp_path / 'killed'
    run(config, whole, ranks=ranks)
    run(config, folder, ranks=ranks, killed=('before_val_iter', killed))
    run(config, folder, ranks=ranks, resume=True)
    names = assert_same(whole, folder)
    assert any(name.startswith('best_mIoU_iter_') for name in names)


def test_early_stopping(tmp_path: Path, config: Path) -> None:
    """Nothing is ever good enough: the fourth validation is the third without a better score."""
    add(config, VALIDATION.format(1000, 3))
    run(config, tmp_path / 'whole')
    run(config, tmp_path / 'killed', killed=('before_train_iter', 7))
    # Once to where it stops, and once more, which changes nothing.
    for _ in range(2):
        run(config, tmp_path / 'killed', resume=True)
        names = assert_same(tmp_path / 'whole', tmp_path / 'killed')
        assert 'iter_8.pth' in names
        assert 'iter_10.pth' not in names
