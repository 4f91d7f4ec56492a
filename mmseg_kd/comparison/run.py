"""One run of a comparison: an ordinary training, resumed where it stopped, and its test.

    python -m mmseg_kd.comparison.run FOLDER SEED [--amp]

FOLDER has the config, as `config.py`; it becomes the work dir of the training, and FOLDER/test that
of the test. Without a seed the config's teacher is tested.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mmseg_kd.errors import KDError, message_of


@dataclass(frozen=True)
class Run:
    """A method trained with a seed, or the teacher.

    Attributes:
        method: Its name in the plan, or 'teacher'.
        seed: Of all random numbers; None of the teacher, which is tested alone.
        folder: Its work dir.
    """

    method: str
    seed: int | None
    folder: Path

    def __str__(self) -> str:
        return self.method if self.seed is None else f'{self.method}, seed {self.seed}'

    @property
    def config(self) -> Path:
        """What is trained."""
        return self.folder / 'config.py'

    def metrics(self) -> dict[str, float] | None:
        """What its test measured, in percent; None: it has not come to an end."""
        results = sorted((self.folder / 'test').glob('*/*.json'))
        if not results:
            return None
        found: dict[str, float] = json.loads(results[-1].read_text(encoding='utf-8'))
        return found


def train_and_test(run: Run, amp: bool = False) -> None:
    """Train to the end, from where it stopped, then test the last checkpoint.

    Raises:
        KDError: Whatever is wrong with config, data, checkpoints and devices.
        SystemExit: A signal ended it; it can be resumed.
    """
    from mmseg_kd.config.load import load_config
    from mmseg_kd.engine.testing import MeasuringOptions, prepare_test, run_test
    from mmseg_kd.engine.training import TrainingOptions, prepare_training, run_training

    checkpoint = None
    if run.seed is not None:
        cfg = load_config(str(run.config), None)
        cfg.work_dir = str(run.folder)
        checkpoint = str(run.folder / f'iter_{cfg.train_cfg.max_iters}.pth')
        if not Path(checkpoint).exists():
            options = TrainingOptions(resume=True, seed=run.seed, amp=amp)
            run_training(prepare_training(cfg, options))
    cfg = load_config(str(run.config), None)
    cfg.work_dir = str(run.folder / 'test')
    options_of_test = MeasuringOptions(teacher='' if run.seed is None else None)
    run_test(prepare_test(cfg, checkpoint, options_of_test))


def main(args: Sequence[str] | None = None) -> int:
    """Parse `args` (None: the command line) and run; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('folder', type=Path)
    parser.add_argument('seed', type=int, nargs='?')
    parser.add_argument('--amp', action='store_true')
    parsed = parser.parse_args(args)
    import mmseg_kd.register  # noqa: F401

    run = Run(parsed.folder.name, parsed.seed, parsed.folder)
    try:
        train_and_test(run, parsed.amp)
    except KDError as error:
        print(f'error: {message_of(error)}', file=sys.stderr)
        return 1
    return 0


if __name__ == '__main__':
    sys.exit(main())
