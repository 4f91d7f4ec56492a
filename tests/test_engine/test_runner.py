"""The runner's devices and ranks."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest
import torch
from builders import resnet
from mmengine.config import Config, ConfigDict
from mmengine.device import get_device
from mmengine.device import utils as host

from mmseg_kd.engine import runner
from mmseg_kd.engine.runner import RANKS_TIMEOUT_S, prepare_run, set_timeout, start_gloo
from mmseg_kd.errors import ConfigError, DeviceError
from mmseg_kd.networks.build import build_network


@pytest.mark.parametrize('seconds', [0, -1, '60', True, float('inf'), float('nan')])
def test_a_wrong_time_limit_of_the_ranks_is_refused(seconds: Any) -> None:
    with pytest.raises(ConfigError, match=r'env_cfg\.dist_cfg\.timeout'):
        set_timeout(Config(dict(env_cfg=dict(dist_cfg=dict(timeout=seconds)))))


def test_the_time_limit_of_the_ranks_is_set() -> None:
    cfg = Config(dict(env_cfg=dict(dist_cfg=dict(backend='nccl'))))
    assert set_timeout(cfg).total_seconds() == RANKS_TIMEOUT_S
    # Where mmengine reads it.
    assert cfg.env_cfg.dist_cfg == dict(backend='nccl', timeout=RANKS_TIMEOUT_S)
    assert set_timeout(Config(dict(env_cfg=dict(dist_cfg=dict(timeout=7))))).total_seconds() == 7


def test_the_time_limit_reaches_the_ranks(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    monkeypatch.setattr(torch.distributed, 'is_initialized', lambda: False)
    monkeypatch.setattr(
        torch.distributed,
        'init_process_group',
        lambda *args, **kwargs: calls.append((args, kwargs)),
    )
    start_gloo(Config({}), timedelta(seconds=7))
    assert calls == [(('gloo',), dict(timeout=timedelta(seconds=7)))]


SYNC_BN = resnet(4, norm=dict(type='SyncBN', requires_grad=True))


@pytest.fixture
def two_gpus(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """As on a machine with two GPUs, which the host has taken note of."""
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: True)
    monkeypatch.setattr(torch.cuda, 'device_count', lambda: 2)
    monkeypatch.setattr(torch.cuda, 'set_device', lambda device: None)
    monkeypatch.setattr(host, 'DEVICE', 'cuda')
    monkeypatch.setattr('mmseg_kd.host.device.AUTO', 'cuda')
    yield


def norm_after(**options: str) -> str:
    """The kind of normalisation in a network that a run was prepared for."""
    cfg = Config(dict(model=SYNC_BN))
    prepare_run(cfg, **options)
    return str(cfg.model.backbone.norm_cfg.type)


@pytest.mark.usefixtures('two_gpus')
def test_a_run_is_on_the_cpu_where_it_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    assert norm_after() == 'SyncBN'
    assert get_device() == 'cuda'
    # Where the host puts its model, and reads a checkpoint that is resumed from.
    assert norm_after(device='cpu') == 'BN'
    assert get_device() == 'cpu'
    assert norm_after(device='cuda:1') == 'SyncBN'
    assert get_device() == 'cuda'
    started = []
    monkeypatch.setattr(runner, 'start_gloo', lambda cfg, timeout: started.append(timeout))
    monkeypatch.setenv('LOCAL_WORLD_SIZE', '3')
    assert norm_after(device='cpu', launcher='pytorch') == 'BN'
    assert len(started) == 1


@pytest.mark.usefixtures('two_gpus')
def test_what_the_wrapper_builds_is_for_the_cpu_too() -> None:
    for device, kind in (('cuda', 'SyncBatchNorm'), ('cpu', 'BatchNorm2d')):
        norm_after(device=device)
        network = build_network(ConfigDict(SYNC_BN), 'student')
        assert type(network.backbone.layer1[0].bn1).__name__ == kind


@pytest.mark.usefixtures('two_gpus')
def test_ranks_have_a_gpu_each(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(DeviceError, match=r'--device cuda:1: ranks have a GPU each.*CUDA_VISIBLE'):
        norm_after(device='cuda:1', launcher='pytorch')
    monkeypatch.setenv('LOCAL_WORLD_SIZE', '3')
    for device in ('auto', 'cuda'):
        with pytest.raises(DeviceError, match='3 GPUs were asked for and 2 are here'):
            norm_after(device=device, launcher='pytorch')
