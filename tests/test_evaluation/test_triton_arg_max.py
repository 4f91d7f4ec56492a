"""The arg max of scores scaled in a kernel, against torch's scaling.

Triton's interpreter runs the kernel without a GPU, but only in a process where it is chosen before
Triton is imported: `test_in_the_interpreter` runs this file once more in such a process, which
takes the tests of `TestValues` alone.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from interpreter import IS_INTERPRETED, run_in_interpreter
from torch import Tensor

from mmseg_kd.evaluation import lean_prediction, triton_arg_max
from mmseg_kd.evaluation.scaling import Scaling

pytest.importorskip('triton', reason='Triton is not installed')


NONE = (0, 0, 0, 0)


def noise(classes: int, size: tuple[int, int]) -> Tensor:
    return torch.randn(1, classes, *size, generator=torch.Generator().manual_seed(0))


@pytest.mark.skipif(IS_INTERPRETED, reason='this is that process')
def test_in_the_interpreter() -> None:
    run_in_interpreter(__file__)


# The interpreter computes with NumPy, which warns of every infinity.
@pytest.mark.filterwarnings('ignore::RuntimeWarning')
class TestValues:
    """In the interpreter."""

    __test__ = IS_INTERPRETED

    @pytest.mark.parametrize('align_corners', [False, True])
    @pytest.mark.parametrize('flip', [None, 'horizontal', 'vertical'])
    @pytest.mark.parametrize(
        ('size', 'input_size', 'padding', 'original_size'),
        [
            ((6, 7), (24, 28), NONE, (24, 28)),
            ((6, 7), (24, 28), NONE, (48, 56)),
            ((6, 7), (23, 29), (1, 2, 3, 4), (16, 26)),
            ((6, 7), (23, 29), (1, 2, 3, 4), (31, 17)),
            ((1, 7), (9, 15), (0, 2, 0, 4), (1, 40)),
            ((9, 7), (4, 3), NONE, (11, 5)),
        ],
    )
    def test_ways_of_scaling(
        self,
        size: tuple[int, int],
        input_size: tuple[int, int],
        padding: Any,
        original_size: tuple[int, int],
        flip: str | None,
        align_corners: bool,
    ) -> None:
        scores = noise(5, size)
        scaling = Scaling(size, input_size, padding, flip, original_size, align_corners)
        expected = scaling(scores)[0]
        label, best = triton_arg_max.arg_max(scores, scaling)
        assert label.dtype == torch.int64
        assert label.shape == best.shape == original_size
        # This CPU's sums are rounded in another way than a GPU's.
        torch.testing.assert_close(best, expected.amax(0), rtol=1e-5, atol=1e-5)
        found = expected.gather(0, label[None])[0]
        torch.testing.assert_close(found, expected.amax(0), rtol=1e-5, atol=1e-5)
        assert len(label.unique()) > 1

    def test_the_first_of_equal_scores_and_nan_above_all(self) -> None:
        # Multiples of 1/64 with few digits: nothing is rounded.
        scores = noise(9, (6, 7)).round()
        scaling = Scaling((6, 7), (24, 28), NONE, None, (24, 28), False)
        scores[0, 4, 1, 1] = scores[0, 6, 2, 2] = torch.nan
        scores[0, :, 4:, 5:] = -torch.inf
        scores[0, 7, :, 0] = torch.inf
        maps = scaling(scores)[0]
        label, best = triton_arg_max.arg_max(scores, scaling)
        assert (maps == maps.amax(0)).sum(0).max() > 1
        assert torch.equal(label, maps.argmax(0))
        torch.testing.assert_close(best, maps.amax(0), rtol=0, atol=0, equal_nan=True)

    def test_lean_prediction_takes_it(self, monkeypatch: pytest.MonkeyPatch) -> None:
        class Network:
            align_corners = False

        asked = []
        scores = noise(3, (6, 7))
        meta = dict(ori_shape=(30, 40), flip=True, flip_direction='horizontal')
        expected = lean_prediction.original_labels(Network, scores, (24, 28), meta)
        monkeypatch.setattr(Tensor, 'is_cuda', True, raising=False)
        monkeypatch.setattr(
            triton_arg_max, 'can_take', lambda _, scaling: asked.append(scaling) or True
        )
        found = lean_prediction.original_labels(Network, scores, (24, 28), meta)
        assert asked == [Scaling((6, 7), (24, 28), NONE, 'horizontal', (30, 40), False)]
        assert (found == expected).float().mean() > 0.99


# Which scores it takes.


@pytest.fixture
def any_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a GPU where the kernel gives torch's bits."""
    monkeypatch.setattr(Tensor, 'is_cuda', True, raising=False)
    monkeypatch.setattr(triton_arg_max, '_gives_the_same_bits', lambda *args: True)


SCALING = Scaling((6, 7), (24, 28), NONE, None, (30, 40), False)


@pytest.mark.usefixtures('any_bits')
def test_dense_float32_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    scores = noise(3, (6, 7))
    assert triton_arg_max.can_take(scores, SCALING)
    assert not triton_arg_max.can_take(scores.half(), SCALING)
    assert not triton_arg_max.can_take(scores[:, :, ::2], SCALING)
    same = Scaling((6, 7), (6, 7), NONE, None, (30, 40), False)
    assert not triton_arg_max.can_take(scores, same)
    monkeypatch.setattr(torch, 'are_deterministic_algorithms_enabled', lambda: True)
    assert not triton_arg_max.can_take(scores, SCALING)


def test_scores_on_a_cpu_are_not_taken() -> None:
    assert not triton_arg_max.can_take(noise(3, (6, 7)), SCALING)


@pytest.mark.parametrize('is_twice', [False, True])
def test_other_bits_are_noticed(is_twice: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    def arg_max(scores: Tensor, scaling: Scaling) -> tuple[Tensor, Tensor]:
        best, label = scaling(scores)[0].max(0)
        best[3, 3] = best[3, 3].nextafter(torch.tensor(9.0)) if is_wrong else best[3, 3]
        return label, best

    check = triton_arg_max._gives_the_same_bits.__wrapped__
    monkeypatch.setattr(triton_arg_max, 'arg_max', arg_max)
    is_wrong = False
    assert check(torch.device('cpu'), False, is_twice)
    is_wrong = True
    with pytest.warns(UserWarning, match='to the last bit'):
        assert not check(torch.device('cpu'), False, is_twice)


def test_a_kernel_that_does_not_build_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(triton_arg_max, 'arg_max', lambda *args: 1 / 0)
    with pytest.warns(UserWarning, match='ZeroDivisionError'):
        assert not triton_arg_max._gives_the_same_bits.__wrapped__(
            torch.device('cpu'), False, False
        )
