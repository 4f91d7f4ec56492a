"""Terms held in proportion to the task, by their gradients at the layers that they tap."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from mmseg_kd.distillation.auto_weight import ITERATIONS_PER_BACKWARD
from mmseg_kd.distillation.gradients import Comparison, compare, gradient, gradients
from mmseg_kd.distillation.term import Term
from mmseg_kd.errors import ConfigError
from mmseg_kd.networks.taps import Taps

# In half precision small gradients become 0 and large ones infinite: the first of these factors
# with which all is finite. Layers behind a tap may be in half precision where its output is not.
SCALES = (2.0**16, 2.0**8, 1.0)


def balance(
    terms: Sequence[Term],
    values: dict[str, Tensor],
    student: Taps,
    read: Taps,
    task_loss: Callable[[], Tensor],
) -> None:
    """Measure weights that set themselves, and treat terms that point against the task.

    Gradients are compared where both losses meet last: at the output of the layer that the term
    taps. There a term's takes a pass through the loss alone, and the task's one through the layers
    behind.

    Args:
        terms: Those of this iteration.
        values: Their losses without weight, by name. In those that point against the task it is
            changed what the student learns, and not the number.
        student: The student's taps.
        read: The same beside the student's way, from which the terms' losses are.
        task_loss: Gives the student's own loss in all.

    Raises:
        ConfigError: The task does not depend on what a layer puts out, or never gives a gradient.
    """
    own = [(term, term.auto) for term in terms if term.auto is not None]
    interval = ITERATIONS_PER_BACKWARD * (1 + len(own))
    due = {term.name for term, auto in own if auto.is_due(interval)}
    looked_at = [(t, auto) for t, auto in own if t.name in due or t.spec.conflict != 'keep']
    layers = list(dict.fromkeys(layer for t, _ in looked_at for layer in t.layers.student))
    of_task = {}
    if layers:
        task = task_loss()
        _check_that_they_meet([t for t, auto in looked_at if not auto.measured], task, student)
        of_task = _by_layer(task, layers, student)
    for term, auto in looked_at:
        taps = [read.outputs[layer] for layer in term.layers.student]
        ours = torch.cat([of_task[layer] for layer in term.layers.student])
        of_term = _gradient(values[term.name], taps)
        found = compare(ours, of_term, is_part=True)
        if term.name in due:
            auto.take(found)
        if found.cosine < 0 and term.spec.conflict != 'keep':
            change = -of_term if term.spec.conflict == 'drop' else _projection(found) * ours
            values[term.name] = _with_gradient(values[term.name], taps, change)
    for term, auto in own:
        auto.seen += 1
        if not auto.measured and auto.seen >= interval:
            raise ConfigError(
                f'{term.spec.where}.weight: in {auto.seen} iterations the loss of the student or '
                'of the term gave no gradient to set it by; expected a number.'
            )


def _check_that_they_meet(terms: Sequence[Term], task: Tensor, student: Taps) -> None:
    for term in terms:
        for layer in term.layers.student:
            if gradients(task, [student.outputs[layer]]) == [None]:
                raise ConfigError(
                    f"{term.spec.where}.weight: the student's own loss does not depend on what "
                    f'{layer!r} puts out, so that nothing sets the weight; expected a number, or '
                    'another layer.'
                )


def _by_layer(loss: Tensor, layers: Sequence[str], student: Taps) -> dict[str, Tensor]:
    """The gradients of the task over what layers put out, of one pass."""
    taps = [student.outputs[layer] for layer in layers]
    parts = _gradient(loss, taps).split([tap.numel() for tap in taps])
    return dict(zip(layers, parts, strict=True))


def _gradient(loss: Tensor, taps: Sequence[Tensor]) -> Tensor:
    """The gradient of a loss over taps of any precision."""
    for scale in SCALES:
        found = gradient(loss * scale, taps) / scale
        if found.isfinite().all():
            break
    return found


def _projection(found: Comparison) -> float:
    """How much of the task's gradient is to be added, so that the term's is at right angles."""
    return -found.cosine * found.term_norm / found.task_norm


def _with_gradient(loss: Tensor, taps: Sequence[Tensor], change: Tensor) -> Tensor:
    """A loss of the same value, whose gradient over `taps` is larger by `change`."""
    parts = change.split([tap.numel() for tap in taps])
    products = [tap.flatten().to(part.dtype) @ part for tap, part in zip(taps, parts, strict=True)]
    product = torch.stack(products).sum()
    return loss + (product - product.detach())
