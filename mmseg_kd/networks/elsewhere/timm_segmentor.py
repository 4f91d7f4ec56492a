"""Any backbone of timm under any head of mmseg."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from mmseg.registry import MODELS

from mmseg_kd.networks.elsewhere.module_segmentor import ModuleSegmentor
from mmseg_kd.networks.elsewhere.timm_features import TimmMaps


@MODELS.register_module()
class TimmSegmentor(ModuleSegmentor):
    """A backbone of timm under a head of mmseg, which need not say what it gets.

    Args:
        backbone: The model's name in timm; or a dict of it (`name`) and of arguments of
            `timm.create_model`, such as `out_indices`.
        head: A decode head without `in_channels`. Without `in_index` it gets all maps where it
            takes several, else the last.
        auxiliary_head: The same, or a list of them.
        pretrained: Take timm's weights for the backbone.
        data_preprocessor: As in mmseg; None: what timm says of the backbone, and padding to what
            its last map's stride divides.
        test_cfg: As in mmseg; None: images as a whole.

    Raises:
        ConfigError: timm has no such model, or it gives no maps.
    """

    def __init__(
        self,
        backbone: str | Mapping[str, Any],
        head: Mapping[str, Any],
        auxiliary_head: Any = None,
        pretrained: bool = False,
        data_preprocessor: Mapping[str, Any] | None = None,
        test_cfg: Mapping[str, Any] | None = None,
    ) -> None:
        arguments = dict(name=backbone) if isinstance(backbone, str) else dict(backbone)
        maps = TimmMaps(pretrained=bool(pretrained), **arguments)
        if isinstance(auxiliary_head, Sequence):
            auxiliary_head = [_completed(one, maps.channels) for one in auxiliary_head]
        elif auxiliary_head is not None:
            auxiliary_head = _completed(auxiliary_head, maps.channels)
        super().__init__(
            maps,
            _completed(head, maps.channels),
            auxiliary_head,
            preprocessing=maps.preprocessing,
            data_preprocessor=data_preprocessor,
            test_cfg=test_cfg,
            size_divisor=maps.stride,
        )
        self.img_size = maps.made_for


def _completed(head: Mapping[str, Any], channels: Sequence[int]) -> dict[str, Any]:
    """A head's dict with what it gets."""
    index = head.get('in_index')
    if index is None:
        index = list(range(len(channels))) if _takes_several(head, channels) else -1
    wanted = [channels[one] for one in index] if isinstance(index, Sequence) else channels[index]
    return {**head, 'in_index': index, 'in_channels': wanted}


def _takes_several(head: Mapping[str, Any], channels: Sequence[int]) -> bool:
    """Whether a head takes a list of maps, as UPerHead and SegformerHead do: mmseg asserts it."""
    try:
        MODELS.build({**head, 'in_index': [*range(len(channels))], 'in_channels': list(channels)})
    except AssertionError:
        return False
    return True
