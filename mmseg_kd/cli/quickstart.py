"""The main job in one command: a student without and with a teacher, on generated scenes."""

from __future__ import annotations

import argparse
import time
from pathlib import Path

from mmseg_kd.cli.common import main_of


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog='mmseg-kd quickstart',
        description=__doc__,
        epilog='example: mmseg-kd quickstart --seed 1',
    )
    parser.add_argument('--work-dir', default='work_dirs/quickstart', help='folder for results')
    parser.add_argument('--data-root', default='data/toy_scenes', help='folder for the scenes')
    parser.add_argument('--iters', type=int, default=600, help='iterations of each training')
    parser.add_argument('--train-images', type=int, default=400)
    parser.add_argument('--val-images', type=int, default=100)
    parser.add_argument('--seed', type=int, default=0, help='of the scenes and of the trainings')
    return parser


def run(args: argparse.Namespace) -> int:
    """Run the command."""
    import torch

    from mmseg_kd.engine.quickstart import quickstart, table

    begun = time.monotonic()
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else 'CPU'
    print(f'Quick start on {device}: results go to {args.work_dir}')
    print(f'Scenes: {args.train_images} for training, {args.val_images} for validation')
    rows = quickstart(
        work_dir=args.work_dir,
        data_root=args.data_root,
        iters=args.iters,
        train_images=args.train_images,
        val_images=args.val_images,
        seed=args.seed,
    )
    minutes = (time.monotonic() - begun) / 60
    print(f'\n{table(rows)}\n')
    print('GFLOPs: for one image of 128x128, a multiply-add counted once, as mmseg does.')
    print(f'Picture: {Path(args.work_dir, "comparison.png")}\n{minutes:.1f} minutes in all')
    return 0


# The counting of operations warns of every operator that costs next to nothing.
main = main_of(_parser, run, log_level='ERROR')
