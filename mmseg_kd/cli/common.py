"""What the commands share: errors, the config, the runner."""

from __future__ import annotations

import argparse
import difflib
import math
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import timedelta
from inspect import signature
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config, ConfigDict, DictAction
from mmengine.logging import print_log
from mmengine.model import is_model_wrapper
from mmengine.runner import Runner

from mmseg_kd.checkpoints import checkpoint_trust
from mmseg_kd.config_file import apply_options
from mmseg_kd.errors import ConfigError, DeviceError, KDError, Problems, shown, told
from mmseg_kd.experiments import read_config, run_name
from mmseg_kd.host import HostNoise, explain
from mmseg_kd.network import (
    NetworkSpec,
    parse_network,
    parse_teachers,
    replace_sync_bn,
    teacher_label,
)

# How long a rank waits for one that neither works nor is gone: a machine without power, a process
# that hangs. A rank that dies is known at once, to torchrun and by its closed connections. Rank 0
# writes checkpoints and downloads teachers while the others wait, which must not be too long.
RANKS_TIMEOUT_S = 600


def run_command(
    parser: argparse.ArgumentParser,
    command: Callable[[argparse.Namespace], int],
    args: Sequence[str] | None,
) -> int:
    """Parse `args` and run `command`; a user's error is one message and exit code 1."""
    parser.add_argument('--debug', action='store_true', help='show the traceback of an error')
    parsed = parser.parse_args(args)
    try:
        # Commands that read no checkpoint do not have the argument.
        with checkpoint_trust(getattr(parsed, 'trust_checkpoint', False)):
            return command(parsed)
    except KDError as error:
        if parsed.debug:
            raise
        rank = os.environ.get('RANK', '0')
        print(f'error{"" if rank == "0" else f" (rank {rank})"}: {told(error)}', file=sys.stderr)
        return 1


@contextmanager
def building(what: str) -> Iterator[None]:
    """What the hosts raise while they read or build `what` becomes a `ConfigError`."""
    try:
        yield
    except KDError:
        raise
    except Exception as error:  # every class that a config can name raises what it likes
        raise ConfigError(f'{what}: {explain(error)}') from error


class Options(DictAction):
    """mmengine's KEY=VALUE, with a message where an argument is none."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: Any,
        option_string: str | None = None,
    ) -> None:
        try:
            super().__call__(parser, namespace, values, option_string)
        except (AssertionError, ValueError):  # no '=', or brackets that do not match
            text = ' '.join(values)
            parser.error(f'{option_string}: expected KEY=VALUE, got {text!r}')


def add_config_arguments(parser: argparse.ArgumentParser) -> None:
    """The config and its overrides."""
    parser.add_argument(
        'config',
        help='config file, FILE.py::NAME for one of its experiments, or mmseg::...',
    )
    parser.add_argument(
        '--cfg-options',
        nargs='+',
        action=Options,
        metavar='KEY=VALUE',
        help='override entries of the config, such as train_dataloader.batch_size=8',
    )


def add_trust_argument(parser: argparse.ArgumentParser) -> None:
    """What a command has that reads checkpoints."""
    parser.add_argument(
        '--trust-checkpoint',
        action='store_true',
        help='read checkpoints that run code when they are read, too; only where you trust those '
        'who made them',
    )


def add_run_arguments(parser: argparse.ArgumentParser) -> None:
    """Where and on what the runner runs, and whether the checkpoints are trusted."""
    add_trust_argument(parser)
    parser.add_argument('--work-dir', help='folder for logs and checkpoints')
    parser.add_argument(
        '--device',
        choices=['auto', 'cuda'],
        default='auto',
        help='auto: CUDA where there is one, else the CPU; cuda: an error where there is none',
    )
    parser.add_argument('--launcher', choices=['none', 'pytorch', 'slurm', 'mpi'], default='none')
    # torchrun sets the environment; the argument is what older launchers pass.
    parser.add_argument('--local_rank', '--local-rank', type=int, default=0, help=argparse.SUPPRESS)


def load_config(name: str, options: Mapping[str, Any] | None, needs_model: bool = True) -> Config:
    """Read a config and apply overrides.

    Args:
        name: A file, `FILE.py::NAME` or `mmseg::...`.
        options: The overrides.
        needs_model: Whether a config without a model is an error.

    Raises:
        ConfigError: The file or one of its bases is missing or broken, an override leads
            nowhere, a key at its top is most likely a misspelt one, or there is no model in it;
            `ManyErrors` where that is more than one.
    """
    if os.getcwd() not in sys.path:
        # Where custom_imports of a user's own modules are looked for, last of all.
        sys.path.append(os.getcwd())
    with building(str(name)):
        cfg = read_config(name)
        apply_options(cfg, options or {}, '--cfg-options')
    problems = Problems()
    with problems:
        check_keys(cfg)
    model = cfg.get('model')
    if (needs_model or model is not None) and not (isinstance(model, Mapping) and 'type' in model):
        problems.add(
            ConfigError(f"{name}: expected model = dict(type='...', ...), got {shown(model)}.")
        )
    problems.raise_if_any()
    return cfg


def check_keys(cfg: Config) -> None:
    """Find misspelt keys at the top of a config, which the runner would pass over.

    A config may define variables of its own, so only names that are nearly, but not quite, one
    of the runner's are refused; very nearly, where the config has the runner's name as well.

    Raises:
        ConfigError: There is such a key; `ManyErrors` where there are more.
    """
    known = set(signature(Runner.__init__).parameters) - {'self', 'cfg', 'experiment_name'}
    known |= {'custom_imports', 'tta_model', 'tta_pipeline', 'find_unused_parameters'}
    known |= {'data_preprocessor', 'model_wrapper_cfg', 'sync_bn', 'compile'}
    # Variables that nearly every data set's config has, and that are close to tta_pipeline.
    variables = {'train_pipeline', 'val_pipeline', 'test_pipeline'}
    problems = Problems()
    for key in sorted(cfg.keys() - known - variables):
        close = difflib.get_close_matches(key, known - cfg.keys(), n=1, cutoff=0.85)
        close = close or difflib.get_close_matches(key, known, n=1, cutoff=0.92)
        if close:
            problems.add(
                ConfigError(f'unknown key {key!r} in the config; did you mean {close[0]!r}?')
            )
    problems.raise_if_any()


def prepare_run(cfg: Config, args: argparse.Namespace) -> None:
    """Put the arguments into the config, and start the process group where there is one.

    Raises:
        ConfigError: The ranks' time limit is no positive number.
        DeviceError: A device was asked for that is not there.
    """
    os.environ.setdefault('LOCAL_RANK', str(args.local_rank))
    cuda = torch.cuda.is_available()
    if args.device == 'cuda' and not cuda:
        raise DeviceError(
            'CUDA was asked for (--device cuda) and there is none here; check the driver with '
            'nvidia-smi and the build with torch.version.cuda, or leave --device away.'
        )
    ranks_here = int(os.environ.get('LOCAL_WORLD_SIZE', '1'))
    if cuda and ranks_here > torch.cuda.device_count():
        raise DeviceError(
            f'{ranks_here} GPUs were asked for and {torch.cuda.device_count()} are here.'
        )
    cfg.launcher = args.launcher
    if args.work_dir is not None:
        cfg.work_dir = args.work_dir
    elif cfg.get('work_dir') is None:
        cfg.work_dir = str(Path('work_dirs') / run_name(args.config))
    timeout = _set_timeout(cfg)
    if not cuda:
        # The wrapper replaces it in the networks that it builds; here for networks on their own.
        cfg.model = replace_sync_bn(cfg.model)
        if args.launcher != 'none':
            _start_gloo(cfg, timeout)


def _set_timeout(cfg: Config) -> timedelta:
    """How long a rank waits for the others, from `env_cfg.dist_cfg.timeout` or the default."""
    env_cfg = dict(cfg.get('env_cfg') or {})
    dist_cfg = dict(timeout=RANKS_TIMEOUT_S) | dict(env_cfg.get('dist_cfg') or {})
    cfg.env_cfg = env_cfg | dict(dist_cfg=dist_cfg)
    seconds = dist_cfg['timeout']
    if isinstance(seconds, bool) or not (
        isinstance(seconds, (int, float)) and 0 < seconds < math.inf
    ):
        raise ConfigError(
            f'env_cfg.dist_cfg.timeout: expected a number of seconds > 0, got {seconds!r}.'
        )
    return timedelta(seconds=seconds)


def _start_gloo(cfg: Config, timeout: timedelta) -> None:
    """A process group on CPUs: mmengine's own start-up takes CUDA for granted."""
    if not torch.distributed.is_initialized():
        torch.distributed.init_process_group('gloo', timeout=timeout)
    print_log('There is no CUDA: gloo takes the place of NCCL.', logger='current')
    cfg.model_wrapper_cfg = dict(
        type='MMDistributedDataParallel',
        device_ids=None,
        # Without SyncBN each rank would keep statistics of its own, of which a checkpoint has one.
        broadcast_buffers=True,
        find_unused_parameters=cfg.get('find_unused_parameters', False),
    )


def build_runner(cfg: Config) -> Runner:
    """The runner of a config, without the hosts' noise in its log.

    Raises:
        ConfigError: Whatever the hosts refuse.
    """
    with building('config'):
        runner = Runner.from_cfg(cfg)
    runner.logger.addFilter(HostNoise())
    return runner


def _teachers_of(cfg: Config) -> tuple[list[str], dict[str, NetworkSpec]]:
    """The names of a distillation's teachers, and what the config says of each."""
    problems = Problems()
    names, specs = parse_teachers(cfg.model.get('teacher'), problems)
    problems.raise_if_any()
    return names, specs


def _student_of(cfg: Config) -> NetworkSpec:
    """What a distillation's config says of its student."""
    if cfg.model.get('student') is None:
        raise ConfigError('the config has no student.')
    spec = parse_network(cfg.model['student'], 'student')
    if cfg.model.get('data_preprocessor') is not None:
        spec.model['data_preprocessor'] = cfg.model['data_preprocessor']
    return spec


def is_distillation(cfg: Config) -> bool:
    """Whether a config has a student and teachers, and no model of its own."""
    return bool(cfg.model.get('type') == 'DistillationWrapper')


def networks_of(cfg: Config) -> dict[str, NetworkSpec]:
    """The networks of a config, by what messages call them.

    These are the teachers ('teacher', or "teacher 'NAME'" where there are several) and the
    'student' of a distillation, or the 'model' of any other config.

    Raises:
        ConfigError: A network cannot be read; `ManyErrors` where that is more than one.
    """
    if not is_distillation(cfg):
        return {'model': NetworkSpec(ConfigDict(cfg.model))}
    problems = Problems()
    found: dict[str, NetworkSpec] = {}
    with problems:
        names, specs = _teachers_of(cfg)
        found = {teacher_label(name, len(names)): specs[name] for name in names}
    with problems:
        found['student'] = _student_of(cfg)
    problems.raise_if_any()
    return found


def trained_network_of(cfg: Config) -> NetworkSpec:
    """The network of a config that is trained: the student, or the model itself."""
    return _student_of(cfg) if is_distillation(cfg) else NetworkSpec(ConfigDict(cfg.model))


def teacher_of(cfg: Config, name: str | None) -> NetworkSpec:
    """A teacher of a config.

    Args:
        cfg: The config.
        name: Its name; None: the only one there is.

    Raises:
        ConfigError: There is none, or none of this name, or a name is needed.
    """
    names, specs = _teachers_of(cfg) if is_distillation(cfg) else ([], {})
    if not names:
        raise ConfigError('--teacher: the config is no distillation with a teacher.')
    if name is None and len(names) == 1:
        return specs[names[0]]
    if name not in names:
        given = 'no name' if name is None else repr(name)
        raise ConfigError(
            f'--teacher: got {given}, expected one of {", ".join(names)}. A checkpoint goes before '
            '--teacher.'
        )
    return specs[name]


def student_of(model: Any) -> Any:
    """The network that is trained: the student of a wrapper, or the model itself."""
    if is_model_wrapper(model):
        model = model.module
    return getattr(model, 'student', model)
