"""From masks and their classes to scores of each pixel; published values, see ../shared/vectors."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from builders import build
from conftest import SHARED, needs_shared
from torch import Tensor

from mmseg_kd.networks.elsewhere.mask_classifier import (
    MaskScoreHead,
    log_semantic_map,
    semantic_map,
)

VECTORS = SHARED / 'vectors'


def published(case: str) -> tuple[Tensor, Tensor, dict[str, Tensor], dict[str, Any]]:
    """Class logits, mask logits, outputs and parameters of a case."""
    cases = json.loads((VECTORS / 'more.json').read_text(encoding='utf-8'))['cases']
    (found,) = (one for one in cases if one['id'] == case)
    with np.load(VECTORS / 'more.npz') as arrays:
        inputs = [torch.from_numpy(arrays[key]) for key in found['inputs'].values()]
        outputs = {k: torch.from_numpy(arrays[v]) for k, v in found['outputs'].items()}
    return inputs[0], inputs[1], outputs, found.get('params', {})


def scaled(map_NChw: Tensor, size: list[int]) -> Tensor:
    return F.interpolate(map_NChw, tuple(size), mode='bilinear', align_corners=False)


@needs_shared('vectors/more.json')
class TestPublished:
    def test_at_the_size_of_the_masks(self) -> None:
        classes, masks, outputs, _ = published('maskcls_eomt')
        torch.testing.assert_close(semantic_map(classes, masks), outputs['per_pixel'])

    def test_at_the_size_of_the_image(self) -> None:
        classes, masks, outputs, params = published('maskcls_mmseg')
        found = semantic_map(classes, masks, params['size'])
        torch.testing.assert_close(found, outputs['seg_logits'])

    @pytest.mark.parametrize(
        ('case', 'mask_size'), [('maskcls_hf', (384, 384)), ('maskcls_hf_maskformer', None)]
    )
    def test_of_hugging_face(self, case: str, mask_size: Any) -> None:
        classes, masks, outputs, params = published(case)
        found = semantic_map(classes, masks, mask_size)
        for index, size in enumerate(params['target_sizes']):
            expected = outputs[f'scores_{index}']
            torch.testing.assert_close(scaled(found[index : index + 1], size)[0], expected)

    def test_of_hugging_face_without_a_size(self) -> None:
        classes, masks, outputs, _ = published('maskcls_hf_native')
        found = semantic_map(classes, masks, (384, 384))
        torch.testing.assert_close(found[..., ::48, ::48], outputs['scores_strided'])


def test_by_hand() -> None:
    # One query, whose mask is sure of the first of two pixels; two classes and "none" are equal.
    masks = torch.tensor([[[[30.0, 0.0]]]])
    found = semantic_map(torch.zeros(1, 1, 3), masks)
    torch.testing.assert_close(found, torch.tensor([1 / 3, 1 / 6]).expand(1, 2, 1, 2))
    assert log_semantic_map(torch.zeros(1)).isfinite()


def test_half_precision_is_computed_in_float32() -> None:
    classes, masks = torch.randn(1, 20, 6), torch.randn(1, 20, 4, 4)
    expected = semantic_map(classes.bfloat16().float(), masks.bfloat16().float())
    with torch.autocast('cpu', dtype=torch.bfloat16):
        found = semantic_map(classes.bfloat16(), masks.bfloat16())
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, expected)


def test_what_is_predicted_are_scaled_probabilities() -> None:
    head = build(dict(type=MaskScoreHead, num_classes=3))
    probabilities = torch.rand(1, 3, 4, 4) + 0.1
    found = head.predict_by_feat(probabilities.log(), [dict(img_shape=(8, 12))])
    torch.testing.assert_close(found, scaled(probabilities, [8, 12]))
