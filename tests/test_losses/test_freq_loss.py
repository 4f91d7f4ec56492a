from __future__ import annotations

from typing import Any

import pytest
import torch
from conftest import random_label, random_maps
from torch import Tensor
from vectors import cases, check, inputs_of

from mmseg_kd.host.iteration import at_iteration
from mmseg_kd.losses import FreqLoss
from mmseg_kd.losses.freq_loss import haar, inverse_haar


def with_tokens(tokens: Tensor, **options: Any) -> FreqLoss:
    _, k, c = tokens.shape
    loss = FreqLoss(c, num_tokens=k, **options)
    assert loss.receptive.tokens.shape == tokens.shape
    loss.receptive.tokens = tokens
    return loss


@pytest.mark.parametrize('case', cases('more.json', 'freekd'))
def test_the_authors(case: dict[str, Any]) -> None:
    def value_of(x: dict[str, Tensor]) -> Tensor:
        loss = with_tokens(x['tokens'], tokens_of='level', token_iterations=0)
        return loss(x['student'], x['teacher'])

    check(case, value_of, inputs_of(case))


@pytest.mark.parametrize('case', cases('more.json', 'freekd_tokens'))
def test_what_the_authors_tokens_learn_by(
    case: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    # Theirs learn by a detector's loss besides.
    monkeypatch.setattr(
        'mmseg_kd.losses.freq_loss.score_loss', lambda score, *_: score.new_zeros(())
    )

    def value_of(x: dict[str, Tensor]) -> Tensor:
        loss = with_tokens(x['tokens'], tokens_of='level')
        return loss._token_loss(x['tokens'], *haar(x['teacher'], 3), x['teacher'], None)

    check(case, value_of, inputs_of(case))


def test_by_hand() -> None:
    student = torch.tensor([[[[1.0, 2.0], [3.0, 5.0]]]], dtype=torch.float64)
    teacher = torch.zeros(1, 1, 2, 2, dtype=torch.float64)
    # Details (1 + 2 - 3 - 5) / 2, (1 - 2 + 3 - 5) / 2 and (1 - 2 - 3 + 5) / 2.
    one = FreqLoss(levels=1)(student, teacher).item()
    assert one == pytest.approx((2.5 + 1.5 + 0.5) / 3)
    # The low band, 11 / 2, among zeros: all details are half of it.
    assert FreqLoss(levels=2)(student, teacher).item() == pytest.approx(one + 11 / 4)


def test_a_level_is_not_seen() -> None:
    student, teacher = random_maps((8, 8))
    loss = FreqLoss()
    torch.testing.assert_close(loss(student + 5, teacher), loss(student, teacher))


@pytest.mark.parametrize('size', [(8, 16), (7, 5), (1, 1)])
def test_the_transform_is_orthonormal_and_turned_back(size: tuple[int, int]) -> None:
    x, _ = random_maps(size)
    low, details = haar(x, 3)
    squares = low.square().sum() + sum(d.square().sum() for d in details)
    torch.testing.assert_close(squares, x.square().sum())
    h, w = size
    torch.testing.assert_close(inverse_haar(low, details)[..., :h, :w], x)


def test_the_masks_of_orientations() -> None:
    """With one token an orientation, each orientation's difference counts by its own mask."""
    student, teacher = random_maps((4, 4))
    tokens = torch.randn(4, 1, 5, dtype=torch.float64)
    loss = with_tokens(tokens, levels=1, token_iterations=0)
    (_, (ours,)), (_, (theirs,)) = haar(student, 1), haar(teacher, 1)
    expected = [
        (
            torch.einsum('c,nchw->nhw', tokens[1 + o, 0], theirs[:, :, o]).sigmoid()[:, None]
            * (ours - theirs)[:, :, o].abs()
        ).mean()
        for o in range(3)
    ]
    torch.testing.assert_close(loss(student, teacher), torch.stack(expected).mean())


def test_an_orientations_masks_of_all_levels_overlap_as_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(
        'mmseg_kd.losses.freq_loss.score_loss', lambda score, *_: score.new_zeros(())
    )
    _, teacher = random_maps((4, 4))
    tokens = torch.randn(4, 2, 5, dtype=torch.float64)
    low, details = haar(teacher, 2)
    bands = [[low], *([level[:, :, o] for level in details] for o in range(3))]
    expected = torch.zeros((), dtype=torch.float64)
    for one, maps in zip(tokens, bands, strict=True):
        masks = torch.cat([(one @ x.flatten(2)).sigmoid() for x in maps], dim=2)
        a, b = masks.unbind(1)
        dice = 2 * (a * b).sum(1) / (a.square().sum(1) + b.square().sum(1))
        expected += dice.mean()
    loss = with_tokens(tokens, levels=2)
    found = loss._token_loss(tokens, low, details, teacher, None)
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize('tokens_of', ['orientation', 'level'])
def test_tokens_learn_and_stop(tokens_of: Any) -> None:
    student, teacher = (x.float() for x in random_maps((5, 8)))
    label = random_label((10, 16))
    loss = FreqLoss(5, levels=2, num_tokens=2, tokens_of=tokens_of, token_iterations=1)
    seen = [loss.receptive.tokens.clone()]
    for iteration in range(2):
        with at_iteration(iteration):
            loss(student, teacher, label)
        seen.append(loss.receptive.tokens.clone())
    changed = (seen[0] != seen[1]).any(2)
    assert changed.all()
    assert torch.equal(seen[1], seen[2])


@pytest.mark.parametrize(
    ('argument', 'value'), [('levels', 0), ('num_tokens', -1), ('tokens_of', 'band')]
)
def test_wrong_argument(argument: str, value: Any) -> None:
    with pytest.raises(ValueError, match=f'{argument} .*{value}'):
        FreqLoss(**{argument: value})
