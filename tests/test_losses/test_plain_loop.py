"""The losses in a loop of one's own: no runner, no scope of mmengine, no mmseg."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

COMMON = """
import sys
import torch
import torch.nn.functional as F
from mmseg_kd.losses import CGDLoss
from mmseg_kd.schedules import LinearWarmup, at_iteration

torch.manual_seed(0)
student = (2 * torch.randn(2, 4, 5, 6, dtype=torch.float64)).requires_grad_()
teacher = (3 * torch.randn(2, 4, 7, 3, dtype=torch.float64)).requires_grad_()
label = torch.randint(0, 4, (2, 10, 12))
label[:, :3] = 255

def plain(student, teacher, order=(0, 1, 2, 3)):
    ours, theirs = (
        F.interpolate(x, (10, 12), mode='bilinear')[:, list(order)] / 2.0
        for x in (student, teacher)
    )
    total = 0.0
    for n in range(2):
        for c in (0, 2):
            log_q, log_p = (
                x[n, c : c + 2][:, label[n] != 255].flatten().log_softmax(0)
                for x in (ours, theirs)
            )
            total = total + (log_p.exp() * (log_p - log_q)).sum()
    return total / 4
"""

VALUE = """
value = CGDLoss(group_size=2, tau=2.0, ignore_index=255)(student, teacher, label)
expected = plain(student, teacher.detach())
torch.testing.assert_close(value, expected, rtol=1e-12, atol=0.0)
(gradient,) = torch.autograd.grad(expected, student)
value.backward()
torch.testing.assert_close(student.grad, gradient)
assert teacher.grad is None
"""

SHUFFLE = """
loss = CGDLoss(group_size=2, tau=2.0, ignore_index=255, shuffle_interval=3)
values = []
for i in range(9):
    order = torch.randperm(4, generator=torch.Generator().manual_seed(i // 3)).tolist()
    with at_iteration(i):
        values.append(loss(student, teacher, label).item())
    expected = plain(student, teacher, order).item()
    assert abs(values[-1] - expected) < 1e-10 * expected
assert values[0] == values[2] and len(set(values)) > 1
"""

UNCOUNTED = """
from mmseg_kd.errors import IterationError
loss = CGDLoss(group_size=2, resolution='student', shuffle_interval=3)
try:
    loss(student, teacher)
except IterationError as error:
    assert 'with at_iteration(i):' in str(error)
else:
    raise AssertionError('nobody counts')
"""

WARMUP = """
network = torch.nn.Conv2d(3, 4, 1)
images = torch.randn(2, 3, 5, 6)
warmup, weights = LinearWarmup(end=4), []
loss = CGDLoss(group_size=2, resolution='student', shuffle_interval=1)
for i in range(6):
    with at_iteration(i):
        value = warmup(i) * loss(network(images), teacher.detach()[..., :6])
    (gradient,) = torch.autograd.grad(value, network.weight)
    weights.append(gradient.abs().max().item())
    network.weight.data -= 0.1 * gradient
assert weights[0] == 0.0 and min(weights[1:]) > 0
"""

# Not even where a loss was computed, without a GPU.
NOTHING_ELSE = """
assert not {'mmseg', 'mmcv', 'triton', 'mmengine.runner'} & set(sys.modules)
"""


@pytest.mark.parametrize(
    'code',
    [VALUE, SHUFFLE, UNCOUNTED, WARMUP],
    ids=['value and gradient', 'shuffle', 'nobody counts', 'warm-up'],
)
def test_in_a_fresh_process(code: str) -> None:
    done = subprocess.run(
        [sys.executable, '-c', COMMON + code + NOTHING_ELSE],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
