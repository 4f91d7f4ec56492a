"""Backbones of Hugging Face's transformers as teachers of features."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from mmseg.registry import MODELS
from torch import Tensor

from mmseg_kd.errors import ConfigError
from mmseg_kd.networks.elsewhere.features import FeatureNetwork
from mmseg_kd.networks.elsewhere.hf_hub import (
    HFSource,
    any_size,
    preprocessing_of,
    size_of,
)
from mmseg_kd.networks.network import as_size
from mmseg_kd.networks.tokens import as_map


@MODELS.register_module()
class HFFeatures(FeatureNetwork):
    """A vision backbone of transformers: DINOv2, DINOv3, SigLIP 2, C-RADIO, ConvNeXt and others.

    Of a model for images and texts it is the one for images. Tokens become maps: those of patches;
    class and register tokens, which stand before them, are dropped.

    Args:
        model, revision, pretrained, trust_remote_code: As in `HFSegmentor`.
        out_indices: Which maps: -1 is the last, as the model hands it on; others count its hidden
            states from 0, what goes into the first block.

    Raises:
        ConfigError: As in `HFSegmentor`; or it takes no images.
        CheckpointError: As in `HFSegmentor`.
    """

    def __init__(
        self,
        model: str,
        revision: str | None = None,
        pretrained: bool = True,
        out_indices: Sequence[int] = (-1,),
        trust_remote_code: bool = False,
    ) -> None:
        kind = type(self).__name__
        source = HFSource(str(model), revision, kind, trust_remote_code)
        from transformers import AutoModel

        config = source.config()
        processor = source.processor(config)
        network, untrained = source.build(AutoModel, config, bool(pretrained))
        network = getattr(network, 'vision_model', network)
        if getattr(network, 'main_input_name', 'pixel_values') != 'pixel_values':
            raise ConfigError(f'{kind}: model={source.model!r}: takes no images.')
        super().__init__(
            network,
            len(out_indices),
            preprocessing_of(processor),
            size_of(processor),
            # A pooling layer, which many files lack, is no part of the maps.
            bool(pretrained) and not any('pooler' not in name for name in untrained),
        )
        self._out_indices = tuple(out_indices)
        self._arguments: dict[str, Any] = dict(any_size(network))
        if any(index != -1 for index in out_indices):
            self._arguments['output_hidden_states'] = True
        self._patch = as_size(getattr(network.config, 'patch_size', None))

    def maps(self, images_NCHW: Tensor) -> Sequence[Tensor]:
        """The maps (N, C, h, w)."""
        output: Mapping[str, Any] = self.backbone(pixel_values=images_NCHW, **self._arguments)
        outputs = [
            output['last_hidden_state'] if index == -1 else output['hidden_states'][index]
            for index in self._out_indices
        ]
        height, width = images_NCHW.shape[-2:]
        return [self._map(one, (height, width)) for one in outputs]

    def _map(self, output: Tensor, image_size: tuple[int, int]) -> Tensor:
        if output.ndim == 3 and self._patch is not None:
            grid = (image_size[0] // self._patch[0], image_size[1] // self._patch[1])
            if output.shape[1] >= grid[0] * grid[1]:
                patches_NLC = output[:, output.shape[1] - grid[0] * grid[1] :]
                return patches_NLC.transpose(1, 2).reshape(len(output), -1, *grid)
        # A hierarchy, whose later stages have fewer tokens than patches.
        return as_map(output, image_size, 'features')
