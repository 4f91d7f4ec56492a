"""Every shipped config is built and run for two iterations."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from mmengine.config import Config, ConfigDict
from mmengine.runner import Runner
from PIL import Image

from mmseg_kd.cli.common import check_keys, load_config
from mmseg_kd.network import build_network, parse_network, without_initialisation
from mmseg_kd.preflight import check_dataset

ROOT = Path(__file__).resolve().parents[1]
CONFIGS = sorted(
    path.relative_to(ROOT).as_posix()
    for folder in ('configs', 'distillation_configs')
    for path in (ROOT / folder).rglob('*.py')
    if '_base_' not in path.parts
)
BASES = sorted(
    path.relative_to(ROOT).as_posix()
    for folder in ('configs', 'distillation_configs')
    for path in (ROOT / folder / '_base_').rglob('*.py')
)
SIZE = (64, 64)


def test_there_are_configs() -> None:
    assert len(CONFIGS) >= 20


@pytest.mark.parametrize('name', BASES)
def test_base_is_read(name: str) -> None:
    check_keys(Config.fromfile(ROOT / name))


@pytest.mark.parametrize('name', [c for c in CONFIGS if c.startswith('distillation_configs')])
def test_distillation_config_is_short(name: str) -> None:
    assert len((ROOT / name).read_text(encoding='utf-8').splitlines()) < 30


def write_images(dataset: Any, root: Path) -> None:
    """Two small images and masks in the folders and with the suffixes that a data set wants."""
    stored_zero_is_ignored = dataset['type'] in ('ADE20KDataset', 'ToyScenesDataset')
    images, masks = (root / dataset['data_prefix'][k] for k in ('img_path', 'seg_map_path'))
    city = dataset['type'] == 'CityscapesDataset'
    for index in range(2):
        rng = np.random.default_rng(index)
        images.mkdir(parents=True, exist_ok=True)
        masks.mkdir(parents=True, exist_ok=True)
        image = rng.integers(0, 256, (*SIZE, 3), dtype=np.uint8)
        mask = rng.integers(int(stored_zero_is_ignored), 11, SIZE, dtype=np.uint8)
        Image.fromarray(image).save(images / f'{index}{"_leftImg8bit.png" if city else ".jpg"}')
        Image.fromarray(mask).save(
            masks / f'{index}{"_gtFine_labelTrainIds.png" if city else ".png"}'
        )


def shrink(cfg: Config, tmp_path: Path) -> None:
    """Tiny pictures, two iterations, files of this test in place of public ones."""
    cfg.work_dir = str(tmp_path / 'work')
    cfg.train_cfg.max_iters, cfg.train_cfg.val_interval = 2, 2
    cfg.default_hooks.checkpoint.interval = 2
    cfg.default_hooks.logger.interval = 1
    for split in ('train', 'val', 'test'):
        loader = cfg[f'{split}_dataloader']
        loader.num_workers, loader.persistent_workers = 0, False
        loader.batch_size = min(loader.batch_size, 2)
        loader.dataset.data_root = str(tmp_path / 'data')
        write_images(loader.dataset, tmp_path / 'data')
        for step in loader.dataset.pipeline:
            if step['type'] == 'RandomCrop':
                step['crop_size'] = SIZE
            if step['type'] in ('Resize', 'RandomResize'):
                step['scale'] = SIZE


def shrink_network(model: ConfigDict) -> ConfigDict:
    """A network without files of others, for tiny pictures."""
    model = without_initialisation(model)
    model['data_preprocessor']['size'] = SIZE
    return model


def make_teacher_file(model: ConfigDict, path: Path) -> str:
    network = build_network(model, 'teacher')
    torch.save({'state_dict': network.state_dict()}, path)
    return str(path)


@pytest.mark.slow
@pytest.mark.parametrize('name', CONFIGS)
def test_two_iterations(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    cfg = load_config(name, None)
    shrink(cfg, tmp_path)
    if cfg.model.type == 'DistillationWrapper':
        for side in ('student', 'teacher'):
            spec = parse_network(cfg.model[side], side)
            cfg.model[side] = shrink_network(spec.model)
            if side == 'teacher' and cfg.model.distillation:
                assert spec.checkpoint is not None
                file = make_teacher_file(cfg.model.teacher, tmp_path / 'teacher.pth')
                cfg.model.teacher.checkpoint = file
    else:
        cfg.model = shrink_network(cfg.model)
    runner = Runner.from_cfg(cfg)
    student = getattr(runner.model, 'student', runner.model)
    check_dataset(cfg.train_dataloader.dataset, 'train', student.num_classes)
    before = {key: value.clone() for key, value in student.state_dict().items()}
    runner.train()
    assert runner.iter == 2
    assert any(not torch.equal(before[k], v) for k, v in student.state_dict().items())
    assert (tmp_path / 'work' / 'iter_2.pth').is_file()
    history = runner.message_hub.log_scalars
    assert np.isfinite(history['train/loss'].current())
    for term in cfg.model.get('distillation', []):
        stem = term['loss']['type'].removesuffix('Loss').lower()
        assert f'train/kd.{stem}' in history
