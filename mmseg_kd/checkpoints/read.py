"""The content of a checkpoint, read as data: no code in it is run."""

from __future__ import annotations

import logging
import pickle
import re
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.config import ConfigDict
from mmengine.logging import HistoryBuffer, print_log
from mmengine.optim import OneCycleParamScheduler
from safetensors import safe_open
from safetensors.torch import load_file

from mmseg_kd.checkpoints.source import local_file
from mmseg_kd.checkpoints.trust import checkpoints_are_trusted
from mmseg_kd.errors import CheckpointError

try:  # numpy 2 moved it
    from numpy._core import multiarray
except ImportError:  # pragma: no cover
    from numpy.core import multiarray  # type: ignore[no-redef]

# Stands for a class in a checkpoint that names functions of it and makes no objects of it.
_ONE_CYCLE = 'OneCycleParamScheduler'

# A checkpoint may say getattr of these: statistics of the runner's log history, and how a
# schedule comes down. Each only computes with numbers.
_FUNCTIONS: dict[tuple[Any, str], Any] = {
    **{(HistoryBuffer, n): getattr(HistoryBuffer, n) for n in ('min', 'max', 'mean', 'current')},
    (_ONE_CYCLE, '_annealing_cos'): OneCycleParamScheduler._annealing_cos,
    (_ONE_CYCLE, '_annealing_linear'): OneCycleParamScheduler._annealing_linear,
}


def _function_of(owner: Any, name: Any) -> Any:
    """What `getattr` is in a checkpoint."""
    try:
        return _FUNCTIONS[owner, name]
    except (KeyError, TypeError):
        raise pickle.UnpicklingError('GLOBAL builtins.getattr is refused.') from None


# Codes of numpy's types; that of objects is not among them.
_NUMBERS_AND_TEXT = f'?{np.typecodes["AllInteger"]}{np.typecodes["AllFloat"]}SU'

# What a runner saves beside tensors: its log history, numbers and arrays of numpy, and dicts of
# its config. Nothing but data is in these types. Pairs say under which name a file has it.
_DATA: list[Any] = [
    HistoryBuffer,
    ConfigDict,
    np.ndarray,
    np.dtype,
    *{type(np.dtype(code)) for code in _NUMBERS_AND_TEXT},
    # Files written under either major version of numpy are read under both.
    *(
        (function, f'numpy.{core}.multiarray.{function.__name__}')
        for function in (multiarray._reconstruct, multiarray.scalar)
        for core in ('core', '_core')
    ),
    (_ONE_CYCLE, f'{OneCycleParamScheduler.__module__}.{OneCycleParamScheduler.__name__}'),
    (_function_of, 'builtins.getattr'),
]

# The first operation of pickles with protocols that torch's reader of data does not know.
_LATER_PROTOCOL = 'Unsupported operand 149'


def read_checkpoint(source: str, map_location: Any = 'cpu') -> dict[str, Any]:
    """The content of a checkpoint.

    A file that would run code is refused, outside `checkpoint_trust(True)`. Types that are data
    and not known here can be made known with `torch.serialization.add_safe_globals`.

    Args:
        source: As in `local_file`: a pickle of torch, or `.safetensors`.
        map_location: As in `torch.load`. Tensors of `.safetensors` come to the CPU.

    Returns:
        What was saved; of `.safetensors` the tensors under `state_dict` and texts under `meta`.

    Raises:
        CheckpointError: The file is missing, torn, no checkpoint, or would run code.
    """
    path = local_file(source)
    try:
        content = _load(path, source, map_location)
    except pickle.UnpicklingError as error:
        raise CheckpointError(f'{source}: {_why_not(error)}') from error
    except Exception as error:  # bytes that are no pickle break its reader in any way
        raise CheckpointError(f'{source}: torn or no checkpoint ({first_line(error)}).') from error
    if not isinstance(content, dict):
        raise CheckpointError(
            f'{source}: expected a dict of tensors, got {type(content).__name__}.'
        )
    if source.startswith('mmcls://'):
        # The short names of a classifier mean its backbone.
        tensors = content.get('state_dict', content)
        backbone = {k: v for k, v in tensors.items() if k.startswith('backbone.')}
        return {'state_dict': {k.removeprefix('backbone.'): v for k, v in backbone.items()}}
    return content


def _load(path: Path, source: str, map_location: Any) -> Any:
    if path.suffix == '.safetensors':
        with safe_open(path, 'pt') as file:
            meta = file.metadata()
        return {'state_dict': load_file(path), 'meta': meta or {}}
    try:
        with torch.serialization.safe_globals(_DATA):
            return torch.load(path, map_location=map_location, weights_only=True)
    except pickle.UnpicklingError:
        if not checkpoints_are_trusted():
            raise
    message = f'{source}: is not data alone, and is read because of --trust-checkpoint.'
    print_log(message, logger='current', level=logging.WARNING)
    return torch.load(path, map_location=map_location, weights_only=False)


def _why_not(error: pickle.UnpicklingError) -> str:
    """What an error of torch's reader means, without its advice to read the file unchecked."""
    text = str(error)
    named = re.search(r'GLOBAL (\S+)', text)
    if named or _LATER_PROTOCOL in text:
        what = f'would run code ({named[1]})' if named else 'may run code (pickle protocol 4 or 5)'
        return (
            f'refused, because reading it {what}. Get its state dict alone; or, if you trust '
            'whoever made the file, read it with --trust-checkpoint.'
        )
    reason = text.split('WeightsUnpickler error:')[-1].strip().partition('\n')[0]
    return f'torn or no checkpoint ({reason}).'


def first_line(error: BaseException) -> str:
    """The first line of what an error says, or else its name."""
    return (str(error) or type(error).__name__).splitlines()[0]
