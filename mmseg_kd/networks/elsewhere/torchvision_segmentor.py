"""Segmentation networks of torchvision."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mmseg.registry import MODELS
from torch import Tensor

from mmseg_kd.errors import ConfigError, nearest
from mmseg_kd.networks.elsewhere.module_segmentor import IMAGENET, ScoreSegmentor


@MODELS.register_module()
class TorchvisionSegmentor(ScoreSegmentor):
    """A network of `torchvision.models.segmentation`: FCN, DeepLabV3 or LR-ASPP.

    Its scores come at the size that its classifier makes them; auxiliary classifiers are left out.

    Args:
        model: The name, as in `torchvision.models.get_model`, such as 'deeplabv3_resnet50'.
        num_classes: How many classes it tells apart; torchvision's weights are for Pascal VOC's 21.
        pretrained: Take torchvision's weights (True: the best); or 'backbone': those of the
            backbone alone.
        loss_decode: As in mmseg's heads; None: cross-entropy without pixels labelled 255.
        data_preprocessor: As in mmseg; None: ImageNet's mean and std.
        test_cfg: As in mmseg; None: images as a whole.

    Raises:
        ConfigError: torchvision has no such network; or its weights are for other classes.
    """

    def __init__(
        self,
        model: str,
        num_classes: int = 21,
        pretrained: bool | str = False,
        loss_decode: Any = None,
        data_preprocessor: Mapping[str, Any] | None = None,
        test_cfg: Mapping[str, Any] | None = None,
    ) -> None:
        from torchvision.models import get_model, list_models, segmentation

        names = list_models(module=segmentation)
        if model not in names:
            raise ConfigError(
                f'torchvision has no {model!r} that segments; {nearest(model, names)}.'
            )
        if pretrained is True and num_classes != 21:
            raise ConfigError(
                f"{model}: torchvision's weights are for 21 classes, got num_classes="
                f"{num_classes}; pretrained='backbone' takes those of the backbone."
            )
        network = get_model(
            model,
            weights='DEFAULT' if pretrained is True else None,
            weights_backbone='DEFAULT' if pretrained == 'backbone' else None,
            num_classes=num_classes,
        )
        network.aux_classifier = None
        super().__init__(
            network,
            num_classes,
            loss_decode,
            preprocessing=IMAGENET,
            data_preprocessor=data_preprocessor,
            test_cfg=test_cfg,
        )
        self.is_pretrained = pretrained is True

    def scores(self, images_NCHW: Tensor) -> Tensor:
        """The score maps of images, at the size of the classifier."""
        features = self.backbone.backbone(images_NCHW)
        scores_NChw: Tensor = self.backbone.classifier(features.get('out', features))
        return scores_NChw
