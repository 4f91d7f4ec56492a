"""Semantic segmentation models of Hugging Face's transformers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from mmengine.logging import print_log
from mmseg.registry import MODELS
from torch import Tensor

from mmseg_kd.errors import ConfigError
from mmseg_kd.networks.elsewhere.hf_hub import (
    HFSource,
    any_size,
    preprocessing_of,
    size_of,
)
from mmseg_kd.networks.elsewhere.mask_classifier import (
    MaskScoreHead,
    log_semantic_map,
    semantic_map,
)
from mmseg_kd.networks.elsewhere.module_segmentor import IMAGENET, ScoreSegmentor, scores_of


@MODELS.register_module()
class HFSegmentor(ScoreSegmentor):
    """A semantic segmentation model of transformers, or a mask classifier by its semantic map.

    Normalisation, image size and classes are those of the model's own files. Of the forward pass
    nothing is run that its scores do without: no loss, no auxiliary head, no scaling to the images'
    size. A mask classifier gives the logarithm of its `semantic_map`.

    Args:
        model: A folder, or a name on the hub.
        revision: Branch, tag or commit on the hub; a commit names the same weights for ever.
        pretrained: Take the trained weights, where they fit; False: those of a new network.
        num_classes: Other classes than the model's, whose scores are then to be trained; None: its
            own.
        mask_size: Height and width that a mask classifier's masks are brought to before its map is
            made; None: the masks' own. transformers itself takes (384, 384) for Mask2Former.
        loss_decode: As in mmseg's heads; None: cross-entropy without pixels labelled 255.
        data_preprocessor: As in mmseg; None: what the model's processor does.
        test_cfg: As in mmseg; None: images as a whole.
        trust_remote_code: False; there to be refused.

    Raises:
        ConfigError: transformers is not installed; the model is not there, needs code of its own,
            or is none that segments.
        CheckpointError: Its weights are not in `.safetensors`.
    """

    def __init__(
        self,
        model: str,
        revision: str | None = None,
        pretrained: bool = True,
        num_classes: int | None = None,
        mask_size: Sequence[int] | None = None,
        loss_decode: Any = None,
        data_preprocessor: Mapping[str, Any] | None = None,
        test_cfg: Mapping[str, Any] | None = None,
        trust_remote_code: bool = False,
    ) -> None:
        kind = type(self).__name__
        source = HFSource(str(model), revision, kind, trust_remote_code)
        config = source.config(num_classes)
        auto, is_masks = _class_of(config, source)
        preprocessing, size = IMAGENET, None
        if data_preprocessor is None:
            processor = source.processor(config)
            preprocessing, size = preprocessing_of(processor), size_of(processor)
        network, untrained = source.build(auto, config, bool(pretrained))
        super().__init__(
            network,
            config.num_labels,
            loss_decode,
            dict(type=MaskScoreHead) if is_masks else None,
            preprocessing=preprocessing,
            data_preprocessor=data_preprocessor,
            test_cfg=test_cfg,
        )
        self.is_pretrained = not untrained
        if pretrained and untrained:
            print_log(
                f'{model}: {len(untrained)} tensors are not trained, such as {untrained[0]}.',
                logger='current',
            )
        self.img_size = size
        self.classes = tuple(config.id2label[index] for index in range(config.num_labels))
        self._is_masks = is_masks
        self._mask_size = mask_size
        self._arguments: dict[str, Any] = dict(any_size(network))
        if config.model_type == 'oneformer':
            task = source.tokens('the task is semantic', config.task_seq_len)
            self.register_buffer('task_inputs', task, persistent=False)

    def scores(self, images_NCHW: Tensor) -> Tensor:
        """The score maps of images, at the size that the model makes them."""
        network = self.backbone
        if network.config.model_type == 'upernet':
            # Its forward pass would scale them to the images' size.
            features = network.backbone.forward_with_filtered_kwargs(images_NCHW).feature_maps
            scores_NChw: Tensor = network.decode_head(features)
            return scores_NChw
        arguments = self._arguments
        if network.config.model_type == 'oneformer':
            arguments = dict(task_inputs=self.task_inputs.expand(len(images_NCHW), -1))
        output = network(pixel_values=images_NCHW, **arguments)
        if not self._is_masks:
            return scores_of(output)
        masks = output.class_queries_logits, output.masks_queries_logits
        return log_semantic_map(semantic_map(*masks, self._mask_size))


def _class_of(config: Any, source: HFSource) -> tuple[Any, bool]:
    """The class of transformers that builds a model, and whether it classifies masks.

    Raises:
        ConfigError: There is none that segments.
    """
    import transformers
    from transformers.models.auto.modeling_auto import (
        MODEL_FOR_SEMANTIC_SEGMENTATION_MAPPING_NAMES as SEMANTIC,
    )

    masks = ('maskformer', 'mask2former', 'oneformer', 'eomt', 'eomt_dinov3')
    if config.model_type in masks:
        # MaskFormer is among the universal ones since version 4.25 of transformers.
        return transformers.AutoModelForUniversalSegmentation, True
    if config.model_type in SEMANTIC:
        return transformers.AutoModelForSemanticSegmentation, False
    raise ConfigError(
        f'{source.needed_by}: model={source.model!r}: is a {config.model_type} model, which does '
        f'not segment; expected one of {", ".join(sorted({*SEMANTIC, *masks}))}. A backbone '
        'teaches by its features: HFFeatures.'
    )
