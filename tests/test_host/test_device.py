"""The device of a run."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from mmengine.device import get_device
from mmengine.device import utils as host

from mmseg_kd.errors import DeviceError
from mmseg_kd.host.device import AUTO, find_device, use_device


def with_gpus(monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    """As on a machine with so many GPUs."""
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: count > 0)
    monkeypatch.setattr(torch.cuda, 'device_count', lambda: count)


@pytest.fixture(autouse=True)
def no_mps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.mps, 'is_available', lambda: False)


@pytest.fixture
def host_as_before() -> Iterator[None]:
    before = host.DEVICE
    yield
    host.DEVICE = before


def test_what_is_there_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    with_gpus(monkeypatch, 2)
    for name in ('cpu', 'cuda', 'cuda:0', 'cuda:1'):
        assert find_device(name) == torch.device(name)
    assert find_device('auto') == torch.device(AUTO)


@pytest.mark.parametrize(
    ('name', 'gpus', 'message'),
    [
        ('cuda', 0, "--device cuda: there is none here; there are: cpu. Check CUDA's driver with"),
        ('cuda:1', 0, 'nvidia-smi'),
        ('cuda:2', 2, 'there is none here; there are: cpu, cuda, cuda:0, cuda:1.'),
        ('gpu', 1, "device: expected auto, cpu, cuda or cuda:N, got 'gpu'"),
        # Apple's, which has no float64.
        ('mps', 1, "device: expected auto, cpu, cuda or cuda:N, got 'mps'"),
    ],
)
def test_what_is_not_there_is_refused_with_what_is(
    name: str, gpus: int, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_gpus(monkeypatch, gpus)
    with pytest.raises(DeviceError) as caught:
        find_device(name)
    assert message in str(caught.value)


@pytest.mark.usefixtures('host_as_before')
def test_the_host_takes_it(monkeypatch: pytest.MonkeyPatch) -> None:
    chosen: list[torch.device] = []
    monkeypatch.setattr(torch.cuda, 'set_device', chosen.append)
    use_device(torch.device('cuda:1'))
    # To 'cuda' the host moves models and checkpoints: torch then takes the one that was set.
    assert (get_device(), chosen) == ('cuda', [torch.device('cuda:1')])
    use_device(torch.device('cpu'))
    assert (get_device(), len(chosen)) == ('cpu', 1)
    use_device(find_device('auto'))
    assert (get_device(), len(chosen)) == (AUTO, 1)
