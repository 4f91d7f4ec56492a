"""The runner's devices and ranks."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
import torch
from mmengine.config import Config

from mmseg_kd.engine.runner import RANKS_TIMEOUT_S, set_timeout, start_gloo
from mmseg_kd.errors import ConfigError


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
