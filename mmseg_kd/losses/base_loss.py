"""What all losses have in common."""

from __future__ import annotations

from inspect import signature

from torch import nn


class BaseLoss(nn.Module):
    """A module that is printed with its options: the arguments of its class, then of its bases."""

    def extra_repr(self) -> str:
        names = (name for kind in type(self).__mro__ for name in signature(kind).parameters)
        # A subclass may keep an argument under another name, or not at all.
        kept = {name: vars(self)[name] for name in names if name in vars(self)}
        return ', '.join(f'{name}={value!r}' for name, value in kept.items())
