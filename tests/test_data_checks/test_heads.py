"""What heads make of masks."""

from __future__ import annotations

from typing import Any

import pytest
from builders import build, fcn_head, ocr_cascade, resnet
from mmseg.models.decode_heads import FCNHead
from mmseg.registry import MODELS
from torch import nn

from mmseg_kd.data_checks.heads import Head, check_heads, heads_of
from mmseg_kd.errors import ConfigError, ManyErrors

SIGMOID = dict(type='CrossEntropyLoss', use_sigmoid=True)


def test_heads_of_a_network() -> None:
    auxiliary = [fcn_head(4, 0, 7, ignore_index=3), fcn_head(4, 0)]
    assert heads_of(build(resnet(auxiliary_head=auxiliary))) == (
        Head('decode_head', 5, 255, 5),
        Head('auxiliary_head.0', 7, 3, 7),
        Head('auxiliary_head.1', 5, 255, 5),
    )
    one = heads_of(build(resnet(auxiliary_head=fcn_head(4, 0, 7))))
    assert [head.name for head in one] == ['decode_head', 'auxiliary_head']
    assert [head.name for head in heads_of(build(ocr_cascade()))] == [
        'decode_head.0',
        'decode_head.1',
    ]
    assert heads_of(nn.Conv2d(3, 5, 1)) == ()


def test_a_head_that_makes_its_own_labels_is_none_of_them() -> None:
    boundary = {**fcn_head(4, 0, 2), 'type': 'STDCHead', 'boundary_threshold': 0.1}
    assert len(heads_of(build(resnet(auxiliary_head=boundary)))) == 1

    @MODELS.register_module(force=True)
    class EdgesOfMyOwn(FCNHead):
        def loss_by_feat(self, *args: Any) -> Any:
            return super().loss_by_feat(*args)

    own = {**fcn_head(4, 0, 2), 'type': 'EdgesOfMyOwn'}
    assert len(heads_of(build(resnet(auxiliary_head=own)))) == 1


def test_a_loss_that_is_not_told_what_its_head_ignores() -> None:
    loss = dict(type='OhemCrossEntropy', ignore_label=0)
    network = build(resnet(decode_head=fcn_head(8, 1, loss_decode=[loss])))
    assert str(heads_of(network)[1]) == (
        'decode_head.loss_decode.0 (num_classes=5, ignore_label=0)'
    )


def test_labels_that_a_head_takes() -> None:
    head = Head('decode_head', 5, 100)
    assert [label for label in (-1, 0, 4, 5, 100, 255) if head.takes(label)] == [0, 4, 100]
    assert not Head('decode_head', 5, None).takes(255)
    binary = heads_of(
        build(resnet(decode_head=fcn_head(8, 1, 2, out_channels=1, loss_decode=SIGMOID)))
    )
    assert [label for label in (0, 1, 2) if binary[0].takes(label)] == [0, 1]


@pytest.mark.parametrize(
    'loss',
    [
        dict(type='CrossEntropyLoss'),
        dict(type='OhemCrossEntropy'),
        dict(type='TverskyLoss'),
        dict(type='LovaszLoss', reduction='none'),
        [dict(type='DiceLoss'), dict(type='CrossEntropyLoss')],
    ],
)
def test_a_softmax_over_one_channel_is_refused(loss: Any) -> None:
    network = build(resnet(decode_head=fcn_head(8, 1, 1, loss_decode=loss)))
    with pytest.raises(ConfigError) as caught:
        check_heads(network, 'student')
    place = 'loss_decode.1' if isinstance(loss, list) else 'loss_decode'
    kind = (loss[1] if isinstance(loss, list) else loss)['type']
    assert str(caught.value) == (
        f'student: decode_head.{place}: {kind} is a softmax over the classes, and over one channel '
        'of scores it is 1 whatever the head says, so that nothing is learnt. Background is a '
        'class: set num_classes=2; or num_classes=2 and out_channels=1 with '
        "dict(type='CrossEntropyLoss', use_sigmoid=True)."
    )


@pytest.mark.parametrize(
    'loss',
    [
        SIGMOID,
        dict(type='DiceLoss'),
        dict(type='DiceLoss', use_sigmoid=False),
        dict(type='LovaszLoss', loss_type='binary', reduction='none'),
    ],
)
def test_one_channel_of_scores_is_good_for_other_losses(loss: Any) -> None:
    head = fcn_head(8, 1, 2, out_channels=1, loss_decode=loss)
    check_heads(build(resnet(decode_head=head)), 'student')
    check_heads(build(resnet()), 'student')


def test_all_heads_with_such_a_loss_are_named() -> None:
    network = build(resnet(classes=1, auxiliary_head=fcn_head(4, 0, 1)))
    with pytest.raises(ManyErrors, match=r'decode_head\.loss.*\n.*auxiliary_head\.loss'):
        check_heads(network, 'model')
