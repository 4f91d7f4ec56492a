"""The fast metric against mmseg's."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from mmengine.dataset import DefaultSampler
from mmseg.evaluation.metrics import IoUMetric
from mmseg.registry import METRICS
from PIL import Image
from torch import Tensor, distributed
from training_runs import forked_ranks, free_port

from mmseg_kd.evaluation import FastIoUMetric
from mmseg_kd.evaluation.fast_iou_metric import spread_histogram

ALL = ('mIoU', 'mDice', 'mFscore')
RANKS = 2
IMAGES = 5


def random_image(
    classes: int, seed: int = 0, dtype: torch.dtype = torch.int64, size: tuple[int, int] = (37, 53)
) -> tuple[Tensor, Tensor]:
    """A prediction and a label that agree in half of the pixels; a tenth of the labels is 255."""
    generator = torch.Generator().manual_seed(seed)
    label = torch.randint(classes, size, generator=generator)
    other = torch.randint(classes, size, generator=generator)
    chance = torch.rand(size, generator=generator)
    prediction = torch.where(chance < 0.5, label, other)
    label[chance > 0.9] = 255
    return prediction.to(dtype), label.to(dtype)


def sample(prediction: Tensor, label: Tensor, name: str = 'a', **meta: Any) -> dict[str, Any]:
    """One entry of what an evaluator hands to a metric."""
    return dict(
        pred_sem_seg=dict(data=prediction[None]),
        gt_sem_seg=dict(data=label[None]),
        img_path=f'folder/{name}.jpg',
        **meta,
    )


def both(classes: int, **kwargs: Any) -> tuple[IoUMetric, FastIoUMetric]:
    """mmseg's metric and the fast one, for the same classes."""
    metrics = IoUMetric(**kwargs), FastIoUMetric(**kwargs)
    for metric in metrics:
        metric.dataset_meta = dict(classes=[f'class {index}' for index in range(classes)])
    return metrics


def assert_same(samples: list[dict[str, Any]], classes: int, **kwargs: Any) -> dict[str, float]:
    """See that counts and metrics are equal; returns the metrics."""
    theirs, ours = both(classes, iou_metrics=list(ALL), **kwargs)
    for metric in (theirs, ours):
        metric.process({}, samples)
    for expected, found in zip(theirs.results, ours.results, strict=True):
        intersect, _, predicted, annotated = expected
        assert found.shape == (3, classes)
        areas = torch.stack([intersect, predicted, annotated])
        assert torch.equal(areas, found.float())
    expected, found = (metric.evaluate(len(samples)) for metric in (theirs, ours))
    assert expected.keys() == found.keys()
    for key, value in expected.items():
        np.testing.assert_array_equal(found[key], value, err_msg=key, strict=True)
    result: dict[str, float] = found
    return result


@pytest.fixture(params=[False, True], ids=['', 'as on a GPU'])
def any_device(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """A test on this CPU, and once more in a GPU's way."""
    if request.param:
        monkeypatch.setattr(Tensor, 'is_cuda', True, raising=False)


def test_it_is_registered_and_takes_the_same_arguments() -> None:
    arguments = dict(
        ignore_index=7, iou_metrics=['mDice'], nan_to_num=-1, beta=2, collect_device='gpu'
    )
    theirs, ours = (
        METRICS.build(dict(type=kind, prefix='x', format_only=True, **arguments))
        for kind in ('IoUMetric', 'FastIoUMetric')
    )
    assert isinstance(ours, FastIoUMetric)
    assert vars(theirs) == vars(ours)
    assert ours.beta == 2


@pytest.mark.usefixtures('any_device')
@pytest.mark.parametrize('dtype', [torch.int64, torch.int32, torch.uint8, torch.float32])
@pytest.mark.parametrize('classes', [2, 5, 19, 150])
def test_counts_and_metrics_are_mmsegs(classes: int, dtype: torch.dtype) -> None:
    samples = [sample(*random_image(classes, seed, dtype)) for seed in range(3)]
    found = assert_same(samples, classes)
    assert set(found) == {
        *('aAcc', 'mIoU', 'mAcc', 'mDice', 'mFscore', 'mPrecision', 'mRecall'),
    }
    assert 30 < found['aAcc'] < 90


@pytest.mark.usefixtures('any_device')
def test_more_classes_than_a_byte_holds() -> None:
    prediction, label = random_image(847)
    assert label.max() > 255
    assert_same([sample(prediction, label)], 847, ignore_index=255)


@pytest.mark.usefixtures('any_device')
@pytest.mark.parametrize('ignore_index', [255, 0, 3, -1, 1000])
def test_any_index_may_be_ignored(ignore_index: int) -> None:
    prediction, label = random_image(5)
    label[:4] = ignore_index
    assert_same([sample(prediction, label)], 5, ignore_index=ignore_index)


@pytest.mark.usefixtures('any_device')
def test_values_that_are_no_class() -> None:
    prediction, label = random_image(5)
    label[0], label[1], label[2] = 5, 254, -3
    prediction[3], prediction[4], prediction[5, :9] = 5, -1, 600
    assert_same([sample(prediction, label)], 5)


def test_the_arguments_stay_as_they_are() -> None:
    prediction, label = random_image(5, dtype=torch.int32)
    prediction[0] = -7
    before = prediction.clone(), label.clone()
    FastIoUMetric.intersect_and_union(prediction, label, 5, 255)
    assert torch.equal(prediction, before[0])
    assert torch.equal(label, before[1])


@pytest.mark.parametrize('minlength', [1, 9, 5000, 2**20 + 1])
def test_a_histogram_of_many_counters(minlength: int) -> None:
    values = torch.randint(min(minlength, 40), (3001,), dtype=torch.int32)
    found = spread_histogram(values, minlength)
    assert found.dtype == torch.int64
    assert torch.equal(found, torch.bincount(values, minlength=minlength))


@pytest.mark.filterwarnings('ignore:Mean of empty slice:RuntimeWarning')
@pytest.mark.parametrize('nan_to_num', [None, 0])
def test_absent_classes_and_images_without_labels(nan_to_num: int | None) -> None:
    prediction, label = random_image(3)
    blank = torch.full_like(label, 255)
    samples = [sample(prediction, label), sample(prediction, blank)]
    assert_same(samples, 7, nan_to_num=nan_to_num)
    assert_same(samples[1:], 7, nan_to_num=nan_to_num)
    assert_same([sample(torch.full_like(prediction, 6), label)], 7, nan_to_num=nan_to_num)


def test_one_row_of_pixels() -> None:
    assert_same([sample(*random_image(5, size=(1, 40)))], 5)


def test_padding_samples_are_not_counted() -> None:
    samples = [sample(*random_image(5, seed)) for seed in range(4)]
    theirs, ours = both(5)
    for metric in (theirs, ours):
        metric.process({}, samples)
    assert theirs.evaluate(3) == ours.evaluate(3)
    for metric in (theirs, ours):
        metric.process({}, samples)
    assert ours.evaluate(4) != theirs.evaluate(3)


def test_sums_beyond_float32_are_exact() -> None:
    """mmseg adds up in float32: one more is lost from 2^24 on."""
    _, ours = both(2)
    large = torch.tensor([[2**24, 0], [2**24, 0], [2**24, 0]], dtype=torch.int32)
    one = torch.tensor([[1, 0], [1, 0], [1, 1]], dtype=torch.int32)
    seen = []
    ours.total_area_to_metrics = lambda *areas: (
        seen.append(areas[:4])
        or {  # type: ignore[func-returns-value]
            'aAcc': np.array(0.0)
        }
    )
    ours.results = [large, *[one] * 3]
    ours.evaluate(4)
    [areas] = seen
    assert [area.tolist() for area in areas] == [
        [2**24 + 3, 0],
        [2**24 + 3, 3],
        [2**24 + 3, 0],
        [2**24 + 3, 3],
    ]


def test_entries_are_small() -> None:
    _, ours = both(150)
    ours.process({}, [sample(*random_image(150, size=(512, 512)))])
    [entry] = ours.results
    assert entry.untyped_storage().nbytes() == 3 * 150 * 4


@pytest.mark.parametrize('reduce_zero_label', [False, True])
@pytest.mark.parametrize('format_only', [False, True])
def test_masks_are_mmsegs(tmp_path: Path, reduce_zero_label: bool, format_only: bool) -> None:
    samples = [
        sample(*random_image(5, seed), name=f'image{seed}', reduce_zero_label=reduce_zero_label)
        for seed in range(2)
    ]
    masks = []
    for kind in (IoUMetric, FastIoUMetric):
        folder = tmp_path / kind.__name__
        metric = kind(output_dir=str(folder), format_only=format_only)
        metric.dataset_meta = dict(classes='abcde')
        metric.process({}, samples)
        metrics = metric.evaluate(2)
        assert bool(metrics) != format_only
        masks.append({path.name: np.asarray(Image.open(path)) for path in folder.iterdir()})
    theirs, ours = masks
    assert theirs.keys() == ours.keys() == {'image0.png', 'image1.png'}
    for name, mask in theirs.items():
        np.testing.assert_array_equal(ours[name], mask, strict=True)
        assert mask.min() == reduce_zero_label


def run_rank(rank: int, port: int, folder: str) -> None:
    """What each process does: the sampler's images, both metrics, both ways to collect."""
    os.chdir(folder)  # results are exchanged through a folder in the current one
    distributed.init_process_group(
        'gloo', init_method=f'tcp://127.0.0.1:{port}', rank=rank, world_size=RANKS
    )
    indices = list(DefaultSampler(range(IMAGES), shuffle=False))
    assert len(indices) == 3
    found = []
    for collect_device in ('cpu', 'gpu'):
        for metric in both(5, iou_metrics=list(ALL), collect_device=collect_device):
            for index in indices:
                metric.process({}, [sample(*random_image(5, index))])
            found.append(metric.evaluate(IMAGES))
    torch.save(found, Path(folder) / f'{rank}.pth')
    distributed.destroy_process_group()


@pytest.mark.slow
def test_two_ranks_and_an_odd_number_of_images(tmp_path: Path) -> None:
    expected = assert_same([sample(*random_image(5, seed)) for seed in range(IMAGES)], 5)
    twice = [sample(*random_image(5, seed)) for seed in (*range(IMAGES), 0)]
    assert assert_same(twice, 5) != expected
    with forked_ranks(run_rank, free_port(), str(tmp_path), ranks=RANKS):
        pass
    for rank in range(RANKS):
        found = torch.load(tmp_path / f'{rank}.pth', weights_only=False)
        assert found == [expected] * 4
