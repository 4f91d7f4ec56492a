from __future__ import annotations

import math
import re
from typing import Any

import pytest
import torch
from conftest import plain_divergence, value_and_gradient
from torch import Tensor

from mmseg_kd.losses import AttentionValueLoss


def random_block(channels: int, seed: int) -> tuple[Tensor, Tensor]:
    """Attention (2, 3, 4) and values (2, 4, C)."""
    generator = torch.Generator().manual_seed(seed)
    attention = torch.randn(2, 3, 4, generator=generator, dtype=torch.float64).softmax(-1)
    return attention, torch.randn(2, 4, channels, generator=generator, dtype=torch.float64)


def plain_loss(student: Any, teacher: Any, heads: int) -> tuple[Tensor, Tensor]:
    """Attention and value part, position by position."""
    attention = [
        plain_divergence(student[0][n, i].log(), teacher[0][n, i].log(), 1.0)
        for n in range(2)
        for i in range(3)
    ]
    value = []
    for n in range(2):
        for h in range(heads):
            relations = []
            for block in (student, teacher):
                part = block[1][n].chunk(heads, dim=1)[h]
                relations.append(part @ part.T / math.sqrt(part.shape[1]))
            value += [plain_divergence(relations[0][i], relations[1][i], 1.0) for i in range(4)]
    return torch.stack(attention).mean(), torch.stack(value).mean()


@pytest.mark.parametrize('heads', [1, 2])
@pytest.mark.parametrize('part', [0, 1])
def test_formula_with_other_channels(heads: int, part: int) -> None:
    student, teacher = random_block(6, 0), random_block(10, 1)
    loss = AttentionValueLoss(2.0, 3.0, heads)

    def replaced(x: Tensor) -> list[Tensor]:
        return [x if i == part else student[i] for i in range(2)]

    def formula(x: Tensor) -> Tensor:
        attention, value = plain_loss(replaced(x), teacher, heads)
        return 2 * attention + 3 * value

    torch.testing.assert_close(
        value_and_gradient(lambda x: loss(replaced(x), teacher), student[part]),
        value_and_gradient(formula, student[part]),
    )


def test_heads_are_averaged() -> None:
    student, teacher = random_block(6, 0), random_block(6, 1)
    heads = torch.stack([student[0], student[0] * 2, student[0] * 0], 1)
    loss = AttentionValueLoss()
    torch.testing.assert_close(loss([heads, student[1]], teacher), loss(student, teacher))


def test_equal_inputs_give_zero() -> None:
    assert AttentionValueLoss()(random_block(6, 0), random_block(6, 0)).item() == 0


def test_an_attention_of_zero_is_finite() -> None:
    attention = torch.tensor([[[1.0, 0.0]]])
    values = torch.ones(1, 2, 4)
    value, gradient = value_and_gradient(
        lambda a: AttentionValueLoss()([a, values], [attention.flip(-1), values]), attention
    )
    assert value.isfinite()
    assert gradient.isfinite().all()


def test_half_precision_is_computed_in_float32() -> None:
    student, teacher = random_block(6, 0), random_block(6, 1)
    exact = AttentionValueLoss()(student, teacher)
    with torch.autocast('cpu', dtype=torch.bfloat16):
        value = AttentionValueLoss()(*([x.half() for x in block] for block in (student, teacher)))
    torch.testing.assert_close(value, exact.float(), rtol=1e-2, atol=0)
    assert value.dtype == torch.float32


def test_gradient_to_the_student_only() -> None:
    blocks = [[x.requires_grad_() for x in random_block(6, seed)] for seed in (0, 1)]
    AttentionValueLoss()(*blocks).backward()
    assert all(x.grad is not None for x in blocks[0])
    assert all(x.grad is None for x in blocks[1])


@pytest.mark.parametrize(
    ('attention', 'values', 'message'),
    [
        ((2, 3, 5), (2, 4, 6), 'attention weights.*(2, 3, 4) and (2, 3, 5)'),
        ((2, 3, 4), (2, 5, 6), 'value positions.*(2, 4) and (2, 5)'),
    ],
)
def test_shapes_that_do_not_match(
    attention: tuple[int, ...], values: tuple[int, ...], message: str
) -> None:
    with pytest.raises(ValueError, match=re.escape(message).replace(r'\.\*', '.*')):
        AttentionValueLoss()(random_block(6, 0), [torch.ones(attention), torch.ones(values)])


def test_heads_that_do_not_divide_the_channels() -> None:
    with pytest.raises(ValueError, match='relation_heads=4 does not divide 6'):
        AttentionValueLoss(relation_heads=4)(random_block(6, 0), random_block(6, 1))


@pytest.mark.parametrize(
    ('argument', 'value'),
    [('attention_weight', -1.0), ('value_weight', 'a'), ('relation_heads', 0)],
)
def test_wrong_argument(argument: str, value: Any) -> None:
    with pytest.raises(ValueError, match=f'{argument}.*{re.escape(repr(value))}'):
        AttentionValueLoss(**{argument: value})
