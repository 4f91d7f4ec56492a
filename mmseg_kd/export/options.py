"""What can be asked of an export, by the names that the command and the function have for it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mmseg_kd.errors import ConfigError

# Formats with the endings of their files.
SUFFIXES = {'mmseg': '.pth', 'safetensors': '.safetensors', 'onnx': '.onnx', 'torch_export': '.pt2'}
# Those that compute by themselves.
GRAPHS = ('onnx', 'torch_export')
# The order of an image's channels.
COLOURS = ('bgr', 'rgb')
INT8_MODES = ('dynamic', 'static')

_CHOICES = {'to': (*SUFFIXES,), 'with_preprocessing': COLOURS, 'int8': INT8_MODES}
# Which formats an option goes with.
_FORMATS = {
    'with_preprocessing': GRAPHS,
    'labels': GRAPHS,
    'fixed_size': GRAPHS,
    'one_image': GRAPHS,
    'int8': ('onnx',),
}


def check_options(**options: Any) -> None:
    """See that options of `export_student` are what they may be, and go together.

    Raises:
        ConfigError: They do not; the option is named as on the command line.
    """
    for name, choices in _CHOICES.items():
        if options[name] not in (None, *choices):
            raise ConfigError(
                f'{_flag(name)}: expected one of {", ".join(choices)}, got {options[name]!r}.'
            )
    for name, formats in _FORMATS.items():
        if options[name] and options['to'] not in formats:
            raise ConfigError(
                f'{_flag(name)} goes with --to {" or ".join(formats)}, got --to {options["to"]}.'
            )
    for name in ('images', 'calibration_images'):
        if options[name] < 1:
            raise ConfigError(f'{_flag(name)}: expected 1 or more, got {options[name]}.')
    if options['fixed_size'] and min(options['fixed_size']) < 1:
        raise ConfigError(f'--fixed-size: expected 1 or more, got {options["fixed_size"]}.')


def target_of(to: str, out: str | Path | None, checkpoint: str | Path, config: str) -> Path:
    """The file that is written.

    Args:
        to, out, checkpoint: As in `export_student`.
        config: The file of the config.

    Raises:
        ConfigError: `out` has another ending than the format, or is the checkpoint itself; or the
            config that goes beside it is the one that is read.
    """
    suffix = SUFFIXES[to]
    target = Path(out) if out else Path(checkpoint).parent / f'student{suffix}'
    if target.suffix != suffix:
        raise ConfigError(f'--out: expected a name that ends in {suffix}, got {str(out)!r}.')
    if _is_same(target, checkpoint):
        raise ConfigError(f'--out: {target} is the checkpoint itself; give another name.')
    if to == 'mmseg' and _is_same(target.with_suffix('.py'), config):
        raise ConfigError(
            f'--out: the config that goes beside {target} is {config} itself; give another name.'
        )
    return target


def _is_same(path: Path, other: str | Path) -> bool:
    return path.exists() and Path(other).exists() and path.samefile(other)


def _flag(name: str) -> str:
    return f'--{name.replace("_", "-")}'
