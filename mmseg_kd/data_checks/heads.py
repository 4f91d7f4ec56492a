"""What the heads of a network that is trained make of masks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from mmseg_kd.errors import ConfigError, Problems

# Makes labels of its own, the boundaries of the masks.
_OWN_LABELS = 'mmseg.models.decode_heads.stdc_head'

# Methods of a head through which labels come to its losses.
_WAYS = ('loss', 'loss_by_feat', '_stack_batch_gt')


@dataclass(frozen=True)
class Head:
    """A head, or a loss of one, that learns from the labels of masks as they are.

    Args:
        name: Where it is in the network, such as 'auxiliary_head.0'.
        num_classes: How many classes it tells apart.
        ignored: The label that it ignores; None: it ignores none.
        labels: Its labels are 0 to `labels` - 1; 0: as many as classes.
        by_pixel: Whether it learns the label of each pixel; else it learns masks, of which each
            says of all pixels whether they are inside.
        setting: The argument that says what is ignored; a loss has another than a head.
    """

    name: str
    num_classes: int
    ignored: int | None = 255
    labels: int = 0
    by_pixel: bool = True
    setting: str = 'ignore_index'

    def takes(self, label: int) -> bool:
        """Whether a label is a class or is ignored."""
        return 0 <= label < (self.labels or self.num_classes) or label == self.ignored

    def __str__(self) -> str:
        return f'{self.name} (num_classes={self.num_classes}, {self.setting}={self.ignored})'


def heads_of(network: Any) -> tuple[Head, ...]:
    """The heads of a network that learn from the masks' labels as they are.

    A head that makes labels of its own is left out, and so is one whose losses are not mmseg's
    code and may do so.

    Args:
        network: A segmentor of mmseg; another network has none.
    """
    found = []
    for name, head in _modules_of(network):
        classes = getattr(head, 'num_classes', None)
        if not isinstance(classes, int) or not _takes_labels_as_they_are(head):
            continue
        # One channel of scores is a sigmoid, which tells two labels apart.
        labels = max(classes, 2) if getattr(head, 'out_channels', None) == 1 else classes
        losses = _losses_of(head)
        ignored = getattr(head, 'ignore_index', None)
        found.append(Head(name, classes, ignored, labels, bool(losses)))
        for place, loss in losses:
            # Such a loss is not told what its head ignores.
            own = getattr(loss, 'ignore_label', None)
            if own is not None:
                found.append(Head(f'{name}.{place}', classes, own, labels, setting='ignore_label'))
    return tuple(found)


def check_heads(network: Any, side: str) -> None:
    """See that no head has a loss that is the same whatever it scores.

    Args:
        network: A segmentor of mmseg; of another network nothing is known.
        side: What messages call it.

    Raises:
        ConfigError: One has; `ManyErrors` where that is more than one.
    """
    problems = Problems()
    for name, head in _modules_of(network):
        if getattr(head, 'out_channels', None) != 1:
            continue
        for place, loss in _losses_of(head):
            if _is_softmax(loss):
                problems.add(
                    ConfigError(
                        f'{side}: {name}.{place}: {type(loss).__name__} is a softmax over the '
                        'classes, and over one channel of scores it is 1 whatever the head says, '
                        'so that nothing is learnt. Background is a class: set num_classes=2; or '
                        'num_classes=2 and out_channels=1 with '
                        "dict(type='CrossEntropyLoss', use_sigmoid=True)."
                    )
                )
    problems.raise_if_any()


def _modules_of(network: Any) -> Iterator[tuple[str, Any]]:
    """The heads of a network by name, those of a cascade and of a list each."""
    for name in ('decode_head', 'auxiliary_head'):
        heads = getattr(network, name, None)
        if isinstance(heads, nn.ModuleList):
            for index, head in enumerate(heads):
                yield f'{name}.{index}', head
        elif isinstance(heads, nn.Module):
            yield name, heads


def _takes_labels_as_they_are(head: Any) -> bool:
    ways = (getattr(type(head), way, None) for way in _WAYS)
    sources = [way.__module__ for way in ways if way is not None]
    return all(source.startswith('mmseg.') and source != _OWN_LABELS for source in sources)


def _losses_of(head: Any) -> Sequence[tuple[str, Any]]:
    """The losses of a head by their place in its config."""
    losses = getattr(head, 'loss_decode', None)
    if isinstance(losses, nn.ModuleList):
        return [(f'loss_decode.{index}', loss) for index, loss in enumerate(losses)]
    return [] if losses is None else [('loss_decode', losses)]


def _is_softmax(loss: Any) -> bool:
    """Whether a loss of mmseg, or of a class derived from one, takes the softmax of scores."""
    kinds = {kind.__name__ for kind in type(loss).__mro__}
    if 'CrossEntropyLoss' in kinds:
        return not (getattr(loss, 'use_sigmoid', True) or getattr(loss, 'use_mask', True))
    if 'LovaszLoss' in kinds:
        return bool(loss.cls_criterion.__name__ == 'lovasz_softmax')
    return bool(kinds & {'OhemCrossEntropy', 'TverskyLoss'})
