"""Checkpoints that a kill or a full disk cannot take away."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mmengine.dist import is_main_process
from mmengine.hooks import CheckpointHook
from mmengine.registry import HOOKS
from mmengine.runner import Runner

from mmseg_kd.checkpoints.durable import DURABLE, TEMPORARY, write_durably
from mmseg_kd.checkpoints.newest import POINTER
from mmseg_kd.errors import CheckpointError, ConfigError

POLICIES = ('continue', 'stop')


@HOOKS.register_module()
class DurableCheckpointHook(CheckpointHook):
    """mmengine's `CheckpointHook`, with whole files at any moment.

    A checkpoint is written under a temporary name, brought to the disk, and then takes its name;
    it is sealed with its SHA-256. Older ones that `max_keep_ckpts` or a better score makes
    superfluous are removed after that, not before. `mmseg-kd train` puts this hook where a config
    has a `CheckpointHook`. Files that are written with `backend_args`, or into a folder that is
    not local (`out_dir='s3://...'`), are left to mmengine.

    Args:
        args, kwargs: Those of `CheckpointHook`.
        on_write_error: When a checkpoint cannot be written, as on a full disk, `'continue'` logs
            it and tries again at the next interval, `'stop'` ends the run. The last checkpoint of
            a run, and that of a run which was told to stop, must be written either way.

    Raises:
        ConfigError: `on_write_error` is none of the two.
        CheckpointError: A checkpoint that must be written cannot be.
    """

    backend_args: dict[str, Any] | None
    last_ckpt: str | None
    keep_ckpt_ids: deque[int | str]

    def __init__(self, *args: Any, on_write_error: str = 'continue', **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if on_write_error not in POLICIES:
            raise ConfigError(
                f'on_write_error of the checkpoint hook: expected one of {POLICIES}, got '
                f'{on_write_error!r}.'
            )
        self.on_write_error = on_write_error
        self._saved_iter = -1

    def before_train(self, runner: Runner) -> None:
        """Choose the way of writing, and remove what a killed run left half-written."""
        if self.backend_args is None and self.file_client_args is None:
            self.backend_args = None if '://' in folder_of(self, runner) else dict(backend=DURABLE)
        super().before_train(runner)
        if self._durable and is_main_process():
            for folder, name in ((self.out_dir, '*.pth'), (runner.work_dir, POINTER)):
                for path in Path(folder).glob(name + TEMPORARY):
                    path.unlink()

    @property
    def _durable(self) -> bool:
        return bool(self.backend_args == dict(backend=DURABLE))

    def save_now(self, runner: Runner, iterations: int) -> str:
        """Write a checkpoint, unless the newest one is of this very iteration.

        Args:
            runner: The runner.
            iterations: How many are complete.

        Returns:
            The checkpoint's path.

        Raises:
            CheckpointError: It cannot be written.
        """
        if self._saved_iter != iterations:
            # Within an epoch it may not take the name of the epoch's own checkpoint.
            step = f'{runner.epoch}_iter_{iterations}' if self.by_epoch else iterations
            meta = dict(epoch=runner.epoch, iter=iterations)
            self._save_checkpoint_with_step(runner, step, meta, must=True)
        return str(self.last_ckpt)

    def _save_checkpoint_with_step(
        self, runner: Runner, step: int | str, meta: dict[str, Any], must: bool = False
    ) -> None:
        """As in the base class, in the order: write, point to it, remove the oldest.

        Args:
            runner, step, meta: Those of the base class.
            must: An error ends the run, whatever the policy.
        """
        if not self._durable:
            super()._save_checkpoint_with_step(runner, step, meta)
            self._saved_iter = meta['iter']
            return
        must = must or meta['iter'] >= runner.max_iters
        info, last = dict(runner.message_hub.runtime_info), self.last_ckpt
        keep = [step]
        if self.max_keep_ckpts > 0:
            keep = [*(one for one in self.keep_ckpt_ids if one != step), step]
            # One too many is in the file: should the run be killed before the oldest is removed,
            # the next run finds it there and removes it.
            runner.message_hub.update_info('keep_ckpt_ids', keep)
        name = self.filename_tmpl.format(step)
        self.last_ckpt = self._path(step)
        runner.message_hub.update_info('last_ckpt', self.last_ckpt)
        try:
            runner.save_checkpoint(
                self.out_dir,
                name,
                save_optimizer=self.save_optimizer,
                save_param_scheduler=self.save_param_scheduler,
                meta=meta,
                by_epoch=self.by_epoch,
                backend_args=self.backend_args,
                **self.args,
            )
        except OSError as error:
            self.last_ckpt = last
            _restore(runner, info)
            self._not_written(runner, self._path(step), error, must)
            return
        self._saved_iter = meta['iter']
        if is_main_process():
            try:
                write_durably(Path(runner.work_dir, POINTER), str(self.last_ckpt).encode())
            except OSError as error:
                self._not_written(runner, POINTER, error, must)
        if self.max_keep_ckpts > 0:
            for one in keep[: -self.max_keep_ckpts]:
                if is_main_process() and self.file_backend.isfile(self._path(one)):
                    self.file_backend.remove(self._path(one))
            self.keep_ckpt_ids = deque(keep[-self.max_keep_ckpts :], self.max_keep_ckpts)
            runner.message_hub.update_info('keep_ckpt_ids', list(self.keep_ckpt_ids))

    def _save_best_checkpoint(self, runner: Runner, metrics: Mapping[str, float]) -> None:
        """As in the base class, but the best so far is removed when the better one is whole."""
        if not (self.save_best and self._durable):
            super()._save_best_checkpoint(runner, metrics)
            return
        info, best = dict(runner.message_hub.runtime_info), self._best()
        try:
            with self.file_backend.removing_last() as superfluous:
                super()._save_best_checkpoint(runner, metrics)
                superfluous -= set(self._best().values())
        except OSError as error:
            # Those of other metrics, which were written before: the scores of then are kept.
            for path in {*self._best().values()} - {*best.values(), None}:
                if is_main_process():
                    Path(str(path)).unlink(missing_ok=True)
            for key, path in best.items():
                self._set_best(key, path)
            _restore(runner, info)
            self._not_written(runner, 'the best checkpoint', error)

    def _best(self) -> dict[str, str | None]:
        """The paths of the best checkpoints, by metric."""
        if len(self.key_indicators) == 1:
            return {self.key_indicators[0]: self.best_ckpt_path}
        return dict(self.best_ckpt_path_dict)

    def _set_best(self, key: str, path: str | None) -> None:
        if len(self.key_indicators) == 1:
            self.best_ckpt_path = path
        else:
            self.best_ckpt_path_dict[key] = path

    def _path(self, step: int | str) -> str:
        return str(self.file_backend.join_path(self.out_dir, self.filename_tmpl.format(step)))

    def _not_written(self, runner: Runner, what: str, error: OSError, must: bool = False) -> None:
        text = f'{what} could not be written ({error}); what was written before is as it was.'
        if must or self.on_write_error == 'stop':
            raise CheckpointError(f'{text} Make room and go on with --resume.') from error
        runner.logger.error(f'{text} The run goes on and tries again at the next interval.')


def folder_of(hook: CheckpointHook, runner: Runner) -> str:
    """Where a hook's checkpoints will lie, which it works out itself when the training begins."""
    if hook.out_dir is None or hook.out_dir == runner.work_dir:
        return str(runner.work_dir)
    return f'{hook.out_dir}/{Path(runner.work_dir).name}'


def _restore(runner: Runner, info: Mapping[str, Any]) -> None:
    """Bring back what the message hub said: no file says anything else."""
    runner.message_hub.runtime_info.clear()
    runner.message_hub.runtime_info.update(info)
