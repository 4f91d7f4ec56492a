"""What a run does when a loss or a gradient is NaN or infinite."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from mmengine.dist import all_gather_object, get_rank, get_world_size, is_main_process
from mmengine.hooks import Hook
from mmengine.optim import OptimWrapper, OptimWrapperDict
from mmengine.registry import HOOKS
from mmengine.runner import Runner

from mmseg_kd.checks import is_integer
from mmseg_kd.errors import ConfigError, NonFiniteError
from mmseg_kd.hooks.failed_step import FailedStep, config_of, write_step
from mmseg_kd.hooks.find import find_hooks
from mmseg_kd.hooks.iteration_seed_hook import IterationSeedHook
from mmseg_kd.hooks.non_finite_layers import has_non_finite, named_networks, watching
from mmseg_kd.hooks.same_run_hook import SameRunHook
from mmseg_kd.hooks.step_guard import StepGuard
from mmseg_kd.host.aside import aside
from mmseg_kd.host.log_names import TASK_LOSS, TERM_PREFIX
from mmseg_kd.host.visualizer import ignore_full_disk
from mmseg_kd.networks.build import unwrapped

# Entry of the message hub, which goes into the checkpoint.
SKIPPED = 'skipped_steps'

FILE = 'non_finite.jsonl'
# Steps that a run keeps in files, on each rank: the first ones say what went wrong.
KEPT = 2


@HOOKS.register_module()
class NonFiniteHook(Hook):
    """Keeps NaN and infinity out of the weights, and says where they came from.

    A step whose loss or gradient is not finite, on any rank, is not taken: parameters, optimiser
    and buffers (BatchNorm's statistics among them) stay as they were before it. The log names
    the losses, the first layer that put out such a value, and the iteration;
    `<work_dir>/non_finite.jsonl` has a line with the images of the batch. The first two such steps
    are kept in `non_finite_iter_N.pth`, for `mmseg-kd replay`. With mixed precision
    the steps that the loss scaler leaves out by itself, since the scale was too large, are its
    own affair; they count where the scale has come down below 1 and still does not help.

    A loss that is not finite is multiplied with NaN before the backward pass, so that the
    gradient, which is all that the ranks share, tells the others. In a step that is fine this
    costs a pass over the gradients and, on a GPU, one synchronisation.

    Args:
        policy: 'skip': go on with the next batch; 'stop': end the run.
        limit: Steps skipped in a row before the run ends all the same, >= 1.

    Raises:
        ConfigError: An argument is out of its range.
        NonFiniteError: While training, where the run is to end.
    """

    # Before the hooks that average or save weights.
    priority = 'HIGH'

    def __init__(self, policy: Literal['skip', 'stop'] = 'skip', limit: int = 10) -> None:
        if policy not in ('skip', 'stop'):
            raise ConfigError(f"NonFiniteHook: expected policy 'skip' or 'stop', got {policy!r}.")
        if not (is_integer(limit) and limit >= 1):
            raise ConfigError(f'NonFiniteHook: expected limit to be an integer >= 1, got {limit!r}')
        self.policy = policy
        self.limit = limit
        self.in_a_row = 0
        # Of the iterations since the last step: several where gradients are accumulated.
        self._batches: list[_Batch] = []
        self._guard: StepGuard | None = None

    def before_train(self, runner: Runner) -> None:
        """Put the guard between the loss and the optimiser."""
        if isinstance(runner.optim_wrapper, OptimWrapperDict):
            # Which of them steps when is the model's own `train_step` to say.
            runner.logger.warning(
                'With several optimisers steps are not watched for NaN and infinity.'
            )
            return
        if not isinstance(runner.optim_wrapper, OptimWrapper):
            raise ConfigError(
                'NonFiniteHook: expected an OptimWrapper, got '
                f'{type(runner.optim_wrapper).__name__}.'
            )
        self._guard = StepGuard(runner.optim_wrapper, runner.model)

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None) -> None:
        """Keep what may have to be restored."""
        if self._guard is None:
            return
        if not self._batches:
            self._guard.keep_buffers()
        self._batches.append(_Batch(runner.iter, data_batch))

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None
    ) -> None:
        """Report a step that was not taken, and end the run if it is time."""
        if self._guard is None:
            return
        self._batches[-1].losses = outputs or {}
        verdict, self._guard.verdict = self._guard.verdict, None
        if verdict is None:  # gradients are still being accumulated
            return
        batches, self._batches = self._batches, []
        if verdict.is_taken:
            self.in_a_row = 0
        if not verdict.is_counted:
            return
        self.in_a_row += 1
        total = runner.message_hub.runtime_info.get(SKIPPED, 0) + 1
        runner.message_hub.update_info(SKIPPED, total)
        # All batches, also those whose losses are fine: ranks look at equally many, as the
        # layers that talk to the other ranks need it.
        found = [
            _Finding(
                get_rank(),
                batch.iteration + 1,
                batch.non_finite_losses,
                self._first_layer(runner, batch),
                verdict.gradient,
                batch.images,
            )
            for batch in batches
        ]
        everywhere = [one for of_rank in all_gather_object(found) for one in of_rank]
        # Where no loss says whose fault it was, it may be anyone's.
        reported = [finding for finding in everywhere if finding.losses] or everywhere
        is_mine = any(finding.rank == get_rank() for finding in reported)
        kept = self._keep(runner, batches, verdict.gradient) if is_mine else ''
        how = ''.join(all_gather_object(kept))
        file = Path(runner.work_dir) / FILE
        if is_main_process():
            with ignore_full_disk(), file.open('a', encoding='utf-8') as out:
                for finding in reported:
                    out.write(json.dumps(finding.to_dict(), ensure_ascii=False) + '\n')
        what = '; '.join(finding.describe(get_world_size() > 1) for finding in reported)
        if self.policy == 'stop':
            raise NonFiniteError(
                f"{what}. Training stops (policy='stop') and the step was not taken; "
                f'the images of the batch are listed in {file}.{how}'
            )
        runner.logger.warning(
            f'{what}. The step is skipped ({self.in_a_row} in a row, {total} in all); '
            f'the images of the batch are listed in {file}.{how}'
        )
        if self.in_a_row >= self.limit:
            raise NonFiniteError(
                f'{what}. This was the {self.in_a_row}. step in a row that had to be skipped: '
                'training stops. Lower the learning rate or the weights of the terms, or clip the '
                "gradients (optim_wrapper.clip_grad=dict(max_norm=...)); NonFiniteHook's `limit` "
                'sets how many are skipped.'
            )

    def _keep(self, runner: Runner, batches: Sequence[_Batch], gradient: str | None) -> str:
        """Write the step to a file, unless there are enough; returns what the log says of it."""
        suffix = f'_rank{get_rank()}' if get_world_size() > 1 else ''
        folder = Path(runner.work_dir)
        file = folder / f'non_finite_iter_{batches[-1].iteration + 1}{suffix}.pth'
        if len([*folder.glob(f'non_finite_iter_*{suffix}.pth')]) >= KEPT:
            return ''
        assert self._guard is not None
        said: list[str] = []
        with aside(f'Keeping the step in {file}', lambda: None):
            made_of = [hook.made_of(runner) for hook in find_hooks(runner, SameRunHook)]
            step = FailedStep(
                config=config_of(runner.cfg),
                # What the step left as it was: it was not taken, and the buffers are restored.
                weights=unwrapped(runner.model).state_dict(),
                teachers=made_of[0]['teacher'] if made_of else {},
                batches=[batch.data for batch in batches],
                iterations=[batch.iteration for batch in batches],
                max_iters=runner.train_loop.max_iters,
                seed=runner.seed or 0,
                rank=get_rank(),
                scale=self._guard.scale,
                losses=[{k: float(v) for k, v in batch.losses.items()} for batch in batches],
                gradient=gradient,
            )
            size = write_step(step, file) / 2**20
            said.append(f' mmseg-kd replay {file} ({size:.1f} MiB) runs the step again.')
        return ''.join(said)

    def _first_layer(self, runner: Runner, batch: _Batch) -> str | None:
        """Run the batch once more, on all ranks alike, and look at every layer."""
        assert self._guard is not None
        model = unwrapped(runner.model)
        for hook in find_hooks(runner, IterationSeedHook):
            hook.seed_networks(runner, batch.iteration)
        with (
            torch.no_grad(),
            watching(named_networks(model)) as origin,
            runner.optim_wrapper.optim_context(model),
        ):
            data = model.data_preprocessor(batch.data, True)
            images_are_finite = not has_non_finite(data['inputs'])
            model._run_forward(data, mode='loss')
        self._guard.restore_buffers()
        return origin.layer if images_are_finite else 'the images'


class _Batch:
    """An iteration's batch, and the log entries that came of it."""

    def __init__(self, iteration: int, data: Any) -> None:
        self.iteration = iteration
        self.data = data
        self.losses: Mapping[str, Any] = {}

    @property
    def non_finite_losses(self) -> dict[str, float]:
        """Of the entries with 'loss' in their names, and of the terms."""
        values = {
            name: float(value)
            for name, value in self.losses.items()
            if 'loss' in name or name.startswith(TERM_PREFIX)
        }
        found = {name: value for name, value in values.items() if not math.isfinite(value)}
        # The totals say nothing that a part does not say better.
        return {k: v for k, v in found.items() if k not in ('loss', TASK_LOSS)} or found

    @property
    def images(self) -> list[str]:
        """The files, where the samples name them."""
        samples = self.data.get('data_samples') or [] if isinstance(self.data, Mapping) else []
        return [str(sample.metainfo.get('img_path', 'unknown')) for sample in samples]


@dataclass(frozen=True)
class _Finding:
    """What one rank knows of a bad batch."""

    rank: int
    iteration: int
    losses: Mapping[str, float]
    layer: str | None
    gradient: str | None
    images: Sequence[str]

    def to_dict(self) -> dict[str, Any]:
        """As in the file; JSON has no NaN."""
        losses = {name: str(value) for name, value in self.losses.items()}
        return {**self.__dict__, 'losses': losses}

    def describe(self, with_rank: bool) -> str:
        where = f'Iteration {self.iteration}' + (f', rank {self.rank}' if with_rank else '')
        values = ', '.join(f'{name} is {value}' for name, value in self.losses.items())
        if self.layer is not None:
            source = f'first in {self.layer}'
        else:
            source = 'what all layers put out is finite'
        if not self.losses:
            return f'{where}: the gradient is not finite, last in {self.gradient}; {source}'
        return f'{where}: {values}; {source}'
