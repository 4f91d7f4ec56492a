"""Images and masks that a list pairs."""

from __future__ import annotations

from pathlib import Path

import pytest
from builders import write_dataset

from mmseg_kd.datasets import PairedDataset
from mmseg_kd.errors import DatasetError


def test_lists_of_pairs(tmp_path: Path) -> None:
    write_dataset(tmp_path)
    (tmp_path / 'classes.txt').write_text('1 2 3 a\n4 5 6 b b\n')
    (tmp_path / 'val.txt').write_text(
        'images/val/1.jpg\tannotations/val/0.png\nimages/val/0.jpg\tannotations/val/1.png\n'
    )
    files = dict(classes=str(tmp_path / 'classes.txt'), ann_file='val.txt')
    places = dict(data_root=str(tmp_path), data_prefix=dict(img_path='', seg_map_path=''))
    dataset = PairedDataset(**files, **places)
    assert dataset.metainfo['classes'] == ('a', 'b b')
    assert dataset.metainfo['palette'] == [[1, 2, 3], [4, 5, 6]]
    first = dataset.get_data_info(0)
    assert first['img_path'] == str(tmp_path / 'images/val/1.jpg')
    assert first['seg_map_path'] == str(tmp_path / 'annotations/val/0.png')
    (tmp_path / 'val.txt').write_text('images/val/1.jpg\n')
    with pytest.raises(DatasetError, match=r'val\.txt, line 1: expected an image, a tab'):
        PairedDataset(**files, **places)
    (tmp_path / 'val.txt').unlink()
    with pytest.raises(DatasetError, match='expected a list of pairs'):
        PairedDataset(**files, **places)
