"""How far the terms pull the student away from its task."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mmengine.dist import all_reduce, get_world_size
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import Runner
from torch import Tensor, nn

from mmseg_kd.checks import at_least_one
from mmseg_kd.distillation import DistillationWrapper
from mmseg_kd.distillation.gradients import compare, gradient, recomputing_layer
from mmseg_kd.errors import ConfigError
from mmseg_kd.host.aside import aside
from mmseg_kd.host.log_names import ANGLE_PREFIX, GRAD_NORM, TASK_LOSS, TERM_PREFIX
from mmseg_kd.networks.build import unwrapped


@HOOKS.register_module()
class GradientConflictHook(Hook):
    """Logs the angle between the gradient of the student's own losses and that of each term.

    The entry `angle.<name>` is in degrees, over all parameters of the student: below 90 the term
    helps the task, above 90 it works against it. `grad_norm.task_loss` and `grad_norm.kd.<name>`
    are the L2 norms of these gradients, weights included. Gradients are averaged over the ranks
    first. A term without weight in the iteration has no entries, and with a task weight of 0
    nothing has.

    An iteration with a measurement takes one more backward pass for the task and for each term;
    the others cost nothing, and training is the same to the bit.

    Args:
        interval: Iterations from one measurement to the next, >= 1.

    Raises:
        ValueError: `interval` is out of its range.
        ConfigError: The model is no distillation, or allows no second backward pass
            (`with_cp=True`, DDP's `static_graph=True`).

    Reference: the cosine of gradients as in Du et al., Agree to Disagree: Adaptive Ensemble
    Knowledge Distillation in Gradient Space, NeurIPS 2020.
    """

    def __init__(self, interval: int = 500) -> None:
        self.interval = at_least_one('interval', interval)

    def before_train(self, runner: Runner) -> None:
        """See that there is something to measure."""
        wrapper = unwrapped(runner.model)
        if not isinstance(wrapper, DistillationWrapper):
            raise ConfigError(
                'GradientConflictHook: expected a DistillationWrapper as model, got '
                f'{type(wrapper).__name__}.'
            )
        name = recomputing_layer(wrapper.student)
        if name is not None:
            raise ConfigError(
                'GradientConflictHook cannot look into layers that recompute their '
                f'activations, as {name!r} does; set with_cp=False or leave the hook out.'
            )
        if getattr(runner.model, 'static_graph', False):
            raise ConfigError(
                'GradientConflictHook runs the backward pass more than once in some iterations; '
                'set static_graph=False or leave the hook out.'
            )

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None) -> None:
        """Ask for the losses of this iteration if it is one to measure."""
        if not self.every_n_train_iters(runner, self.interval):
            return
        wrapper = unwrapped(runner.model)
        # With mixed precision it keeps gradients above zero.
        scaler = getattr(runner.optim_wrapper, 'loss_scaler', None)
        scale = 1.0 if scaler is None else scaler.get_scale()

        def measure(task: Tensor, terms: Mapping[str, Tensor]) -> None:
            scaled = {name: term * scale for name, term in terms.items()}
            measured = measure_gradients(task * scale, scaled, list(wrapper.student.parameters()))
            # Not through the message hub, which would repeat them in every line of the log.
            entries = {ANGLE_PREFIX + name: angle for name, angle in measured.angles.items()}
            text = '  '.join(f'{key}: {angle:.1f}' for key, angle in entries.items())
            norms = {TASK_LOSS: measured.task_norm}
            norms |= {TERM_PREFIX + name: norm for name, norm in measured.norms.items()}
            entries |= {f'{GRAD_NORM}.{name}': norm / scale for name, norm in norms.items()}
            # With `iter`, as mmengine marks what belongs to training.
            entries['iter'] = runner.iter + 1
            runner.visualizer.add_scalars(entries, step=runner.iter + 1)
            runner.logger.info(f'Iter(train) [{runner.iter + 1}]  {text}')

        def try_to_measure(task: Tensor, terms: Mapping[str, Tensor]) -> None:
            with aside('GradientConflictHook', self._give_up):
                measure(task, terms)

        # A rank that gave up alone would leave the others waiting for its gradients.
        wrapper.loss_observer = try_to_measure if get_world_size() == 1 else measure

    def _give_up(self) -> None:
        self.interval = -1  # of no iteration

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None
    ) -> None:
        """Look no more."""
        unwrapped(runner.model).loss_observer = None


@dataclass(frozen=True)
class Gradients:
    """How the gradients of some terms lie to that of the task.

    Attributes:
        task_norm: The L2 norm of the task's.
        norms: That of the terms, by name.
        angles: Between task and term, in degrees from 0 to 180; NaN where a gradient is zero or
            not finite.
    """

    task_norm: float
    norms: dict[str, float]
    angles: dict[str, float]


def measure_gradients(
    task: Tensor, terms: Mapping[str, Tensor], parameters: Sequence[nn.Parameter]
) -> Gradients:
    """Compare the gradient of `task` with that of each of `terms`, the means over the ranks.

    Args:
        task, terms: Scalars. Their graphs stay as they are.
        parameters: What the gradients are taken over; those that are frozen are left out.
    """
    trained = [p for p in parameters if p.requires_grad]
    of_task = _mean_gradient(task, trained)
    found = {name: compare(of_task, _mean_gradient(term, trained)) for name, term in terms.items()}
    return Gradients(
        of_task.norm().item(),
        {name: one.term_norm for name, one in found.items()},
        {name: math.degrees(math.acos(one.cosine)) for name, one in found.items()},
    )


def _mean_gradient(loss: Tensor, parameters: Sequence[nn.Parameter]) -> Tensor:
    found = gradient(loss, parameters)
    all_reduce(found, op='mean')
    return found
