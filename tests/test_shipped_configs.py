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

from mmseg_kd.config.experiments import experiments_of
from mmseg_kd.config.load import check_keys, load_config
from mmseg_kd.config.network_spec import NetworkSpec, parse_network, parse_teachers
from mmseg_kd.config.runner import check_runner_config
from mmseg_kd.config.term_spec import parse_terms
from mmseg_kd.data_checks.preflight import check_dataset
from mmseg_kd.errors import Problems
from mmseg_kd.networks.build import build_network, without_initialisation

ROOT = Path(__file__).resolve().parents[1]
CONFIGS = sorted(
    path.relative_to(ROOT).as_posix()
    for folder in ('configs', 'distillation_configs')
    for path in (ROOT / folder).rglob('*.py')
    if '_base_' not in path.parts
)
# Plans of comparisons, whose methods may differ in anything; tests/test_comparison reads them.
PLANS = [name for name in CONFIGS if '\ncomparison = ' in (ROOT / name).read_text(encoding='utf-8')]
# Of families that differ in a number or a name alone, one member is trained.
TRAINED = [
    *(
        name
        for name in CONFIGS
        if name not in PLANS
        and not name.startswith(('distillation_configs/ade20k/', 'distillation_configs/camvid/'))
    ),
    *(
        f'distillation_configs/camvid/camvid-240x320.py::mobilenetv2_{method}'
        for method in ('baseline', 'kl', 'cd', 'cgd', 'cwd', 'two-teachers')
    ),
    'distillation_configs/camvid/camvid-240x320.py::mit-slim_cwd',
    'distillation_configs/camvid/camvid-360x480.py::mobilenetv2_cgd',
    'distillation_configs/camvid/camvid-360x480.py::mit-slim_baseline',
    *(
        f'distillation_configs/ade20k/segformer-b3_segformer-b0.py::{method}'
        for method in ('baseline', 'kl', 'at', 'ifvd', 'cd', 'cgd', 'cgd-ws')
    ),
    'distillation_configs/ade20k/segformer-b3_segformer-b0_attention.py',
    'distillation_configs/ade20k/segformer-b3_swin-t.py::cgd-ws',
    'distillation_configs/ade20k/segformer-b3_pspnet-r50.py::ifvd',
    'distillation_configs/ade20k/group_size.py::group150',
    'distillation_configs/ade20k/weight_tau.py::weight2-tau3',
    'distillation_configs/ade20k/network_size.py::b2-b1',
]
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


@pytest.mark.parametrize(
    'name', [c for c in CONFIGS if c.startswith('distillation_configs') and c not in PLANS]
)
def test_distillation_config_is_short(name: str) -> None:
    assert len((ROOT / name).read_text(encoding='utf-8').splitlines()) < 30


@pytest.mark.parametrize('name', CONFIGS)
def test_parts_of_the_runner_are_there(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    check_runner_config(next(experiments_of(name)).config, ['train', 'val', 'test'])


def test_experiments_are_sound_and_differ(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    families = [name for name in CONFIGS if name not in PLANS]
    found = [e for name in families for e in experiments_of(name) if '::' in e.name]
    problems = Problems()
    for experiment in found:
        check_keys(experiment.config)
        teachers, _ = parse_teachers(experiment.config.model.teacher, problems)
        parse_network(experiment.config.model.student, experiment.name)
        parse_terms(experiment.config.model.distillation, teachers, problems)
    problems.raise_if_any()
    assert len(found) == 64
    # CGD with group 10, weight 3 and tau 2 from B3 to B0 belongs to four of the families.
    assert len({repr(e.config.model) for e in found}) == 64 - 3


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


def shrink_teacher(name: str, spec: NetworkSpec, folder: Path) -> ConfigDict:
    """A teacher for tiny pictures with random weights in a file."""
    assert spec.checkpoint is not None
    model = shrink_network(spec.model)
    path = folder / f'{name}.pth'
    torch.save({'state_dict': build_network(model, name).state_dict()}, path)
    return ConfigDict(**model, name=name, checkpoint=str(path))


@pytest.mark.slow
@pytest.mark.parametrize('name', TRAINED)
def test_two_iterations(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    cfg = load_config(name, None)
    shrink(cfg, tmp_path)
    if cfg.model.type == 'DistillationWrapper':
        cfg.model.student = shrink_network(parse_network(cfg.model.student, 'student').model)
        problems = Problems()
        names, specs = parse_teachers(cfg.model.teacher, problems)
        problems.raise_if_any()
        cfg.model.teacher = [shrink_teacher(n, specs[n], tmp_path) for n in names]
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
    for term in getattr(runner.model, 'terms', []):
        assert f'train/kd.{term}' in history
