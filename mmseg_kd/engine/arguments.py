"""The config of a run, from arguments in Python."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from mmengine.config import Config
from torch import nn

from mmseg_kd.checkpoints.student import save_student
from mmseg_kd.checks import is_integer, is_number
from mmseg_kd.config.file import apply_options, read_config_file
from mmseg_kd.config.load import load_config
from mmseg_kd.config.recipes import expanded
from mmseg_kd.errors import ConfigError, Problems, short_repr
from mmseg_kd.networks.build import without_initialisation
from mmseg_kd.networks.elsewhere.torch_segmentor import SUFFIX, save_network

# What is taken of a config that is given as data, and of one that is given as schedule.
DATA_KEYS = (
    'train_dataloader',
    'val_dataloader',
    'val_evaluator',
    'test_dataloader',
    'test_evaluator',
    'tta_model',
    'tta_pipeline',
    'custom_imports',
)
SCHEDULE_KEYS = (
    'optim_wrapper',
    'param_scheduler',
    'train_cfg',
    'default_hooks',
    'custom_hooks',
    'auto_scale_lr',
    'custom_imports',
)

# SegFormer's (Xie et al. 2021, arXiv 2105.15203), as in configs/_base_/schedules/adamw_160k.py.
OPTIMIZER = dict(type='AdamW', lr=6e-5, betas=(0.9, 0.999), weight_decay=0.01)
PARAMWISE = dict(
    custom_keys={
        'pos_block': dict(decay_mult=0.0),
        'norm': dict(decay_mult=0.0),
        'head': dict(lr_mult=10.0),
    }
)
# The share of a run in which the learning rate rises, up to as many iterations as there.
WARM_UP, WARM_UP_MAX = 0.05, 1500


def model_config(
    teacher: Any, student: Any, terms: Any, teacher_checkpoint: Any, folder: Path
) -> dict[str, Any]:
    """The `DistillationWrapper` of `distill`'s arguments.

    Args:
        teacher, student, terms, teacher_checkpoint: As in `distill`.
        folder: Where the weights of networks that are already built are written.

    Raises:
        ConfigError: An argument is none of what it may be; `ManyErrors` where that is more than
            one.
    """
    problems = Problems()
    model: dict[str, Any] = dict(type='DistillationWrapper')
    with problems:
        model['student'] = _network(student, 'student', folder)
    with problems:
        if isinstance(teacher, (list, tuple)):
            if teacher_checkpoint is not None:
                raise ConfigError(
                    'teacher_checkpoint: goes with one teacher; of several, each has its own: '
                    'teacher=[dict(config=..., checkpoint=...), ...].'
                )
            model['teacher'] = [
                _network(one, f'teacher[{i}]', folder) for i, one in enumerate(teacher)
            ]
        elif teacher is not None:
            model['teacher'] = _network(teacher, 'teacher', folder, teacher_checkpoint)
        elif teacher_checkpoint is not None:
            raise ConfigError('teacher_checkpoint: there is no teacher that it belongs to.')
    if isinstance(terms, (str, Mapping)) or not isinstance(terms, Sequence):
        problems.add(ConfigError(f'terms: expected a list of dicts, got {short_repr(terms)}.'))
    with problems:
        model['distillation'] = expanded(to_builtins(terms))
    problems.raise_if_any()
    return model


def _network(
    network: Any, side: str, folder: Path, checkpoint: str | Path | None = None
) -> dict[str, Any]:
    """What a config says of a network that is given in one of several ways."""
    if isinstance(network, (str, Path)):
        found = {'run' if Path(network).is_dir() else 'config': str(network)}
    elif isinstance(network, nn.Module):
        if checkpoint is not None:
            raise ConfigError(f'{side}_checkpoint: the network that was given has its weights.')
        return _built(network, side, folder)
    elif isinstance(network, Config):
        found = to_builtins(_model_of(network, side))
    elif isinstance(network, Mapping):
        found = to_builtins(network)
        if isinstance(found.get('module'), nn.Module):
            found['module'] = _saved(found['module'], side, folder)
    else:
        raise ConfigError(
            f"{side}: expected a config's path, 'mmseg::...', a dict as in configs, a Config or a "
            f'network, got {short_repr(network)}.'
        )
    if checkpoint is not None:
        if 'checkpoint' in found:
            raise ConfigError(f'{side}_checkpoint: {side} has a checkpoint of its own.')
        found['checkpoint'] = str(checkpoint)
    return found


def _model_of(cfg: Any, side: str) -> Any:
    model = cfg.get('model') if isinstance(cfg, Mapping | Config) else None
    if not isinstance(model, Mapping):
        raise ConfigError(f'{side}: expected a config with model = dict(type=..., ...).')
    return model


def _built(network: nn.Module, side: str, folder: Path) -> dict[str, Any]:
    """A network that is there already: its config, and a file with its weights.

    The run is then one that its config describes, and another process can repeat or resume it.
    """
    if not hasattr(network, 'cfg') and side != 'student':
        return dict(type='TorchSegmentor', module=_saved(network, side, folder))
    if not hasattr(network, 'cfg'):
        raise ConfigError(
            f'{side}: expected a network that knows its config (network.cfg), as '
            "mmseg.apis.init_model and distill's results do, got a "
            f"{type(network).__name__} without; give its model dict with checkpoint='...', or "
            "dict(type='TorchSegmentor', module='package.module:function')."
        )
    model = _model_of(network.cfg, side)
    path = _file_of(side, folder, '.pth')
    save_student(network, path, {})
    return {**without_initialisation(to_builtins(model)), 'checkpoint': str(path)}


def _saved(network: nn.Module, side: str, folder: Path) -> str:
    """The file of a network that is written as a whole."""
    path = _file_of(side, folder, SUFFIX)
    try:
        save_network(network, path)
    except ConfigError as error:
        raise ConfigError(f'{side}: {error}') from error
    return str(path)


def _file_of(side: str, folder: Path, suffix: str) -> Path:
    return folder / f'{side.replace("[", "").replace("]", "")}{suffix}'


def data_config(data: Any) -> dict[str, Any]:
    """The part of a config that is data.

    Args:
        data: A config's name, a Config, or a dict with some of `DATA_KEYS`. Without data for a
            test, those of the validation are taken.

    Raises:
        ConfigError: It is nothing of this, or has no data.
    """
    found = _part(data, 'data', DATA_KEYS)
    if 'train_dataloader' not in found:
        raise ConfigError('data: expected a train_dataloader, and there is none.')
    if 'test_dataloader' not in found and 'val_dataloader' in found:
        found['test_dataloader'] = found['val_dataloader']
        found['test_evaluator'] = found.get('val_evaluator')
    return found


def schedule_config(
    schedule: Any, iterations: Any, lr: Any, optimizer: Any, val_interval: Any
) -> dict[str, Any]:
    """The part of a config that says how it is trained; arguments as in `distill`.

    Raises:
        ConfigError: An argument is out of its range; `ManyErrors` where that is more than one.
    """
    problems = Problems()
    for name, value in dict(iterations=iterations, val_interval=val_interval).items():
        if value is not None and not (is_integer(value) and value >= 1):
            problems.add(
                ConfigError(f'{name}: expected a whole number >= 1, got {short_repr(value)}.')
            )
    if lr is not None and not (is_number(lr) and lr > 0):
        problems.add(ConfigError(f'lr: expected a number > 0, got {short_repr(lr)}.'))
    if not (optimizer is None or isinstance(optimizer, Mapping)):
        problems.add(
            ConfigError(f"optimizer: expected dict(type='...', ...), got {short_repr(optimizer)}.")
        )
    elif optimizer is not None and lr is not None and 'lr' in optimizer:
        problems.add(ConfigError('lr: the optimizer that was given has its own.'))
    if schedule is not None:
        own = dict(iterations=iterations, lr=lr, optimizer=optimizer, val_interval=val_interval)
        given = [name for name, value in own.items() if value is not None]
        if given:
            problems.add(
                ConfigError(
                    f'schedule: it says {", ".join(given)} itself; change it by cfg_options, or '
                    'omit it.'
                )
            )
        problems.raise_if_any()
        return _part(schedule, 'schedule', SCHEDULE_KEYS)
    if iterations is None:
        problems.add(ConfigError('iterations: expected a number of iterations, or a schedule.'))
    problems.raise_if_any()
    return _default_schedule(iterations, lr, optimizer, val_interval)


def _default_schedule(
    iterations: int, lr: float | None, optimizer: Mapping[str, Any] | None, val_interval: int | None
) -> dict[str, Any]:
    """AdamW with a linear warm-up, and a linear decay to 0 at the end of the run."""
    rate = {} if lr is None else dict(lr=lr)
    warm_up = min(round(WARM_UP * iterations), WARM_UP_MAX)
    interval = val_interval or max(iterations // 10, 1)
    decay = dict(type='PolyLR', eta_min=0.0, power=1.0, by_epoch=False)
    rise = dict(type='LinearLR', start_factor=1e-3, by_epoch=False, begin=0, end=warm_up)
    return dict(
        optim_wrapper=dict(
            type='OptimWrapper',
            optimizer={**(OPTIMIZER if optimizer is None else to_builtins(optimizer)), **rate},
            # What is known to be good for AdamW need not be so for another.
            **(dict(paramwise_cfg=PARAMWISE) if optimizer is None else {}),
        ),
        param_scheduler=[
            *([rise] if warm_up else []),
            {**decay, 'begin': warm_up, 'end': iterations},
        ],
        train_cfg=dict(type='IterBasedTrainLoop', max_iters=iterations, val_interval=interval),
        default_hooks=dict(
            timer=dict(type='IterTimerHook'),
            logger=dict(type='LoggerHook', interval=min(50, interval), log_metric_by_epoch=False),
            param_scheduler=dict(type='ParamSchedulerHook'),
            checkpoint=dict(
                type='CheckpointHook', by_epoch=False, interval=interval, max_keep_ckpts=1
            ),
            sampler_seed=dict(type='DistSamplerSeedHook'),
        ),
    )


def runtime_config() -> dict[str, Any]:
    """What is no matter of the experiment; as in configs/_base_/runtime.py."""
    runtime = read_config_file('mmseg::_base_/default_runtime.py').to_dict()
    backends = [dict(type='LocalVisBackend'), dict(type='TensorboardVisBackend')]
    runtime['visualizer'] = {**runtime['visualizer'], 'vis_backends': backends}
    runtime['custom_imports'] = dict(imports=['mmseg_kd.register'], allow_failed_imports=False)
    return {key: value for key, value in runtime.items() if key != 'vis_backends'}


def run_config(*parts: Mapping[str, Any], options: Mapping[str, Any] | None, file: Path) -> Config:
    """One config of its parts, with a name under which the runner writes it.

    Args:
        parts: Dicts by the top keys of a config; later ones take the place of earlier ones, and
            all modules to import are.
        options: Changes to it, by dotted names.
        file: The name.

    Raises:
        ConfigError: An option leads nowhere.
    """
    merged: dict[str, Any] = {}
    imports: list[str] = []
    for part in parts:
        wanted = part.get('custom_imports') or {}
        names = wanted.get('imports', [])
        imports += [names] if isinstance(names, str) else names
        merged |= {key: value for key, value in part.items() if value is not None}
    merged['custom_imports'] = dict(imports=[*dict.fromkeys(imports)], allow_failed_imports=False)
    for split, loop in (('val', 'ValLoop'), ('test', 'TestLoop')):
        if f'{split}_dataloader' in merged or f'{split}_evaluator' in merged:
            merged.setdefault(f'{split}_cfg', dict(type=loop))
    # With a text the host does not look for the file, which the runner has yet to write.
    cfg = Config(merged, cfg_text='# Of mmseg_kd.distill.', filename=str(file))
    apply_options(cfg, options or {}, 'cfg_options')
    return cfg


def _part(given: Any, name: str, keys: Collection[str]) -> dict[str, Any]:
    """The entries called `keys` of a config, by its name or as it is; a dict has no others."""
    if isinstance(given, (str, Path)):
        given = load_config(str(given), None, needs_model=False)
    elif isinstance(given, Mapping) and not isinstance(given, Config):
        problems = Problems()
        problems.add_unknown_keys(given, keys, name)
        problems.raise_if_any()
    elif not isinstance(given, Config):
        raise ConfigError(
            f"{name}: expected a config's path, 'mmseg::...', a Config or a dict, got "
            f'{short_repr(given)}.'
        )
    return {key: to_builtins(given[key]) for key in keys if given.get(key) is not None}


def to_builtins(value: Any) -> Any:
    """A value in plain containers of its own, which others may change; paths become text."""
    if isinstance(value, Mapping):
        return {key: to_builtins(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(to_builtins(item) for item in value)
    return str(value) if isinstance(value, Path) else value
