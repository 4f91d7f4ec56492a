"""The host's way to checkpoints, led through ours."""

from __future__ import annotations

from typing import Any

from mmengine.runner import CheckpointLoader

from mmseg_kd.checkpoints.read import read_checkpoint
from mmseg_kd.checkpoints.trust import checkpoints_are_trusted


def load_from_weights_only(filename: str, map_location: Any = None) -> dict[str, Any]:
    """What mmengine calls to read any checkpoint, after `take_over_loading`.

    Raises:
        CheckpointError: As in `read_checkpoint`.
    """
    content = read_checkpoint(filename, map_location or 'cpu')
    meta = content.get('meta')
    if isinstance(meta, dict) and not checkpoints_are_trusted():
        # Files of mmcv 1.x have their config there as text. The runner executes it on a resume, to
        # compare the number of GPUs.
        meta.pop('config', None)
    return content


def take_over_loading() -> None:
    """Let mmengine read checkpoints of all kinds with `load_from_weights_only`.

    mmengine's own readers unpickle with all that a file asks for as soon as torch refuses to,
    and take http and files without a checksum. What goes through them: `load_from`, `resume`,
    `init_cfg` with `Pretrained`, `pretrained` of backbones and heads, mmseg's inferencers.
    Readers that others have registered stay.
    """
    own = CheckpointLoader.__module__
    prefixes = [p for p, loader in CheckpointLoader._schemes.items() if loader.__module__ == own]
    CheckpointLoader.register_scheme(prefixes, load_from_weights_only, force=True)
