"""mmengine's runner, on the devices and ranks that are there."""

from __future__ import annotations

import os
from datetime import timedelta

import torch
from mmengine.config import Config
from mmengine.logging import print_log
from mmengine.runner import Runner

from mmseg_kd.checks import is_number
from mmseg_kd.errors import ConfigError, DeviceError
from mmseg_kd.host.device import find_device, use_device
from mmseg_kd.host.quiet import HostNoise, as_config_error
from mmseg_kd.host.ranks import name_rank
from mmseg_kd.networks.build import replace_sync_bn

# How long a rank waits for one that neither works nor is gone: a machine without power, a process
# that hangs. A rank that dies is known at once, to torchrun and by its closed connections. Rank 0
# writes checkpoints and downloads teachers while the others wait, which must not be too long.
RANKS_TIMEOUT_S = 600

# Where cuBLAS looks for the memory that it works in: with that of a fixed size it is deterministic.
CUBLAS = 'CUBLAS_WORKSPACE_CONFIG'


def prepare_run(cfg: Config, device: str = 'auto', launcher: str = 'none') -> None:
    """Fit a config to the devices, and start the process group where there is one.

    Args:
        cfg: Is changed.
        device: 'auto', or a device that must then be there: 'cpu', 'cuda', 'cuda:1'.
        launcher: What started the ranks, as mmengine calls it; 'none': this is the only one.

    Raises:
        ConfigError: The ranks' time limit is no positive number.
        DeviceError: A device was asked for that is not there, one GPU for several ranks, or ranks
            of a launcher that has not started them.
    """
    chosen = find_device(device)
    is_cuda = chosen.type == 'cuda'
    if launcher != 'none' and chosen.index is not None:
        raise DeviceError(
            f'--device {device}: ranks have a GPU each, got one for all; choose the GPUs with '
            'CUDA_VISIBLE_DEVICES.'
        )
    ranks_here = int(os.environ.get('LOCAL_WORLD_SIZE', '1'))
    if is_cuda and ranks_here > torch.cuda.device_count():
        raise DeviceError(
            f'{ranks_here} GPUs were asked for and {torch.cuda.device_count()} are here.'
        )
    use_device(chosen)
    if (cfg.get('randomness') or {}).get('deterministic'):
        # In time: cuBLAS looks when it starts.
        os.environ.setdefault(CUBLAS, ':4096:8')
    cfg.launcher = launcher
    timeout = set_timeout(cfg)
    if not is_cuda:
        # The wrapper replaces it in the networks that it builds; here for networks on their own.
        cfg.model = replace_sync_bn(cfg.model)
        if launcher != 'none':
            name_rank(launcher)
            start_gloo(cfg, timeout)


def set_timeout(cfg: Config) -> timedelta:
    """How long a rank waits for the others, from `env_cfg.dist_cfg.timeout` or the default."""
    env_cfg = dict(cfg.get('env_cfg') or {})
    dist_cfg = dict(timeout=RANKS_TIMEOUT_S) | dict(env_cfg.get('dist_cfg') or {})
    cfg.env_cfg = env_cfg | dict(dist_cfg=dist_cfg)
    seconds = dist_cfg['timeout']
    if not (is_number(seconds) and seconds > 0):
        raise ConfigError(
            f'env_cfg.dist_cfg.timeout: expected a number of seconds > 0, got {seconds!r}.'
        )
    return timedelta(seconds=seconds)


def start_gloo(cfg: Config, timeout: timedelta) -> None:
    """A process group on CPUs: mmengine's own start-up takes CUDA for granted."""
    if not torch.distributed.is_initialized():
        torch.distributed.init_process_group('gloo', timeout=timeout)
    print_log('gloo takes the place of NCCL, which needs CUDA.', logger='current')
    cfg.model_wrapper_cfg = dict(
        type='MMDistributedDataParallel',
        device_ids=None,
        # Without SyncBN each rank would keep statistics of its own, of which a checkpoint has one.
        broadcast_buffers=True,
        find_unused_parameters=cfg.get('find_unused_parameters', False),
    )


def build_runner(cfg: Config, runner_type: type[Runner] = Runner) -> Runner:
    """The runner of a config, without the hosts' noise in its log.

    Args:
        cfg: The config.
        runner_type: The runner's class.

    Raises:
        ConfigError: Whatever the hosts refuse.
    """
    with as_config_error('config'):
        runner = runner_type.from_cfg(cfg)
    if torch.are_deterministic_algorithms_enabled():
        # Where there is no such algorithm, as for PSPNet's pooling on CUDA, torch warns: as the
        # host leaves it, the run would end.
        torch.use_deterministic_algorithms(True, warn_only=True)
    runner.logger.addFilter(HostNoise())
    return runner
