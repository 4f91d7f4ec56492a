from __future__ import annotations

import importlib.metadata
import logging
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
from mmengine.config import Config
from mmengine.config import utils as config_utils

from mmseg_kd.config.file import config_path
from mmseg_kd.config.network_spec import parse_network
from mmseg_kd.errors import ConfigError
from mmseg_kd.host.quiet import HostNoise, import_quietly, name_distribution


def test_import_prints_nothing(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, '-c', 'import mmseg_kd'], cwd=tmp_path, capture_output=True, text=True
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, '', '')
    assert list(tmp_path.iterdir()) == []


def test_mmseg_base_resolves(tmp_path: Path) -> None:
    path = tmp_path / 'mine.py'
    path.write_text("_base_ = 'mmseg::segformer/segformer_mit-b0_8xb2-160k_ade20k-512x512.py'\n")
    model = Config.fromfile(path).model
    assert model.type == 'EncoderDecoder'
    assert model.backbone.type == 'MixVisionTransformer'


def test_mmseg_config_of_a_network() -> None:
    name = 'mmseg::segformer/segformer_mit-b0_8xb2-160k_ade20k-512x512.py'
    assert config_path(name).is_file()
    spec = parse_network(
        dict(config=name, cfg_options={'model.decode_head.num_classes': 7}), 'student'
    )
    assert spec.model.decode_head.num_classes == 7


def test_unknown_mmseg_config_has_the_nearest_names() -> None:
    with pytest.raises(ConfigError, match='nearest: segformer/segformer_mit-b0_8xb2-160k'):
        config_path('mmseg::segformer/segformer_mit-b0_8xb2-160k_ade20k-512x51.py')


@pytest.mark.parametrize(
    ('installed', 'found'),
    [
        (['onedl-mmsegmentation'], 'onedl-mmsegmentation'),
        (['mmsegmentation', 'onedl-mmsegmentation'], 'mmsegmentation'),
        (['their-mmseg'], 'their-mmseg'),
        ([], 'mmsegmentation'),
    ],
)
def test_distribution_is_the_installed_one(
    installed: list[str], found: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def distribution(name: str) -> None:
        if name not in installed:
            raise importlib.metadata.PackageNotFoundError(name)

    packages = {'mmseg': installed} if installed else {}
    monkeypatch.setattr('importlib.metadata.distribution', distribution)
    monkeypatch.setattr('importlib.metadata.packages_distributions', lambda: packages)
    monkeypatch.setitem(config_utils.MODULE2PACKAGE, 'mmseg', 'mmsegmentation')
    name_distribution()
    assert config_utils.MODULE2PACKAGE['mmseg'] == found


def test_only_known_lines_of_an_import_are_dropped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / 'noisy_host.py').write_text(
        "print('Could not import OneDL')\nprint('Your disk is full')\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    with warnings.catch_warnings():
        import_quietly('noisy_host')
    assert capsys.readouterr().out == 'Your disk is full\n'


@pytest.mark.parametrize(
    ('message', 'kept'),
    [
        ('paramwise_options -- backbone.conv1.weight:lr=0.1', False),
        ('"FileClient" will be deprecated in future.', False),
        ('Iter(train) [50/100] loss: 0.5', True),
        ('the loss is nan: paramwise_options -- ', True),
    ],
)
def test_only_known_log_lines_are_dropped(message: str, kept: bool) -> None:
    record = logging.LogRecord('mmengine', logging.INFO, '', 0, message, (), None)
    assert HostNoise().filter(record) is kept
