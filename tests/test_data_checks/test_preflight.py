from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from mmseg.datasets import BaseSegDataset
from PIL import Image

from mmseg_kd.data_checks import preflight
from mmseg_kd.data_checks.preflight import SAMPLED, check_dataset
from mmseg_kd.errors import ConfigError, DatasetError

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
    write(tmp_path, [np.array([[0, 1, 2], [3, 2, 1]], dtype=np.uint8)])
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


@pytest.mark.parametrize(
    ('content', 'expected'),
    [(b'', 'is empty'), (b'this is no picture', 'cannot be read'), (None, 'is missing')],
)
def test_unreadable_mask(content: bytes | None, expected: str, tmp_path: Path) -> None:
    write(tmp_path, [MASK, content])
    with pytest.raises(DatasetError, match=rf'train data: mask .*masks.001\.png {expected}'):
        check_dataset(dataset(tmp_path), 'train', num_classes=3)


def test_unreadable_image(tmp_path: Path) -> None:
    write(tmp_path, [MASK, MASK])
    (tmp_path / 'images/001.png').write_bytes(b'')
    with pytest.raises(DatasetError, match=r'train data: image .*images.001\.png is empty'):
        check_dataset(dataset(tmp_path), 'train', num_classes=3)


def test_mask_of_another_size(tmp_path: Path) -> None:
    write(tmp_path, [MASK, MASK[:, :2]])
    with pytest.raises(DatasetError, match=r'masks.001\.png is of 2x2 and its image of 2x3'):
        check_dataset(dataset(tmp_path), 'train', num_classes=3)


def test_all_missing_masks_are_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preflight, 'SAMPLED', 1)
    write(tmp_path, [MASK, MASK, None, MASK, None])
    with pytest.raises(DatasetError, match=r'2 files are missing; the first: mask .*002\.png'):
        check_dataset(dataset(tmp_path), 'train', num_classes=3)
    check_dataset(dataset(tmp_path), 'train', num_classes=3, tolerated=2)


def test_a_list_that_names_missing_images(tmp_path: Path) -> None:
    write(tmp_path, [MASK])
    (tmp_path / 'list.txt').write_text('000\n001\n', encoding='utf-8')
    with pytest.raises(DatasetError, match=r'2 files are missing; the first: image .*001\.png'):
        check_dataset(dataset(tmp_path, ann_file='list.txt'), 'train', num_classes=3)


def test_bad_samples_are_tolerated_up_to_a_number(tmp_path: Path) -> None:
    write(tmp_path, [MASK, b'', with_value(7), MASK])
    check_dataset(dataset(tmp_path), 'train', num_classes=3, tolerated=2)
    expected = r'2 of 4 samples are bad; the first: mask .*001\.png is empty.*check_dataset\.py'
    with pytest.raises(DatasetError, match=expected):
        check_dataset(dataset(tmp_path), 'train', num_classes=3, tolerated=1)


def test_not_all_may_be_bad(tmp_path: Path) -> None:
    write(tmp_path, [with_value(7)] * 3)
    with pytest.raises(DatasetError, match=r'3 of 3 samples are bad.*holds the value 7'):
        check_dataset(dataset(tmp_path), 'train', num_classes=3, tolerated=5)


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
    look = preflight.first_finding

    def spy(info: dict[str, Any], *args: Any) -> Any:
        read.append(info['sample_idx'])
        return look(info, *args)

    monkeypatch.setattr(BaseSegDataset, 'load_data_list', many_times)
    monkeypatch.setattr(preflight, 'first_finding', spy)
    check_dataset(dataset(tmp_path), 'train', num_classes=3)
    assert len(read) == SAMPLED
    assert (min(read), max(read)) == (0, 299)
