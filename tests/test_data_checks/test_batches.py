"""What a preprocessor can make batches of."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from builders import batch, preprocessor
from mmseg.registry import MODELS

from mmseg_kd.data_checks.batches import check_batches, check_preprocessor
from mmseg_kd.data_checks.heads import Head
from mmseg_kd.errors import ConfigError, DatasetError, ManyErrors

BOTH = dict(size=(32, 32), size_divisor=32)
HEADS = (Head('decode_head', 5), Head('auxiliary_head', 5, 100))


class Samples:
    """Random images of these sizes, as a pipeline gives them."""

    def __init__(self, *sizes: tuple[int, int]) -> None:
        self.data = batch(list(sizes))
        self.draws = 0

    def __len__(self) -> int:
        return len(self.data['inputs'])

    def __getitem__(self, index: int) -> dict[str, Any]:
        self.draws += 1
        np.random.rand(), random.random(), torch.rand(1)
        return dict(
            inputs=self.data['inputs'][index], data_samples=self.data['data_samples'][index]
        )


def built(**changes: Any) -> Any:
    return MODELS.build(preprocessor(**changes))


def check(
    samples: Samples,
    batch_size: int = 2,
    split: str = 'train',
    heads: Sequence[Head] = (),
    loader: dict[str, Any] | None = None,
    **changes: Any,
) -> None:
    settings = dict(batch_size=batch_size) | (loader or {})
    check_batches(samples, split, settings, built(**changes), heads)


def fails_in_mmseg(samples: Samples, training: bool = True, **changes: Any) -> bool:
    """Whether mmseg's preprocessor refuses a batch of all samples."""
    data = dict(inputs=list(samples.data['inputs']), data_samples=samples.data['data_samples'])
    try:
        built(**changes)(data, training)
    except (AssertionError, RuntimeError):
        return True
    return False


@pytest.mark.parametrize('sizes', [dict(size=None), BOTH])
def test_one_way_to_pad_is_needed(sizes: dict[str, Any]) -> None:
    got = 'neither' if len(sizes) == 1 else r'size=\(32, 32\) and size_divisor=32'
    with pytest.raises(ConfigError, match=f'data_preprocessor: expected either.*got {got}. Set'):
        check_preprocessor(built(**sizes))
    # Also where nothing is to be padded.
    assert fails_in_mmseg(Samples((32, 32), (32, 32)), **sizes)


def test_one_way_to_pad_in_tests() -> None:
    with pytest.raises(ConfigError, match=r'data_preprocessor\.test_cfg: expected either'):
        check_preprocessor(built(test_cfg=BOTH))
    with pytest.raises(ManyErrors):
        check_preprocessor(built(test_cfg=BOTH, size=None))
    for test_cfg in (None, dict(), dict(size_divisor=32)):
        check_preprocessor(built(test_cfg=test_cfg))


def test_a_preprocessor_of_another_make_is_left_alone() -> None:
    class Own(type(built())):  # type: ignore[misc]
        def forward(self, data: Any, training: bool = False) -> Any:
            return data

    own = Own(size=None)
    check_preprocessor(own)
    check_batches(Samples((40, 40), (64, 64)), 'train', dict(batch_size=2), own, ())


@pytest.mark.parametrize(
    ('sizes', 'changes', 'bad'),
    [
        ([(32, 32), (20, 30)], {}, False),
        ([(32, 32), (40, 32)], {}, True),
        ([(40, 40), (40, 40)], {}, False),
        ([(40, 40), (40, 48)], {}, True),
        ([(40, 20), (40, 30)], {}, False),
        ([(40, 40), (64, 48)], dict(size=None, size_divisor=1), False),
    ],
)
def test_images_larger_than_size(
    sizes: list[tuple[int, int]], changes: dict[str, Any], bad: bool
) -> None:
    assert fails_in_mmseg(Samples(*sizes), **changes) == bad
    check(Samples(*sizes), batch_size=1, **changes)
    check(Samples(*sizes), loader=dict(batch_sampler=dict(type='Own')), **changes)
    if not bad:
        check(Samples(*sizes), **changes)
        return
    message = r'size=\(32, 32\) pads.*larger ones, such as 40x\d\d.*RandomCrop.*size_divisor=1'
    with pytest.raises(ConfigError, match=message):
        check(Samples(*sizes), **changes)


def test_images_of_a_validation() -> None:
    mixed = Samples((32, 32), (40, 32))
    assert fails_in_mmseg(mixed, training=False)
    check(mixed, 1, 'val')
    with pytest.raises(ConfigError, match=r'val data: .* 32x32 and 40x32.*batch_size=1 in val_'):
        check(mixed, 2, 'val')
    # In each batch there is one size.
    check(Samples((32, 32), (32, 32), (40, 32), (40, 32)), 2, 'val')
    check(Samples((40, 40), (40, 40)), 2, 'val')


def test_what_masks_are_padded_with() -> None:
    with pytest.raises(DatasetError) as caught:
        check(Samples((20, 32), (32, 32)), heads=HEADS)
    assert str(caught.value) == (
        'data_preprocessor: masks are padded with seg_pad_val=255, which is neither a class nor '
        'ignored in auxiliary_head (num_classes=5, ignore_index=100). Set seg_pad_val to what the '
        'heads ignore.'
    )
    check(Samples((32, 32), (32, 32)), heads=HEADS)
    check(Samples((20, 32), (32, 32)), heads=HEADS[:1])
    divided = dict(size=None, size_divisor=32)
    with pytest.raises(DatasetError, match='seg_pad_val=255'):
        check(Samples((20, 32), (20, 32)), heads=HEADS, **divided)
    check(Samples((32, 32), (32, 32)), heads=HEADS, **divided)


def test_what_augmentation_puts_into_masks() -> None:
    samples = Samples((32, 32))
    samples.data['data_samples'][0].gt_sem_seg.data[0, 0, 0] = 255
    message = r'hold the value 255 when they come out of the pipeline.*auxiliary_head \('
    with pytest.raises(DatasetError, match=message):
        check(samples, heads=HEADS)
    check(samples, heads=HEADS[:1])


def test_no_random_number_is_used_up() -> None:
    def drawn() -> list[Any]:
        return [np.random.rand(), random.random(), torch.rand(1).item()]

    states = random.getstate(), np.random.get_state(), torch.get_rng_state()
    expected = drawn()
    random.setstate(states[0])
    np.random.set_state(states[1])
    torch.set_rng_state(states[2])
    samples = Samples(*[(32, 32)] * 20)
    check(samples)
    assert samples.draws == 8
    assert drawn() == expected


def test_a_sample_that_cannot_be_read_is_left_to_others() -> None:
    class Torn(Samples):
        def __getitem__(self, index: int) -> Any:
            raise OSError('torn')

    check(Torn((32, 32), (40, 32)))
