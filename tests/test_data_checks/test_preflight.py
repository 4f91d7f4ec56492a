from __future__ import annotations

import logging
import re
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from mmseg.datasets import BaseSegDataset
from PIL import Image

from mmseg_kd.data_checks import preflight
from mmseg_kd.data_checks.heads import Head
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


HEADS = (Head('decode_head', 3), Head('auxiliary_head.0', 3))


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The warnings of the preflight."""
    found: list[str] = []

    def keep(message: str, logger: str, level: int) -> None:
        assert (logger, level) == ('current', logging.WARNING)
        found.append(message)

    monkeypatch.setattr(preflight, 'print_log', keep)
    return found


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
    expected = r'2 of 4 samples are bad; the first: mask .*001\.png is empty.*check-data'
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


# Heads.


def test_classes_of_each_head(tmp_path: Path) -> None:
    write(tmp_path, [MASK])
    check_dataset(dataset(tmp_path), 'train', 3, heads=HEADS)
    other = (*HEADS, Head('auxiliary_head.1', 19), Head('auxiliary_head.2', 2))
    with pytest.raises(ConfigError) as caught:
        check_dataset(dataset(tmp_path), 'train', 3, heads=other)
    assert str(caught.value) == (
        'train data: BaseSegDataset has 3 classes and auxiliary_head.1 num_classes=19 and '
        'auxiliary_head.2 num_classes=2; set num_classes of its heads to 3.'
    )
    with pytest.raises(ConfigError, match='classes and decode_head num_classes=19; set'):
        check_dataset(dataset(tmp_path), 'train', 19, heads=(Head('decode_head', 19), HEADS[1]))


def test_heads_agree_where_a_data_set_has_no_names(tmp_path: Path) -> None:
    write(tmp_path, [MASK])
    nameless = dataset(tmp_path, metainfo=dict())
    check_dataset(nameless, 'train', 3, heads=HEADS)
    with pytest.raises(ConfigError, match='the network has 3 classes and auxiliary num_classes=5'):
        check_dataset(nameless, 'train', 3, heads=(*HEADS, Head('auxiliary', 5)))


@pytest.mark.parametrize('ignored', [0, 100, None])
def test_a_value_that_a_head_does_not_ignore(ignored: int | None, tmp_path: Path) -> None:
    write(tmp_path, [MASK])
    heads = (HEADS[0], Head('auxiliary_head.0', 3, ignored))
    with pytest.raises(DatasetError) as caught:
        check_dataset(dataset(tmp_path), 'train', 3, heads=heads)
    assert re.search(
        r'000\.png holds the value 255, which the data set ignores and which is neither ignored '
        rf'nor a class in auxiliary_head\.0 \(num_classes=3, ignore_index={ignored}\)\. Set one '
        'value in the masks, as ignore_index of the data set and as ignore_index of all heads',
        str(caught.value),
    )


def test_a_head_may_ignore_what_does_not_occur(tmp_path: Path) -> None:
    write(tmp_path, [np.array([[0, 1, 1], [2, 1, 1]], dtype=np.uint8)])
    check_dataset(dataset(tmp_path), 'train', 3, heads=(Head('decode_head', 3, 100),))


def test_a_value_that_a_head_ignores_and_the_data_set_does_not(tmp_path: Path) -> None:
    write(tmp_path, [with_value(100)])
    heads = (Head('decode_head', 3, 100),)
    message = (
        r'holds the value 100; expected 0 to 2 or 255 \(ignored\); decode_head ignores it: set'
    )
    with pytest.raises(DatasetError, match=f'{message} ignore_index=100 of the data set too'):
        check_dataset(dataset(tmp_path), 'train', 3, heads=heads)


def test_background_is_a_class(tmp_path: Path) -> None:
    write(tmp_path, [np.array([[0, 1, 1], [0, 1, 1]], dtype=np.uint8)])
    one = dataset(tmp_path, metainfo=dict(classes=('object',)))
    with pytest.raises(DatasetError, match=r'value 1.*set num_classes=2, out_channels=1 and two'):
        check_dataset(one, 'train', 1, heads=(Head('decode_head', 1, labels=2),))


# What the samples hold together.

OBJECT = np.array([[0, 255, 255], [0, 0, 255]], dtype=np.uint8)


def test_what_is_ignored_may_be_the_object(tmp_path: Path, said: list[str]) -> None:
    write(tmp_path, [OBJECT] * 3)
    with pytest.raises(DatasetError) as caught:
        check_dataset(dataset(tmp_path), 'train', 3, heads=HEADS)
    message = (
        'class sky (0) is all there is in the masks that were read (3 of 3), but for pixels of '
        '255, which are ignored: to say 0 everywhere is right. If what is ignored is the object, '
        'give it a number of its own in the masks (mask[mask == 255] = 1); if it is the '
        'background, see '
        'reduce_zero_label.'
    )
    assert str(caught.value) == f'train data: {message}'
    assert said == []
    # Where nothing is trained, and where masks are learnt whole, it is a warning.
    check_dataset(dataset(tmp_path), 'val', 3)
    check_dataset(dataset(tmp_path), 'train', 3, heads=(Head('decode_head', 3, by_pixel=False),))
    assert said == [f'val data: {message}', f'train data: {message}']


def test_background_that_is_ignored(tmp_path: Path) -> None:
    write(tmp_path, [np.array([[0, 1, 1], [0, 1, 1]], dtype=np.uint8)])
    cfg = dataset(tmp_path, reduce_zero_label=True, metainfo=dict(classes=('sky', 'road')))
    with pytest.raises(DatasetError, match=r'class sky.*see reduce_zero_label'):
        check_dataset(cfg, 'train', 2, heads=(Head('decode_head', 2),))


def test_rare_objects_are_looked_for(
    tmp_path: Path, said: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(preflight, 'SAMPLED', 2)
    write(tmp_path, [OBJECT, MASK, OBJECT])
    check_dataset(dataset(tmp_path), 'train', 3, heads=HEADS)
    assert said == []


def test_parts_of_a_data_set_may_have_a_class_each(tmp_path: Path, said: list[str]) -> None:
    write(tmp_path / 'a', [OBJECT])
    write(tmp_path / 'b', [np.array([[1, 2, 2], [1, 1, 255]], dtype=np.uint8)])
    both = [dataset(tmp_path / name) for name in 'ab']
    check_dataset(dict(type='ConcatDataset', datasets=both), 'train', 3, heads=HEADS)
    assert said == []


@pytest.mark.parametrize(
    ('masks', 'warning'),
    [
        ([MASK, MASK], None),
        (
            [MASK * 0],
            r'2 of 3 classes have no pixel .* read \(1 of 1\): road, tree',
        ),
        ([MASK * 0 + 255], r'3 of 3 classes have no pixel .* read \(1 of 1\): sky'),
        ([np.array([[0, 2, 2]] * 2, np.uint8)] * 2, r'1 of 3 .* \(2 of 2\): road'),
    ],
)
def test_classes_without_a_pixel(
    masks: list[Any], warning: str | None, tmp_path: Path, said: list[str]
) -> None:
    write(tmp_path, masks)
    check_dataset(dataset(tmp_path), 'train', 3, heads=HEADS)
    assert len(said) == (warning is not None)
    assert warning is None or re.match(f'train data: {warning}.*check-data', said[0])


def test_many_classes_without_a_pixel(tmp_path: Path, said: list[str]) -> None:
    write(tmp_path, [MASK])
    names = tuple(f'class{index}' for index in range(20))
    check_dataset(dataset(tmp_path, metainfo=dict(classes=names)), 'train', 20)
    [warning] = said
    assert 'class3, class4, ' in warning
    assert ', class10 and 9 more.' in warning


def deep(root: Path, index: int, limit: int) -> None:
    """An image of 16 bits with values below `limit`."""
    values = np.linspace(0, limit - 1, 18).astype(np.uint16).reshape(2, 3, 3)
    cv2.imwrite(str(root / f'images/{index:03}.png'), values)


def test_photographs_of_16_bits_that_become_black(tmp_path: Path, said: list[str]) -> None:
    write(tmp_path, [MASK, MASK])
    for index in range(2):
        deep(tmp_path, index, 3500)
    message = (
        r'data: image .*000\.png has 16 bits a channel with values of 0 to 3499, and reading it as '
        r"8 bits leaves 0 to 13\. Scale them.*color_type='unchanged'"
    )
    with pytest.raises(DatasetError, match=f'train {message}'):
        check_dataset(dataset(tmp_path), 'train', 3, heads=HEADS)
    check_dataset(dataset(tmp_path), 'val', 3)
    assert re.match(f'val {message}', said[0])
    # One is a night, and a whole range is none.
    deep(tmp_path, 1, 65536)
    check_dataset(dataset(tmp_path), 'train', 3, heads=HEADS)
    deep(tmp_path, 1, 3500)
    whole = dict(type='LoadImageFromFile', color_type='unchanged')
    pipeline = [whole, dict(type='LoadAnnotations')]
    check_dataset(dataset(tmp_path, pipeline=pipeline), 'train', 3, heads=HEADS)
    # What has 8 bits and is black may be black.
    for index in range(2):
        cv2.imwrite(str(tmp_path / f'images/{index:03}.png'), np.full((2, 3, 3), 9, np.uint8))
    check_dataset(dataset(tmp_path), 'train', 3, heads=HEADS)
