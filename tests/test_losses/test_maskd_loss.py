from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from conftest import random_label, random_maps, value_and_gradient
from torch import Tensor
from vectors import arrays, cases, check, inputs_of

from mmseg_kd.errors import IterationError
from mmseg_kd.host.iteration import at_iteration
from mmseg_kd.losses import MasKDLoss
from mmseg_kd.losses.receptive_tokens import overlap, token_masks


def with_tokens(tokens_KC: Tensor, **options: Any) -> MasKDLoss:
    k, c = tokens_KC.shape
    loss = MasKDLoss(c, k, **options)
    loss.receptive.tokens = tokens_KC.clone()
    return loss


@pytest.mark.parametrize('case', cases('more.json', 'maskd'))
def test_the_authors(case: dict[str, Any]) -> None:
    def value_of(x: dict[str, Tensor]) -> Tensor:
        return with_tokens(x['tokens'], token_iterations=0)(x['student'], x['teacher'])

    check(case, value_of, inputs_of(case))


@pytest.mark.parametrize('case', cases('more.json', 'maskd_tokens'))
def test_what_the_authors_tokens_learn_by(case: dict[str, Any]) -> None:
    inputs = inputs_of(case)
    check(case, lambda x: overlap(token_masks(x['tokens'], x['teacher']).flatten(2)), inputs)
    masks = token_masks(inputs['tokens'], inputs['teacher'])
    torch.testing.assert_close(masks, arrays('more.npz')[case['outputs']['masks']])
    masked = inputs['teacher'] * masks.sum(1, keepdim=True)
    torch.testing.assert_close(masked, arrays('more.npz')[case['outputs']['masked_teacher']])


def test_by_hand() -> None:
    student = torch.tensor([[[[1.0, 5.0]], [[2.0, 2.0]]]], dtype=torch.float64)
    teacher = torch.tensor([[[[3.0, 0.0]], [[2.0, 1.0]]]], dtype=torch.float64)
    # The mask follows the first channel alone.
    a, b = torch.tensor([3.0, 0.0], dtype=torch.float64).sigmoid().tolist()
    loss = with_tokens(torch.tensor([[1.0, 0.0]]), token_iterations=0)
    expected = ((a**2 * 4 + b**2 * 25) + b**2 * 1) / (a + b) / 2 / 2
    assert loss(student, teacher).item() == pytest.approx(expected, rel=1e-5)


def test_tokens_learn_on_the_teacher_and_stop() -> None:
    student, teacher = (x.float() for x in random_maps((6, 8)))
    label = random_label((12, 16))
    torch.manual_seed(0)
    loss = with_tokens(torch.randn(3, 5), token_iterations=2)
    before = loss.receptive.tokens.clone()

    def first_step(tokens: Tensor) -> Tensor:
        """The gradient of the plain formula."""
        tokens = tokens.clone().requires_grad_()
        masks = torch.einsum('kc,nchw->nkhw', tokens, teacher).sigmoid()
        scores = F.interpolate(
            (masks[:, :, None] * teacher[:, None]).sum(1), (12, 16), mode='bilinear'
        )
        task = F.cross_entropy(scores, label, ignore_index=255)
        pairs = [
            2 * (masks[n, i] * masks[n, j]).sum() / (masks[n, i] ** 2 + masks[n, j] ** 2).sum()
            for n in range(2)
            for i in range(3)
            for j in range(3)
            if i != j
        ]
        (gradient,) = torch.autograd.grad(task + torch.stack(pairs).mean(), tokens)
        return gradient

    expected = before - 0.1 * (first_step(before) + 1e-3 * before)
    seen = []
    for iteration in range(4):
        with at_iteration(iteration):
            value, gradient = value_and_gradient(loss, student, teacher, label)
        assert value.isfinite()
        assert gradient.any()
        seen.append(loss.receptive.tokens.clone())
    torch.testing.assert_close(seen[0], expected, rtol=0.0, atol=1e-5)
    assert not torch.equal(seen[1], seen[0])
    assert torch.equal(seen[2], seen[1])
    assert torch.equal(seen[3], seen[1])


def test_the_students_gradient_is_that_of_fixed_tokens() -> None:
    student, teacher = (x.float() for x in random_maps())
    loss = MasKDLoss(5, token_iterations=1)
    with at_iteration(0):
        found = value_and_gradient(loss, student, teacher, random_label((6, 8)))
        loss.eval()
        expected = value_and_gradient(loss, student, teacher, random_label((6, 8)))
    torch.testing.assert_close(found, expected)


def test_what_was_learnt_is_saved_and_goes_on_to_the_bit() -> None:
    student, teacher = (x.float() for x in random_maps())
    label = random_label((6, 8))
    loss, other = MasKDLoss(5), MasKDLoss(5)
    with at_iteration(0):
        loss(student, teacher, label)
        other.load_state_dict(copy.deepcopy(loss.state_dict()))
        assert torch.equal(loss(student, teacher, label), other(student, teacher, label))
    assert torch.equal(loss.receptive.tokens, other.receptive.tokens)
    assert not list(loss.parameters())


def test_masks_become_unlike_and_scores_stay() -> None:
    """What the tokens learn by falls, over a hundred steps."""
    _, teacher = (x.float() for x in random_maps((6, 8)))
    label = teacher.argmax(1)
    loss = MasKDLoss(5, 2)

    def parts() -> tuple[float, float]:
        masks = token_masks(loss.receptive.tokens, teacher)
        scores = teacher * masks.sum(1, keepdim=True)
        return overlap(masks.flatten(2)).item(), F.cross_entropy(scores, label).item()

    before = parts()
    for iteration in range(100):
        with at_iteration(iteration):
            loss(teacher, teacher, label)
    after = parts()
    assert sum(after) < sum(before) - 0.1


def test_all_ignored_gives_finite_tokens() -> None:
    student, teacher = (x.float() for x in random_maps())
    loss = MasKDLoss(5)
    with at_iteration(0):
        loss(student, teacher, torch.full((2, 6, 8), 255))
    assert loss.receptive.tokens.isfinite().all()


def test_tokens_that_learn_need_labels_and_an_iteration() -> None:
    student, teacher = (x.float() for x in random_maps())
    with pytest.raises(ValueError, match='tokens learn with labels'), at_iteration(0):
        MasKDLoss(5)(student, teacher)
    with pytest.raises(IterationError):
        MasKDLoss(5)(student, teacher, random_label((6, 8)))


@pytest.mark.parametrize(
    ('argument', 'value'), [('num_tokens', 0), ('token_iterations', -1), ('ignore_index', None)]
)
def test_wrong_argument(argument: str, value: Any) -> None:
    with pytest.raises(ValueError, match=f'{argument} must be a whole number.*{value}'):
        MasKDLoss(**{argument: value})
