"""A segmentor as one function from images to scores or labels."""

from __future__ import annotations

from typing import Any

import torch
from mmseg.structures import SegDataSample
from torch import Tensor, nn

from mmseg_kd.errors import ConfigError


class ExportModule(nn.Module):
    """The forward pass that is exported.

    A sliding window (`test_cfg.mode='slide'`) is no part of it: it computes one window.

    Args:
        network: A segmentor of mmseg's, with its weights; used as it is, in eval mode.
        colours: 'bgr' or 'rgb', the order of the channels, where normalisation is inside; None:
            images come as the network's own data preprocessor leaves them.
        labels: Put out labels in the place of scores.

    Shape:
        - image: (N, 3, H, W), float32, normalised; with `colours` (N, H, W, 3), uint8.
        - scores: (N, C, H, W), float32, before any softmax; with `labels` (N, H, W), int32.

    Raises:
        ConfigError: What was asked for cannot be inside.
    """

    def __init__(self, network: Any, colours: str | None = None, labels: bool = False) -> None:
        super().__init__()
        if colours is not None and getattr(network.data_preprocessor, 'test_cfg', None):
            raise ConfigError(
                '--with-preprocessing: the data_preprocessor pads images (test_cfg), which a file '
                'for images of any size cannot; omit the option and pad before, or set '
                'model.data_preprocessor.test_cfg=None.'
            )
        if labels and network.out_channels == 1:
            raise ConfigError(
                '--labels: the network has one channel for two classes; export scores, and compare '
                f'their sigmoid with its threshold, {network.decode_head.threshold}.'
            )
        self.network = network.eval()
        self.colours = colours
        self.labels = labels

    def forward(self, image: Tensor) -> Tensor:
        """Scores or labels at the size of the images."""
        if self.colours is not None:
            image = self._normalised(image)
        size = image.shape[2:]
        meta = dict(img_shape=size, pad_shape=size, ori_shape=size)
        scores_NCHW: Tensor = self.network.encode_decode(image, [meta])
        return scores_NCHW.argmax(1).to(torch.int32) if self.labels else scores_NCHW

    def _normalised(self, image_NHW3: Tensor) -> Tensor:
        """As the data preprocessor does it."""
        preprocessor = self.network.data_preprocessor
        # What comes from a pipeline of mmseg's is BGR.
        flips = preprocessor._channel_conversion != (self.colours == 'rgb')
        image_N3HW = image_NHW3.permute(0, 3, 1, 2)
        image_N3HW = (image_N3HW.flip(1) if flips else image_N3HW).float()
        if preprocessor._enable_normalize:
            image_N3HW = (image_N3HW - preprocessor.mean) / preprocessor.std
        return image_N3HW

    @torch.no_grad()
    def input_of(self, picture_3HW: Tensor) -> Tensor:
        """The input, a batch of one, for a picture as a pipeline of mmseg's gives it.

        Args:
            picture_3HW: uint8, BGR.
        """
        if self.colours is not None:
            return self.layout(picture_3HW[None])
        batch = dict(inputs=[picture_3HW], data_samples=[SegDataSample()])
        images_NCHW: Tensor = self.network.data_preprocessor(batch, False)['inputs']
        return images_NCHW

    def layout(self, pictures_N3HW: Tensor) -> Tensor:
        """BGR pictures (N, 3, H, W) with values 0 to 255 as the input (N, H, W, 3)."""
        pictures_N3HW = pictures_N3HW.flip(1) if self.colours == 'rgb' else pictures_N3HW
        return pictures_N3HW.permute(0, 2, 3, 1).to(torch.uint8).contiguous()

    def axes(self) -> dict[str, int]:
        """The dimensions of the input that may vary, by name."""
        height = 1 if self.colours is not None else 2
        return {'batch': 0, 'height': height, 'width': height + 1}
