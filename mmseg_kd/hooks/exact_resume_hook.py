"""What the host's resume leaves out."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mmengine.dist import get_world_size
from mmengine.hooks import CheckpointHook, EarlyStoppingHook, Hook
from mmengine.optim import OptimWrapperDict
from mmengine.registry import HOOKS
from mmengine.runner import EpochBasedTrainLoop, Runner, get_priority
from torch import nn

from mmseg_kd.errors import CheckpointError, ConfigError
from mmseg_kd.hooks.durable_checkpoint_hook import DurableCheckpointHook, folder_of
from mmseg_kd.hooks.find import find_hooks
from mmseg_kd.hooks.iteration_seed_hook import EPOCH_POSITION
from mmseg_kd.networks.build import unwrapped

# Entry of a checkpoint.
_STATE = 'exact_resume'

# Entry of the message hub, which goes into the checkpoint: the iteration of the last validation.
# The host logs all entries whose names begin with 'val'.
_VALIDATED = 'last_validated_at'


@HOOKS.register_module()
class ExactResumeHook(Hook):
    """Makes a resumed run go on as if it had never stopped, where mmengine's own resume does not.

    - The gradients that were accumulated since the last update (`accumulative_counts`) are in
      the checkpoint. Ranks have gradients of their own and a checkpoint is rank 0's, so several
      ranks write theirs at updates only.
    - A validation that was due when the checkpoint was written is made up for, with the best
      checkpoint, early stopping and schedulers that depend on it.
    - `EarlyStoppingHook` remembers the best score, how long it has waited, and that it stopped.
    - `CheckpointHook` renews the newest checkpoint after a new best one, also before it has
      written one itself; and deletes no best checkpoint of the run that another one came from.

    `mmseg-kd train` adds the hook to every run.

    Raises:
        ConfigError: Several ranks accumulate gradients and would write checkpoints in between.
        CheckpointError: A run is to resume from weights alone.
    """

    # Before CheckpointHook: what is learnt from a validation goes into the checkpoint after it.
    priority = 'LOW'

    def before_run(self, runner: Runner) -> None:
        """Let early stopping learn from a validation before CheckpointHook, too."""
        for hook in find_hooks(runner, EarlyStoppingHook):
            hook.priority = self.priority
        # A new list: the runner is going through the old one.
        runner._hooks = sorted(runner.hooks, key=lambda hook: get_priority(hook.priority))

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict[str, Any]) -> None:
        """Add what is needed to go on to a checkpoint that is for that."""
        if 'optimizer' not in checkpoint:
            return
        state: dict[str, Any] = {'stopped': bool(runner.train_loop.stop_training)}
        state['early_stopping'] = [
            (float(hook.best_score), hook.wait_count)
            for hook in find_hooks(runner, EarlyStoppingHook)
        ]
        if get_world_size() == 1:
            # An update leaves no gradients behind.
            gradients = {k: p.grad for k, p in _parameters(runner) if p.grad is not None}
            state['gradients'] = {k: gradient.cpu() for k, gradient in gradients.items()}
        checkpoint[_STATE] = state

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict[str, Any]) -> None:
        """Take it up again."""
        if not runner._resume:
            return
        if 'message_hub' not in checkpoint or 'iter' not in checkpoint.get('meta', {}):
            raise CheckpointError(
                f'{runner._load_from}: expected a checkpoint of a run to resume, got weights '
                'alone; to start from them write load_from=..., or checkpoint=... in the student.'
            )
        folders = [folder_of(hook, runner) for hook in find_hooks(runner, CheckpointHook)]
        _forget_best_elsewhere(checkpoint['message_hub'], folders)
        info = checkpoint['message_hub']['runtime_info']
        self._progress = {key: info[key] for key in ('iter', 'epoch') if key in info}
        state = checkpoint.get(_STATE, {})
        hooks = find_hooks(runner, EarlyStoppingHook)
        for hook, (best, waited) in zip(hooks, state.get('early_stopping', []), strict=False):
            hook.best_score, hook.wait_count = best, waited
        if hooks:
            runner.train_loop.stop_training = state.get('stopped', False)
        gradients = state.get('gradients', {})
        for name, parameter in _parameters(runner):
            if name in gradients:
                parameter.grad = gradients[name].to(parameter)

    def before_train(self, runner: Runner) -> None:
        """See what is due, and that no gradients are missing."""
        _check_updates(runner)
        self._began_at = runner.iter
        self._validation_is_due = runner.iter > 0 and _validation_is_due(runner)
        if runner.iter == 0:
            return
        wrapper = runner.optim_wrapper
        is_one = not isinstance(wrapper, OptimWrapperDict)
        if (
            is_one
            and not wrapper.should_update()
            and not any(parameter.grad is not None for _, parameter in _parameters(runner))
        ):
            runner.logger.warning(
                'The checkpoint was written between two updates and has no gradients: those that '
                'were accumulated since the last update are lost.'
            )
        for hook in find_hooks(runner, CheckpointHook):
            if hook.last_ckpt is None:
                hook.last_ckpt = runner.message_hub.get_info('last_ckpt')

    def before_train_epoch(self, runner: Runner) -> None:
        """Make up for a validation, now that all hooks are ready."""
        self._validate_if_due(runner)

    def after_train(self, runner: Runner) -> None:
        """The same where no epoch was left; keep where an early stop came."""
        self._validate_if_due(runner)
        # One that had stopped before has its checkpoint.
        if runner.train_loop.stop_training and runner.iter > self._began_at:
            for hook in find_hooks(runner, DurableCheckpointHook):
                hook.save_now(runner, runner.iter)

    def _validate_if_due(self, runner: Runner) -> None:
        if self._validation_is_due:
            self._validation_is_due = False
            runner.logger.info(f'Making up for the validation after iteration {runner.iter}.')
            # Until the next iteration begins the hub has the numbers of the one before.
            runner.message_hub.update_info_dict(self._progress)
            runner.val_loop.run()

    def after_val_epoch(self, runner: Runner, metrics: Any = None) -> None:
        """Remember that this validation took place."""
        runner.message_hub.update_info(_VALIDATED, runner.iter)


def _parameters(runner: Runner) -> list[tuple[str, nn.Parameter]]:
    """What is trained, by names that do not depend on the number of ranks."""
    return list(unwrapped(runner.model).named_parameters())


def _forget_best_elsewhere(message_hub: dict[str, Any], folders: Sequence[str]) -> None:
    """Forget best checkpoints in other folders, which CheckpointHook would delete."""
    ours = [Path(folder).resolve() for folder in folders]
    for key, value in list(message_hub['runtime_info'].items()):
        if key.startswith('best_ckpt') and Path(value).resolve().parent not in ours:
            del message_hub['runtime_info'][key]
            message_hub['resumed_keys'].pop(key, None)


def _check_updates(runner: Runner) -> None:
    counts = (runner.cfg.get('optim_wrapper') or {}).get('accumulative_counts', 1)
    if counts == 1 or get_world_size() == 1:
        return
    for hook in find_hooks(runner, CheckpointHook):
        if not hook.by_epoch and hook.interval > 0:
            rest = hook.interval % counts
            if rest:
                raise ConfigError(
                    f'CheckpointHook: on several ranks expected an interval that is a multiple of '
                    f'accumulative_counts={counts}, got {hook.interval}; a checkpoint between two '
                    f'updates would lose gradients. Nearest: {hook.interval + counts - rest}.'
                )


def _validation_is_due(runner: Runner) -> bool:
    """Whether a run validates at the point where it was resumed, and has not yet."""
    loop, hub = runner.train_loop, runner.message_hub
    if runner.val_loop is None or hub.get_info(_VALIDATED) == runner.iter:
        return False
    done, end = loop.iter, loop.max_iters
    if isinstance(loop, EpochBasedTrainLoop):
        if hub.get_info(EPOCH_POSITION, (0, 0))[0] > 0:
            return False  # in the middle of an epoch
        done, end = loop.epoch, loop.max_epochs
    loop._decide_current_val_interval()
    return bool(done >= loop.val_begin and (done % loop.val_interval == 0 or done == end))
