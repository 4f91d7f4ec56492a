"""What all losses have in common."""

from __future__ import annotations

from inspect import signature

from torch import Tensor, nn


class BaseLoss(nn.Module):
    """A module that is printed with its options: the arguments of its class, then of its bases."""

    def extra_repr(self) -> str:
        names = (name for kind in type(self).__mro__ for name in signature(kind).parameters)
        # A subclass may keep an argument under another name, or not at all.
        kept = {name: vars(self)[name] for name in names if name in vars(self)}
        return ', '.join(f'{name}={value!r}' for name, value in kept.items())


def check_maps(student_NChw: Tensor, teacher_NChw: Tensor, same_channels: bool = True) -> None:
    """A ValueError unless both are maps of the same batch and, if so said, of as many channels."""
    ours, theirs = student_NChw.shape, teacher_NChw.shape
    same = 2 if same_channels else 1
    if len(ours) != 4 or len(theirs) != 4 or ours[:same] != theirs[:same]:
        what = 'batch and channels' if same_channels else 'batch'
        raise ValueError(
            f'student and teacher must be maps (N, C, h, w) of the same {what}, got '
            f'{tuple(ours)} and {tuple(theirs)}.'
        )
