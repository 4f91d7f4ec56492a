"""Labels in bytes against mmseg's in eight."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from mmseg.datasets.transforms import PackSegInputs
from mmseg.registry import TRANSFORMS

from mmseg_kd.evaluation.pack_byte_labels import PackByteLabels


def loaded(**changes: Any) -> dict[str, Any]:
    """What a pipeline has before it packs."""
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (6, 8, 3), dtype=np.uint8)
    label = rng.integers(0, 256, (6, 8), dtype=np.uint8)
    meta = dict(img_path='a.png', ori_shape=(6, 8), img_shape=(6, 8), reduce_zero_label=True)
    return dict(img=image, gt_seg_map=label, **meta) | changes


def both(results: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Packed by mmseg, and in bytes."""
    theirs = PackSegInputs()(dict(results))
    ours = TRANSFORMS.build(dict(type='PackByteLabels'))(dict(results))
    assert theirs.keys() == ours.keys()
    assert torch.equal(theirs['inputs'], ours['inputs'])
    assert theirs['data_samples'].metainfo == ours['data_samples'].metainfo
    assert set(theirs['data_samples'].keys()) == set(ours['data_samples'].keys())
    return theirs, ours


@pytest.mark.parametrize('step', [1, -1])
def test_a_byte_a_pixel(step: int) -> None:
    results = loaded()
    results['gt_seg_map'] = results['gt_seg_map'][:, ::step]
    theirs, ours = (one['data_samples'].gt_sem_seg.data for one in both(results))
    assert theirs.dtype == torch.int64
    assert ours.dtype == torch.uint8
    assert torch.equal(theirs, ours.long())
    assert ours.untyped_storage().nbytes() == 6 * 8


def test_what_was_loaded_stays_as_it_is() -> None:
    results = loaded()
    before = results['gt_seg_map'].copy()
    packed = PackByteLabels()(results)
    packed['data_samples'].gt_sem_seg.data.zero_()
    np.testing.assert_array_equal(results['gt_seg_map'], before)


@pytest.mark.parametrize('dtype', [np.int16, np.int64])
def test_other_labels_are_mmsegs(dtype: Any) -> None:
    results = loaded()
    results['gt_seg_map'] = results['gt_seg_map'].astype(dtype) * 3 - 300
    theirs, ours = (one['data_samples'].gt_sem_seg.data for one in both(results))
    assert ours.dtype == torch.int64
    assert torch.equal(theirs, ours)


def test_without_labels() -> None:
    results = loaded()
    del results['gt_seg_map']
    _, ours = both(results)
    assert 'gt_sem_seg' not in ours['data_samples']
