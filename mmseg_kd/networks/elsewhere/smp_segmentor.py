"""Networks of segmentation_models_pytorch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mmseg.registry import MODELS
from torch import nn

from mmseg_kd.errors import ConfigError
from mmseg_kd.networks.elsewhere.module_segmentor import IMAGENET, ScoreSegmentor
from mmseg_kd.networks.elsewhere.packages import require

# What sides of images are padded to: no encoder has a larger stride.
STRIDE = 32


@MODELS.register_module()
class SMPSegmentor(ScoreSegmentor):
    """A network of segmentation_models_pytorch: Unet, FPN, DeepLabV3Plus, Segformer and others.

    Its scores come before the last scaling, which the losses and the prediction do.

    Args:
        arch: The decoder's name, such as 'unet'.
        encoder: The encoder's name, such as 'resnet34' or 'tu-convnext_tiny' for one of timm.
        num_classes: How many classes it tells apart.
        pretrained: Weights of the encoder: True for 'imagenet', or another name that it has.
        arguments: More of `segmentation_models_pytorch.create_model`.
        loss_decode: As in mmseg's heads; None: cross-entropy without pixels labelled 255.
        data_preprocessor: As in mmseg; None: ImageNet's mean and std, and padding to what the
            encoder's stride divides.
        test_cfg: As in mmseg; None: images as a whole.

    Raises:
        ConfigError: segmentation_models_pytorch is not installed, or `arch` is 'dpt'.
    """

    def __init__(
        self,
        arch: str,
        encoder: str,
        num_classes: int,
        pretrained: bool | str = False,
        arguments: Mapping[str, Any] | None = None,
        loss_decode: Any = None,
        data_preprocessor: Mapping[str, Any] | None = None,
        test_cfg: Mapping[str, Any] | None = None,
    ) -> None:
        smp = require('segmentation_models_pytorch', 'smp', type(self).__name__)
        network = smp.create_model(
            arch,
            encoder_name=encoder,
            encoder_weights='imagenet' if pretrained is True else pretrained or None,
            classes=num_classes,
            **(arguments or {}),
        )
        if not isinstance(network.segmentation_head, nn.Sequential):
            raise ConfigError(
                f'SMPSegmentor: arch: expected a decoder whose head ends in a scaling, got '
                f'{arch!r}; HFSegmentor has DPT.'
            )
        # Of the head's convolution, scaling and activation.
        network.segmentation_head[1] = nn.Identity()
        super().__init__(
            network,
            num_classes,
            loss_decode,
            # As the library scales.
            dict(align_corners=True),
            preprocessing=IMAGENET,
            data_preprocessor=data_preprocessor,
            test_cfg=test_cfg,
            size_divisor=STRIDE,
        )
