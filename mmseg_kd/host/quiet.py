"""The packages this one stands on: found under any distribution name, and kept quiet.

What is silenced here says nothing that a user could act on; each line is named with its reason.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.metadata
import io
import logging
import re
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

from mmengine.config import utils as config_utils
from mmengine.registry import Registry

from mmseg_kd.errors import ConfigError, KDError, nearest

_WARNING_NOISE = (
    # Operators of mmcv that need its compiled build; no network used here calls them.
    r'Fail to import ``MultiScaleDeformableAttention``',
    # The default of mmseg's cross-entropy, told for every loss of every head.
    r'Default ``avg_non_ignore`` is False',
    # mmseg's own ADE20K base says reduce_zero_label where mmseg no longer wants to read it.
    r'`reduce_zero_label` will be deprecated',
    # What a run without painted images is meant to do.
    r'The draw is False',
    # mmengine's own way to its visualiser.
    r'.*instance named of visualizer has been created',
    # mmengine wraps the optimiser's step after the schedules have.
    r'Seems like `optimizer\.step\(\)` has been overridden',
)

# Printed by mmseg's import where an optional data service is not installed.
_OPTIONAL_SERVICE = 'Could not import OneDL'

_LOG_NOISE = (
    # One line for every parameter of the network.
    'paramwise_options -- ',
    # The hosts' own use of what they deprecated.
    '"FileClient" will be deprecated',
    '"HardDiskBackend" is the alias',
    # mmseg's metric is used as it is meant to be.
    'The prefix is not set in metric class',
    # The backbone takes its weights from timm and does not say so to its base class.
    'No pre-trained weights found',
    # Gradients come with the checkpoint; ExactResumeHook warns where they do not.
    'Resumed iteration number is not divisible by',
)


class HostNoise(logging.Filter):
    """Drops the log lines named above."""

    def filter(self, record: logging.LogRecord) -> bool:
        return not record.getMessage().startswith(_LOG_NOISE)


def name_distribution() -> None:
    """Tell mmengine which distribution `mmseg` was installed from.

    mmengine looks for `mmsegmentation`, does not find the maintained `onedl-mmsegmentation`,
    and then fails on `mmseg::` bases or installs another mmseg by itself.
    """
    known = config_utils.MODULE2PACKAGE.get('mmseg')
    # The usual ones first: all others means reading the file lists of all that is installed.
    for name in (known, 'onedl-mmsegmentation'):
        if name is not None and _is_installed(name):
            config_utils.MODULE2PACKAGE['mmseg'] = name
            return
    names = importlib.metadata.packages_distributions().get('mmseg', [])
    if names:
        config_utils.MODULE2PACKAGE['mmseg'] = names[0]


def _is_installed(distribution: str) -> bool:
    try:
        importlib.metadata.distribution(distribution)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


def import_quietly(*modules: str) -> None:
    """Import host modules without the lines that their import prints."""
    for message in _WARNING_NOISE:
        warnings.filterwarnings('ignore', message=message)
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        for module in modules:
            importlib.import_module(module)
    for line in printed.getvalue().splitlines():
        if line != _OPTIONAL_SERVICE:
            print(line, file=sys.stdout)


def explain(error: BaseException, length: int = 400) -> str:
    """An error of the hosts in a line, with the nearest names for an unknown type.

    Args:
        length: What is longer is cut: some messages hold a whole config.
    """
    # A KeyError shows what it is given as code.
    text = str(error.args[0] if isinstance(error, KeyError) and error.args else error)
    unknown = re.search(r'([\w.]+) is not in the (\w+)::([\w ]+) registry', text)
    if unknown:
        name, _, kind = unknown.groups()
        return f'there is no {kind} {name!r}; {nearest(name, registered(kind))}.'
    lines = [line for line in text.splitlines() if line.strip()]
    text = f'{type(error).__name__}: {" ".join(lines[:2])}'
    return text if len(text) <= length else f'{text[:length]}[...]'


@contextmanager
def as_config_error(what: str) -> Iterator[None]:
    """What the hosts raise while they read or build `what` becomes a `ConfigError`."""
    try:
        yield
    except KDError:
        raise
    except Exception as error:  # every class that a config can name raises what it likes
        raise ConfigError(f'{what}: {explain(error)}') from error


def registered(kind: str) -> set[str]:
    """Names of all members of the hosts' registries of one kind."""
    import mmengine.registry as host
    import mmseg.registry as mmseg_host

    names: set[str] = set()
    for module in (host, mmseg_host):
        for value in vars(module).values():
            if isinstance(value, Registry) and value.name == kind:
                names.update(value.module_dict)
    return names
