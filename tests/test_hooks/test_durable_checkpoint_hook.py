from __future__ import annotations

import errno
import os
import resource
import signal
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from builders import same_tensors
from mmengine.fileio import LocalBackend
from mmengine.hooks import CheckpointHook
from mmengine.logging import MessageHub
from mmengine.visualization import LocalVisBackend
from training_runs import tensors, train_to_the_end, training, write_project

from mmseg_kd.checkpoints.newest import newest_intact
from mmseg_kd.errors import CheckpointError, ConfigError
from mmseg_kd.hooks import DurableCheckpointHook


class Saving:
    """What the hook sees of a runner, and a folder that its checkpoints go to."""

    def __init__(self, folder: Path, max_iters: int = 100) -> None:
        self.work_dir = str(folder)
        self.message_hub = MessageHub(f'saving {folder}')
        self.logger = SimpleNamespace(info=self.log, error=self.log, warning=self.log)
        self.lines: list[str] = []
        self.iter = self.epoch = 0
        self.max_iters = max_iters

    def log(self, line: str) -> None:
        self.lines.append(line)

    def save_checkpoint(
        self,
        out_dir: str,
        filename: str,
        *_: Any,
        meta: Any = None,
        backend_args: Any = None,
        **__: Any,
    ) -> None:
        """As mmengine's runner."""
        from mmengine.runner import save_checkpoint

        info = dict(self.message_hub.runtime_info)
        content = dict(state_dict=dict(w=torch.zeros(9)), meta=meta, info=info)
        save_checkpoint(content, f'{out_dir}/{filename}', backend_args=backend_args)

    def files(self) -> set[str]:
        return {path.name for path in Path(self.work_dir).iterdir()}


def make(runner: Saving, **arguments: Any) -> DurableCheckpointHook:
    arguments = dict(by_epoch=False, interval=10, max_keep_ckpts=1) | arguments
    hook = DurableCheckpointHook(**arguments)
    hook.before_train(runner)
    return hook


def step(hook: DurableCheckpointHook, runner: Saving, iterations: int) -> None:
    """End an iteration, the nth."""
    runner.iter = iterations - 1
    hook.is_last_train_iter = lambda runner: False
    hook.after_train_iter(runner, runner.iter)
    runner.iter = iterations


@pytest.fixture
def full(monkeypatch: pytest.MonkeyPatch) -> Callable[[bool], None]:
    """A switch that makes the disk full, or empties it."""
    fsync = os.fsync

    def refuse(handle: int) -> None:
        raise OSError(errno.ENOSPC, 'No space left on device')

    return lambda is_full: monkeypatch.setattr(os, 'fsync', refuse if is_full else fsync)


def test_the_oldest_goes_when_the_newest_is_whole_and_pointed_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runner = Saving(tmp_path)
    hook = make(runner, max_keep_ckpts=2)
    pointer = tmp_path / 'last_checkpoint'
    removed = []

    def remove(self: Any, path: str) -> None:
        newest = newest_intact(tmp_path, 'iter_{}.pth')
        assert newest is not None
        assert pointer.read_text(encoding='utf-8') == str(newest)
        removed.append((Path(path).name, newest.name))
        os.remove(path)

    monkeypatch.setattr(LocalBackend, 'remove', remove)
    for iterations in (10, 20, 30, 40):
        step(hook, runner, iterations)
    assert removed == [('iter_10.pth', 'iter_30.pth'), ('iter_20.pth', 'iter_40.pth')]
    assert runner.files() == {'iter_30.pth', 'iter_40.pth', 'last_checkpoint'}
    assert runner.message_hub.get_info('keep_ckpt_ids') == [30, 40]


def test_what_a_killed_run_had_no_time_to_remove_goes_with_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runner = Saving(tmp_path)
    hook = make(runner)
    step(hook, runner, 10)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):

        def killed(self: Any, path: str) -> None:
            raise KeyboardInterrupt

        patch.setattr(LocalBackend, 'remove', killed)
        step(hook, runner, 20)
    for name in ('iter_30.pth.tmp', 'last_checkpoint.tmp', 'notes.tmp'):
        (tmp_path / name).touch()
    content = torch.load(tmp_path / 'iter_20.pth', weights_only=False)
    again = Saving(tmp_path)
    again.message_hub.runtime_info.update(content['info'])
    make(again)
    assert again.files() == {'iter_20.pth', 'last_checkpoint', 'notes.tmp'}


def test_the_best_goes_when_the_better_one_is_whole(tmp_path: Path) -> None:
    runner = Saving(tmp_path)
    hook = make(runner, save_best=['mIoU', 'aAcc'])
    step(hook, runner, 10)
    hook.after_val_epoch(runner, dict(mIoU=1.0, aAcc=5.0))
    step(hook, runner, 20)
    hook.after_val_epoch(runner, dict(mIoU=2.0, aAcc=4.0))
    assert runner.files() == {
        'best_mIoU_iter_20.pth',
        'best_aAcc_iter_10.pth',
        'iter_20.pth',
        'last_checkpoint',
    }
    content = torch.load(tmp_path / 'iter_20.pth', weights_only=False)
    assert content['info']['best_score_mIoU'] == 2.0
    # The same iteration once more, as after a resume.
    hook.after_val_epoch(runner, dict(mIoU=3.0, aAcc=4.0))
    assert 'best_mIoU_iter_20.pth' in runner.files()


@pytest.mark.parametrize('save_best', ['mIoU', ['mIoU', 'aAcc']])
def test_on_a_full_disk_the_best_known_is_the_best_there_is(
    tmp_path: Path, full: Callable[[bool], None], save_best: Any
) -> None:
    runner = Saving(tmp_path)
    hook = make(runner, save_best=save_best)
    scores = dict(mIoU=1.0, aAcc=1.0)
    step(hook, runner, 10)
    hook.after_val_epoch(runner, scores)
    before = runner.files()
    full(True)
    runner.iter = 15
    hook.after_val_epoch(runner, dict(mIoU=3.0, aAcc=0.0))
    assert runner.files() == before
    assert 'the best checkpoint could not be written' in runner.lines[-1]
    full(False)
    runner.iter = 18
    hook.after_val_epoch(runner, dict(mIoU=2.0, aAcc=0.0))
    assert 'best_mIoU_iter_18.pth' in runner.files()
    assert 'best_mIoU_iter_10.pth' not in runner.files()


def test_a_disk_that_is_full_after_the_first_of_two_best(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runner = Saving(tmp_path)
    hook = make(runner, save_best=['mIoU', 'aAcc'])
    step(hook, runner, 10)
    hook.after_val_epoch(runner, dict(mIoU=1.0, aAcc=1.0))
    before = runner.files()
    save = runner.save_checkpoint

    def fail(out_dir: str, filename: str, *args: Any, **kwargs: Any) -> None:
        if 'aAcc' in filename:
            raise OSError(28, 'No space left on device')
        save(out_dir, filename, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(runner, 'save_checkpoint', fail)
        for iteration in (12, 14):
            runner.iter = iteration
            hook.after_val_epoch(runner, dict(mIoU=iteration, aAcc=iteration))
            assert runner.files() == before
    runner.iter = 18
    hook.after_val_epoch(runner, dict(mIoU=3.0, aAcc=3.0))
    assert {'best_mIoU_iter_18.pth', 'best_aAcc_iter_18.pth'} < runner.files()
    assert len(runner.files()) == len(before)


def test_on_a_full_disk_the_run_goes_on_and_tries_again(
    tmp_path: Path, full: Callable[[bool], None]
) -> None:
    runner = Saving(tmp_path)
    hook = make(runner)
    step(hook, runner, 10)
    info = dict(runner.message_hub.runtime_info)
    full(True)
    step(hook, runner, 20)
    assert runner.files() == {'iter_10.pth', 'last_checkpoint'}
    assert (tmp_path / 'last_checkpoint').read_text(encoding='utf-8').endswith('iter_10.pth')
    assert dict(runner.message_hub.runtime_info) == info
    assert 'iter_20.pth could not be written' in runner.lines[-1]
    assert 'No space left on device' in runner.lines[-1]
    assert 'goes on' in runner.lines[-1]
    full(False)
    step(hook, runner, 30)
    assert runner.files() == {'iter_30.pth', 'last_checkpoint'}


@pytest.mark.parametrize(('policy', 'max_iters'), [('stop', 100), ('continue', 20)])
def test_a_full_disk_ends_the_run_where_it_must(
    tmp_path: Path, full: Callable[[bool], None], policy: str, max_iters: int
) -> None:
    runner = Saving(tmp_path, max_iters)
    hook = make(runner, on_write_error=policy)
    step(hook, runner, 10)
    full(True)
    with pytest.raises(CheckpointError, match=r'iter_20\.pth could not be written.*No space left'):
        step(hook, runner, 20)
    assert runner.files() == {'iter_10.pth', 'last_checkpoint'}


def test_a_checkpoint_on_request_is_of_its_iteration_and_must_be_written(
    tmp_path: Path, full: Callable[[bool], None]
) -> None:
    runner = Saving(tmp_path)
    hook = make(runner)
    step(hook, runner, 10)
    written = (tmp_path / 'iter_10.pth').stat().st_mtime_ns
    assert hook.save_now(runner, 10).endswith('iter_10.pth')
    assert (tmp_path / 'iter_10.pth').stat().st_mtime_ns == written
    path = hook.save_now(runner, 13)
    assert path.endswith('iter_13.pth')
    assert torch.load(path, weights_only=False)['meta'] == dict(epoch=0, iter=13)
    assert runner.files() == {'iter_13.pth', 'last_checkpoint'}
    full(True)
    with pytest.raises(CheckpointError, match=r'iter_14\.pth could not be written'):
        hook.save_now(runner, 14)


def test_within_an_epoch_a_checkpoint_has_a_name_of_its_own(tmp_path: Path) -> None:
    runner = Saving(tmp_path)
    hook = make(runner, by_epoch=True, interval=1)
    runner.epoch, runner.iter = 2, 250
    assert hook.save_now(runner, 250).endswith('epoch_2_iter_250.pth')
    hook.after_train_epoch(runner)
    assert runner.files() == {'epoch_3.pth', 'last_checkpoint'}


@pytest.mark.parametrize(
    'arguments', [dict(out_dir='s3://bucket'), dict(backend_args=dict(backend='local'))]
)
def test_other_ways_of_writing_are_left_to_mmengine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: dict[str, Any]
) -> None:
    calls = []
    monkeypatch.setattr(CheckpointHook, 'before_train', lambda self, runner: None)
    monkeypatch.setattr(
        CheckpointHook, '_save_checkpoint_with_step', lambda self, *args: calls.append(args)
    )
    runner = Saving(tmp_path)
    hook = make(runner, **arguments)
    hook._save_checkpoint_with_step(runner, 10, dict(iter=10))
    assert len(calls) == 1


def test_a_wrong_policy_is_refused() -> None:
    with pytest.raises(ConfigError, match='on_write_error'):
        DurableCheckpointHook(on_write_error='ignore')


# Whole runs.


def test_a_run_without_room_goes_on_to_the_end_and_says_that_nothing_was_written(
    tmp_path: Path,
) -> None:
    config = write_project(tmp_path)

    def limit() -> None:
        # Room for the log, and not for a checkpoint; then for curves neither.
        resource.setrlimit(resource.RLIMIT_FSIZE, (40_000, 40_000))
        fill_up_for_curves(after=3)

    with training([config], tmp_path / 'log', prepare=limit) as process:
        assert process.wait() == 1
    output = process.output()
    for name in ('iter_2.pth', 'iter_4.pth', 'the best checkpoint', 'iter_6.pth'):
        assert f'{name} could not be written' in output, output
    assert 'Not logged: [Errno 28]' in output
    assert output.splitlines()[-1].startswith('error: ')
    assert 'iter_8.pth could not be written' in output.splitlines()[-1]
    # For the student alone there is room.
    assert [path.name for path in (tmp_path / 'work').glob('*.pth*')] == ['student_best.pth']


def fill_up_for_curves(after: int) -> None:
    """Let the disk be full for curves from the nth line on."""
    dump, left = LocalVisBackend._dump, [after]

    def call(*args: Any) -> None:
        left[0] -= 1
        if left[0] < 0:
            raise OSError(errno.ENOSPC, 'No space left on device')
        dump(*args)

    LocalVisBackend._dump = call


def kill_in_call(module: Any, name: str, count: int, after: bool) -> None:
    """Let the nth call of a function be the process's last act."""
    function, left = getattr(module, name), [count]

    def call(*args: Any, **kwargs: Any) -> Any:
        left[0] -= 1
        if left[0] == 0 and not after:
            os.kill(os.getpid(), signal.SIGKILL)
        result = function(*args, **kwargs)
        if left[0] == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return result

    setattr(module, name, call)


# Each checkpoint makes two calls of `replace`: its name and the pointer's. Iterations 2, 4 (again
# after its validation, with the best in between), 6 and 8 have one.
MOMENTS = {
    'before the name': lambda: kill_in_call(os, 'replace', 3, after=False),
    'before the pointer': lambda: kill_in_call(os, 'replace', 4, after=False),
    'before the oldest is removed': lambda: kill_in_call(LocalBackend, 'remove', 1, after=False),
    'before the best has its name': lambda: kill_in_call(os, 'replace', 5, after=False),
    'after the best has its name': lambda: kill_in_call(os, 'replace', 5, after=True),
}


@pytest.mark.slow
def test_runs_killed_while_they_write_end_like_one_that_was_not(tmp_path: Path) -> None:
    config = write_project(tmp_path)

    def checkpoints(folder: str) -> set[str]:
        return {path.name for path in (tmp_path / folder).glob('iter_*')}

    train_to_the_end([config, '--work-dir', str(tmp_path / 'whole')], tmp_path / 'log')
    expected = tensors(tmp_path / 'whole' / 'iter_8.pth')
    for moment, trap in MOMENTS.items():
        command = [config, '--work-dir', str(tmp_path / moment)]
        with training(command, tmp_path / f'{moment}.log', prepare=trap) as process:
            assert process.wait() == -signal.SIGKILL, process.output()
        assert newest_intact(tmp_path / moment, 'iter_{}.pth') is not None
        train_to_the_end([*command, '--resume'], tmp_path / f'{moment}.log')
        assert same_tensors(tensors(tmp_path / moment / 'iter_8.pth'), expected), moment
        assert checkpoints(moment) == checkpoints('whole'), moment
