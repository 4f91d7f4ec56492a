from __future__ import annotations

import time

import pytest
import torch
from torch import Tensor

from mmseg_kd.errors import ExportError
from mmseg_kd.evaluation.latency import measure_latency
from mmseg_kd.export.agreement import Agreement, compare
from mmseg_kd.export.latency import Timing, table

SCORES = torch.tensor([[[[4.0, 1.0]], [[0.0, 2.0]]]])


def given(output: Tensor) -> Tensor:
    return output


def test_scores_and_labels_are_compared() -> None:
    found = compare(given, lambda x: x + torch.tensor([0.0, 1.5]).view(1, 2, 1, 1), [SCORES])
    assert found == Agreement(1, 1.5, 4.0, 1.0)
    found = compare(given, lambda x: x.flip(1), [SCORES, SCORES])
    assert found == Agreement(2, 4.0, 4.0, 0.0)


def test_labels_alone() -> None:
    labels = torch.tensor([[[0, 1], [2, 3]]])
    assert compare(given, lambda x: x.clamp(max=2), [labels]) == Agreement(1, None, None, 0.75)


def test_one_channel_is_compared_by_its_sign() -> None:
    one = torch.tensor([[[[1.0, -1.0]]]])
    assert compare(given, lambda x: -x, [one]).labels == 0
    assert compare(given, lambda x: x / 2, [one]).labels == 1


@pytest.mark.parametrize(
    ('agreement', 'is_right'),
    [
        (Agreement(1, 0.01, 11.0, 1.0), True),
        (Agreement(1, 0.02, 11.0, 1.0), False),
        (Agreement(1, 0.0, 11.0, 0.998), False),
        (Agreement(1, None, None, 0.9995), True),
        (Agreement(1, None, None, 0.99), False),
        (Agreement(1, 0.0, 0.0, 1.0), True),
    ],
)
def test_only_rounding_is_let_through(agreement: Agreement, is_right: bool) -> None:
    if is_right:
        agreement.check('student.onnx')
    else:
        with pytest.raises(ExportError, match=r'student\.onnx: expected what PyTorch computes'):
            agreement.check('student.onnx')


def test_faults_of_the_exported_network() -> None:
    with pytest.raises(ExportError, match=r'expected an output of \(1, 2, 1, 2\) for an input of'):
        compare(given, lambda x: x[:, :1], [SCORES])
    with pytest.raises(ExportError, match='expected finite scores'):
        compare(given, lambda x: x / 0, [SCORES])


def test_the_median_of_calls_in_turns() -> None:
    turns: list[str] = []

    def call(name: str, seconds: float) -> None:
        turns.append(name)
        time.sleep(seconds)

    found = measure_latency(
        {'slow': lambda: call('slow', 0.01), 'fast': lambda: call('fast', 0.0)}, rounds=3, warm_up=1
    )
    assert turns == ['slow', 'fast'] * 4
    assert found['slow'] >= 0.01 > found['fast']


def test_a_row_for_each_network() -> None:
    lines = table([Timing('student', 0.02, 1_860_000, 3 * 2**20)]).splitlines()
    assert [cell.strip() for cell in lines[0].split('|')[1:-1]] == [
        'network',
        'median ms',
        'images / s',
        'parameters',
        'MiB',
    ]
    assert [cell.strip() for cell in lines[2].split('|')[1:-1]] == [
        'student',
        '20.0',
        '50.0',
        '1.86 M',
        '3.00',
    ]
