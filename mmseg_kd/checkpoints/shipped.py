"""Files that come with this package beside its modules: configs, and weights for them."""

from __future__ import annotations

from pathlib import Path

import mmseg_kd

# What their names begin with, before the path that they have in this repository.
SHIPPED = 'mmseg_kd::'


def shipped_root() -> Path:
    """Where the shipped folders are: in the package of a wheel, beside that of a checkout."""
    package = Path(mmseg_kd.__file__).parent
    inside = package / '.mim'
    return inside if inside.is_dir() else package.parent
