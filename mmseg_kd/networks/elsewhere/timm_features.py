"""Backbones of timm: their maps, and as teachers of features."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mmseg.registry import MODELS
from torch import Tensor, nn

from mmseg_kd.errors import ConfigError, nearest
from mmseg_kd.networks.elsewhere.features import FeatureNetwork
from mmseg_kd.networks.network import Preprocessing

# How timm's families are told to take images of any size; the first that one understands.
_ANY_SIZE: tuple[dict[str, bool], ...] = (
    dict(dynamic_img_size=True),
    dict(strict_img_size=False),
    {},
)


class TimmMaps(nn.Module):
    """A timm backbone that puts out maps (N, C, h, w), without class and register tokens.

    Args:
        name: The model's name, with or without a tag for its weights.
        pretrained: Take these weights.
        arguments: More of `timm.create_model`.

    Attributes:
        channels: Of the maps.
        stride: The largest of the maps'.
        preprocessing: What its images have gone through, as timm says.
        made_for: Height and width of its images, where they are fixed unless told otherwise.
    """

    def __init__(self, name: str, pretrained: bool, **arguments: Any) -> None:
        super().__init__()
        self.model: Any = _create(name, pretrained=pretrained, features_only=True, **arguments)
        self.channels: list[int] = self.model.feature_info.channels()
        self.stride = int(max(self.model.feature_info.reduction()))
        self._is_channels_last = str(getattr(self.model, 'output_fmt', '')).endswith('NHWC')
        cfg = getattr(self.model, 'pretrained_cfg', None) or {}
        mean, std = (cfg.get(key) or default for key, default in _NORMALISATION.items())
        self.preprocessing = Preprocessing(
            [255 * value for value in mean], [255 * value for value in std], swaps_channels=True
        )
        size = cfg.get('input_size') if cfg.get('fixed_input_size') else None
        self.made_for = None if size is None else (int(size[1]), int(size[2]))

    def forward(self, images_NCHW: Tensor) -> list[Tensor]:
        """The maps, the largest first."""
        maps = self.model(images_NCHW)
        return [one.permute(0, 3, 1, 2) for one in maps] if self._is_channels_last else list(maps)


_NORMALISATION = dict(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))


def _create(name: str, **arguments: Any) -> Any:
    """A backbone that takes images of any size, where timm can be told so.

    Raises:
        ConfigError: timm has no such model, or it gives no maps.
    """
    import timm

    known = timm.list_models(name.partition('.')[0])
    if not known and ':' not in name:
        raise ConfigError(f'timm has no model {name!r}; {nearest(name, timm.list_models())}.')
    for more in _ANY_SIZE:
        try:
            return timm.create_model(name, **{**more, **arguments})
        except TypeError as error:
            if not any(key in str(error) for key in more):
                raise ConfigError(f'timm: {name}: {error}') from error
    raise AssertionError


@MODELS.register_module()
class TimmFeatures(FeatureNetwork):
    """A timm backbone: DINOv2, DINOv3, SigLIP 2, ConvNeXt and any other that has `features_only`.

    Args:
        model: The model's name, as `vit_small_patch14_dinov2.lvd142m`.
        pretrained: Take the trained weights.
        out_indices: Which of its blocks or stages, as in timm; None: timm's own choice.
        arguments: More of `timm.create_model`, such as `checkpoint_path`.

    Raises:
        ConfigError: timm has no such model, or it gives no maps.
    """

    def __init__(
        self,
        model: str,
        pretrained: bool = True,
        out_indices: Sequence[int] | None = None,
        arguments: dict[str, Any] | None = None,
    ) -> None:
        more = dict(arguments or {})
        if out_indices is not None:
            more['out_indices'] = tuple(out_indices)
        maps = TimmMaps(model, bool(pretrained), **more)
        is_pretrained = bool(pretrained or more.get('checkpoint_path'))
        count = len(maps.channels)
        super().__init__(maps, count, maps.preprocessing, maps.made_for, is_pretrained)

    def maps(self, images_NCHW: Tensor) -> Sequence[Tensor]:
        """The maps (N, C, h, w)."""
        maps: list[Tensor] = self.backbone(images_NCHW)
        return maps
