"""A run that is resumed is the one that was stopped."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from typing import Any

from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import Runner

from mmseg_kd.checkpoints.digest import sha256_of
from mmseg_kd.checkpoints.load import fit, tensors_of
from mmseg_kd.checkpoints.source import local_file
from mmseg_kd.config.network_spec import is_distillation, teachers_of
from mmseg_kd.errors import CheckpointError, ConfigError
from mmseg_kd.networks.build import unwrapped

# Entry of a checkpoint: what the run was made of that wrote it.
_ENTRY = 'made_of'
# What is no setting in a group of parameters and in the hosts' schedulers: it moves in training, as
# the last three do in one that waits for a better validation, or follows from another entry.
_MOVING = {'params', 'base_values', 'last_step', 'verbose'}
_MOVING |= {'best', 'num_bad_epochs', 'cooldown_counter'}


@HOOKS.register_module()
class SameRunHook(Hook):
    """Refuses to resume a run as another: with other networks, terms, teachers' weights, optimiser.

    PyTorch would end in an error about parameter groups, or train on with a classifier that was
    just initialised. Weights of the terms, their schedules and data may change. Learning rates and
    their schedules are the checkpoint's, whatever the config says; where that is something else, a
    warning tells both.
    `mmseg-kd train` adds the hook to every run.

    Args:
        allow_changes: Go on all the same: what fits is loaded, and where the optimiser's groups
            are others its state begins anew, with the learning rates that are due by then.
            `mmseg-kd train --allow-changes` does this.

    Raises:
        ConfigError: `allow_changes` is neither True nor False.
        CheckpointError: The run is another; the message has all that differs.
    """

    # Before the hooks that take up their own state.
    priority = 'VERY_HIGH'

    def __init__(self, allow_changes: bool = False) -> None:
        if not isinstance(allow_changes, bool):
            raise ConfigError(
                f'SameRunHook: expected allow_changes=True or False, got {allow_changes!r}.'
            )
        self.allow_changes = allow_changes
        self._made_of: dict[str, dict[str, str]] | None = None
        self._schedules_are_new = False

    def before_run(self, runner: Runner) -> None:
        """Look at the teachers' files now: later they may be gone, which must not end the run."""
        self.made_of(runner)

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict[str, Any]) -> None:
        """Say what the run is made of."""
        checkpoint[_ENTRY] = {**self.made_of(runner), 'optimizer': _optimizer_of(runner)}

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict[str, Any]) -> None:
        """Compare."""
        if not runner._resume:
            return
        source = str(runner._load_from)
        found = [
            *_changed_tensors(runner, checkpoint, source),
            *_changed_parts(checkpoint.get(_ENTRY, {}), self.made_of(runner)),
        ]
        groups = _changed_groups(runner, checkpoint)
        if not groups:
            _warn_of_settings(runner, checkpoint, source)
        if not found and not groups:
            return
        text = '\n'.join(f'  - {one}' for one in [*found, *groups])
        if not self.allow_changes:
            raise CheckpointError(
                f'{source}: the run of this config cannot go on from it:\n{text}\n'
                'Resume with the config that the run began with; or start a run of its own from '
                'these weights with load_from; or go on all the same with --allow-changes.'
            )
        runner.logger.warning(f'{source}: goes on with changes:\n{text}')
        if groups:
            checkpoint.pop('optimizer', None)
            checkpoint.pop('param_schedulers', None)
            self._schedules_are_new = True

    def before_train(self, runner: Runner) -> None:
        """Bring schedules of learning rates that begin anew to where the run is."""
        if not self._schedules_are_new:
            return
        with warnings.catch_warnings():
            # That the optimiser makes no step between these is what is meant.
            warnings.simplefilter('ignore')
            for by_epoch, steps in ((False, runner.iter), (True, runner.epoch)):
                schedulers = [one for one in _schedulers(runner) if one.by_epoch == by_epoch]
                for _ in range(steps):
                    for scheduler in schedulers:
                        scheduler.step()

    def made_of(self, runner: Runner) -> dict[str, dict[str, str]]:
        """Losses of the terms by name, and digests of the teachers' weights."""
        if self._made_of is None:
            model = unwrapped(runner.model)
            terms = getattr(model, 'terms', {})
            losses = {name: type(term.loss).__name__ for name, term in terms.items()}
            digests: dict[str, str] = {}
            if is_distillation(runner.cfg):
                _, specs = teachers_of(runner.cfg)
                digests |= model.own_weights
                for name in model.teachers.keys() - digests.keys():
                    if specs[name].kind == 'frozen':
                        digests[name] = sha256_of(local_file(str(specs[name].checkpoint)))
            self._made_of = dict(term=losses, teacher=digests)
        return self._made_of


def _schedulers(runner: Runner) -> list[Any]:
    """Those of a runner, of all its optimisers."""
    found: Any = runner.param_schedulers or []
    return [one for many in found.values() for one in many] if isinstance(found, dict) else found


def _warn_of_settings(runner: Runner, checkpoint: Mapping[str, Any], source: str) -> None:
    """What the config says of learning, but will not be done: the checkpoint has something else."""
    optimizer = getattr(runner.optim_wrapper, 'optimizer', None)
    if optimizer is None:
        return
    schedulers = [one.state_dict() for one in _schedulers(runner)]
    kept = {
        'param_groups': checkpoint.get('optimizer', {}).get('param_groups', []),
        'param_schedulers': checkpoint.get('param_schedulers', []),
    }
    changed: dict[str, str] = {}
    for what, ours in (('param_groups', optimizer.param_groups), ('param_schedulers', schedulers)):
        for index, (here, there) in enumerate(zip(ours, kept[what], strict=False)):
            for key in _settings(here) & _settings(there):
                if here[key] != there[key]:
                    name = key.removeprefix('initial_')
                    text = f'{what}[{index}] {name}: {there[key]}, and not {here[key]}'
                    changed.setdefault(f'{what} {name}', text)
    if changed:
        text = '\n'.join(f'  - {changed[key]}' for key in sorted(changed))
        runner.logger.warning(
            f'{source}: learning goes on as it began, not as this config says:\n{text}\n'
            'For other settings start a run of its own from these weights with load_from.'
        )


def _settings(state: Mapping[str, Any]) -> set[str]:
    """The keys of a group of parameters or of a scheduler that training leaves as they are."""
    moving = {key.removeprefix('initial_') for key in state if key.startswith('initial_')}
    if 'momentum' in moving:
        moving.add('betas')
    still = {key for key in state if not key.startswith('_')}
    return still - moving - _MOVING


def _optimizer_of(runner: Runner) -> dict[str, str]:
    optimizer = getattr(runner.optim_wrapper, 'optimizer', None)
    return {} if optimizer is None else dict(type=type(optimizer).__name__)


def _changed_tensors(runner: Runner, checkpoint: Mapping[str, Any], source: str) -> Iterator[str]:
    theirs = tensors_of(checkpoint, source)
    try:
        _, report = fit(unwrapped(runner.model).state_dict(), theirs, source)
    except CheckpointError:
        yield 'none of its tensors fits the model'
        return
    kinds = {
        'of another shape': report.describe_mismatched(),
        'missing in it': report.missing,
        'not in the model': report.unexpected,
    }
    for kind, keys in kinds.items():
        if keys:
            yield f'{len(keys)} tensors are {kind}, such as {keys[0]}'


def _changed_parts(
    theirs: Mapping[str, Mapping[str, str]], ours: Mapping[str, Mapping[str, str]]
) -> Iterator[str]:
    for kind, now in ours.items():
        before = theirs.get(kind, now)
        for name in before.keys() - now.keys():
            yield f'{kind} {name!r} is gone'
        for name in now.keys() - before.keys():
            yield f'{kind} {name!r} is new'
        for name in before.keys() & now.keys():
            if before[name] != now[name]:
                what = f'{before[name]} before and {now[name]} now'
                yield f'{kind} {name!r}: {"other weights" if kind == "teacher" else what}'


def _changed_groups(runner: Runner, checkpoint: Mapping[str, Any]) -> list[str]:
    optimizer = getattr(runner.optim_wrapper, 'optimizer', None)
    if 'optimizer' not in checkpoint and 'message_hub' in checkpoint:
        return [
            'it has no state of the optimiser, which best_*.pth and save_optimizer=False leave out'
        ]
    before = checkpoint.get('optimizer', {})
    if optimizer is None or 'param_groups' not in before:
        return []
    kind, was = _optimizer_of(runner), checkpoint.get(_ENTRY, {}).get('optimizer')
    if was is not None and was != kind:
        return [f'the optimiser was {was["type"]}, and is {kind["type"]} now']
    old, new = (
        [len(group['params']) for group in groups]
        for groups in (before['param_groups'], optimizer.param_groups)
    )
    if old == new:
        return []
    return [
        f'the optimiser had {sum(old)} parameters in {len(old)} groups, and now has {sum(new)} in '
        f'{len(new)}'
    ]
