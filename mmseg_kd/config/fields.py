"""The keys that a config's networks and terms may have, with their defaults and what they mean.

The parsers know no other key, and the config reference is made from these docstrings.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any


@dataclass(frozen=True)
class NetworkFields:
    """Keys of `student=dict(...)` and `teacher=dict(...)`.

    The network itself may stand there instead of `config`: `type='EncoderDecoder', backbone=...`.

    Attributes:
        config: An mmseg config: a path seen from where the command runs, or `mmseg::...` for one
            of the installed mmseg. Of the config of a distillation it is the student.
        cfg_options: Changes to that config: `{'model.decode_head.num_classes': 19}`.
        checkpoint: The weights, .pth or .safetensors: a file, or an https URL with a checksum in
            its name (`NAME-962b98d2.pth`) or behind it (`URL#sha256=` and 64 digits). Names in
            mmseg's zoo are no sums of their files, and the log has what to put behind them. A
            teacher needs one; a student without starts from the weights that its own config
            names.
        strict: True: a tensor that is missing or of another shape is an error (for a teacher: in
            the part that runs). False: go on with what fits; the log lists the rest.
    """

    config: str | None = None
    cfg_options: Mapping[str, Any] | None = None
    checkpoint: str | None = None
    strict: bool = True


@dataclass(frozen=True)
class TeacherFields:
    """Keys that `teacher=dict(...)` has besides.

    Attributes:
        name: In a list of teachers: what terms call it. None: `teacher0`, `teacher1` and so on.
        input_size: Height and width that its images are scaled to. None: as they come.
    """

    name: str | None = None
    input_size: tuple[int, int] | None = None


@dataclass(frozen=True)
class TermFields:
    """Keys of an entry of `distillation=[dict(...), ...]`.

    Attributes:
        student_layer: A name as in `named_modules()`; `mmseg-kd layers` prints those that
            fit. A list where the loss takes several layers.
        teacher_layer: The same for the teacher; a dict by teacher where the layers of several
            differ.
        loss: A dict with the loss's name as `type`, and its arguments.
        weight: A finite number >= 0.
        schedule: A schedule's dict, or a list of them: factors of the weight by iteration,
            multiplied. While all weights of a teacher's terms are 0 it is not run.
        connector: `'auto'`: a trained 1x1 convolution where the channels differ. A dict: that
            connector. None: the layer as it is.
        name: In the log: `kd.<name>` and `kd_weight.<name>`. None: made from the loss's name.
        teacher: With several teachers: the name or index of one, or a list of them.
        reduction: Over several teachers: `'sum'` of the losses, one loss against the `'mean'` of
            their distributions, or one teacher at `'random'` in each iteration. None: `'sum'`.
        teacher_weights: With `'sum'`: a factor for each teacher. None: 1 each.
    """

    student_layer: str | Sequence[str]
    teacher_layer: str | Sequence[str] | Mapping[str, Any]
    loss: Mapping[str, Any]
    weight: float = 1.0
    schedule: Mapping[str, Any] | Sequence[Mapping[str, Any]] | None = None
    connector: Mapping[str, Any] | str | None = 'auto'
    name: str | None = None
    teacher: str | int | Sequence[str | int] | None = None
    reduction: str | None = None
    teacher_weights: Sequence[float] | None = None


def keys_of(kind: type) -> tuple[str, ...]:
    """The keys that one of these classes describes."""
    return tuple(one.name for one in fields(kind))
