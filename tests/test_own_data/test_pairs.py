"""Images and masks of a folder: paired by name, split by folders, lists or a draw."""

from __future__ import annotations

from pathlib import Path

import pytest

from mmseg_kd.errors import DatasetError
from mmseg_kd.own_data.pairs import FindOptions, Pair, find_pairs


def touch(root: Path, *names: str) -> Path:
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return root


@pytest.mark.parametrize(
    ('image', 'mask'),
    [
        ('images/{split}/a.jpg', 'annotations/{split}/a.png'),
        ('{split}/images/a.jpg', '{split}/masks/a_mask.png'),
        ('img_dir/{split}/a.png', 'ann_dir/{split}/a.png'),
        ('{split}/a.png', '{split}annot/a.png'),
        ('{split}_images/a.JPG', '{split}_labels/a.png'),
        ('leftImg8bit/{split}/x/a_leftImg8bit.png', 'gtFine/{split}/x/a_gtFine_labelIds.png'),
        ('{split}/image_1.jpg', '{split}/mask_1.png'),
        ('{split}/a.jpg', '{split}/a.png'),
    ],
)
def test_common_layouts(tmp_path: Path, image: str, mask: str) -> None:
    splits = ('train', 'val')
    names = [name.format(split=split) for split in splits for name in (image, mask)]
    pairs = find_pairs(touch(tmp_path, *names), FindOptions())
    assert pairs.origin == 'folders'
    assert pairs.splits == {
        split: [Pair(image.format(split=split), mask.format(split=split))] for split in splits
    }


def test_lists(tmp_path: Path) -> None:
    names = [f'JPEGImages/{i}.jpg' for i in range(5)]
    masks = [f'SegmentationClass/{i}.png' for i in range(5)]
    touch(tmp_path, *names, *masks, 'sets/train.txt', 'sets/val.txt')
    (tmp_path / 'sets/train.txt').write_text('0\n1\n\n')
    (tmp_path / 'sets/val.txt').write_text('/JPEGImages/3.jpg /SegmentationClass/3.png\n')
    pairs = find_pairs(tmp_path, FindOptions())
    found = {split: [pair.image for pair in one] for split, one in pairs.splits.items()}
    assert found == {
        'train': ['JPEGImages/0.jpg', 'JPEGImages/1.jpg'],
        'val': ['JPEGImages/3.jpg'],
    }
    assert pairs.left_out == ['2 pairs in no list']
    (tmp_path / 'sets/val.txt').write_text('9\n')
    with pytest.raises(DatasetError, match="no image with a mask called '9'"):
        find_pairs(tmp_path, FindOptions())


def test_lists_as_pascal_voc_has_them(tmp_path: Path) -> None:
    names = [f'JPEGImages/2007_{i}.jpg' for i in range(4)]
    masks = [f'SegmentationClass/2007_{i}.png' for i in range(3)]
    folders = [f'ImageSets/{name}' for name in ('Action', 'Layout', 'Segmentation')]
    lists = [f'{folder}/{split}.txt' for folder in folders for split in ('train', 'val')]
    touch(tmp_path, *names, *masks, *lists)
    for path in lists:
        (tmp_path / path).write_text('2010_6215  1\n')
    # Some of the others' images may have a mask.
    (tmp_path / 'ImageSets/Action/train.txt').write_text('2007_0  1\n2007_3  1\n')
    # As Windows writes it.
    (tmp_path / 'ImageSets/Segmentation/train.txt').write_text('2007_0\n2007_1\n', 'utf-8-sig')
    (tmp_path / 'ImageSets/Segmentation/val.txt').write_text('2007_2\n')
    pairs = find_pairs(tmp_path, FindOptions())
    found = {split: [pair.image for pair in one] for split, one in pairs.splits.items()}
    assert found == {'train': names[:2], 'val': names[2:3]}


def test_lists_of_folders_with_the_same_names(tmp_path: Path) -> None:
    keys = [f'seq{folder}/0000' for folder in (1, 2)]
    touch(tmp_path, *(f'{kind}/{key}.png' for kind in ('images', 'masks') for key in keys))
    # Written on another machine.
    (tmp_path / 'train.txt').write_text('/data/mine/images/seq1/0000.png\n')
    (tmp_path / 'val.txt').write_text('seq2/0000\n')
    pairs = find_pairs(tmp_path, FindOptions())
    found = {split: [pair.image for pair in one] for split, one in pairs.splits.items()}
    assert found == {'train': ['images/seq1/0000.png'], 'val': ['images/seq2/0000.png']}
    (tmp_path / 'val.txt').write_text('0000\n')
    with pytest.raises(DatasetError, match="'0000' may be images/seq1/0000"):
        find_pairs(tmp_path, FindOptions())


def test_split_is_drawn_by_the_seed(tmp_path: Path) -> None:
    touch(tmp_path, *(f'{kind}/{i}.png' for i in range(20) for kind in ('images', 'masks')))
    first, again, other = (find_pairs(tmp_path, FindOptions(seed=s)).splits for s in (0, 0, 1))
    assert first == again != other
    assert [len(found) for found in first.values()] == [16, 4]
    assert not set(first['train']) & set(first['val'])
    for share in (0.0, float('nan')):
        with pytest.raises(DatasetError, match='set --val-share'):
            find_pairs(tmp_path, FindOptions(val_share=share))


def test_what_is_left_out(tmp_path: Path) -> None:
    touch(tmp_path, *(f'{kind}/{i}.png' for i in range(5) for kind in ('images', 'masks')))
    touch(tmp_path, 'images/8.png', 'masks/9.png', '.cache/masks/7.png')
    assert find_pairs(tmp_path, FindOptions()).left_out == [
        '1 images without mask: images/8.png',
        '1 masks without image: masks/9.png',
    ]


def test_folders_and_suffixes_that_are_said(tmp_path: Path) -> None:
    touch(tmp_path, *(f'A/{i}.png' for i in range(5)), *(f'B/{i}_L.png' for i in range(5)))
    with pytest.raises(DatasetError, match=r'Images: 10 \(A/0.png, .*masks: none'):
        find_pairs(tmp_path, FindOptions())
    options = FindOptions(images='A', masks='B', mask_suffix='_L.png')
    found = find_pairs(tmp_path, options).splits.values()
    assert Pair('A/0.png', 'B/0_L.png') in [pair for one in found for pair in one]


def test_several_masks_of_an_image(tmp_path: Path) -> None:
    touch(tmp_path, *(f'images/{i}.png' for i in range(5)))
    touch(tmp_path, *(f'gt/{i}_{kind}.png' for i in range(5) for kind in ('labelIds', 'color')))
    with pytest.raises(DatasetError, match='--mask-suffix'):
        find_pairs(tmp_path, FindOptions())
    pairs = find_pairs(tmp_path, FindOptions(mask_suffix='_labelIds.png'))
    assert {pair.mask[-8:] for one in pairs.splits.values() for pair in one} == {'lIds.png'}


def test_no_folder_and_no_train(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match='there is none'):
        find_pairs(tmp_path / 'no', FindOptions())
    touch(tmp_path, 'images/val/a.jpg', 'masks/val/a.png')
    with pytest.raises(DatasetError, match='expected a split called train, got val'):
        find_pairs(tmp_path, FindOptions())
