"""Scores that were kept for whole images, and where they lie after an image was changed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from mmcv.transforms import Compose
from PIL import Image

from mmseg_kd.datasets import stored_scores
from mmseg_kd.errors import ConfigError, DatasetError

HEIGHT, WIDTH = 96, 128


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """An image whose colours say where each pixel is, and scores that say the same."""
    y, x = np.mgrid[:HEIGHT, :WIDTH].astype(np.float32) + 0.5
    ramp = np.stack([x / WIDTH, y / HEIGHT, np.full_like(x, 0.5)])
    Image.fromarray((ramp.transpose(1, 2, 0) * 255).round().astype(np.uint8)).save(
        tmp_path / 'a.png'
    )
    Image.new('L', (WIDTH, HEIGHT)).save(tmp_path / 'mask.png')
    kept = tmp_path / 'scores'
    kept.mkdir()
    np.save(kept / 'a.npy', stored_scores.to_stride(torch.from_numpy(ramp), 4))
    about = dict(stride=4, sha256='0123', images=str(tmp_path))
    (kept / stored_scores.SETTINGS).write_text(json.dumps(about), encoding='utf-8')
    return tmp_path


def run(root: Path, *between: dict[str, Any], track: bool = True, **pack: Any) -> Any:
    np.random.seed(4)
    steps = [dict(type='LoadImageFromFile'), dict(type='LoadAnnotations')]
    steps += [dict(type='TrackPixels')] if track else []
    given: dict[str, Any] = dict(folder=str(root / 'scores')) | pack
    pipeline = Compose([*steps, *between, dict(type='PackStoredScores', **given)])
    image, mask = str(root / 'a.png'), str(root / 'mask.png')
    return pipeline(dict(img_path=image, seg_map_path=mask, seg_fields=[], reduce_zero_label=False))


FLIP = dict(type='RandomFlip', prob=1.0)
CROP = dict(type='RandomCrop', crop_size=(48, 64))


@pytest.mark.parametrize(
    'between',
    [
        [],
        [FLIP],
        [dict(type='RandomFlip', prob=1.0, direction='vertical')],
        [CROP],
        [dict(type='Resize', scale=(256, 192))],
        [dict(type='Resize', scale=(64, 48))],
        [
            dict(
                type='RandomResize', scale=(WIDTH, HEIGHT), ratio_range=(0.5, 2.0), keep_ratio=True
            ),
            CROP,
            FLIP,
        ],
        [dict(type='RandomRotate', prob=1.0, degree=(20, 20)), CROP],
    ],
)
@pytest.mark.parametrize('stride', [2, 4, 5])
def test_scores_go_where_the_pixels_go(
    folder: Path, between: list[dict[str, Any]], stride: int
) -> None:
    packed = run(folder, *between, stride=stride)
    scores = packed['data_samples'].teacher_scores.data.float()
    picture = packed['inputs'].flip(0).float() / 255  # RGB, as the ramp
    height, width = picture.shape[-2:]
    assert scores.shape == (3, -(-height // stride), -(-width // stride))
    border = (0, -width % stride, 0, -height % stride)
    seen = F.avg_pool2d(F.pad(picture, border, mode='replicate'), stride)
    # What was turned in from outside is black.
    inside = seen[2] > 0.49
    assert inside.float().mean() > 0.7
    torch.testing.assert_close(scores[:, inside], seen[:, inside], rtol=0, atol=0.025)


@pytest.mark.parametrize(
    'turn',
    [
        dict(type='RandomRotate', prob=1.0, degree=(45, 45)),
        dict(type='RandomRotate', prob=1.0, degree=(45, 45), seg_pad_val=0),
        dict(type='RandomRotate', prob=1.0, degree=(45, 45), seg_pad_val=1),
        dict(type='RandomRotFlip', rotate_prob=1.0, flip_prob=0.0, degree=(45, 45)),
    ],
)
def test_what_is_turned_in_has_the_least_of_each_score(folder: Path, turn: dict[str, Any]) -> None:
    scores = run(folder, turn)['data_samples'].teacher_scores.data
    least = np.load(folder / 'scores' / 'a.npy').min((1, 2))
    corners = scores[:, [0, 0, -1, -1], [0, -1, 0, -1]].numpy()
    assert (corners == least[:, None]).all()
    middle = scores[:2, 10:14, 14:18].float()
    torch.testing.assert_close(middle, torch.full_like(middle, 0.5), rtol=0, atol=0.1)


def test_the_edge_of_an_image_is_no_mean_with_nothing(folder: Path) -> None:
    scores = run(folder, stride=1)['data_samples'].teacher_scores.data
    assert scores[2].min() == scores[2].max() == 0.5


def test_what_is_wrong_is_said(folder: Path) -> None:
    with pytest.raises(ConfigError, match="'TrackPixels'"):
        run(folder, track=False)
    with pytest.raises(ConfigError, match='right behind LoadAnnotations'):
        run(folder, CROP, dict(type='TrackPixels'), track=False)
    with pytest.raises(ConfigError, match='right behind LoadAnnotations'):
        run(folder, FLIP, dict(type='TrackPixels'), track=False)
    with pytest.raises(ConfigError, match='such as Pad'):
        run(folder, dict(type='Pad', size=(120, 160)))
    with pytest.raises(ConfigError, match='do not know of swap_seg_labels'):
        run(folder, {**FLIP, 'swap_seg_labels': [(0, 1)]})
    run(folder, dict(type='RandomFlip', prob=0.0, swap_seg_labels=[(0, 1)]))
    with pytest.raises(ConfigError, match='expected a whole number stride >= 1, got 0'):
        run(folder, stride=0)
    with pytest.raises(ConfigError, match='expected a folder of scores; write it with mmseg-kd'):
        run(folder, folder=str(folder))


def test_files_that_are_no_scores_of_the_image(folder: Path) -> None:
    file = folder / 'scores' / 'a.npy'
    scores = np.load(file)
    for broken in (b'', b'PK', b'\x93NUMPY', file.read_bytes()[:-1]):
        file.write_bytes(broken)
        with pytest.raises(DatasetError, match='cannot be read'):
            run(folder)
    for other in (scores[:, 1:], scores[0]):
        np.save(file, other)
        with pytest.raises(DatasetError, match='they are of another image'):
            run(folder)
    file.unlink()
    with pytest.raises(DatasetError, match='is missing; write what is missing with mmseg-kd'):
        run(folder)
    about = folder / 'scores' / stored_scores.SETTINGS
    for text in ('{"min_confidence": 0.9, "sha256": "0123"}', '[]'):
        about.write_text(text, encoding='utf-8')
        with pytest.raises(ConfigError, match='has no scores; write them'):
            run(folder)


def test_images_are_known_by_their_place_in_the_folder(folder: Path) -> None:
    (folder / 'city').mkdir()
    moved = folder.rename(folder.with_name('moved'))
    with pytest.raises(DatasetError, match='has scores of images in'):
        run(moved)
    run(moved, images=str(moved))
    pack = stored_scores.PackStoredScores(str(moved / 'scores'), images=str(moved))
    assert pack.file_of(str(moved / 'city' / 'a.png')) == moved / 'scores' / 'city' / 'a.npy'
    images = [str(moved / 'a.png'), str(moved / 'city' / 'a.png')]
    assert list(pack.missing(images)) == [moved / 'scores' / 'city' / 'a.npy']


def test_scores_beyond_half_precision_stay_finite() -> None:
    kept = stored_scores.to_stride(torch.tensor([1e6, -1e6])[:, None, None].expand(2, 8, 8), 4)
    assert np.isfinite(kept).all()
