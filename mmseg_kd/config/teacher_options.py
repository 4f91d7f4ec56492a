"""How a teacher is run: what its forward pass may be spared, each option on its own."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch

from mmseg_kd.config.fields import is_bool, key, read_fields
from mmseg_kd.errors import Problems, nearest

PRECISIONS = ('bfloat16', 'float16', 'float32')
_COMPILE_ARGUMENTS = tuple(inspect.signature(torch.compile).parameters)[1:]


@dataclass(frozen=True)
class TeacherOptions:
    """Options of `teacher=dict(...)` that leave its outputs as they are, to rounding.

    Half precision in `autocast` rounds most, in the third digit.

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

    fold_bn: bool = key('True or False', is_bool, True)
    fused_attention: bool = key('True or False', is_bool, True)
    autocast: str | None = key(
        f'None (that of the student) or one of {", ".join(PRECISIONS)}',
        lambda value: value in (None, *PRECISIONS),
        None,
        PRECISIONS,
    )
    channels_last: bool = key('True or False', is_bool, False)
    compile: Mapping[str, Any] | None = key(
        'None, True, False or a dict of arguments of torch.compile',
        lambda value: value is None or isinstance(value, (bool, Mapping)),
        None,
    )
    stream: bool = key('True or False', is_bool, False)


def parse_teacher_options(cfg: Mapping[str, Any], side: str) -> TeacherOptions:
    """Read the options out of those that a config gives.

    Args:
        cfg: Values by name; other keys are skipped.
        side: What messages call the teacher.

    Raises:
        ConfigError: A value is not what it must be; `ManyErrors` where that is more than one.
    """
    problems = Problems()
    options = read_fields(TeacherOptions, cfg, side, problems)
    arguments: Any = options.compile
    if isinstance(arguments, bool):
        arguments = {} if arguments else None
    for name in arguments or ():
        if name not in _COMPILE_ARGUMENTS:
            problems.add(
                f'{side}.compile: torch.compile has no argument {name!r}; '
                f'{nearest(name, _COMPILE_ARGUMENTS)}.'
            )
    problems.raise_if_any()
    return replace(options, compile=None if arguments is None else dict(arguments))
