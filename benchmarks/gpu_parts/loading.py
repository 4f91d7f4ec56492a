"""Images a second of the loader against those that a step takes, and the seconds of a start."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from mmengine.registry import init_default_scope
from mmengine.runner import Runner
from mmengine.utils.dl_utils import set_multi_processing
from step import CONFIG, Stepper
from turns import free_memory

import mmseg_kd.register  # noqa: F401  for the data sets
from gpu_parts.part import ROOT, Part
from gpu_parts.timing import has_time, measured, prepare
from mmseg_kd.config.load import load_config
from mmseg_kd.data_checks.checked_loading import check_loading
from mmseg_kd.data_checks.heads import Head

CAMVID = 'distillation_configs/camvid/camvid-360x480.py::mobilenetv2_cgd'
STEPS = (
    ('EfficientNet-lite2 teaches MobileNetV2', CAMVID, (360, 480)),
    ('SegFormer-B3 teaches B0', CONFIG, (512, 512)),
)
FILES = 32
BATCH = 4


@dataclass(frozen=True)
class Source:
    """A train pipeline, and the files that it reads."""

    name: str
    config: str
    size: tuple[int, int]
    suffix: str
    classes: int


SOURCES = (
    Source('CamVid', 'configs/_base_/datasets/camvid_360x480.py', (360, 480), '.png', 11),
    Source('ADE20K', 'configs/_base_/datasets/ade20k_512x512.py', (512, 683), '.jpg', 150),
    Source(
        'Cityscapes', 'configs/_base_/datasets/cityscapes_512x1024.py', (1024, 2048), '.png', 19
    ),
)


def run(part: Part) -> None:
    prepare(part)
    init_default_scope('mmseg')
    # As the runner has it.
    set_multi_processing(mp_start_method='fork', opencv_num_threads=0)
    first, *more = (2, 0) if part.rehearse else (8, 1, 4, 16)
    for source in SOURCES:
        with part.check(f'loader of {source.name}'):
            write_files(part.scratch / source.name, source, 4 if part.rehearse else FILES)
    time_loaders(part, first)
    time_steps(part)
    time_start(part)
    for count in more:
        time_loaders(part, count)


def write_files(folder: Path, source: Source, count: int) -> None:
    """Write images with shapes and some noise, as photos have, and masks of blobs."""
    rng = np.random.default_rng(0)
    height, width = source.size
    for kind in ('images', 'annotations'):
        (folder / kind).mkdir(parents=True)
    noise = rng.integers(0, 8, (height, width, 3), dtype=np.uint8)
    for index in range(count):
        blobs = rng.integers(0, 240, (9, 12, 3), dtype=np.uint8)
        image = cv2.resize(blobs, (width, height), interpolation=cv2.INTER_CUBIC)
        image = np.minimum(image, 247) + np.roll(noise, index, axis=0)
        mask = rng.integers(0, source.classes, (9, 12), dtype=np.uint8)
        mask = cv2.resize(mask, (width, height), interpolation=cv2.INTER_NEAREST)
        assert cv2.imwrite(str(folder / 'images' / f'{index}{source.suffix}'), image)
        assert cv2.imwrite(str(folder / 'annotations' / f'{index}.png'), mask)


def time_loaders(part: Part, workers: int) -> None:
    """A row for each data set."""
    for source in SOURCES:
        name = f'{source.name}, {workers} workers'
        if has_time(part, 8, name):
            with part.check(f'loader of {name}'):
                rate = loader_rate(part, source, workers)
                size = f'{source.size[0]}x{source.size[1]} {source.suffix[1:].upper()}'
                told = dict(data=source.name, files=size, workers=workers)
                part.row('loader', **told, **{'images/s': rate})


def loader_rate(part: Part, source: Source, workers: int) -> float:
    """Images a second of a train pipeline with the checks that a run makes of its files."""
    cfg = load_config(source.config, None, needs_model=False).train_dataloader
    cfg.batch_size, cfg.num_workers, cfg.persistent_workers = BATCH, workers, False
    cfg.dataset.data_root = str(part.scratch / source.name)
    cfg.dataset.data_prefix = dict(img_path='images', seg_map_path='annotations')
    cfg.dataset.img_suffix, cfg.dataset.seg_map_suffix = source.suffix, '.png'
    loader = Runner.build_dataloader(cfg, seed=0)
    heads = (Head('decode_head', source.classes),)
    check_loading(loader.dataset, 'train', source.classes, 3, heads=heads)
    batches = iter(loader)
    # What the workers have ready before anything is timed: two batches each.
    for _ in range(2 * workers + 1):
        next(batches)
    least = 0.0 if part.rehearse else 1.0
    begun, done, seconds = time.perf_counter(), 0, 0.0
    while done == 0 or seconds < least:
        # A batch of each, since they end together.
        for _ in range(max(workers, 1)):
            assert len(next(batches)['inputs']) == BATCH
            done += 1
        seconds = time.perf_counter() - begun
    return done * BATCH / seconds


def time_steps(part: Part) -> None:
    """Images a second that a step takes."""
    for name, config, size in STEPS[:1] if part.rehearse else STEPS:
        if not has_time(part, 12, f'step of {name}'):
            continue
        with part.check(f'step of {name}'):
            stepper = Stepper('ours', config)
            batch = 2 if part.rehearse else 8
            size = (64, 64) if part.rehearse else size
            for precision in ('fp32', 'bf16'):
                way = stepper.on_batch(batch, size, autocast=precision == 'bf16')
                seconds = measured(part, {'step': way}, 2)['step'].seconds
                told = dict(networks=name, images=f'{batch}x{size[0]}x{size[1]}')
                part.row('a step', **told, precision=precision, **{'images/s': batch / seconds})
        free_memory()


def time_start(part: Part) -> None:
    """Seconds until the first iteration of a run, and what imports take of them."""
    if has_time(part, 25, 'seconds of a start'):
        with part.check('seconds of a start') as told:
            # What the tests train: here only for its files.
            sys.path.insert(0, str(ROOT / 'tests'))
            from training_runs import write_project

            folder = part.scratch / 'project'
            folder.mkdir()
            config = write_project(folder)
            command = ['-m', 'mmseg_kd', 'train', config]
            told |= seconds_until(command, {'first output': '.', 'iteration 1': r'Iter\(train\)'})
    for name in ('torch', 'mmseg_kd.register'):
        if has_time(part, 12, f'import {name}'):
            with part.check(f'seconds of import {name}') as told:
                told |= seconds_until(['-c', f'import {name}'], {})


def seconds_until(arguments: list[str], lines: dict[str, str]) -> dict[str, float]:
    """Seconds from a Python's start until it prints what the patterns match, and until its end."""
    # The threads of several Pythons that do little would wait for each other.
    environment = {**os.environ, 'PYTHONUNBUFFERED': '1', 'OMP_NUM_THREADS': '1'}
    found: dict[str, float] = {}
    begun = time.perf_counter()
    with subprocess.Popen(
        [sys.executable, *arguments],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        assert process.stdout is not None
        output = []
        for line in process.stdout:
            output.append(line)
            for name, pattern in lines.items():
                if name not in found and re.search(pattern, line):
                    found[name] = round(time.perf_counter() - begun, 2)
    found['end'] = round(time.perf_counter() - begun, 2)
    assert process.returncode == 0 and found.keys() >= lines.keys(), ''.join(output[-20:])
    return found
