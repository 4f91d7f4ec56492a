"""Weights to start from, whatever kind of checkpoint they are in."""

from __future__ import annotations

from typing import Any

from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import Runner

from mmseg_kd.checkpoints.load import fit, tensors_below, tensors_of
from mmseg_kd.networks.build import student_of, unwrapped


@HOOKS.register_module()
class InitialWeightsHook(Hook):
    """Lets `load_from` fill the trained network from a checkpoint of its own or of a distillation.

    mmengine looks for the model's own keys, which begin with `student.` in a distillation, finds
    none of them in the checkpoint of a plain network, and trains on from random weights. Here the
    keys are brought together, and the log says what was filled. `mmseg-kd train` adds the hook to
    every run.

    Raises:
        CheckpointError: Not one tensor fits.
    """

    # Before the hooks that look at what is loaded, such as that of averaged weights.
    priority = 'VERY_HIGH'

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict[str, Any]) -> None:
        """Bring the keys together."""
        if runner._resume:
            return
        source = str(runner._load_from)
        theirs = tensors_of(checkpoint, source)
        model = unwrapped(runner.model)
        network = student_of(model)
        own = tensors_below(theirs, 'student.') or theirs
        fitting, report = fit(network.state_dict(), own, source)
        loaded = fitting
        if network is not model:
            terms = {k: v for k, v in model.state_dict().items() if k.startswith('terms.')}
            loaded = {f'student.{k}': v for k, v in fitting.items()}
            loaded |= {k: theirs[k] for k, v in terms.items() if _is_like(theirs.get(k), v)}
        checkpoint['state_dict'] = loaded
        runner.logger.info(f'load_from: {report}')


def _is_like(tensor: Any, other: Any) -> bool:
    return tensor is not None and tensor.shape == other.shape
