"""Values and gradients of the losses' authors, see ../shared/vectors/README.md."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from conftest import SHARED, needs_shared
from torch import Tensor

VECTORS = SHARED / 'vectors'

# Relative errors of the value and of the gradients' norms and entries.
TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-4}


def cases(file: str, *names: str) -> list[Any]:
    """The cases of a file whose id or name is one of `names`; one to skip where it is absent.

    A name ending in '*' stands for all that begin so.
    """
    path = VECTORS / file
    if not path.exists():
        return [pytest.param({}, marks=needs_shared(f'vectors/{file}'))]
    found = json.loads(path.read_text(encoding='utf-8'))['cases']
    whole = [name for name in names if not name.endswith('*')]
    beginnings = tuple(name[:-1] for name in names if name.endswith('*'))
    wanted = [
        case
        for case in found
        for key in (case.get('id', case['name']),)
        if key in whole or case['name'] in whole or key.startswith(beginnings)
    ]
    assert wanted, f'{file} has no case {names}'
    return [pytest.param(case, id=case.get('id')) for case in wanted]


@cache
def arrays(file: str) -> dict[str, Tensor]:
    """What an .npz holds, by name."""
    with np.load(VECTORS / file) as found:
        return {name: torch.from_numpy(found[name]) for name in found.files}


def inputs_of(case: Mapping[str, Any], file: str = 'more.npz') -> dict[str, Tensor]:
    """The inputs of a case of `more.json`, by role."""
    return {role: arrays(file)[name] for role, name in case['inputs'].items()}


def check(
    case: Mapping[str, Any],
    value_of: Callable[[dict[str, Tensor]], Tensor],
    inputs: Mapping[str, Tensor],
) -> None:
    """Compare value and gradients with those of `case`, in float64 and in float32.

    Args:
        case: What is expected: `loss`; `grad_norm` and the first entries with respect to
            `inputs['student']`; `other_grads` for other roles.
        value_of: The loss of the inputs.
        inputs: Tensors by role; those of floats come in each dtype.
    """
    expected = dict(case.get('other_grads', {}))
    if 'grad_norm' in case:
        first = case['grad_corner'] if 'grad_corner' in case else case['grad_first8']
        expected['student'] = dict(grad_norm=case['grad_norm'], grad_first8=first)
    for dtype, tolerance in TOLERANCE.items():
        ours = {
            role: x.to(dtype, copy=True).requires_grad_(role in expected)
            if x.is_floating_point()
            else x
            for role, x in inputs.items()
        }
        value = value_of(ours)
        assert value.dtype == dtype
        assert value.item() == pytest.approx(case['loss'], rel=tolerance)
        gradients = torch.autograd.grad(value, [ours[role] for role in expected])
        for want, gradient in zip(expected.values(), gradients, strict=True):
            assert gradient.norm().item() == pytest.approx(want['grad_norm'], rel=tolerance)
            # No entry can be better than the gradient as a whole.
            floor = tolerance * want['grad_norm'] * (1e-2 if dtype == torch.float32 else 1e-4)
            assert gradient.flatten()[:8].tolist() == pytest.approx(
                want['grad_first8'], rel=tolerance, abs=floor
            )
