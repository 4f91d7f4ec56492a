"""The toy scenes: the same for the same seed, whole or not there, and read by mmseg."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from mmseg.registry import DATASETS
from PIL import Image

from mmseg_kd.cli.generate_toy_scenes import main
from mmseg_kd.datasets.toy_scenes import dataset as toy_scenes
from mmseg_kd.datasets.toy_scenes.dataset import (
    CLASSES,
    PALETTE,
    ToyScenesDataset,
    draw_scene,
    generate,
)

SIZE = (48, 64)


def read(root: Path, kind: str, split: str) -> dict[str, np.ndarray]:
    """All pictures of a folder by name."""
    files = sorted((root / kind / split).iterdir())
    return {file.name: np.asarray(Image.open(file)) for file in files}


def test_same_state_draws_the_same() -> None:
    first = draw_scene(np.random.default_rng(3), SIZE)
    again = draw_scene(np.random.default_rng(3), SIZE)
    other = draw_scene(np.random.default_rng(4), SIZE)
    for a, b, c in zip(first, again, other, strict=True):
        np.testing.assert_array_equal(a, b)
        assert (a != c).any()


@pytest.mark.parametrize('size', [(32, 32), (33, 80), (128, 96)])
def test_shapes(size: tuple[int, int]) -> None:
    image, mask = draw_scene(np.random.default_rng(0), size)
    assert (image.shape, image.dtype) == ((*size, 3), np.uint8)
    assert (mask.shape, mask.dtype) == (size, np.uint8)


def test_every_class_occurs_and_something_is_unlabelled() -> None:
    pictures = np.zeros(13, int)
    for index in range(100):
        _, mask = draw_scene(np.random.default_rng([1, index]), SIZE)
        assert mask.max() <= len(CLASSES)
        assert len(np.unique(mask)) >= 4
        pictures[np.unique(mask)] += 1
    assert pictures.min() >= 10, dict(zip(('unlabelled', *CLASSES), pictures, strict=True))
    assert pictures[0] < 100


def test_labels_lie_on_what_they_name() -> None:
    """The mean colour under each label is that of the thing."""
    colours = np.zeros((13, 3))
    counts = np.zeros(13)
    for index in range(60):
        image, mask = draw_scene(np.random.default_rng([2, index]), SIZE)
        np.add.at(colours, mask, image)
        np.add.at(counts, mask, 1)
    red, green, blue = (colours / counts[:, None]).T
    sky, grass, tree = (1 + CLASSES.index(name) for name in ('sky', 'grass', 'tree'))
    assert blue[sky] > green[sky] > red[sky]
    assert green[grass] > blue[grass] + 10
    assert green[tree] > blue[tree] + 10
    assert (red + green + blue)[sky] > (red + green + blue)[tree]


def test_colours_of_the_palette_are_apart() -> None:
    colours = np.asarray([[0, 0, 0], *PALETTE])
    assert len(PALETTE) == len(CLASSES) == 12
    apart = np.abs(colours[:, None] - colours[None]).sum(-1) + 1000 * np.eye(13)
    assert apart.min() > 80


def test_more_pictures_begin_with_the_same(tmp_path: Path) -> None:
    generate(tmp_path / 'few', train=2, val=1, size=SIZE, seed=7)
    generate(tmp_path / 'many', train=4, val=3, size=SIZE, seed=7)
    generate(tmp_path / 'other', train=2, val=1, size=SIZE, seed=8)
    for split in ('training', 'validation'):
        for kind in ('images', 'annotations'):
            few, many, other = (
                read(tmp_path / name, kind, split) for name in ('few', 'many', 'other')
            )
            assert len(few) < len(many)
            for name, picture in few.items():
                np.testing.assert_array_equal(picture, many[name])
                assert (picture != other[name]).any()
    folders = [tmp_path / 'many' / 'annotations' / split for split in ('training', 'validation')]
    masks = {file.read_bytes() for folder in folders for file in folder.iterdir()}
    assert len(masks) == 7  # also the splits differ
    name = 'annotations/training/00001.png'
    assert (tmp_path / 'few' / name).read_bytes() == (tmp_path / 'many' / name).read_bytes()


def test_files_hold_what_is_drawn(tmp_path: Path) -> None:
    root = tmp_path / 'toy'
    generate(root, train=0, val=2, size=SIZE, seed=5)
    image, mask = draw_scene(np.random.default_rng([5, 1, 1]), SIZE)
    stored = Image.open(root / 'annotations/validation/00001.png')
    assert stored.mode == 'P'
    assert stored.getpalette()[:39] == [0, 0, 0, *np.ravel(PALETTE)]
    np.testing.assert_array_equal(np.asarray(stored), mask)
    jpeg = np.asarray(Image.open(root / 'images/validation/00001.jpg'), int)
    assert np.abs(jpeg - image).mean() < 8


def test_mmseg_reads_it(tmp_path: Path) -> None:
    generate(tmp_path / 'toy', train=3, val=0, size=SIZE)
    dataset = DATASETS.build(
        dict(
            type='ToyScenesDataset',
            data_root=str(tmp_path / 'toy'),
            data_prefix=dict(img_path='images/training', seg_map_path='annotations/training'),
            pipeline=[dict(type='LoadImageFromFile'), dict(type='LoadAnnotations')],
        )
    )
    assert isinstance(dataset, ToyScenesDataset)
    assert dataset.metainfo['classes'] == CLASSES
    assert dataset.metainfo['palette'] == PALETTE
    assert len(dataset) == 3
    for index in range(3):
        image, mask = draw_scene(np.random.default_rng([0, 0, index]), SIZE)
        sample = dataset[index]
        expected = np.where(mask == 0, 255, mask.astype(int) - 1)
        np.testing.assert_array_equal(sample['gt_seg_map'], expected)
        assert np.abs(sample['img'][..., ::-1].astype(int) - image).mean() < 8


def test_the_same_set_is_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    generate(tmp_path / 'toy', train=1, val=1, size=SIZE)
    monkeypatch.setattr(toy_scenes, 'draw_scene', None)
    generate(tmp_path / 'toy', train=1, val=1, size=SIZE)


@pytest.mark.parametrize(
    'change', [dict(train=2), dict(val=0), dict(size=(64, 48)), dict(seed=1)], ids=str
)
def test_another_set_is_refused(tmp_path: Path, change: dict[str, object]) -> None:
    root = tmp_path / 'toy'
    generate(root, **dict(train=1, val=1, size=SIZE))
    with pytest.raises(ValueError, match='delete it or choose another root'):
        generate(root, **(dict(train=1, val=1, size=SIZE) | change))
    assert len(read(root, 'images', 'training')) == 1


def test_foreign_files_are_refused_and_kept(tmp_path: Path) -> None:
    (tmp_path / 'notes.txt').write_text('mine')
    with pytest.raises(ValueError, match='no complete toy data set'):
        generate(tmp_path, train=1, val=1, size=SIZE)
    with pytest.raises(ValueError, match='no complete toy data set'):
        generate(tmp_path / 'notes.txt', train=1, val=1, size=SIZE)
    assert [path.name for path in tmp_path.iterdir()] == ['notes.txt']


def test_an_empty_folder_is_filled(tmp_path: Path) -> None:
    generate(tmp_path, train=1, val=0, size=SIZE)
    assert len(read(tmp_path, 'images', 'training')) == 1


@pytest.mark.parametrize('error', [KeyboardInterrupt, OSError])
def test_interrupted_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: type[BaseException]
) -> None:
    drawn = []

    def stop_at_the_third(rng: np.random.Generator, size: tuple[int, int]) -> object:
        drawn.append(size)
        if len(drawn) == 3:
            raise error
        return draw_scene(rng, size)

    with monkeypatch.context() as patch:
        patch.setattr(toy_scenes, 'draw_scene', stop_at_the_third)
        with pytest.raises(error):
            generate(tmp_path / 'toy', train=4, val=1, size=SIZE)
    assert len(drawn) == 3
    assert list(tmp_path.iterdir()) == []
    generate(tmp_path / 'toy', train=4, val=1, size=SIZE)
    assert len(read(tmp_path / 'toy', 'images', 'training')) == 4


def test_another_process_was_faster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = tmp_path / 'toy'

    def overtaken(rng: np.random.Generator, size: tuple[int, int]) -> object:
        monkeypatch.undo()
        with monkeypatch.context() as other_process:
            other_process.setattr(toy_scenes.os, 'getpid', lambda: -1)
            generate(root, train=1, val=0, size=SIZE)
        return draw_scene(rng, size)

    monkeypatch.setattr(toy_scenes, 'draw_scene', overtaken)
    generate(root, train=1, val=0, size=SIZE)
    assert len(read(root, 'images', 'training')) == 1
    assert [path.name for path in tmp_path.iterdir()] == ['toy']


@pytest.mark.parametrize(
    'wrong', [dict(train=-1), dict(val=-1), dict(seed=-1), dict(size=(31, 64))]
)
def test_numbers_out_of_range(tmp_path: Path, wrong: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r'-1|\(31, 64\)'):
        generate(tmp_path / 'toy', **(dict(train=1, val=1, size=SIZE) | wrong))
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_made(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = tmp_path / 'file/scenes'
    root.parent.touch()
    assert main([str(root), '--train', '1', '--val', '1']) == 1
    assert f'error: {root}: cannot be written to' in capsys.readouterr().err
