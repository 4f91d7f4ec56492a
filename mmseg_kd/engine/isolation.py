"""A run that leaves its process as it was."""

from __future__ import annotations

import os
import random
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import cv2
import numpy as np
import torch
import torch.multiprocessing
from mmengine.device import utils as device_utils
from mmengine.logging import MMLogger
from mmengine.utils import ManagerMixin
from mmengine.visualization import Visualizer

from mmseg_kd.engine.runner import CUBLAS


@contextmanager
def isolated() -> Iterator[None]:
    """Inside, mmengine begins anew; afterwards all that a run changes in its process is as it was.

    That is the random state of Python, numpy and torch; loggers, message hubs, visualisers and the
    default scope, of which mmengine keeps one set a process; what signals do; torch's switches for
    cuDNN and deterministic algorithms, and cuBLAS's; the device that mmengine and torch take; how
    processes are started; OpenCV's threads; where modules are looked for.
    """
    with ExitStack() as stack:
        for one in (_random_state, _instances, _signals, _switches, _device):
            stack.enter_context(one())
        yield


@contextmanager
def _random_state() -> Iterator[None]:
    of_python, of_numpy = random.getstate(), np.random.get_state()
    # All devices by name: left to itself it warns where there are several.
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        try:
            yield
        finally:
            random.setstate(of_python)
            np.random.set_state(of_numpy)


@contextmanager
def _instances() -> Iterator[None]:
    """mmengine's instances by name; a run's own loggers and visualisers are closed."""
    before = {kind: dict(kind._instance_dict) for kind in _kinds(ManagerMixin)}
    for kind in before:
        kind._instance_dict.clear()
    try:
        yield
    finally:
        for kind in _kinds(ManagerMixin):
            for instance in kind._instance_dict.values():
                _close(instance)
            kind._instance_dict.clear()
            kind._instance_dict.update(before.get(kind, {}))


def _kinds(kind: Any) -> Iterator[Any]:
    for one in kind.__subclasses__():
        yield one
        yield from _kinds(one)


def _close(instance: Any) -> None:
    if isinstance(instance, MMLogger):
        for handler in instance.handlers:
            handler.close()
    elif isinstance(instance, Visualizer):
        instance.close()


@contextmanager
def _signals() -> Iterator[None]:
    before = {number: signal.getsignal(number) for number in signal.valid_signals()}
    try:
        yield
    finally:
        # Only the main thread may change them, and a handler that is not Python's is None.
        if threading.current_thread() is threading.main_thread():
            for number, handler in before.items():
                if handler is not None and signal.getsignal(number) is not handler:
                    signal.signal(number, handler)


@contextmanager
def _switches() -> Iterator[None]:
    cudnn = torch.backends.cudnn
    benchmark, deterministic = cudnn.benchmark, cudnn.deterministic
    algorithms = torch.are_deterministic_algorithms_enabled()
    warn_only = torch.is_deterministic_algorithms_warn_only_enabled()
    start_method = torch.multiprocessing.get_start_method(allow_none=True)
    threads, path = cv2.getNumThreads(), list(sys.path)
    workspace = os.environ.get(CUBLAS)
    try:
        yield
    finally:
        os.environ.pop(CUBLAS, None)
        if workspace is not None:
            os.environ[CUBLAS] = workspace
        cudnn.benchmark, cudnn.deterministic = benchmark, deterministic
        torch.use_deterministic_algorithms(algorithms, warn_only=warn_only)
        torch.multiprocessing.set_start_method(start_method, force=True)
        cv2.setNumThreads(threads)
        sys.path[:] = path


@contextmanager
def _device() -> Iterator[None]:
    of_mmengine = device_utils.DEVICE
    gpu = torch.cuda.current_device() if torch.cuda.is_available() else None
    try:
        yield
    finally:
        device_utils.DEVICE = of_mmengine
        if gpu is not None:
            torch.cuda.set_device(gpu)
