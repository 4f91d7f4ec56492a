"""The config of a run, read."""

from __future__ import annotations

from pathlib import Path

import pytest

from mmseg_kd.config.load import load_config
from mmseg_kd.errors import ConfigError


def test_a_config_of_segdistill_is_to_be_converted(tmp_path: Path) -> None:
    path = tmp_path / 'old.py'
    path.write_text("model = dict(type='SDModule', cfg_s=dict(), cfg_t=dict())\n")
    with pytest.raises(ConfigError, match=rf'mmseg-kd convert-segdistill config {path} NEW\.py'):
        load_config(str(path), None)


def test_a_config_that_exits_is_named(tmp_path: Path) -> None:
    path = tmp_path / 'exits.py'
    path.write_text('import sys\nsys.exit(3)\n')
    with pytest.raises(ConfigError, match=r'exits\.py.*SystemExit: 3'):
        load_config(str(path), None)
