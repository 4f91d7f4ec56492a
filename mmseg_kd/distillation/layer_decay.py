"""Layer-wise decay of the learning rate under a wrapper, as mmseg has it for BEiT, MAE, ConvNeXt.

mmseg's constructors find layers by names that begin with `backbone`, and the backbone by its name:
they get the student, whose names are those of the plain network.
"""

from __future__ import annotations

from typing import Any

from mmseg.engine.optimizers import (
    LayerDecayOptimizerConstructor,
    LearningRateDecayOptimizerConstructor,
)
from mmseg.registry import OPTIM_WRAPPER_CONSTRUCTORS
from torch import nn

from mmseg_kd.distillation.wrapper import DistillationWrapper


class _OfStudent:
    """Before one of mmseg's constructors among the bases of a class."""

    def add_params(self, params: list[dict[str, Any]], module: nn.Module, **kwargs: Any) -> None:
        """Add groups of parameters: the student's as without the wrapper, and the terms'."""
        this: Any = self
        own: Any = super()
        if not isinstance(module, DistillationWrapper):
            own.add_params(params, module, **kwargs)
            return
        own.add_params(params, module.student, **kwargs)
        learnt = {n: p for n, p in module.terms.named_parameters() if p.requires_grad}
        if learnt:
            group = dict(params=[*learnt.values()], param_names=[*learnt], group_name='terms')
            rates = dict(lr=this.base_lr, lr_scale=1.0, weight_decay=this.base_wd)
            params.append({**group, **rates})


@OPTIM_WRAPPER_CONSTRUCTORS.register_module('LearningRateDecayOptimizerConstructor', force=True)
class StudentLearningRateDecay(_OfStudent, LearningRateDecayOptimizerConstructor):
    """mmseg's `LearningRateDecayOptimizerConstructor`, in its place."""


@OPTIM_WRAPPER_CONSTRUCTORS.register_module('LayerDecayOptimizerConstructor', force=True)
class StudentLayerDecay(_OfStudent, LayerDecayOptimizerConstructor):
    """mmseg's `LayerDecayOptimizerConstructor`, in its place."""
