"""A run's network, with what was measured of it kept beside the run.

What is kept lies in WORK_DIR/report/KEY, where KEY stands for the checkpoint's content, the model
and the data: a checkpoint that changes, or data that change, are measured anew.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import cached_property
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.logging import print_log
from numpy.typing import NDArray
from PIL import Image

from mmseg_kd.checkpoints import load_weights
from mmseg_kd.checkpoints.digest import sha256_of
from mmseg_kd.checkpoints.durable import write_durably
from mmseg_kd.checkpoints.source import local_file
from mmseg_kd.config.input_scaling import InputScaling
from mmseg_kd.data_checks.preflight import build_dataset
from mmseg_kd.errors import ConfigError, KDError
from mmseg_kd.evaluation.labels import predict_labels, scale_images
from mmseg_kd.host.quiet import explain
from mmseg_kd.networks.build import build_segmentor, without_initialisation
from mmseg_kd.report.measurement import Measurement, ignored_label, measure, test_loader
from mmseg_kd.report.run import Run

# In a run's work dir.
FOLDER = 'report'
FILE = 'measurement.json'
# Raise it when what is measured changes.
VERSION = 2


class Subject:
    """A network that can be measured.

    Args:
        run: With config, model and checkpoint.

    Raises:
        ConfigError, DatasetError: Its data cannot be listed.
        CheckpointError: Its checkpoint is not there.
    """

    def __init__(self, run: Run) -> None:
        if run.config is None or run.model is None or run.checkpoint is None:
            raise ConfigError('expected a config and a checkpoint.')
        self.run = run
        self.config = run.config
        self.model = without_initialisation(run.model)
        self.checkpoint = str(local_file(run.checkpoint))
        self.dataset = build_dataset(test_loader(self.config)['dataset'], 'test')
        self.folder = run.folder / FOLDER / self._key()
        self.measured = self._kept()

    def _key(self) -> str:
        """Stands for weights, network and data."""
        digest = hashlib.sha256(f'{VERSION} {sha256_of(Path(self.checkpoint))}'.encode())
        data = test_loader(self.config)['dataset']
        digest.update(repr((dict(self.model), data, ignored_label(self.config))).encode())
        if self.run.scaling != InputScaling():
            digest.update(repr(self.run.scaling).encode())
        for index in range(len(self.dataset)):
            info = self.dataset.get_data_info(index) if _lists(self.dataset) else {}
            for file in (info.get('img_path'), info.get('seg_map_path')):
                path = Path(str(file))
                stamp = path.stat() if path.is_file() else None
                digest.update(f'{file} {stamp and (stamp.st_size, stamp.st_mtime_ns)}'.encode())
        return digest.hexdigest()[:16]

    def _kept(self) -> Measurement | None:
        try:
            values = json.loads((self.folder / FILE).read_text(encoding='utf-8'))
            return Measurement(**values)
        except (OSError, ValueError, TypeError):  # none yet, or a torn one
            return None

    def keep(self, measured: Measurement) -> None:
        """Take a measurement for this network's and write it down."""
        self.measured = self.run.measured = measured
        self._write(FILE, json.dumps(asdict(measured)).encode())

    def _write(self, name: str, content: bytes) -> None:
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            write_durably(self.folder / name, content)
        except OSError as error:  # a folder that is not ours to write to, or a full disk
            message = f'Not kept, to be measured again: {error}'
            print_log(message, logger='current', level=logging.WARNING)

    @cached_property
    def network(self) -> Any:
        """The network with its weights.

        Raises:
            ConfigError: It cannot be built.
            CheckpointError: The checkpoint is another network's.
        """
        network = build_segmentor(self.model, self.run.title)
        load_weights(network, self.checkpoint)
        if self.run.scaling != InputScaling():
            scale_images(network, self.run.scaling)
        network.eval()
        return network.cuda() if torch.cuda.is_available() else network

    def measure(self, progress: Callable[[int, int], None]) -> Measurement:
        """Evaluate the network, without its speed.

        Raises:
            ConfigError, DatasetError, CheckpointError: It cannot be.
        """
        try:
            return measure(self.network, self.config, progress)
        except KDError:
            raise
        except Exception as error:  # whatever a network, a data set or a file raises
            raise ConfigError(f'{self.run.title}: {explain(error)}') from error

    def predictions(self, indices: Sequence[int]) -> dict[int, NDArray[np.uint8]]:
        """Class indices (H, W) for some images of the data."""
        found = {}
        for index in indices:
            path = self.folder / f'{index:06d}.png'
            try:
                with Image.open(path) as picture:
                    found[index] = np.asarray(picture)
            except (OSError, SyntaxError):  # none yet, or a torn one
                [label] = predict_labels(self.network, self.dataset, [index])
                buffer = BytesIO()
                Image.fromarray(label).save(buffer, 'PNG', optimize=True)
                self._write(path.name, buffer.getvalue())
                found[index] = label
        return found


def _lists(dataset: Any) -> bool:
    """Whether a data set says what files it has."""
    return hasattr(dataset, 'get_data_info')
