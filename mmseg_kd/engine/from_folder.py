"""What `distill` is given where its data are a folder of images and masks."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

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
