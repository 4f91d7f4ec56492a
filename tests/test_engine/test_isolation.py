"""A run that leaves its process as it was."""

from __future__ import annotations

import os
import random
import signal
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
import torch.multiprocessing
from mmengine.device import utils as device_utils
from mmengine.logging import MessageHub, MMLogger
from mmengine.registry import DefaultScope
from mmengine.runner import set_random_seed
from mmengine.visualization import Visualizer
from mmseg.visualization import SegLocalVisualizer

from mmseg_kd.engine.isolation import isolated
from mmseg_kd.engine.runner import CUBLAS


def draw() -> tuple[float, float, float]:
    return random.random(), float(np.random.rand()), float(torch.rand(()))


def test_random_states_are_as_before() -> None:
    set_random_seed(3)
    expected = draw()
    set_random_seed(3)
    with isolated():
        set_random_seed(5)
        assert draw() != expected
    assert draw() == expected


def test_mmengine_begins_anew_and_is_as_before(tmp_path: Path) -> None:
    with isolated():
        scope = DefaultScope.get_instance('mine', scope_name='mmseg')
        hub, logger = MessageHub.get_instance('mine'), MMLogger.get_instance('mine')
        visualizer = SegLocalVisualizer.get_instance('visualizer')
        with isolated():
            assert DefaultScope.get_current_instance() is None
            assert not MessageHub.check_instance_created('mine')
            log = MMLogger.get_instance('mine', log_file=str(tmp_path / 'log'))
            DefaultScope.get_instance('run', scope_name='mmdet')
            backends = [dict(type='LocalVisBackend')]
            own = SegLocalVisualizer.get_instance(
                'visualizer', vis_backends=backends, save_dir=str(tmp_path)
            )
            Visualizer.get_instance('another')
            assert own is not visualizer
        assert DefaultScope.get_current_instance() is scope
        assert MMLogger.get_current_instance() is logger
        assert MessageHub.get_current_instance() is hub
        assert SegLocalVisualizer.get_instance('visualizer') is visualizer
        assert not Visualizer.check_instance_created('another')
        # Its file is closed.
        assert log.handlers[1].stream is None


def test_signals_and_switches_are_as_before() -> None:
    def mine(*_: object) -> None: ...

    torch.multiprocessing.set_start_method('fork', force=True)
    cudnn = torch.backends.cudnn
    before = (cudnn.benchmark, cudnn.deterministic, cv2.getNumThreads(), list(sys.path))
    workspace = os.environ.get(CUBLAS)
    own = signal.signal(signal.SIGTERM, mine)
    interrupt = signal.getsignal(signal.SIGINT)
    try:
        with pytest.raises(ZeroDivisionError), isolated():
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            signal.signal(signal.SIGINT, mine)
            cudnn.benchmark, cudnn.deterministic = not before[0], not before[1]
            torch.use_deterministic_algorithms(True)
            os.environ[CUBLAS] = ':16:8'
            torch.multiprocessing.set_start_method('spawn', force=True)
            cv2.setNumThreads(before[2] + 1)
            sys.path.append('elsewhere')
            raise ZeroDivisionError
        assert signal.getsignal(signal.SIGTERM) is mine
        assert signal.getsignal(signal.SIGINT) is interrupt
    finally:
        signal.signal(signal.SIGTERM, own)
    assert before == (cudnn.benchmark, cudnn.deterministic, cv2.getNumThreads(), sys.path)
    assert not torch.are_deterministic_algorithms_enabled()
    assert os.environ.get(CUBLAS) == workspace
    assert torch.multiprocessing.get_start_method() == 'fork'


def test_the_device_is_as_before(monkeypatch: pytest.MonkeyPatch) -> None:
    gpu = [0]
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: True)
    monkeypatch.setattr(torch.cuda, 'current_device', lambda: gpu[0])
    monkeypatch.setattr(torch.cuda, 'set_device', lambda device: gpu.__setitem__(0, device))
    monkeypatch.setattr(device_utils, 'DEVICE', 'cuda')
    with isolated():
        device_utils.DEVICE = 'cpu'
        torch.cuda.set_device(1)
    assert (device_utils.DEVICE, gpu) == ('cuda', [0])
