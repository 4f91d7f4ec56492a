"""What a run left in its folder: its config and its checkpoint; and what it is called."""

from __future__ import annotations

import re
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmseg_kd.checkpoints.newest import POINTER, newest_intact
from mmseg_kd.errors import CheckpointError, ConfigError, LogError, Problems
from mmseg_kd.runs.log import CONFIG, read_log

# Checkpoints by what they are called, the most telling first: the best one by mIoU, by another
# metric, the newest one.
_NAMES = (r'best_mIoU_.*\{\}\.pth', r'best_.*\{\}\.pth', r'(?:iter|epoch)_\{\}\.pth')


@dataclass(frozen=True)
class WorkDir:
    """A run's folder.

    Attributes:
        folder: As it was given.
        config: The file with the whole config of its training.
        checkpoint: Its best checkpoint, or the newest where it kept no best one.
    """

    folder: Path
    config: Path
    checkpoint: Path


def read_work_dir(folder: str | Path) -> WorkDir:
    """A run by its folder.

    Raises:
        ConfigError: There is no such folder, or no config in it.
        CheckpointError: There is no checkpoint in it, or none that is whole.
            `ManyErrors` where both are missing.
    """
    folder = Path(folder)
    problems = Problems()
    config = checkpoint = folder
    with problems:
        config = find_config(folder)
    if folder.is_dir():
        with problems:
            checkpoint = find_checkpoint(folder)
    problems.raise_if_any()
    return WorkDir(folder, config, checkpoint)


def split_title(text: str) -> tuple[str | None, str]:
    """The title, None where none is given, and the rest of `[TITLE=]WORK_DIR`.

    Raises:
        ConfigError: There is a '=' with nothing before or behind it.
    """
    title, separator, rest = text.partition('=')
    # A folder may have the sign in its name: work_dirs/lr=0.1
    if not separator or '/' in title or Path(text).exists():
        return None, text
    if not title.strip() or not rest:
        raise ConfigError(
            f'{text!r}: expected [TITLE=]WORK_DIR, with something before the = and behind it.'
        )
    return title.strip(), rest


def find_config(folder: Path) -> Path:
    """The config of the newest training in `folder`: beside its log, or in the folder itself.

    The one in the folder comes second: a test there writes its own in its place.

    Raises:
        ConfigError: There is no such folder, or no config in it.
    """
    if not folder.is_dir():
        raise ConfigError(f'{folder}: there is no such folder; expected the work dir of a run.')
    with suppress(LogError):
        for start in reversed(read_log(folder).starts):
            config = start.file.with_name(CONFIG)
            if start.first is not None and config.is_file():
                return config
    # An exported student has a config beside it too, which names no work dir.
    found = [path for path in folder.glob('*.py') if 'work_dir' in _names_in(path)]
    if not found:
        raise ConfigError(
            f'{folder}: there is no config of a run in it (NAME.py, which mmseg-kd train writes '
            'there); give config and checkpoint instead.'
        )
    return max(found, key=lambda path: (path.stat().st_mtime_ns, path.name))


def _names_in(path: Path) -> set[str]:
    """The names that a file of Python sets at its top."""
    text = path.read_text(encoding='utf-8', errors='replace')
    return set(re.findall(r'^(\w+) *=', text, re.MULTILINE))


def find_checkpoint(folder: Path) -> Path:
    """The best checkpoint of a run that is whole, or the newest where it kept no best one.

    Of several metrics with a best checkpoint each, mIoU counts; of a metric's, the newest.

    Raises:
        CheckpointError: There is none, or none that is whole.
    """
    names = sorted({re.sub(r'\d+(?=\.pth$)', '{}', path.name) for path in folder.glob('*.pth')})
    templates = [name for pattern in _NAMES for name in names if re.fullmatch(pattern, name)]
    torn: CheckpointError | None = None
    # A run may write its checkpoints elsewhere: the pointer tells.
    for template in (*templates, 'iter_{}.pth'):
        try:
            path = newest_intact(folder, template, folder / POINTER)
        except CheckpointError as error:
            torn = error
        else:
            if path is not None:
                return path
    if torn is not None:
        raise CheckpointError(f'{folder}: none of its checkpoints is whole.') from torn
    raise CheckpointError(
        f'{folder}: there is no checkpoint in it (iter_N.pth, epoch_N.pth or best_*.pth).'
    )


def title_of(model: Any) -> str | None:
    """What a distillation does in a word or two: 'CGD', 'KL + IFVD', or 'baseline' without terms.

    Args:
        model: The config's model dict.

    Returns:
        None for a model that is no distillation.
    """
    if not isinstance(model, dict) or model.get('type') != 'DistillationWrapper':
        return None
    names = []
    for term in model.get('distillation') or ():
        if 'recipe' in term:  # a config that no command has read yet
            names.append(str(term['recipe']))
            continue
        loss = term['loss']['type']
        loss = loss if isinstance(loss, str) else loss.__name__
        names.append(loss.rpartition('.')[2].removesuffix('Loss'))
    return ' + '.join(dict.fromkeys(names)) or 'baseline'
