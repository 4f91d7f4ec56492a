"""The workers of data loaders end with the run."""

from __future__ import annotations

import multiprocessing
from pathlib import Path

from builders import resnet, write_config, write_dataset

from mmseg_kd.config.load import load_config
from mmseg_kd.engine.training import TrainingOptions, prepare_training, run_training

TWO_WORKERS = {
    f'{split}_dataloader.{key}': value
    for split in ('train', 'val')
    for key, value in {'num_workers': 2, 'persistent_workers': True}.items()
}


def test_a_run_leaves_no_workers_and_can_be_run_again(tmp_path: Path) -> None:
    config = write_config(tmp_path, resnet(4), write_dataset(tmp_path / 'data'))
    cfg = load_config(str(config), {**TWO_WORKERS, 'train_cfg.max_iters': 2})
    cfg.work_dir = str(tmp_path / 'run')
    runner = prepare_training(cfg, TrainingOptions(seed=0, device='cpu'))
    run_training(runner)
    assert runner.iter == 2
    assert not multiprocessing.active_children()
    assert 'mIoU' in runner.val_loop.run()
