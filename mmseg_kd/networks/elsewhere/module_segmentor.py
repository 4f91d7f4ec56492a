"""What all segmentors from elsewhere have in common: mmseg's losses and prediction around them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from mmengine.config import ConfigDict
from mmseg.models.decode_heads.decode_head import BaseDecodeHead
from mmseg.models.segmentors import EncoderDecoder
from mmseg.models.segmentors.base import BaseSegmentor
from mmseg.registry import MODELS
from torch import Tensor, nn

from mmseg_kd.networks.network import Preprocessing

# ImageNet's mean and std for RGB, which most networks were trained with.
IMAGENET = Preprocessing((123.675, 116.28, 103.53), (58.395, 57.12, 57.375), swaps_channels=True)


@MODELS.register_module()
class ScoreHead(BaseDecodeHead):
    """The head of a network that gives class scores itself: it scales and trains them as mmseg.

    Its `conv_seg` hands the scores on, so that they have the name that they have in any segmentor.

    Args:
        num_classes: How many classes the scores tell apart.
        loss_decode, ignore_index, align_corners: As in mmseg's heads.
    """

    def __init__(
        self,
        num_classes: int,
        loss_decode: Mapping[str, Any] | Sequence[Mapping[str, Any]] | None = None,
        ignore_index: int = 255,
        align_corners: bool = False,
    ) -> None:
        super().__init__(
            in_channels=num_classes,
            channels=num_classes,
            num_classes=num_classes,
            out_channels=num_classes,
            threshold=0.5,
            dropout_ratio=0.0,
            loss_decode=loss_decode or dict(type='CrossEntropyLoss'),
            ignore_index=ignore_index,
            align_corners=align_corners,
            init_cfg=None,
        )
        self.conv_seg = nn.Identity()

    def forward(self, inputs: Sequence[Tensor]) -> Tensor:
        """The scores (N, C, h, w) among the inputs."""
        scores_NChw: Tensor = self.cls_seg(inputs[self.in_index])
        return scores_NChw


class ModuleSegmentor(EncoderDecoder):
    """A segmentor around a module of another library, which comes initialised.

    Args:
        module: The network; its layers are named `backbone.` and as in its library.
        decode_head, auxiliary_head: As in mmseg.
        preprocessing: What the module's images have gone through.
        data_preprocessor: As in mmseg, in the place of that, and of padding.
        size_divisor: Sides of images are padded to multiples of this.
        test_cfg: As in mmseg; None: images as a whole.

    Attributes:
        is_pretrained: Whether the module came with all its trained weights.
        img_size: Height and width that the module is made for; None: it does not say.
    """

    is_pretrained = False
    img_size: tuple[int, int] | None = None

    def __init__(
        self,
        module: nn.Module,
        decode_head: Mapping[str, Any],
        auxiliary_head: Any = None,
        *,
        preprocessing: Preprocessing,
        data_preprocessor: Mapping[str, Any] | None,
        test_cfg: Mapping[str, Any] | None,
        size_divisor: int = 1,
    ) -> None:
        if data_preprocessor is None:
            data_preprocessor = preprocessor_config(preprocessing, size_divisor)
        # Past EncoderDecoder's own, which builds its backbone from a dict.
        BaseSegmentor.__init__(self, ConfigDict(data_preprocessor))
        self.backbone: Any = module
        self._init_decode_head(ConfigDict(decode_head))
        self._init_auxiliary_head(auxiliary_head)
        self.train_cfg = None
        self.test_cfg = ConfigDict(test_cfg or dict(mode='whole'))

    def init_weights(self) -> None:
        """Initialise the heads; the module is as its library made it."""
        self.decode_head.init_weights()
        if self.with_auxiliary_head:
            self.auxiliary_head.init_weights()


class ScoreSegmentor(ModuleSegmentor):
    """A segmentor around a module that maps images to score maps.

    Args:
        module: The network.
        num_classes: How many classes its scores tell apart.
        loss_decode: As in mmseg's heads; None: cross-entropy without pixels labelled 255.
        head: More of the `ScoreHead`, or another type.
        settings: The others of `ModuleSegmentor`.
    """

    def __init__(
        self,
        module: nn.Module,
        num_classes: int,
        loss_decode: Any = None,
        head: Mapping[str, Any] | None = None,
        **settings: Any,
    ) -> None:
        decode_head = dict(type=ScoreHead, num_classes=num_classes, loss_decode=loss_decode)
        super().__init__(module, {**decode_head, **(head or {})}, **settings)

    def extract_feat(self, inputs: Tensor) -> tuple[Tensor]:
        """The score maps (N, C, h, w), at the size that the module makes them."""
        return (self.scores(inputs),)

    def scores(self, images_NCHW: Tensor) -> Tensor:
        """The score maps of images."""
        return scores_of(self.backbone(images_NCHW))


def scores_of(output: Any) -> Tensor:
    """The scores in what a network puts out: a tensor, or `logits` or 'out' of what holds more.

    Raises:
        TypeError: There are none.
    """
    if isinstance(output, Mapping):
        output = output.get('out', output.get('logits'))
    elif isinstance(output, (list, tuple)) and output:
        output = output[0]
    if not (isinstance(output, Tensor) and output.ndim == 4):
        came = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
        raise TypeError(
            "expected score maps (N, C, h, w), alone, first in a tuple, or under 'out' or "
            f"'logits', got {came}."
        )
    return output


def preprocessor_config(preprocessing: Preprocessing, size_divisor: int) -> dict[str, Any]:
    """mmseg's data preprocessor that does to images what a network asks for."""
    padding = dict(size_divisor=size_divisor)
    return dict(
        type='SegDataPreProcessor',
        mean=list(preprocessing.mean),
        std=list(preprocessing.std),
        bgr_to_rgb=preprocessing.swaps_channels,
        pad_val=preprocessing.pad_value,
        seg_pad_val=255,
        test_cfg=padding if size_divisor > 1 else None,
        **padding,
    )
