"""The student's own loss in pieces against mmseg's."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from builders import batch, build, fcn_head, gradients, ocr_cascade, resnet, same_tensors
from conftest import value_and_gradient
from mmseg.models.decode_heads import FCNHead
from mmseg.models.losses import CrossEntropyLoss, accuracy
from mmseg.registry import MODELS
from torch import Tensor

from mmseg_kd.distillation.task_loss import FusedCrossEntropyLoss, fuse_task_loss
from mmseg_kd.losses.cross_entropy import cross_entropy_sums
from mmseg_kd.losses.kernels import piecewise

CLASSES = 5
WEIGHTS = [0.5, 2.0, 1.0, 0.0, 3.0]


def random_scores(size: tuple[int, int] = (4, 6)) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(2, CLASSES, *size, generator=generator, dtype=torch.float64) * 4


def random_labels(size: tuple[int, int] = (9, 13), ignored: float = 0.3) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    label = torch.randint(0, CLASSES, (2, *size), generator=generator)
    return label.masked_fill(torch.rand(2, *size, generator=generator) < ignored, 255)


@pytest.fixture(params=[2**19, 60], ids=['one piece', 'pieces'])
def piece(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(piecewise, 'PIECE_CPU', request.param)
    monkeypatch.setattr(piecewise, 'COLUMNS', 4)


@pytest.mark.usefixtures('piece')
@pytest.mark.parametrize('align_corners', [False, True])
@pytest.mark.parametrize('class_weight', [None, WEIGHTS])
def test_sums_and_gradient(class_weight: list[float] | None, align_corners: bool) -> None:
    scores, label = random_scores(), random_labels()
    weight = None if class_weight is None else torch.tensor(class_weight, dtype=torch.float64)
    size = (9, 13)

    def resized(scores: Tensor) -> Tensor:
        return F.interpolate(scores, size, mode='bilinear', align_corners=align_corners)

    torch.testing.assert_close(
        value_and_gradient(
            lambda x: cross_entropy_sums(x, label, weight, 255, align_corners)[0], scores
        ),
        value_and_gradient(
            lambda x: F.cross_entropy(resized(x), label, weight, reduction='sum', ignore_index=255),
            scores,
        ),
        rtol=1e-9,
        atol=1e-12,
    )
    _, correct = cross_entropy_sums(scores, label, weight, 255, align_corners)
    assert correct == (resized(scores).argmax(1) == label).sum()


@pytest.mark.parametrize('ignored', [0.0, 0.3, 1.1])
@pytest.mark.parametrize(
    'options',
    [
        dict(),
        dict(avg_non_ignore=True),
        dict(class_weight=WEIGHTS, loss_weight=0.4),
    ],
)
def test_the_registered_loss_is_that_of_mmseg(options: dict[str, Any], ignored: float) -> None:
    scores, label = random_scores((9, 13)), random_labels(ignored=ignored)
    fused = MODELS.build(dict(type='FusedCrossEntropyLoss', **options))
    plain = CrossEntropyLoss(**options)
    torch.testing.assert_close(
        value_and_gradient(lambda x: fused(x, label, ignore_index=255), scores),
        value_and_gradient(lambda x: plain(x, label, ignore_index=255), scores),
        rtol=1e-9,
        atol=1e-12,
    )
    # And from scores of their own size.
    small = random_scores()
    expected = plain(F.interpolate(small, (9, 13), mode='bilinear'), label, ignore_index=255)
    torch.testing.assert_close(fused(small, label, ignore_index=255), expected)


def test_what_it_leaves_to_mmseg() -> None:
    scores, label = random_scores((9, 13)), random_labels()
    fused, plain = FusedCrossEntropyLoss(), CrossEntropyLoss()
    weight = torch.rand(label.shape)
    for options in (dict(weight=weight), dict(reduction_override='none'), dict(avg_factor=7.0)):
        torch.testing.assert_close(
            fused(scores, label, ignore_index=255, **options),
            plain(scores, label, ignore_index=255, **options),
        )


@pytest.mark.parametrize(
    'option', [dict(use_sigmoid=True), dict(use_mask=True), dict(reduction='sum')]
)
def test_other_losses_are_refused(option: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match='take CrossEntropyLoss'):
        FusedCrossEntropyLoss(**option)


def test_half_precision_is_computed_in_float32() -> None:
    scores, label = random_scores().half(), random_labels()
    exact, _ = cross_entropy_sums(scores.double(), label)
    with torch.autocast('cpu', dtype=torch.bfloat16):
        value, gradient = value_and_gradient(lambda x: cross_entropy_sums(x, label)[0], scores)
    assert value.dtype == torch.float32
    torch.testing.assert_close(value, exact.float(), rtol=1e-5, atol=0)
    assert gradient.dtype == torch.float16


def test_scores_at_ignored_pixels_change_nothing() -> None:
    scores, label = random_scores((9, 13)), random_labels()
    ignored = (label == 255)[:, None].expand_as(scores)
    expected = value_and_gradient(lambda x: cross_entropy_sums(x, label)[0], scores)
    for fill in (1e30, torch.inf, torch.nan):
        found = value_and_gradient(
            lambda x: cross_entropy_sums(x, label)[0], scores.masked_fill(ignored, fill)
        )
        torch.testing.assert_close(found, expected)


def test_a_score_that_is_not_finite_is_never_a_finite_loss() -> None:
    scores, label = random_scores((9, 13)), random_labels(ignored=0)
    for fill in (torch.inf, torch.nan):
        scores[0, 2, 3, 3] = fill
        assert not cross_entropy_sums(scores, label)[0].isfinite()


# In the heads of a network.


@pytest.mark.parametrize(
    'network',
    [
        resnet(4, dropout=0),
        resnet(4, dropout=0, auxiliary_head=fcn_head(4, 0, dropout_ratio=0)),
        resnet(
            4,
            decode_head=fcn_head(
                8,
                1,
                dropout_ratio=0,
                align_corners=True,
                loss_decode=[
                    dict(type='CrossEntropyLoss', loss_name='loss_a', class_weight=[1, 2, 3, 4, 5]),
                    dict(type='CrossEntropyLoss', loss_name='loss_a', loss_weight=0.3),
                ],
            ),
        ),
    ],
)
def test_a_network_trains_as_before(network: dict[str, Any]) -> None:
    plain, fused = (build(network).double() for _ in range(2))
    assert fuse_task_loss(fused) == [
        name for name, head in plain.named_modules() if isinstance(head, FCNHead)
    ]
    logs = []
    for one in (plain, fused):
        data = one.data_preprocessor(batch(blank=0.2), training=True)
        one.train()
        logs.append(one.loss(data['inputs'].double(), data['data_samples']))
    assert logs[0].keys() == logs[1].keys()
    for key, value in logs[0].items():
        torch.testing.assert_close(logs[1][key], value, check_dtype=False, rtol=1e-6, atol=1e-6)
        assert logs[1][key].shape == value.shape
    plain.load_state_dict(fused.state_dict())
    expected = gradients(plain, blank=0.2)
    for name, gradient in gradients(fused, blank=0.2).items():
        torch.testing.assert_close(gradient, expected[name], rtol=1e-6, atol=1e-8)


def test_what_cannot_be_fused_stays_as_it_is() -> None:
    sampler = dict(type='OHEMPixelSampler', thresh=0.7, min_kept=10)
    dice = [dict(type='CrossEntropyLoss'), dict(type='DiceLoss', loss_name='loss_dice')]
    for change in (
        dict(sampler=sampler),
        dict(loss_decode=dice),
        dict(loss_decode=dict(type='CrossEntropyLoss', use_sigmoid=True)),
    ):
        network = build(resnet(4, decode_head=fcn_head(8, 1, **change)))
        before = network.decode_head.loss_by_feat
        assert fuse_task_loss(network) == []
        assert network.decode_head.loss_by_feat == before


def test_every_head_of_a_cascade() -> None:
    assert fuse_task_loss(build(ocr_cascade())) == ['decode_head.0', 'decode_head.1']


def test_accuracy_is_that_of_mmseg() -> None:
    network = build(resnet(4, dropout=0))
    data = network.data_preprocessor(batch(blank=1.1), training=True)
    fuse_task_loss(network)
    log = network.loss(data['inputs'], data['data_samples'])
    label = torch.stack([sample.gt_sem_seg.data[0] for sample in data['data_samples']])
    expected = accuracy(torch.randn(2, CLASSES, *label.shape[1:]), label, ignore_index=255)
    torch.testing.assert_close(log['decode.acc_seg'], expected)


def test_same_state_dict() -> None:
    plain, fused = (build(resnet(4)) for _ in range(2))
    fuse_task_loss(fused)
    assert same_tensors(plain.state_dict(), fused.state_dict())
