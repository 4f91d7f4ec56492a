"""How large the gradient is."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from mmengine.dist import is_main_process
from mmengine.hooks import Hook, LoggerHook
from mmengine.optim import OptimWrapperDict
from mmengine.registry import HOOKS
from mmengine.runner import Runner
from torch.nn.utils import get_total_norm

from mmseg_kd.hooks.find import find_hook
from mmseg_kd.host.aside import aside
from mmseg_kd.host.log_names import GRAD_NORM, TRAIN_PREFIX


@HOOKS.register_module()
class GradientNormHook(Hook):
    """Logs the L2 norm of the gradient over all that is trained, `grad_norm`.

    With `optim_wrapper.clip_grad=dict(max_norm=...)` mmengine logs it in each iteration, as it is
    before the clipping, and this hook does nothing. Otherwise it is measured in those iterations
    that a line of the log is the mean of, as the optimiser gets it: by default in the last 10 of
    50. A measurement is a pass over the gradients; what it waits for on a GPU, `NonFiniteHook` has
    waited for in any case. With several ranks rank 0 measures, since all have the same gradient.
    Several optimisers have an entry each, `<name>.grad_norm`. `mmseg-kd train` adds the hook to
    every run. For the norms of the single terms see `GradientConflictHook`.
    """

    def before_train(self, runner: Runner) -> None:
        """Look at what the optimisers are about to take, if nobody else does."""
        self._is_due = False
        logger = find_hook(runner, LoggerHook)
        if logger is None or not is_main_process():
            self._interval = self._window = 0
            return
        self._interval, self._window = logger.interval, runner.log_processor.window_size
        # The logger's line at the end of an epoch, where that is none of its interval.
        epoch = len(runner.train_dataloader)
        has_line = not logger.ignore_last or epoch <= self._interval
        self._last_line = epoch if has_line else 0
        self._hub = runner.message_hub
        wrapper = runner.optim_wrapper
        several = dict(wrapper.items()) if isinstance(wrapper, OptimWrapperDict) else {}
        for name, one in (several or {'': wrapper}).items():
            if not (one.clip_grad_kwargs and one.grad_name == GRAD_NORM):
                key = TRAIN_PREFIX + (f'{name}.{GRAD_NORM}' if several else GRAD_NORM)
                one.optimizer.register_step_pre_hook(partial(self._measure, key))

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None) -> None:
        """See whether this iteration goes into the next line of the log."""
        if self._interval:
            self._is_due = (
                -(batch_idx + 1) % self._interval < self._window
                or 0 <= self._last_line - (batch_idx + 1) < self._window
            )

    def _measure(self, key: str, optimizer: torch.optim.Optimizer, *_: Any) -> None:
        if self._is_due:
            with aside('GradientNormHook', self._give_up):
                self._record(key, optimizer)

    def _give_up(self) -> None:
        self._interval, self._is_due = 0, False

    def _record(self, key: str, optimizer: torch.optim.Optimizer) -> None:
        parameters = [p for group in optimizer.param_groups for p in group['params']]
        norm = get_total_norm([p.grad for p in parameters if p.grad is not None])
        # Fused optimisers are handed the scaled gradients of mixed precision, and the scale.
        scale = getattr(optimizer, 'grad_scale', None)
        self._hub.update_scalar(key, float(norm if scale is None else norm / scale))
