"""How a teacher is run: what its forward pass may be spared, each option on its own."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

import torch

from mmseg_kd.errors import ConfigError, Problems, nearest, short_repr

PRECISIONS = ('bfloat16', 'float16', 'float32')
_COMPILE_ARGUMENTS = tuple(inspect.signature(torch.compile).parameters)[1:]


@dataclass(frozen=True)
class TeacherOptions:
    """Options of `teacher=dict(...)` that leave its outputs as they are, to rounding.

    Attributes:
        fold_bn: BatchNorm goes into the convolution before it, never across a tapped layer; checked
            on a dry run. See `fold_batchnorm`.
        fused_attention: Attention computes no weights, unless a term taps them: less time and
            memory for large images. See `use_fused_attention`.
        autocast: The precision of the forward pass, `'bfloat16'`, `'float16'` or `'float32'`; None:
            that of the student, whose autocast context the teacher runs in.
        channels_last: Images and weights in the memory format channels_last.
        compile: True, or a dict of arguments of `torch.compile`; None: the network runs as it is.
            It does too where there is no compiler, and the log says so.
        stream: On CUDA the teacher runs beside the student, on a stream of its own; on the CPU
            this does nothing.
    """

    fold_bn: bool = True
    fused_attention: bool = True
    autocast: str | None = None
    channels_last: bool = False
    compile: Mapping[str, Any] | None = field(default=None, hash=False)
    stream: bool = False


OPTION_NAMES = tuple(one.name for one in fields(TeacherOptions))


def parse_teacher_options(cfg: Mapping[str, Any], side: str) -> TeacherOptions:
    """Read the options out of those that a config gives.

    Args:
        cfg: Values by name; others than `OPTION_NAMES` are skipped.
        side: What messages call the teacher.

    Raises:
        ConfigError: A value is not what it must be; `ManyErrors` where that is more than one.
    """
    options = {name: cfg[name] for name in OPTION_NAMES if name in cfg}
    problems = Problems()
    for name in ('fold_bn', 'fused_attention', 'channels_last', 'stream'):
        with problems:
            if not isinstance(options.get(name, True), bool):
                raise ConfigError(
                    f'{side}.{name}: expected True or False, got {short_repr(options[name])}.'
                )
    with problems:
        _check_precision(options.get('autocast'), f'{side}.autocast')
    if 'compile' in options:
        with problems:
            options['compile'] = _compile_arguments(options['compile'], f'{side}.compile')
    problems.raise_if_any()
    return TeacherOptions(**options)


def _check_precision(value: Any, where: str) -> None:
    if value is not None and value not in PRECISIONS:
        raise ConfigError(
            f'{where}: expected None (that of the student) or one of {", ".join(PRECISIONS)}, '
            f'got {short_repr(value)}; {nearest(value, PRECISIONS)}.'
        )


def _compile_arguments(value: Any, where: str) -> dict[str, Any] | None:
    if isinstance(value, bool):
        return {} if value else None
    if not isinstance(value, Mapping):
        raise ConfigError(
            f'{where}: expected True, False or a dict of arguments of torch.compile, got '
            f'{short_repr(value)}.'
        )
    for key in value:
        if key not in _COMPILE_ARGUMENTS:
            raise ConfigError(
                f'{where}: torch.compile has no argument {key!r}; '
                f'{nearest(key, _COMPILE_ARGUMENTS)}.'
            )
    return dict(value)
