"""One run of a comparison: an ordinary training, resumed where it stopped, and its test.

    python -m mmseg_kd.comparison.run CONFIG FOLDER [SEED] [--no-test]

FOLDER becomes the work dir of the training, and FOLDER/test that of the test. Without a seed the
config's teacher is tested, and in FOLDER/validation validated where that has other images; with
--no-test the last validation is the run's result.
"""

from __future__ import annotations

import argparse
import os
import signal
import stat
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from mmseg_kd.errors import KDError, message_of

if TYPE_CHECKING:
    from mmengine.config import Config


def train_and_test(config: str, folder: Path, seed: int | None, is_tested: bool = True) -> None:
    """Train to the end, from where it stopped, then test the last checkpoint.

    Raises:
        KDError: Whatever is wrong with config, data, checkpoints and devices.
        SystemExit: A signal ended it; it can be resumed.
    """
    from mmseg_kd.config.load import load_config
    from mmseg_kd.engine.isolation import isolated
    from mmseg_kd.engine.testing import MeasuringOptions, prepare_test, run_test
    from mmseg_kd.engine.training import TrainingOptions, prepare_training, run_training

    checkpoint = None
    if seed is not None:
        cfg = load_config(config, None)
        cfg.work_dir = str(folder)
        # Each run has its own: in a common folder they would resume one another.
        (cfg.default_hooks.get('checkpoint') or {}).pop('out_dir', None)
        checkpoint = str(folder / f'iter_{cfg.train_cfg.max_iters}.pth')
        # Of visualisers and logs a process has one: the test would write into the training's.
        with isolated():
            # One that was stopped before its last validation makes up for that.
            run_training(prepare_training(cfg, TrainingOptions(resume=True, seed=seed)))
    if not is_tested:
        return
    teacher = '' if seed is None else None
    tests = {'test': MeasuringOptions(teacher=teacher)}
    if seed is None and _validates_other_images(load_config(config, None)):
        # Before the test, which the run is done with.
        tests = {'validation': MeasuringOptions(teacher=teacher, split='val'), **tests}
    for name, options in tests.items():
        cfg = load_config(config, None)
        cfg.work_dir = str(folder / name)
        with isolated():
            run_test(prepare_test(cfg, checkpoint, options))


def _validates_other_images(cfg: Config) -> bool:
    validation, test = cfg.get('val_dataloader'), cfg.get('test_dataloader')
    return bool(validation and test and validation['dataset'] != test['dataset'])


def end_with_parent() -> None:
    """Have this process told to stop when the one at the other end of its input is gone."""

    def wait() -> None:
        os.read(0, 1)
        os.kill(os.getpid(), signal.SIGTERM)

    if stat.S_ISFIFO(os.fstat(0).st_mode):
        threading.Thread(target=wait, daemon=True).start()


def main(args: Sequence[str] | None = None) -> int:
    """Parse `args` (None: the command line) and run; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('config')
    parser.add_argument('folder', type=Path)
    parser.add_argument('seed', type=int, nargs='?')
    parser.add_argument('--no-test', action='store_true')
    parsed = parser.parse_args(args)
    end_with_parent()
    import mmseg_kd.register  # noqa: F401

    try:
        train_and_test(parsed.config, parsed.folder, parsed.seed, not parsed.no_test)
    except KDError as error:
        print(f'error: {message_of(error)}', file=sys.stderr)
        return 1
    return 0


if __name__ == '__main__':
    sys.exit(main())
