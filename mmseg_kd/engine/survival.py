"""What lets a training outlive its process: durable checkpoints, stops, resumes."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mmengine.config import Config
from mmengine.dist import broadcast_object_list, is_main_process
from mmengine.hooks import CheckpointHook
from mmengine.logging import print_log
from mmengine.registry import HOOKS
from mmengine.runner import Runner

from mmseg_kd.checkpoints.newest import POINTER, newest_intact
from mmseg_kd.checkpoints.seal import check_intact
from mmseg_kd.errors import CheckpointError
from mmseg_kd.hooks import DurableCheckpointHook, StopSignalHook
from mmseg_kd.hooks.durable_checkpoint_hook import folder_of
from mmseg_kd.hooks.find import find_hooks, get_or_add_hook
from mmseg_kd.host.aside import aside
from mmseg_kd.host.visualizer import ignore_full_disk

# Set by mmseg-kd launch: when the job began, in nanoseconds since 1970.
JOB_START = 'MMSEG_KD_JOB_START'


def use_durable_checkpoints(cfg: Config) -> None:
    """Put `DurableCheckpointHook` where a config has `CheckpointHook`, or says nothing."""
    cfg.default_hooks = dict(checkpoint=dict(type='CheckpointHook')) | (
        cfg.get('default_hooks') or {}
    )
    for hook in (*cfg.default_hooks.values(), *(cfg.get('custom_hooks') or ())):
        if isinstance(hook, dict):
            kind = hook.get('type')
            if (HOOKS.get(kind) if isinstance(kind, str) else kind) is CheckpointHook:
                hook['type'] = 'DurableCheckpointHook'


def stop_on_signals(runner: Runner) -> StopSignalHook | None:
    """The hook that stops a run on a signal: the config's own, or a new one.

    None where no `DurableCheckpointHook` is there to write a checkpoint, or in a thread, to which
    no signal comes: signals keep their meaning.
    """
    if threading.current_thread() is not threading.main_thread():
        return None
    if not (find_hooks(runner, StopSignalHook) or find_hooks(runner, DurableCheckpointHook)):
        return None
    return get_or_add_hook(runner, StopSignalHook)


def keep_logging_aside(runner: Runner) -> None:
    """Let a run go on whatever becomes of the backends that keep its curves and pictures.

    Where there is no room the checkpoint hook has the say; a backend that fails in another way,
    such as a service that is not reached any more, is left out from then on.
    """
    left_out: set[str] = set()

    def shielded(name: str, call: Callable[..., None]) -> Callable[..., None]:
        def add(*args: Any, **kwargs: Any) -> None:
            if name not in left_out:
                with aside(f'Logging to {name}', lambda: left_out.add(name)), ignore_full_disk():
                    call(*args, **kwargs)

        return add

    for name, backend in runner.visualizer._vis_backends.items():
        for method in ('add_scalar', 'add_scalars', 'add_image'):
            setattr(backend, method, shielded(name, getattr(backend, method)))


def resume_from_intact(runner: Runner) -> None:
    """Let a runner that is to resume do so from a whole checkpoint.

    With a file named, that is the one, and it must be whole; else it is the newest whole one of
    the run. A job whose ranks torchrun has started again resumes from the newest one that it has
    written itself, if there is one, whatever the command says.

    Rank 0 looks, for all.

    Raises:
        CheckpointError: The file is missing, torn or altered, or there are checkpoints of which
            none is whole.
    """
    found: list[Any] = [None]
    if is_main_process():
        try:
            found = [_choose(runner)]
        except CheckpointError as error:
            found = [error]
    broadcast_object_list(found)
    if isinstance(found[0], CheckpointError):
        raise found[0]
    if found[0] is not None:
        runner._resume, runner._load_from = True, found[0]


def _choose(runner: Runner) -> str | None:
    """The checkpoint to resume from; None: what the runner does by itself is right."""
    named = runner._load_from
    for hook in find_hooks(runner, CheckpointHook):
        folder = folder_of(hook, runner)
        if '://' in folder:
            continue
        path = _written_by_this_job(folder, hook.filename_tmpl)
        if path is None and runner._resume and named is None:
            pointer = Path(runner.work_dir, POINTER)
            path = newest_intact(Path(folder), hook.filename_tmpl, pointer)
        if path is not None:
            return str(path)
    if runner._resume and named is not None and '://' not in named:
        check_intact(Path(named).expanduser())
    return None


def _written_by_this_job(folder: str, template: str) -> Path | None:
    """The newest checkpoint since the job began: none, unless torchrun has started it again."""
    start = os.environ.get(JOB_START)
    if start is not None:
        # torchrun's own count of starts is 0 on machines where no rank has died.
        return newest_intact(Path(folder), template, since=int(start))
    if int(os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')) > 0:
        print_log(
            'torchrun has started this job again, and which checkpoints are its own is not known: '
            'it begins as its command says. Use mmseg-kd launch, or give '
            '--resume.',
            logger='current',
            level=logging.WARNING,
        )
    return None
