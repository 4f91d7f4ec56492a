"""What is measured, and with which weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from builders import resnet, save_weights, write_config, write_dataset

from mmseg_kd.config.load import load_config
from mmseg_kd.engine.isolation import isolated
from mmseg_kd.engine.testing import MeasuringOptions, prepare_test, run_test
from mmseg_kd.errors import ConfigError
from mmseg_kd.networks.build import student_of


@pytest.mark.parametrize('resume', [False, True])
def test_the_checkpoint_that_is_named_is_measured(tmp_path: Path, resume: bool) -> None:
    """Also with the config that a resumed training has left in its work dir."""
    data = write_dataset(tmp_path / 'data')
    config = write_config(tmp_path, resnet(4), data)
    work = tmp_path / 'work'
    work.mkdir()
    newest = save_weights(resnet(4), work / 'iter_4.pth', seed=1)
    (work / 'last_checkpoint').write_text(newest, encoding='utf-8')
    named = save_weights(resnet(4), tmp_path / 'best.pth', seed=2)
    cfg = load_config(str(config), dict(resume=resume, work_dir=str(work)))
    with isolated():
        runner = prepare_test(cfg, named, MeasuringOptions())
        run_test(runner)
        found = student_of(runner.model).state_dict()
    for key, tensor in torch.load(named).items():
        assert torch.equal(found[key].cpu(), tensor)


def test_the_images_of_validation_are_measured(tmp_path: Path) -> None:
    data = write_dataset(tmp_path / 'data')
    config = str(write_config(tmp_path, resnet(4), data))
    weights = save_weights(resnet(4), tmp_path / 'best.pth', seed=2)

    def measured(split: Literal['test', 'val'], **options: Any) -> float:
        cfg = load_config(config, dict(work_dir=str(tmp_path / 'work'), **options))
        with isolated():
            return float(prepare_test(cfg, weights, MeasuringOptions(split=split)).test()['mIoU'])

    first = {'val_dataloader.dataset.indices': [0]}
    of_first = measured('test', **{'test_dataloader.dataset.indices': [0]})
    assert measured('val', **first) == of_first
    assert measured('test', **first) != of_first


def test_pictures_without_a_visualizer_in_the_config(tmp_path: Path) -> None:
    data = write_dataset(tmp_path / 'data')
    config = str(write_config(tmp_path, resnet(4), data))
    weights = save_weights(resnet(4), tmp_path / 'best.pth', seed=2)
    cfg = load_config(config, dict(work_dir=str(tmp_path / 'work')))
    cfg.pop('visualizer', None)
    shown = tmp_path / 'shown'
    with isolated():
        run_test(prepare_test(cfg, weights, MeasuringOptions(show_dir=str(shown))))
    assert list(shown.rglob('*.png'))


@pytest.mark.parametrize('part', ['val_dataloader', 'val_evaluator'])
def test_a_config_without_validation_says_so(tmp_path: Path, part: str) -> None:
    cfg = load_config(str(write_config(tmp_path, resnet(4), tmp_path)), {part: None})
    with pytest.raises(ConfigError, match=f'--split val: expected {part} in the config'):
        prepare_test(cfg, None, MeasuringOptions(split='val'))


def test_predictions_of_a_config_with_several_metrics_and_no_hooks(tmp_path: Path) -> None:
    config = write_config(tmp_path, resnet(4), write_dataset(tmp_path / 'data'))
    extra = """
test_evaluator = dict(metrics=[dict(type='IoUMetric'), dict(type='IoUMetric', prefix='again')])
default_hooks = None
"""
    config.write_text(config.read_text(encoding='utf-8') + extra, encoding='utf-8')
    checkpoint = save_weights(resnet(4), tmp_path / 'net.pth')
    cfg = load_config(str(config), dict(work_dir=str(tmp_path / 'work')))
    options = MeasuringOptions(out=str(tmp_path / 'masks'), show_dir=str(tmp_path / 'shown'))
    with isolated():
        run_test(prepare_test(cfg, checkpoint, options))
    assert {path.name for path in (tmp_path / 'masks').iterdir()} == {'0.png', '1.png', '2.png'}
    assert list((tmp_path / 'shown').rglob('*.png'))
