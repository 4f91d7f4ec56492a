"""How long a step of each method takes: all in one process, in turns, when they are warm.

    python -m mmseg_kd.comparison.steps FOLDER

FOLDER has a config for each method, NAME.py; seconds by method go to FOLDER/measured.json, and what
is wrong with those that cannot be measured to FOLDER/failed.json.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Sequence
from itertools import chain, repeat
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmseg_kd.comparison.run import end_with_parent

if TYPE_CHECKING:
    from torch.utils.data import DataLoader

MEASURED, FAILED = 'measured.json', 'failed.json'
# Terms have other weights at the begin of a run than at its end, and one of 0 costs nothing: steps
# are measured in the middle of so many parts of the run.
PARTS = 4
ROUNDS = 3
# Of a turn; the first ones find caches full of another method.
WARM, TIMED = 1, 2


class Method:
    """A method to be timed, with networks and an optimiser of its own.

    Args:
        file: Its config.
        loaders: Those of the methods before, by what their configs say; one may be added.

    Raises:
        KDError: Whatever is wrong with it.
    """

    def __init__(self, file: Path, loaders: dict[str, Loader]) -> None:
        from mmseg_kd.config.load import load_config
        from mmseg_kd.engine.training import TrainingOptions, prepare_training

        cfg = load_config(str(file), None)
        cfg.work_dir = str(file.with_suffix(''))
        # Where a name is made of the time, runners of one second share their logs.
        cfg.experiment_name = file.stem
        runner: Any = prepare_training(cfg, TrainingOptions(seed=0))
        runner._init_model_weights()
        self.model = runner.model
        self.optimiser = runner.build_optim_wrapper(cfg.optim_wrapper)
        self.iterations = int(cfg.train_cfg.max_iters)
        self.optimiser.initialize_count_status(self.model, 0, self.iterations)
        runner._maybe_compile('train_step')
        key = repr(cfg.train_dataloader)
        if key not in loaders:
            loaders[key] = Loader(runner.build_dataloader(cfg.train_dataloader, seed=0))
        self.loader = loaders[key]
        self.times: list[list[float]] = [[] for _ in range(PARTS)]

    def turn(self, part: int) -> None:
        """Take some steps in a part of the run."""
        from mmseg_kd.host.iteration import at_iteration

        self.model.train()
        with at_iteration(self.iterations * (2 * part + 1) // (2 * PARTS)):
            for step in range(WARM + TIMED):
                batch = self.loader.load()
                begun = _now()
                self.model.train_step(batch, self.optimiser)
                if step >= WARM:
                    self.times[part].append(_now() - begun)

    def seconds(self) -> float:
        """Of a step of the run, with its batch."""
        step = statistics.fmean(statistics.median(times) for times in self.times)
        loading = self.loader.seconds()
        return max(step, loading) if self.loader.is_ahead else step + loading


class Loader:
    """Batches without end, and how long one takes."""

    def __init__(self, loader: DataLoader[Any]) -> None:
        self.is_ahead = loader.num_workers > 0
        self._ready = loader.num_workers * (loader.prefetch_factor or 0)
        self._batches = chain.from_iterable(repeat(loader))
        self._times: list[float] = []
        self._seconds: float | None = None

    def load(self) -> Any:
        """The next batch."""
        begun = time.perf_counter()
        batch = next(self._batches)
        self._times.append(time.perf_counter() - begun)
        return batch

    def seconds(self) -> float:
        """Of a batch; of one of many in a row, where workers load while steps are taken."""
        if self._seconds is None:
            if self.is_ahead:
                for _ in range(self._ready):
                    next(self._batches)
                begun = time.perf_counter()
                for _ in range(self._ready):
                    next(self._batches)
                self._seconds = (time.perf_counter() - begun) / self._ready
            else:
                self._seconds = statistics.median(self._times)
        return self._seconds


def _now() -> float:
    """The time at which the device has done all that it was told to do."""
    import torch

    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()


def measure(files: Sequence[Path]) -> tuple[dict[str, float], dict[str, str]]:
    """Seconds of a step by method, and what is wrong with the methods that have none.

    Args:
        files: A config each.
    """
    from mmseg_kd.errors import KDError, message_of
    from mmseg_kd.host.quiet import explain

    methods: dict[str, Method] = {}
    loaders: dict[str, Loader] = {}
    failed: dict[str, str] = {}

    def attempt(name: str, action: Any) -> None:
        try:
            action()
        except KDError as error:
            failed[name] = message_of(error)
        except Exception as error:  # whatever a network, a data set or a device raises
            failed[name] = explain(error)

    for file in files:
        attempt(file.stem, lambda file=file: methods.update({file.stem: Method(file, loaders)}))
    for _ in range(ROUNDS):
        for part in range(PARTS):
            for name, method in methods.items():
                if name not in failed:
                    attempt(name, lambda method=method, part=part: method.turn(part))
    seconds = {name: one.seconds() for name, one in methods.items() if name not in failed}
    return seconds, failed


def main(args: Sequence[str] | None = None) -> int:
    """Parse `args` (None: the command line) and measure; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('folder', type=Path)
    parsed = parser.parse_args(args)
    end_with_parent()
    import mmseg_kd.register  # noqa: F401
    from mmseg_kd.checkpoints.save import atomic_write

    seconds, failed = measure(sorted(parsed.folder.glob('*.py')))
    for name, found in ((FAILED, failed), (MEASURED, seconds)):
        with atomic_write(parsed.folder / name) as unfinished:
            unfinished.write_text(json.dumps(found, indent=2) + '\n', encoding='utf-8')
    return 0


if __name__ == '__main__':
    sys.exit(main())
