"""Every kind of bad file on its way through a data set's pipeline."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import mmcv.image.io
import numpy as np
import pytest
from bad_files import ERRORS, SOUND, WARNINGS, Spoil, damage_mask, spoil
from builders import write_dataset
from mmseg.registry import DATASETS
from PIL import Image

from mmseg_kd.data_checks.checked_loading import ReportingCollate, Skips, check_loading
from mmseg_kd.data_checks.findings import KINDS, SEE_ALL
from mmseg_kd.data_checks.heads import Head
from mmseg_kd.data_checks.image_file import picture_findings
from mmseg_kd.errors import DatasetError

LOAD = [dict(type='LoadImageFromFile'), dict(type='LoadAnnotations')]

# What the message says beside the file: found and expected.
SAYS = {
    'empty': '0 bytes',
    'unreadable': 'cannot be read: ',
    'truncated': r'it ends after [\d,]+ bytes, too early',
    'missing': 'is missing',
    'size': r'is of \d+x\d+ and its image of 32x32',
    'values': r'holds the value (5|254); expected 0 to 4 or 255 \(ignored\)',
    'colours': 'has 3 channels; expected one, of class indices',
    'depth': r'holds values from .* to .*; expected whole ones of 8 bits, 0 to 255',
}


def config(root: Path, split: str = 'train', **changes: Any) -> dict[str, Any]:
    cfg = dict(
        type='BaseSegDataset',
        data_root=str(root),
        data_prefix=dict(img_path=f'images/{split}', seg_map_path=f'annotations/{split}'),
        metainfo=dict(classes=('a', 'b', 'c', 'd', 'e')),
        pipeline=LOAD,
    )
    return cfg | changes


def checked(cfg: dict[str, Any], *args: Any, split: str = 'train', channels: int = 3) -> Any:
    dataset = DATASETS.build(cfg)
    check_loading(dataset, split, 5, channels, *args)
    return dataset


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return write_dataset(tmp_path / 'data', train=3)


@pytest.mark.parametrize(
    ('name', 'split'), [*((name, 'train') for name in ERRORS), ('truncated image', 'val')]
)
def test_a_bad_file_is_named(root: Path, name: str, split: str) -> None:
    kind, way = ERRORS[name]
    spoil(root, split, '1', way)
    dataset = checked(config(root, split), split=split)
    with pytest.raises(DatasetError) as caught:
        for index in range(3):
            dataset[index]
    # Samples before it came whole.
    message = str(caught.value)
    role = 'image' if 'image' in name and 'mask' not in name else 'mask'
    assert message.startswith(f'{split} data: {role} {root}')
    assert re.search(SAYS[kind], message), message
    assert message.endswith(f'. {KINDS[kind].mend} {SEE_ALL}')
    assert len(message.splitlines()) == 1


UNUSUAL = {**{name: way for name, (_, way) in WARNINGS.items()}, **SOUND}


@pytest.mark.parametrize('name', UNUSUAL)
def test_an_unusual_file_is_read(root: Path, name: str) -> None:
    spoil(root, 'train', '1', UNUSUAL[name])
    dataset = checked(config(root))
    assert len(dataset) == 3
    for index in range(3):
        sample = dataset[index]
        assert sample['img'].shape == (32, 32, 3)
        assert sample['gt_seg_map'].shape == (32, 32)
        assert sample['img'].dtype == sample['gt_seg_map'].dtype == np.uint8


def message(root: Path, **changes: Any) -> str:
    """What is said of the sample called 1."""
    dataset = checked(config(root, **changes))
    paths = [dataset.get_data_info(index)['img_path'] for index in range(3)]
    [bad] = [index for index, path in enumerate(paths) if '1.jpg' in path]
    with pytest.raises(DatasetError) as caught:
        dataset[bad]
    return str(caught.value)


@pytest.mark.parametrize(
    ('way', 'hint'),
    [
        (ERRORS['image is a pointer'][1], '(it is a pointer of Git LFS: run git lfs pull)'),
        (lambda image, mask: image.write_text('<!DOCTYPE html><html>'), '(it is a web page)'),
        (
            ERRORS['names in two Unicode forms'][1],
            "there is 'e\u03011.png', in another Unicode form",
        ),
        (
            lambda image, mask: mask.rename(mask.with_name('1 .PNG')),
            "there is '1 .PNG', which differs by case or a space",
        ),
        (
            lambda image, mask: mask.parent.rename(mask.parent.with_name('moved')),
            'is missing, as is its folder',
        ),
        (
            lambda image, mask: Image.new('L', (24, 32)).save(mask),
            'is of 32x24 and its image of 32x32.',
        ),
    ],
)
def test_what_is_known_is_said(root: Path, way: Spoil, hint: str) -> None:
    spoil(root, 'train', '1', way)
    assert hint in message(root)


def test_an_image_that_is_turned_does_not_fit_its_mask(root: Path) -> None:
    def turn(image: Path, mask: Path) -> None:
        exif = Image.Exif()
        exif[0x0112] = 6
        Image.new('RGB', (24, 32)).save(image, exif=exif)
        Image.new('L', (24, 32)).save(mask)

    spoil(root, 'train', '1', turn)
    assert 'on its side: see whether the image has an EXIF orientation' in message(root)
    pipeline = [dict(type='LoadImageFromFile', color_type='color_ignore_orientation'), LOAD[1]]
    assert checked(config(root, pipeline=pipeline))[1]['img'].shape == (32, 24, 3)


@pytest.mark.parametrize(('color_type', 'channels'), [('unchanged', 3), ('color', 1)])
def test_channels(root: Path, color_type: str, channels: int) -> None:
    spoil(root, 'train', '1', WARNINGS['grey image'][1])
    cfg = config(root, pipeline=[dict(type='LoadImageFromFile', color_type=color_type), LOAD[1]])
    got = {3: 1, 1: 3}[channels]
    with pytest.raises(DatasetError, match=f'has {got} channels; expected {channels}. Set color'):
        checked(cfg, channels=channels)[1]


def test_labels_are_looked_at_as_they_are_trained_on(root: Path) -> None:
    """Masks hold 0 to 4 and 255, of which the data set makes something else."""
    dataset = DATASETS.build(config(root, reduce_zero_label=True))
    check_loading(dataset, 'train', 4, 3)
    assert all(dataset[index] for index in range(3))
    dataset = DATASETS.build(config(root))
    check_loading(dataset, 'train', 4, 3)
    with pytest.raises(DatasetError, match='holds the value 4; expected 0 to 3 or 255'):
        dataset[0]


def test_ignored_label_of_the_data_set(root: Path) -> None:
    spoil(root, 'train', '1', ERRORS['value just below the ignored'][1])
    dataset = checked(config(root, ignore_index=254))
    with pytest.raises(DatasetError, match=r'holds the value 255; expected 0 to 4 or 254'):
        dataset[0]


def test_mapped_labels(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    known = dict(classes=('a', 'b', 'c', 'd', 'e'))
    monkeypatch.setattr(DATASETS.get('BaseSegDataset'), 'METAINFO', known)
    dataset = DATASETS.build(config(root, metainfo=dict(classes=('e', 'b'))))
    check_loading(dataset, 'train', 2, 3)
    assert {*np.unique(dataset[0]['gt_seg_map'])} == {0, 1, 255}


def test_wrappers_and_test_time_augmentation(root: Path) -> None:
    spoil(root, 'train', '1', ERRORS['image of zero bytes'][1])
    repeated = dict(type='RepeatDataset', times=2, dataset=config(root))
    for cfg, index in ((repeated, 4), (dict(type='ConcatDataset', datasets=[config(root)]), 1)):
        with pytest.raises(DatasetError, match='is empty'):
            checked(cfg)[index]
    spoil(root, 'val', '1', ERRORS['mask of zero bytes'][1])
    resize = [dict(type='Resize', scale_factor=0.5, keep_ratio=True)]
    tta = dict(type='TestTimeAug', transforms=[[*resize], [LOAD[1]]])
    dataset = checked(config(root, 'val', pipeline=[LOAD[0], tta]), split='val')
    assert dataset[0]
    with pytest.raises(DatasetError, match=r'val data: mask .*is empty'):
        dataset[1]


def test_a_second_look_changes_nothing(root: Path) -> None:
    dataset = checked(config(root))
    before = list(dataset.pipeline.transforms)
    check_loading(dataset, 'train', 5, 3)
    assert dataset.pipeline.transforms == before


def test_a_config_that_lets_bad_images_pass_keeps_its_way(root: Path) -> None:
    spoil(root, 'train', '1', ERRORS['image of zero bytes'][1])
    pipeline = [dict(type='LoadImageFromFile', ignore_empty=True), LOAD[1]]
    assert checked(config(root, pipeline=pipeline))[1]


def test_another_sample_is_drawn(root: Path) -> None:
    spoil(root, 'train', '1', ERRORS['mask of zero bytes'][1])
    skips = Skips()
    dataset = checked(config(root), skips)
    draws = []
    for _ in range(2):
        np.random.seed(3)
        draws.append([dataset[1]['img_path'] for _ in range(8)])
    assert draws[0] == draws[1]
    assert {Path(path).name for path in draws[0]} == {'0.jpg', '2.jpg'}
    batch = ReportingCollate(lambda samples: dict(samples=samples), skips)([dataset[0]])
    [(name, message)] = batch['skipped_samples'].items()
    assert name == str(root / 'annotations/train/1.png')
    assert message.startswith(f'mask {name} is empty')
    assert 'skipped_samples' not in ReportingCollate(dict, skips)([])


def test_nothing_but_bad_samples(root: Path) -> None:
    for name in '012':
        spoil(root, 'train', name, ERRORS['mask of zero bytes'][1])
    dataset = checked(config(root), Skips())
    with pytest.raises(DatasetError, match=r'1000 samples .* were bad, the last: mask .*is empty'):
        dataset[0]


def test_a_damaged_file_is_left_to_the_check_of_all(root: Path) -> None:
    spoil(root, 'train', '1', damage_mask)
    assert checked(config(root))[1]


def test_a_file_that_pillow_does_not_know_has_no_warnings(tmp_path: Path) -> None:
    path = tmp_path / 'x.jpg'
    path.write_text('no picture')
    assert picture_findings(str(path)) == []


READERS = [
    ('tifffile', None, 'needs the package tifffile, which is not installed. Install it, or set'),
    (
        'turbojpeg',
        None,
        'needs the package PyTurboJPEG, which is not installed. Install it, or set',
    ),
    ('turbojpeg', SimpleNamespace(), "works only after mmcv.use_backend('turbojpeg')."),
]


@pytest.mark.parametrize(('backend', 'found', 'said'), READERS)
@pytest.mark.parametrize('role', ['image', 'mask'])
def test_a_decoder_that_is_not_there(
    root: Path, monkeypatch: pytest.MonkeyPatch, backend: str, found: Any, said: str, role: str
) -> None:
    monkeypatch.setattr(mmcv.image.io, 'tifffile', None)
    monkeypatch.setattr(mmcv.image.io, 'jpeg', None)
    monkeypatch.setattr(importlib.util, 'find_spec', lambda name: found)
    pipeline = [dict(transform) for transform in LOAD]
    pipeline[role == 'mask']['imdecode_backend'] = backend
    text = message(root, pipeline=pipeline)
    assert f'train data: {role} ' in text
    assert f'1.{dict(image="jpg", mask="png")[role]} cannot be read: imdecode_backend=' in text
    assert f'imdecode_backend={backend!r} {said}' in text
    assert 'anew' not in text


def test_what_else_is_not_there(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def lacks_codec(content: Any) -> Any:
        raise ValueError("<COMPRESSION.LZW: 5> requires the 'imagecodecs' package")

    def lacks_module(content: Any) -> Any:
        raise ImportError('Please install petrel_client to enable PetrelBackend.')

    for fails, said in (
        (lacks_codec, 'cannot be read: the package imagecodecs is not installed. Install it'),
        (lacks_module, 'cannot be read: Please install petrel_client to enable'),
    ):
        monkeypatch.setattr(mmcv.image.io, 'tifffile', SimpleNamespace(imread=fails))
        pipeline = [dict(type='LoadImageFromFile', imdecode_backend='tifffile'), LOAD[1]]
        assert said in message(root, pipeline=pipeline)
    text = message(
        root, pipeline=[dict(type='LoadImageFromFile', imdecode_backend='tiff'), LOAD[1]]
    )
    assert 'cannot be read: backend: tiff is not supported. Supported backends are' in text
    assert text.endswith(f'{KINDS["reader"].mend} {SEE_ALL}')


def test_a_torn_file_is_no_missing_decoder(root: Path) -> None:
    spoil(root, 'train', '1', ERRORS['mask is text'][1])
    pipeline = [LOAD[0], dict(type='LoadAnnotations', imdecode_backend='cv2')]
    text = message(root, pipeline=pipeline)
    assert f'{KINDS["unreadable"].mend} {SEE_ALL}' in text


def test_labels_that_a_head_does_not_take(root: Path) -> None:
    dataset = DATASETS.build(config(root))
    check_loading(dataset, 'train', 5, 3, heads=(Head('decode_head', 5),))
    assert dataset[0]
    dataset = DATASETS.build(config(root))
    check_loading(dataset, 'train', 5, 3, heads=(Head('decode_head', 5, 0),))
    with pytest.raises(DatasetError, match=r'value 255, which the data set ignores .*decode_head'):
        dataset[0]
