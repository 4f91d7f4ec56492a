"""The device that a run is on: the host's own choice, or the one that was asked for."""

from __future__ import annotations

import torch
from mmengine.device import utils as host

from mmseg_kd.checks import DEVICES, is_device_name
from mmseg_kd.errors import DeviceError

# The host chooses once, when it is imported: a GPU where there is one, else the CPU. Apple's GPUs
# have no float64, which losses are summed in.
AUTO = 'cpu' if host.DEVICE == 'mps' else host.DEVICE


def find_device(name: str) -> torch.device:
    """The device called `name`; of 'auto' a GPU where there is one, else the CPU.

    Raises:
        DeviceError: It is no name of a device, or there is no such device; the message says which
            there are.
    """
    if not is_device_name(name):
        raise DeviceError(f'device: expected {DEVICES}, got {name!r}.')
    if name == 'auto':
        return torch.device(AUTO)
    there = _devices_here()
    if name not in there:
        check = ''
        if name.startswith('cuda') and 'cuda' not in there:
            check = (
                " Check CUDA's driver with nvidia-smi and PyTorch's build with torch.version.cuda."
            )
        raise DeviceError(
            f'--device {name}: there is none here; there are: {", ".join(there)}.{check}'
        )
    return torch.device(name)


def _devices_here() -> list[str]:
    """Names of all devices that torch can use."""
    found = ['cpu']
    if torch.cuda.is_available():
        found += ['cuda', *(f'cuda:{index}' for index in range(torch.cuda.device_count()))]
    return found


def use_device(device: torch.device) -> None:
    """Have the host, which puts its models on a device of its own choice, take this one."""
    host.DEVICE = device.type
    if device.type == 'cuda' and device.index is not None:
        torch.cuda.set_device(device)
