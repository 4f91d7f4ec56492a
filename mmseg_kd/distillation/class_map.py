"""Class scores of a teacher that tells other classes apart than the student."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from mmseg_kd.checkpoints.read import read_checkpoint
from mmseg_kd.checks import is_integer
from mmseg_kd.errors import ConfigError, Problems, nearest, short_repr

# What a label becomes whose class takes no part: mmseg's `ignore_index`.
IGNORED = 255


@dataclass(frozen=True)
class Classes:
    """The classes of a network.

    Attributes:
        side: What messages call the network.
        count: How many there are.
        names: Theirs; None: not known.
    """

    side: str
    count: int
    names: Sequence[str] | None

    def index(self, given: Any) -> int:
        """A class by its number or name.

        Raises:
            ConfigError: There is no such class.
        """
        if is_integer(given) and 0 <= given < self.count:
            return given
        if isinstance(given, str) and self.names is None:
            raise ConfigError(
                f'the classes of the {self.side} have no names, so {given!r} is not known; write '
                f'classes=[...] in the {self.side}, or numbers.'
            )
        if isinstance(given, str) and self.names is not None and given in self.names:
            return list(self.names).index(given)
        hint = '' if self.names is None else f'; {nearest(given, self.names)}'
        raise ConfigError(
            f'the {self.side} has no class {short_repr(given)}; expected a name or a number from 0 '
            f'to {self.count - 1}{hint}.'
        )


class ClassMap(nn.Module):
    """Brings class scores of both sides to the classes that both tell apart.

    The probability of one of the student's classes is the sum of those of the teacher's that stand
    for it: its logit is the logsumexp of theirs. It is taken at the map's own size, before any
    interpolation, as the map of a teacher with these classes would be interpolated: the memory is
    that of a small map, and only between positions that differ is the result another than with the
    sum taken for each pixel. Channels of other classes are left out on both sides.

    Args:
        groups: The teacher's classes by the student's.
        student_classes, teacher_classes: How many each has.
    """

    kept_K: Tensor
    first_K: Tensor
    label_C: Tensor

    def __init__(
        self, groups: Mapping[int, Sequence[int]], student_classes: int, teacher_classes: int
    ) -> None:
        super().__init__()
        self._counts = (student_classes, teacher_classes)
        kept = sorted(groups)
        self.classes = tuple(kept)
        self.keeps_all = kept == list(range(student_classes))
        members = [list(groups[one]) for one in kept]
        # Not in the checkpoint: the config says it.
        for name, values in dict(kept_K=kept, first_K=[one[0] for one in members]).items():
            self.register_buffer(name, torch.tensor(values), persistent=False)
        self._several = [index for index, one in enumerate(members) if len(one) > 1]
        for index in self._several:
            self.register_buffer(f'group{index}', torch.tensor(members[index]), persistent=False)
        label_C = torch.full((student_classes,), IGNORED)
        label_C[kept] = torch.arange(len(kept))
        self.register_buffer('label_C', label_C, persistent=False)

    def fits(self, student_classes: int, teacher_classes: int) -> bool:
        """Whether scores of so many classes are what it is for."""
        return (student_classes, teacher_classes) == self._counts

    def of_student(self, student_NChw: Tensor) -> Tensor:
        """The channels of the classes that take part, (N, K, h, w)."""
        return student_NChw if self.keeps_all else student_NChw.index_select(1, self.kept_K)

    def of_teacher(self, teacher_NChw: Tensor) -> Tensor:
        """Logits (N, K, h, w) of the same classes; where classes are added in float32 at least."""
        mapped_NKhw = teacher_NChw.index_select(1, self.first_K)
        if self._several:
            mapped_NKhw = mapped_NKhw.to(torch.promote_types(mapped_NKhw.dtype, torch.float32))
        for index in self._several:
            group_NMhw = teacher_NChw.index_select(1, self.get_buffer(f'group{index}'))
            mapped_NKhw[:, index] = group_NMhw.to(mapped_NKhw.dtype).logsumexp(1)
        return mapped_NKhw

    def of_label(self, label_NHW: Tensor) -> Tensor:
        """Labels that count the classes that take part; 255 for the others, no class stays none."""
        if self.keeps_all:
            return label_NHW
        is_class_NHW = (label_NHW >= 0) & (label_NHW < len(self.label_C))
        mapped_NHW = self.label_C[label_NHW.clamp(0, len(self.label_C) - 1)]
        return torch.where(is_class_NHW, mapped_NHW, label_NHW)


def read_class_map(
    cfg: Mapping[Any, Any], where: str, student: Classes, teacher: Classes
) -> ClassMap:
    """The map of a config.

    Args:
        cfg: The teacher's classes, one or a list, by the student's.
        where: The place in the user's config, for messages.
        student, teacher: Their classes.

    Raises:
        ConfigError: A class is not there, or named twice; `ManyErrors` where that is more.
    """
    problems = Problems()
    groups: dict[int, list[int]] = {}
    taken: dict[int, Any] = {}

    def index(classes: Classes, given: Any) -> int | None:
        try:
            return classes.index(given)
        except ConfigError as error:
            problems.add(f'{where}: {error}')
            return None

    for ours, theirs in cfg.items():
        one = index(student, ours)
        several = list(theirs) if isinstance(theirs, (list, tuple)) else [theirs]
        if not several:
            problems.add(f'{where}: {ours!r} has no class on the other side; omit it.')
        if one is not None and one in groups:
            problems.add(f'{where}: {ours!r} is there twice, by number and by name.')
        group = groups.setdefault(-1 if one is None else one, [])
        for given in several:
            other = index(teacher, given)
            if other is None:
                continue
            if other in taken:
                problems.add(
                    f'{where}: the class {given!r} of the {teacher.side} stands for '
                    f'{taken[other]!r} and for {ours!r}; expected one of them.'
                )
            taken.setdefault(other, ours)
            group.append(other)
    problems.raise_if_any()
    return ClassMap(groups, student.count, teacher.count)


def class_names(network: nn.Module, given: Sequence[str] | None, checkpoint: str | None) -> Any:
    """Names of a network's classes: as the config says, the network, or its checkpoint; or None.

    Args:
        network: Its `dataset_meta` has them where mmseg's `init_model` made it, its `classes` where
            it came with them.
        given: Those in the config.
        checkpoint: Its file or URL.
    """
    meta = getattr(network, 'dataset_meta', None) or {}
    own = meta.get('classes') or getattr(network, 'classes', None)
    if given is not None or own:
        return given or own
    if checkpoint is None:
        return None
    meta = read_checkpoint(checkpoint).get('meta') or {}
    return (meta.get('dataset_meta') or meta).get('classes', meta.get('CLASSES'))
