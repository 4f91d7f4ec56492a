"""Images without masks, and how they are mixed with others."""

from __future__ import annotations

from itertools import islice
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from builders import write_dataset
from mmseg.registry import DATASETS

from mmseg_kd.data_checks.batches import check_batches
from mmseg_kd.data_checks.full_check import unlisted_findings
from mmseg_kd.data_checks.image_folder import ImageFiles
from mmseg_kd.data_checks.preflight import check_dataset
from mmseg_kd.datasets import MixedDataset, MixedSampler, unlabelled
from mmseg_kd.errors import ConfigError, DatasetError

PIPELINE = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations'),
    dict(type='RandomCrop', crop_size=(16, 16), cat_max_ratio=0.75),
    dict(type='PackSegInputs'),
]


def mixed(root: Path) -> dict[str, Any]:
    """Four images with masks and three without."""
    write_dataset(root)
    labelled = dict(
        type='BaseSegDataset',
        data_root=str(root),
        data_prefix=dict(img_path='images/train', seg_map_path='annotations/train'),
        metainfo=dict(classes=tuple('abcde')),
        pipeline=PIPELINE,
    )
    without = dict(
        type='UnlabelledDataset', data_root=str(root), img_path='images/val', pipeline=PIPELINE
    )
    return dict(type='MixedDataset', datasets=[labelled, without])


def test_a_folder_of_images(tmp_path: Path) -> None:
    cfg = mixed(tmp_path)['datasets'][1]
    images = tmp_path / 'images/val'
    (images / '._0.jpg').touch()  # as a Mac leaves it on other disks
    (images / '.thumbnails').mkdir()
    (images / '.thumbnails/0.jpg').touch()
    dataset = DATASETS.build(cfg)
    assert len(ImageFiles(images, PIPELINE, {})) == 3
    assert unlisted_findings(dataset) == []
    sample = dataset[0]['data_samples']
    assert len(dataset) == 3
    assert sample.seg_map_path == unlabelled.NO_MASK
    assert sample.gt_sem_seg.data.shape == (1, 16, 16)
    assert sample.gt_sem_seg.data.unique().tolist() == [255]
    with pytest.raises(DatasetError, match='none; they end in'):
        DATASETS.build({**cfg, 'img_path': 'nowhere'})
    check_dataset(cfg, 'train', 5)


def test_what_is_mixed_is_checked_and_has_the_first_ones_classes(tmp_path: Path) -> None:
    cfg = mixed(tmp_path)
    dataset = check_dataset(cfg, 'train', 5)
    assert isinstance(dataset, MixedDataset)
    assert dataset.metainfo['classes'] == tuple('abcde')
    loader = dict(batch_size=6, sampler=dict(type='MixedSampler', ratio=(1, 3)))

    class Preprocessor:
        forward = DATASETS.build  # not mmseg's

    with pytest.raises(ConfigError, match='multiple of 4, got 6'):
        check_batches(dataset, 'train', loader, Preprocessor(), None)


# Four images with masks and three without, as far as a sampler looks.
SEVEN: Any = SimpleNamespace(datasets=[range(4), range(3)])


def test_ratio_in_each_batch_on_every_rank(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    for rank in range(2):
        monkeypatch.setattr(unlabelled, 'get_dist_info', lambda rank=rank: (rank, 2))
        sampler = MixedSampler(SEVEN, (1, 3), seed=5)
        indices = list(islice(iter(sampler), 24))
        kinds = [[index >= 4 for index in indices[i : i + 4]] for i in range(0, 24, 4)]
        assert kinds == [[False, True, True, True]] * 6
        resumed = MixedSampler(SEVEN, (1, 3), seed=5)
        resumed.skip(8)
        assert list(islice(iter(resumed), 16)) == indices[8:]
        seen.append(indices)
    # Between them the ranks go through all images before one comes again.
    first = [index for pair in zip(*seen, strict=True) for index in pair if index < 4]
    assert sorted(first[:4]) == sorted(first[4:8]) == [0, 1, 2, 3]
    others = [index for pair in zip(*seen, strict=True) for index in pair if index >= 4]
    assert sorted(others[:3]) == [4, 5, 6]


@pytest.mark.parametrize('ratio', [(1,), (1, 0), (1, 2.0)])
def test_wrong_ratio(ratio: Any) -> None:
    with pytest.raises(ConfigError, match='a whole number >= 1 for each of 2 data sets'):
        MixedSampler(SEVEN, ratio)
