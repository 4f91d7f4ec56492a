"""What `distill` is given where its data are a folder of images and masks."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from mmengine.logging import MMLogger
from mmengine.registry import init_default_scope
from mmseg.registry import MODELS

from mmseg_kd.config.network_spec import parse_network
from mmseg_kd.engine.arguments import model_config
from mmseg_kd.host.quiet import as_config_error
from mmseg_kd.networks.build import build_segmentor, without_initialisation
from mmseg_kd.own_data.networks import (
    check_classes,
    first_terms,
    is_network_name,
    is_trained,
    network_of,
)
from mmseg_kd.own_data.project import project_of, write_data

# Of a run whose length nobody says, as mmseg-kd init has it.
ITERATIONS = 20000


@dataclass(frozen=True)
class FromFolder:
    """Arguments of `distill`.

    Attributes:
        data: The config of the data.
        teacher, student: As in `distill`; what one word names, as a dict.
        terms: To begin with, where none are given.
        trains_teacher: Whether the teacher is to be trained on the data first.
    """

    data: str
    teacher: Any
    student: Any
    terms: Any
    trains_teacher: bool


def from_folder(data: str | Path, teacher: Any, student: Any, terms: Any, out: Path) -> FromFolder:
    """Look at a folder, and at the networks that one word names.

    Args:
        data: The folder, with the names of the classes in a file such as classes.txt.
        teacher, student, terms: As in `distill`.
        out: Where the lists of images, and masks of indices where there are none, are written.

    Raises:
        KDError: What is wrong with the folder or a network.
    """
    project = project_of(Path(data), out)
    trains_teacher = False
    networks = dict(teacher=teacher, student=student)
    for side, word in networks.items():
        if isinstance(word, str | Path) and is_network_name(str(word)):
            network = network_of(str(word), side, project.num_classes, project.size)
            check_classes(network, side, project.num_classes)
            networks[side] = network
            if side == 'teacher' and is_trained(str(word), project.num_classes):
                network.pop('num_classes', None)
            elif side == 'teacher':
                trains_teacher = True
    teacher, student = networks['teacher'], networks['student']
    if not terms and isinstance(teacher, dict) and isinstance(student, dict):
        terms = first_terms(teacher, student)
    return FromFolder(write_data(project), teacher, student, terms, trains_teacher)


def check_untrained(teacher: Any, student: Any, terms: Any) -> None:
    """See that terms and networks fit while the teacher is still to be trained, which takes hours.

    Inside `isolated`, as it sets the level of the log.

    Args:
        teacher, student, terms: As in `distill`; the teacher is a dict without weights.

    Raises:
        KDError: What is wrong with them.
    """
    init_default_scope('mmseg')
    # What is said of weights that are not trained would puzzle.
    MMLogger.get_current_instance().setLevel('WARNING')
    model = without_initialisation(parse_network(teacher, 'teacher', True).model)
    with TemporaryDirectory() as folder:
        weights = Path(folder) / 'untrained.pth'
        torch.save(build_segmentor(model, 'teacher').state_dict(), weights)
        taught = dict(teacher, checkpoint=str(weights))
        with as_config_error('model'):
            MODELS.build(model_config(taught, student, terms, None, Path(folder)))
