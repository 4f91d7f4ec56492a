"""Tiny models of transformers with random weights, written in the library's own format."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

CLASSES = 5
LABELS = {index: f'class {index}' for index in range(CLASSES)}
SIZE = 64

_VIT = dict(
    hidden_size=16,
    num_hidden_layers=4,
    num_attention_heads=2,
    intermediate_size=16,
    image_size=SIZE,
    patch_size=16,
)


def _swin() -> Any:
    from transformers import SwinConfig

    return SwinConfig(
        image_size=SIZE,
        embed_dim=8,
        depths=[1, 1, 1, 1],
        num_heads=[1, 1, 2, 2],
        window_size=2,
        out_features=['stage1', 'stage2', 'stage3', 'stage4'],
    )


def segformer_config(t: Any, **changes: Any) -> Any:
    """A small SegFormer's."""
    return t.SegformerConfig(
        depths=[1, 1, 1, 1],
        hidden_sizes=[8, 8, 16, 16],
        num_attention_heads=[1, 1, 2, 2],
        decoder_hidden_size=16,
        **changes,
    )


def _segformer(t: Any) -> Any:
    return t.SegformerForSemanticSegmentation(segformer_config(t, id2label=LABELS))


def _upernet(t: Any) -> Any:
    backbone = t.ConvNextConfig(
        depths=[1, 1, 1, 1],
        hidden_sizes=[8, 8, 16, 16],
        out_features=['stage1', 'stage2', 'stage3', 'stage4'],
    )
    config = t.UperNetConfig(
        backbone_config=backbone, hidden_size=16, auxiliary_in_channels=16, id2label=LABELS
    )
    return t.UperNetForSemanticSegmentation(config)


def _dpt(t: Any) -> Any:
    config = t.DPTConfig(
        **_VIT,
        backbone_out_indices=[0, 1, 2, 3],
        neck_hidden_sizes=[8, 8, 8, 8],
        fusion_hidden_size=8,
        is_hybrid=False,
        id2label=LABELS,
    )
    return t.DPTForSemanticSegmentation(config)


def _beit(t: Any) -> Any:
    config = t.BeitConfig(
        **_VIT,
        out_indices=[1, 2, 3, 4],
        use_relative_position_bias=True,
        auxiliary_channels=8,
        id2label=LABELS,
    )
    return t.BeitForSemanticSegmentation(config)


def _data2vec(t: Any) -> Any:
    config = t.Data2VecVisionConfig(
        **_VIT, out_indices=[0, 1, 2, 3], auxiliary_channels=8, id2label=LABELS
    )
    return t.Data2VecVisionForSemanticSegmentation(config)


def _mobilevit(t: Any) -> Any:
    config = t.MobileViTConfig(
        image_size=SIZE,
        hidden_sizes=[8, 8, 8],
        neck_hidden_sizes=[4, 4, 8, 8, 8, 8, 8],
        num_attention_heads=2,
        aspp_out_channels=8,
        id2label=LABELS,
    )
    return t.MobileViTForSemanticSegmentation(config)


def _mobilenet(t: Any) -> Any:
    config = t.MobileNetV2Config(depth_multiplier=0.25, image_size=SIZE, id2label=LABELS)
    return t.MobileNetV2ForSemanticSegmentation(config)


def _maskformer(t: Any) -> Any:
    decoder = t.DetrConfig(
        d_model=32,
        decoder_layers=2,
        decoder_attention_heads=2,
        decoder_ffn_dim=16,
        encoder_layers=1,
        encoder_attention_heads=2,
        encoder_ffn_dim=16,
        num_queries=6,
    )
    config = t.MaskFormerConfig(
        fpn_feature_size=64,
        mask_feature_size=32,
        backbone_config=_swin(),
        decoder_config=decoder,
        id2label=LABELS,
    )
    return t.MaskFormerForInstanceSegmentation(config)


_DECODER: dict[str, Any] = dict(
    feature_size=32,
    mask_feature_size=32,
    hidden_dim=32,
    encoder_feedforward_dim=16,
    encoder_layers=1,
    decoder_layers=2,
    num_attention_heads=2,
    dim_feedforward=16,
    num_queries=6,
)


def _mask2former(t: Any) -> Any:
    config = t.Mask2FormerConfig(backbone_config=_swin(), **_DECODER, id2label=LABELS)
    return t.Mask2FormerForUniversalSegmentation(config)


def _oneformer(t: Any) -> Any:
    decoder = {k: v for k, v in _DECODER.items() if k not in ('feature_size', 'mask_feature_size')}
    config = t.OneFormerConfig(
        backbone_config=_swin(),
        **decoder,
        conv_dim=32,
        mask_dim=32,
        task_seq_len=8,
        text_encoder_width=32,
        text_encoder_n_ctx=4,
        text_encoder_context_length=8,
        text_encoder_vocab_size=64,
        text_encoder_num_layers=1,
        text_encoder_proj_layers=1,
        id2label=LABELS,
    )
    return t.OneFormerForUniversalSegmentation(config)


def _eomt(t: Any) -> Any:
    vit = {k: v for k, v in _VIT.items() if k != 'intermediate_size'}
    config = t.EomtConfig(
        **vit, num_upscale_blocks=1, num_blocks=2, num_queries=6, mlp_ratio=1, id2label=LABELS
    )
    return t.EomtForUniversalSegmentation(config)


PIXELS: dict[str, Callable[[Any], Any]] = dict(
    segformer=_segformer,
    upernet=_upernet,
    dpt=_dpt,
    beit=_beit,
    data2vec=_data2vec,
    mobilevit=_mobilevit,
    mobilenet=_mobilenet,
)
MASKS: dict[str, Callable[[Any], Any]] = dict(
    maskformer=_maskformer,
    mask2former=_mask2former,
    oneformer=_oneformer,
    eomt=_eomt,
)
# What processors do where they are not asked for anything in particular, by model.
PROCESSORS = dict(
    segformer='SegformerImageProcessor',
    upernet='SegformerImageProcessor',
    dpt='DPTImageProcessor',
    beit='BeitImageProcessor',
    data2vec='BeitImageProcessor',
    mobilevit='MobileViTImageProcessor',
    mobilenet='MobileNetV2ImageProcessor',
    maskformer='MaskFormerImageProcessor',
    mask2former='Mask2FormerImageProcessor',
    oneformer='OneFormerImageProcessor',
    eomt='EomtImageProcessor',
)
WORDS = ('the', 'task', 'is', 'semantic')


def write_processor(folder: Path, kind: str, **changes: Any) -> None:
    """Write the file of a processor that normalises with values of its own, if it normalises."""
    content: dict[str, Any] = dict(
        image_processor_type=kind,
        do_rescale=True,
        rescale_factor=1 / 255,
        do_normalize=kind != 'MobileViTImageProcessor',
        image_mean=[0.4, 0.5, 0.6],
        image_std=[0.2, 0.25, 0.3],
        size=dict(height=SIZE, width=SIZE),
    )
    text = json.dumps({**content, **changes})
    (folder / 'preprocessor_config.json').write_text(text, encoding='utf-8')


def write_model(folder: Path, make: Callable[[Any], Any], processor: str, seed: int = 5) -> Any:
    """Write a model with its processor; returns the model, in eval mode.

    Its BatchNorm statistics and biases are unlike those at the start.
    """
    import transformers

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = make(transformers)
        for key, tensor in model.state_dict().items():
            if key.endswith(('running_mean', 'running_var', '.bias')):
                tensor.add_(torch.rand(tensor.shape) * 0.2)
    model.save_pretrained(folder)
    write_processor(folder, processor)
    return model.eval()


def write_tokenizer(folder: Path) -> None:
    """Write a CLIP tokenizer that knows the words of OneFormer's task."""
    letters = sorted({letter for word in WORDS for letter in word})
    vocabulary = [*letters, *(f'{letter}</w>' for letter in letters)]
    vocabulary += ['<|startoftext|>', '<|endoftext|>']
    tokens = {token: index for index, token in enumerate(vocabulary)}
    (folder / 'vocab.json').write_text(json.dumps(tokens), encoding='utf-8')
    (folder / 'merges.txt').write_text('#version: 0.2\n', encoding='utf-8')
    settings = dict(tokenizer_class='CLIPTokenizer', pad_token='<|endoftext|>')
    (folder / 'tokenizer_config.json').write_text(json.dumps(settings), encoding='utf-8')
