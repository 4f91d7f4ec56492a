"""The libraries that networks come from, some of which are optional."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from mmseg_kd.errors import ConfigError


def require(package: str, extra: str, needed_by: str) -> Any:
    """A module of an optional library.

    Args:
        package: Its name.
        extra: The extra of this package that installs it.
        needed_by: What messages call the network that needs it.

    Raises:
        ConfigError: It is not installed, or something that it needs is not.
    """
    try:
        return import_module(package)
    except ImportError as error:
        raise ConfigError(
            f'{needed_by} needs the package {error.name or package!r}, which is not installed: '
            f"pip install 'mmseg-kd[{extra}]'."
        ) from error
