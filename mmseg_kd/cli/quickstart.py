"""The main job in one command: teacher, student without and with CGD, on generated scenes."""

from __future__ import annotations

import argparse
import json
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from mmengine.logging import MMLogger
from mmengine.registry import init_default_scope
from mmseg.registry import DATASETS

from mmseg_kd.analysis.comparison import colour_label, draw_comparison
from mmseg_kd.analysis.differences import evenly_spaced
from mmseg_kd.checkpoints import load_weights
from mmseg_kd.cli.common import run_command
from mmseg_kd.config.load import load_config
from mmseg_kd.config.network_spec import trained_network_of
from mmseg_kd.datasets.toy_scenes.dataset import generate
from mmseg_kd.errors import ConfigError, DatasetError, KDError
from mmseg_kd.evaluation.complexity import complexity
from mmseg_kd.evaluation.labels import image_and_label, predict_labels
from mmseg_kd.networks.build import build_network, without_initialisation
from mmseg_kd.runs.log import read_log, scalar_files
from mmseg_kd.runs.markdown import markdown_table

TEACHER = 'configs/toy_scenes/resnet18_fpn_toy-128x128.py'
PAIR = 'distillation_configs/toy_scenes/resnet18_mobilenetv2-half_{}_toy-128x128.py'
SIZE = (128, 128)
# What the configs say.
ITERATIONS = 600
DATA_ROOT = 'data/toy_scenes'


@dataclass(frozen=True)
class Job:
    """One training and what it is called in the table and in the figure."""

    title: str
    config: str
    folder: str


JOBS = (
    Job('teacher', TEACHER, 'teacher'),
    Job('student', PAIR.format('baseline'), 'student'),
    Job('student + CGD', PAIR.format('cgd'), 'student_cgd'),
)


class StepFailedError(KDError):
    """A command of the quickstart ended with an error."""


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog='mmseg-kd quickstart',
        description=__doc__,
        epilog='example: mmseg-kd quickstart --seed 1',
    )
    parser.add_argument('--work-dir', default='work_dirs/quickstart', help='folder for results')
    parser.add_argument('--data-root', default=DATA_ROOT, help='folder for the scenes')
    parser.add_argument('--iters', type=int, default=ITERATIONS, help='iterations of each training')
    parser.add_argument('--train-images', type=int, default=400)
    parser.add_argument('--val-images', type=int, default=100)
    parser.add_argument('--seed', type=int, default=0, help='of the scenes and of the trainings')
    return parser


def run_step(title: str, command: Sequence[str], log: Path) -> None:
    """Run a command with its output in `log`, and show how far it is.

    Raises:
        StepFailedError: It ended with another exit code than 0; the message has its last lines.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    begun = time.monotonic()
    print(f'{title}\n  {" ".join(command[1:])}', flush=True)
    lines: list[str] = []
    live = sys.stdout.isatty()
    with (
        log.open('w', encoding='utf-8') as file,
        subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        ) as process,
    ):
        assert process.stdout is not None
        for line in process.stdout:
            file.write(line)
            lines.append(line)
            progress = re.search(
                r'Iter\(train\) \[ *(\d+)/(\d+)\].*?eta: (\S+).*? loss: (\S+)', line
            )
            if progress:
                done, total, eta, loss = progress.groups()
                status = f'  {done}/{total} iterations, loss {loss}, {eta} to go'
                print(f'\r{status:<70}' if live else status, end='' if live else '\n', flush=True)
    if live:
        print('\r' + ' ' * 70, end='\r')
    if process.returncode != 0:
        tail = ''.join(lines[-12:]).rstrip()
        raise StepFailedError(
            f'{title}: ended with exit code {process.returncode}; its log is {log}:\n{tail}'
        )
    print(f'  done in {time.monotonic() - begun:.0f} s', flush=True)


def train_options(args: argparse.Namespace, job: Job) -> list[str]:
    """Overrides of a job's config, where the arguments differ from what it says."""
    options: dict[str, Any] = {}
    if args.iters != ITERATIONS:
        warm_up = min(50, args.iters // 2)
        options = {
            'train_cfg.max_iters': args.iters,
            'train_cfg.val_interval': args.iters,
            'param_scheduler.0.end': warm_up,
            'param_scheduler.1.begin': warm_up,
            'param_scheduler.1.end': args.iters,
            'default_hooks.checkpoint.interval': args.iters,
            'default_hooks.logger.interval': max(1, args.iters // 12),
        }
        if job is JOBS[2]:
            # The config's decay, at the same share of the run.
            begin, end = args.iters // 3, max(args.iters // 3 + 1, args.iters * 3 // 4)
            options['model.distillation.0.schedule.begin'] = begin
            options['model.distillation.0.schedule.end'] = end
    if job is not JOBS[0]:
        options['model.teacher.checkpoint'] = checkpoint_of(args, JOBS[0])
    return _as_arguments(options | _data_options(args, ('train', 'val')))


def test_options(args: argparse.Namespace) -> list[str]:
    """Overrides of a job's config for its evaluation."""
    return _as_arguments(_data_options(args, ('test',)))


def _data_options(args: argparse.Namespace, splits: Sequence[str]) -> dict[str, Any]:
    if args.data_root == DATA_ROOT:
        return {}
    return {f'{split}_dataloader.dataset.data_root': args.data_root for split in splits}


def _as_arguments(options: Mapping[str, Any]) -> list[str]:
    return ['--cfg-options', *(f'{k}={v}' for k, v in options.items())] if options else []


def checkpoint_of(args: argparse.Namespace, job: Job) -> str:
    """The last checkpoint of a job."""
    return str(Path(args.work_dir) / job.folder / f'iter_{args.iters}.pth')


def seconds_per_step(folder: Path) -> float:
    """The median of what the newest training in `folder` logged."""
    newest = read_log(scalar_files(folder)[-1])
    return float(statistics.median(newest.train['time'].values.tolist()))


def metrics_of(folder: Path) -> dict[str, float]:
    """What the newest test in `folder` measured, in percent."""
    results = sorted(folder.glob('*/*.json'))
    metrics: dict[str, float] = json.loads(results[-1].read_text(encoding='utf-8'))
    return metrics


def load_network(job: Job, args: argparse.Namespace) -> Any:
    """The trained network of a job."""
    spec = trained_network_of(load_config(job.config, None))
    network = build_network(without_initialisation(spec.model), job.title)
    load_weights(network, checkpoint_of(args, job))
    return network


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """The results as a table in Markdown that reads well on a terminal too."""
    head = ('network', 'params', 'GFLOPs', 'mIoU', 'mAcc', 's / step')
    body = [
        (
            row['network'],
            f'{row["params"] / 1e6:.2f} M',
            f'{row["flops"] / 1e9:.3f}',
            f'{row["mIoU"]:.2f}',
            f'{row["mAcc"]:.2f}',
            f'{row["seconds_per_step"]:.3f}',
        )
        for row in rows
    ]
    return markdown_table(head, body)


def write_figure(networks: Mapping[str, Any], dataset: Any, path: Path) -> None:
    """Image, ground truth and predictions of four evenly spaced validation images."""
    indices = evenly_spaced(len(dataset), 4)
    classes, palette = dataset.metainfo['classes'], dataset.metainfo['palette']
    pairs = [image_and_label(dataset, i) for i in indices]
    columns = {
        'image': [image for image, _ in pairs],
        'ground truth': [colour_label(label, palette) for _, label in pairs],
    }
    for title in (JOBS[1].title, JOBS[2].title, JOBS[0].title):
        labels = predict_labels(networks[title], dataset, indices)
        columns[title] = [colour_label(label, palette) for label in labels]
    path.parent.mkdir(parents=True, exist_ok=True)
    draw_comparison(columns, classes, palette).save(path)


def run(args: argparse.Namespace) -> int:
    """Run the command."""
    begun = time.monotonic()
    if not Path(TEACHER).is_file():
        raise ConfigError(
            f'expected {TEACHER} here, in {Path.cwd()}; the configs come with the source: run this '
            'in the folder of its README.'
        )
    work_dir = Path(args.work_dir)
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else 'CPU'
    print(f'Quick start on {device}: results go to {work_dir}')
    print(f'Scenes: {args.train_images} for training, {args.val_images} for validation')
    try:
        generate(args.data_root, args.train_images, args.val_images, SIZE, args.seed)
    except ValueError as error:
        raise DatasetError(str(error)) from error
    python = sys.executable
    rows = []
    networks = {}
    for job in JOBS:
        folder = work_dir / job.folder
        train = [python, '-m', 'mmseg_kd', 'train', job.config, '--work-dir', str(folder)]
        train += ['--seed', str(args.seed), *train_options(args, job)]
        run_step(f'Train the {job.title}', train, folder / 'train.log')
        test = [python, '-m', 'mmseg_kd', 'test', job.config, checkpoint_of(args, job)]
        test += ['--work-dir', str(folder / 'test'), *test_options(args)]
        run_step(f'Evaluate the {job.title}', test, folder / 'test.log')
        networks[job.title] = load_network(job, args)
        cost = complexity(networks[job.title], SIZE).whole
        metrics = metrics_of(folder / 'test')
        rows.append(
            {
                'network': job.title,
                'params': cost.parameters,
                'flops': cost.flops,
                'mIoU': metrics['mIoU'],
                'mAcc': metrics['mAcc'],
                'seconds_per_step': seconds_per_step(folder),
            }
        )
    cfg = load_config(TEACHER, {'val_dataloader.dataset.data_root': args.data_root})
    figure = work_dir / 'comparison.png'
    write_figure(networks, DATASETS.build(cfg.val_dataloader.dataset), figure)
    (work_dir / 'results.json').write_text(json.dumps(rows, indent=2) + '\n', encoding='utf-8')
    (work_dir / 'results.md').write_text(table(rows) + '\n', encoding='utf-8')
    minutes = (time.monotonic() - begun) / 60
    print(f'\n{table(rows)}\n')
    print('GFLOPs: for one image of 128x128, a multiply-add counted once, as mmseg does.')
    print(f'Picture: {figure}\n{minutes:.1f} minutes in all')
    return 0


def main(args: Sequence[str] | None = None) -> int:
    """Parse `args` (None: the command line) and run; returns the exit code."""
    init_default_scope('mmseg')
    # The counting of operations warns of every operator that costs next to nothing.
    MMLogger.get_current_instance().setLevel('ERROR')
    return run_command(_parser(), run, args)
