from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from mmseg.datasets import BaseSegDataset
from PIL import Image

import mmseg_kd  # noqa: F401  it registers what the data set dicts name
from mmseg_kd.errors import ConfigError, DatasetError
from mmseg_kd.preflight import SAMPLED_MASKS, check_dataset

MASK = np.array([[0, 1, 2], [2, 1, 255]], dtype=np.uint8)


def write(root: Path, masks: list[Any]) -> None:
    """One black image and one mask a file; None writes no mask, bytes are written as they are."""
    for folder in ('images', 'masks'):
        (root / folder).mkdir(parents=True, exist_ok=True)
    for index, mask in enumerate(masks):
        Image.fromarray(np.zeros((2, 3, 3), dtype=np.uint8)).save(root / f'images/{index:03}.png')
        path = root / f'masks/{index:03}.png'
        if isinstance(mask, bytes):
            path.write_bytes(mask)
        elif mask is not None:
            Image.fromarray(mask).save(path)


def dataset(root: Path, **changes: Any) -> dict[str, Any]:
    cfg = dict(
        type='BaseSegDataset',
        data_root=str(root),
        data_prefix=dict(img_path='images', seg_map_path='masks'),
        img_suffix='.png',
        seg_map_suffix='.png',
        metainfo=dict(classes=('sky', 'road', 'tree')),
        pipeline=[dict(type='LoadImageFromFile'), dict(type='LoadAnnotations')],
    )
    return cfg | changes


def with_value(value: int) -> np.ndarray:
    mask = MASK.copy()
    mask[0, 0] = value
    return mask


def test_sound_data_passes(tmp_path: Path) -> None:
    write(tmp_path, [MASK, MASK])
    check_dataset(dataset(tmp_path), 'train', num_classes=3)


@pytest.mark.parametrize('value', [3, 254])
def test_mask_value_outside(value: int, tmp_path: Path) -> None:
    write(tmp_path, [MASK, with_value(value)])
    expected = rf'val data: mask .*masks.001\.png holds the value {value}; expected 0 to 2 or 255'
    with pytest.raises(DatasetError, match=expected):
        check_dataset(dataset(tmp_path), 'val', num_classes=3)


def test_ignored_label_of_the_data_set(tmp_path: Path) -> None:
    mask = MASK.copy()
    mask[mask == 255] = 254
    write(tmp_path, [mask])
    check_dataset(dataset(tmp_path, ignore_index=254), 'val', num_classes=3)


def test_reduced_zero_label(tmp_path: Path) -> None:
    write(tmp_path, [np.array([[0, 1, 2, 3]], dtype=np.uint8)])
    pipeline = [dict(type='LoadAnnotations', reduce_zero_label=True)]
    check_dataset(
        dataset(tmp_path, reduce_zero_label=True, pipeline=pipeline), 'val', num_classes=3
    )
    with pytest.raises(DatasetError, match=r'holds the value 3.*reduce_zero_label'):
        check_dataset(dataset(tmp_path), 'val', num_classes=3)


def test_class_count_differs(tmp_path: Path) -> None:
    write(tmp_path, [MASK])
    expected = 'train data: BaseSegDataset has 3 classes and the network num_classes=19; set'
    with pytest.raises(ConfigError, match=expected):
        check_dataset(dataset(tmp_path), 'train', num_classes=19)


@pytest.mark.parametrize('content', [b'', b'this is no picture', None])
def test_unreadable_mask(content: bytes | None, tmp_path: Path) -> None:
    write(tmp_path, [MASK, content])
    with pytest.raises(DatasetError, match=r'mask .*masks.001\.png cannot be read: '):
        check_dataset(dataset(tmp_path), 'train', num_classes=3)


@pytest.mark.parametrize('changes', [{}, dict(serialize_data=False)])
def test_empty_folder(changes: dict[str, Any], tmp_path: Path) -> None:
    write(tmp_path, [])
    with pytest.raises(DatasetError, match=r'train data: .*found no .*images in') as caught:
        check_dataset(dataset(tmp_path, **changes), 'train', num_classes=3)
    assert str(tmp_path / 'images') in str(caught.value)


def test_no_file_with_the_suffix(tmp_path: Path) -> None:
    write(tmp_path, [MASK])
    with pytest.raises(DatasetError, match=r'found no .*images'):
        check_dataset(dataset(tmp_path, img_suffix='.jpg'), 'train', num_classes=3)


def test_missing_folder(tmp_path: Path) -> None:
    expected = f'test data: .*{re.escape(str(tmp_path / "none"))}.*Prepare the data'
    with pytest.raises(DatasetError, match=expected):
        check_dataset(dataset(tmp_path / 'none'), 'test', num_classes=3)


@pytest.mark.parametrize(
    ('changes', 'expected'),
    [
        (dict(type='BaseSegDatset'), 'val data: .*BaseSegDatset'),
        (dict(img_sufix='.png'), 'val data: .*img_sufix'),
        (dict(pipeline=[dict(type='LoadAnotations')]), 'val data: .*LoadAnotations'),
    ],
)
def test_wrong_config_of_a_data_set(changes: dict[str, Any], expected: str, tmp_path: Path) -> None:
    write(tmp_path, [MASK])
    with pytest.raises(ConfigError, match=expected):
        check_dataset(dataset(tmp_path, **changes), 'val', num_classes=3)


def test_data_sets_inside_wrappers(tmp_path: Path) -> None:
    write(tmp_path / 'good', [MASK])
    write(tmp_path / 'bad', [with_value(9)])
    repeated = dict(type='RepeatDataset', times=3, dataset=dataset(tmp_path / 'bad'))
    both = dict(type='ConcatDataset', datasets=[dataset(tmp_path / 'good'), repeated])
    for cfg in (repeated, both):
        with pytest.raises(DatasetError, match=r'bad.* holds the value 9'):
            check_dataset(cfg, 'train', num_classes=3)


def test_empty_folder_inside_a_wrapper(tmp_path: Path) -> None:
    write(tmp_path, [])
    cfg = dict(type='RepeatDataset', times=3, dataset=dataset(tmp_path))
    with pytest.raises(DatasetError, match='found no images in') as caught:
        check_dataset(cfg, 'train', num_classes=3)
    assert str(tmp_path / 'images') in str(caught.value)


def test_pipeline_without_masks(tmp_path: Path) -> None:
    write(tmp_path, [None])
    check_dataset(
        dataset(tmp_path, pipeline=[dict(type='LoadImageFromFile')]), 'test', num_classes=3
    )


def test_large_data_sets_are_sampled_from_end_to_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path, [MASK] * 3)
    files = BaseSegDataset.load_data_list

    def many_times(self: BaseSegDataset) -> list[Any]:
        return files(self) * 100

    read = []
    info = BaseSegDataset.get_data_info

    def spy(self: BaseSegDataset, index: int) -> Any:
        read.append(index)
        return info(self, index)

    monkeypatch.setattr(BaseSegDataset, 'load_data_list', many_times)
    monkeypatch.setattr(BaseSegDataset, 'get_data_info', spy)
    check_dataset(dataset(tmp_path), 'train', num_classes=3)
    assert len(read) == SAMPLED_MASKS
    assert (min(read), max(read)) == (0, 299)
