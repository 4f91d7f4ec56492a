"""The main job at a small size: a student without and with a teacher, on generated scenes."""

from __future__ import annotations

import json
import statistics
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from mmseg_kd.analysis.differences import evenly_spaced
from mmseg_kd.analysis.figures import compare
from mmseg_kd.analysis.lineup import line_up
from mmseg_kd.checkpoints.save import atomic_write
from mmseg_kd.datasets.toy_scenes.dataset import generate_or_say
from mmseg_kd.engine.step import run_step
from mmseg_kd.errors import ConfigError
from mmseg_kd.evaluation.complexity import complexity
from mmseg_kd.runs.log import read_log, scalar_files
from mmseg_kd.runs.markdown import markdown_table

TEACHER = 'mmseg_kd::configs/toy_scenes/resnet18-quarter_fpn_toy-128x128.py'
WEIGHTS = TEACHER.replace('.py', '.safetensors')
PAIR = 'mmseg_kd::distillation_configs/toy_scenes/resnet18_mobilenetv2-half_{}_toy-128x128.py'
SIZE = (128, 128)
# What the configs say.
ITERATIONS = 600
DATA_ROOT = 'data/toy_scenes'


@dataclass(frozen=True)
class Job:
    """A network and what it is called in the table and in the figure.

    Attributes:
        title: What it is called.
        config: Its config.
        folder: Of its results.
        weights: Those that are shipped. None: it is trained.
    """

    title: str
    config: str
    folder: str
    weights: str | None = None


JOBS = (
    Job('teacher', TEACHER, 'teacher', WEIGHTS),
    Job('student', PAIR.format('baseline'), 'student'),
    Job('student + CWD', PAIR.format('cwd'), 'student_cwd'),
)


@dataclass(frozen=True)
class Row:
    """What was measured of a network.

    Attributes:
        network: What the table calls it.
        params: How many parameters it has.
        flops: Operations for one image, a multiply-add counted once.
        mIoU, mAcc: In percent, on the validation scenes.
        seconds_per_step: Median of its training; None where it was not trained.
    """

    network: str
    params: int
    flops: int
    mIoU: float
    mAcc: float
    seconds_per_step: float | None


def quickstart(
    *,
    work_dir: str | Path = 'work_dirs/quickstart',
    data_root: str = DATA_ROOT,
    iters: int = ITERATIONS,
    train_images: int = 400,
    val_images: int = 100,
    seed: int = 0,
) -> list[Row]:
    """Generate scenes, train a student on them alone and with a teacher, and compare all three.

    It trains and tests in processes of their own, and prints how far they are.

    Args:
        work_dir: For logs and checkpoints, the table (`results.json`, `results.md`) and the picture
            (`comparison.png`).
        data_root: For the scenes.
        iters: Iterations of each training.
        train_images, val_images: How many scenes.
        seed: Of the scenes and of the trainings.

    Returns:
        The teacher, the student on its own, and the student with CWD.

    Raises:
        ConfigError: `iters` is under 2: a schedule has a warm-up and a rest.
        DatasetError: There is something else in `data_root`, or it cannot be written to.
        StepFailedError: A training or an evaluation failed.
        CheckpointError: A checkpoint is not its network's, or a result cannot be written.
    """
    if iters < 2:
        raise ConfigError(f'iters: expected 2 or more, for a warm-up and the rest, got {iters}.')
    generate_or_say(data_root, train_images, val_images, SIZE, seed)
    folders = {job: Path(work_dir) / job.folder for job in JOBS}
    checkpoints = {
        job: job.weights or str(folder / f'iter_{iters}.pth') for job, folder in folders.items()
    }
    for job, folder in folders.items():
        if job.weights is None:
            options = _schedule_options(iters) | _data_options(data_root, 'train', 'val')
            train = ['train', job.config, '--work-dir', str(folder), '--seed', str(seed)]
            _run(f'Train the {job.title}', train, options, folder / 'train.log')
        test = ['test', job.config, checkpoints[job], '--work-dir', str(folder / 'test')]
        options = _data_options(data_root, 'test')
        _run(f'Evaluate the {job.title}', test, options, folder / 'test.log')
    teacher, *students = JOBS
    lineup = line_up(
        [f'{job.title}={job.config}:{checkpoints[job]}' for job in (*students, teacher)],
        between=[job.title for job in students],
        cfg_options=_data_options(data_root, 'val'),
    )
    rows = [_row(job.title, lineup.networks[job.title], folders[job]) for job in JOBS]
    with atomic_write(Path(work_dir) / 'comparison.png') as unfinished:
        images = evenly_spaced(len(lineup.dataset), 4)
        compare(lineup, images, cell_width=256).save(unfinished, format='PNG')
    as_json = json.dumps([asdict(row) for row in rows], indent=2)
    for name, text in {'results.json': as_json, 'results.md': table(rows)}.items():
        with atomic_write(Path(work_dir) / name) as unfinished:
            unfinished.write_text(f'{text}\n', encoding='utf-8')
    return rows


def _run(title: str, command: Sequence[str], options: Mapping[str, Any], log: Path) -> None:
    """Run a command of this package."""
    given = ['--cfg-options', *(f'{k}={v}' for k, v in options.items())] if options else []
    run_step(title, [sys.executable, '-m', 'mmseg_kd', *command, *given], log)


def _schedule_options(iters: int) -> dict[str, Any]:
    """Overrides of the configs for another number of iterations than they say."""
    if iters == ITERATIONS:
        return {}
    warm_up = min(50, iters // 2)
    return {
        'train_cfg.max_iters': iters,
        'train_cfg.val_interval': iters,
        'param_scheduler.0.end': warm_up,
        'param_scheduler.1.begin': warm_up,
        'param_scheduler.1.end': iters,
        'default_hooks.checkpoint.interval': iters,
        'default_hooks.logger.interval': max(1, iters // 12),
    }


def _data_options(data_root: str, *splits: str) -> dict[str, str]:
    if data_root == DATA_ROOT:
        return {}
    return {f'{split}_dataloader.dataset.data_root': data_root for split in splits}


def _row(title: str, network: Any, folder: Path) -> Row:
    cost, metrics = complexity(network, SIZE).whole, metrics_of(folder / 'test')
    seconds = seconds_per_step(folder) if title != JOBS[0].title else None
    return Row(title, cost.parameters, cost.flops, metrics['mIoU'], metrics['mAcc'], seconds)


def seconds_per_step(folder: Path) -> float:
    """The median of what the newest training in `folder` logged."""
    newest = read_log(scalar_files(folder)[-1])
    return float(statistics.median(newest.train['time'].values.tolist()))


def metrics_of(folder: Path) -> dict[str, float]:
    """What the newest test in `folder` measured, in percent."""
    results = sorted(folder.glob('*/*.json'))
    metrics: dict[str, float] = json.loads(results[-1].read_text(encoding='utf-8'))
    return metrics


def table(rows: Sequence[Row]) -> str:
    """The results as a table in Markdown that reads well on a terminal too."""
    head = ('network', 'params', 'GFLOPs', 'mIoU', 'mAcc', 's / step')
    body = [
        (
            row.network,
            f'{row.params / 1e6:.2f} M',
            f'{row.flops / 1e9:.3f}',
            f'{row.mIoU:.2f}',
            f'{row.mAcc:.2f}',
            '' if row.seconds_per_step is None else f'{row.seconds_per_step:.3f}',
        )
        for row in rows
    ]
    return markdown_table(head, body)
