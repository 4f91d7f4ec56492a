"""Lean predictions against mmseg's."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from builders import (
    batch,
    build,
    fcn_head,
    ocr_cascade,
    preprocessor,
    resnet,
    save_weights,
    term,
    wrapper_config,
)
from mmengine.model import BaseTTAModel, MMDistributedDataParallel
from mmengine.structures import PixelData
from mmseg.models.segmentors import EncoderDecoder
from mmseg.registry import MODELS
from mmseg.structures import SegDataSample
from torch import Tensor, distributed
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from mmseg_kd.evaluation import lean_prediction as prediction
from mmseg_kd.evaluation import triton_arg_max, use_lean_prediction

# Above `prediction.SMALL`, where mmseg's own way ends.
SIZE = (144, 176)


def network_of(align_corners: bool = False, **changes: Any) -> Any:
    """A small segmentor in eval mode whose scores tell many classes apart."""
    changes.setdefault('data_preprocessor', preprocessor(SIZE))
    model = resnet(4, **changes)
    if isinstance(model['decode_head'], dict):
        model['decode_head']['align_corners'] = align_corners
    network = build(model)
    for name, parameter in network.named_parameters():
        if name.endswith('conv_seg.weight'):
            torch.nn.init.normal_(parameter)
    return network.eval()


class Scores:
    """A network whose head gives scores that are set."""

    def __init__(self, align_corners: bool = False) -> None:
        self.network = network_of(align_corners)
        self.network.extract_feat = lambda inputs: inputs

    def labels(
        self, scores: Tensor, size: tuple[int, int], original: tuple[int, int] | None = None
    ) -> list[Tensor]:
        """mmseg's prediction for an input of `size`, scaled from `original`, and the lean one."""
        self.network.decode_head.forward = lambda inputs: scores
        inputs = torch.zeros(len(scores), 3, *size)
        found = []
        for predict in (EncoderDecoder.predict, prediction.predict):
            meta = dict(img_shape=size, ori_shape=original or size)
            samples = [SegDataSample(metainfo=meta) for _ in scores]
            with torch.no_grad():
                outputs = predict(self.network, inputs, samples)
            found.append(torch.stack([sample.pred_sem_seg.data for sample in outputs]))
            self.has_scores = 'seg_logits' in outputs[0]
        return found


def blobs(classes: int, size: tuple[int, int], images: int = 1, seed: int = 0) -> Tensor:
    """Scores with large regions of a few classes."""
    generator = torch.Generator().manual_seed(seed)
    scores = torch.randn(images, classes, *size, generator=generator) - 15
    coarse = torch.randn(images, min(classes, 4), 3, 4, generator=generator) * 20
    scores[:, -coarse.shape[1] :] += F.interpolate(coarse, size, mode='bilinear') + 15
    return scores


@contextmanager
def possible(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """How many classes are found possible inside the context, once an image."""
    counts: list[int] = []
    original = prediction.possible_classes

    def spy(*args: Any) -> list[int]:
        found = original(*args)
        counts.append(len(found))
        return found

    with monkeypatch.context() as patch:
        patch.setattr(prediction, 'possible_classes', spy)
        yield counts


def outputs_of(network: Any, data: dict[str, Any]) -> list[Any]:
    with torch.no_grad():
        found: list[Any] = network.test_step(copy.deepcopy(data))
    return found


def assert_same(network: Any, data: dict[str, Any], inner: Any = None) -> None:
    """See that predictions with and without scores are equal."""
    inner = inner or network
    expected = outputs_of(network, data)
    assert use_lean_prediction(network)
    found = outputs_of(network, data)
    assert len(found) == len(data['inputs'])
    for theirs, ours in zip(expected, found, strict=True):
        assert 'seg_logits' in theirs
        assert 'seg_logits' not in ours
        assert torch.equal(ours.pred_sem_seg.data, theirs.pred_sem_seg.data)
        assert ours.pred_sem_seg.data.dtype == theirs.pred_sem_seg.data.dtype
        assert ours.pred_sem_seg.data.unique().numel() > 1
        assert torch.equal(ours.gt_sem_seg.data, theirs.gt_sem_seg.data)
        assert ours.metainfo == theirs.metainfo
    del inner.predict
    assert 'seg_logits' in outputs_of(network, data)[0]


def data_of(sizes: list[tuple[int, int]], *originals: tuple[int, int], **meta: Any) -> Any:
    """Images of `sizes`, scaled from the sizes `originals`."""
    data = batch(sizes)
    for index, sample in enumerate(data['data_samples']):
        changes = dict(meta)
        if originals:
            changes['ori_shape'] = originals[index % len(originals)]
        sample.set_metainfo(changes)
    return data


# The network's way to its labels.


@pytest.mark.parametrize('align_corners', [False, True])
@pytest.mark.parametrize(
    'originals',
    [[], [(130, 200)], [(288, 352)], [(97, 211), (300, 170)]],
    ids=['as they are', 'another shape', 'twice as large', 'two sizes'],
)
@pytest.mark.parametrize('flip', [None, 'horizontal', 'vertical'])
def test_originals_and_flips(
    align_corners: bool, originals: list[tuple[int, int]], flip: str | None
) -> None:
    data = data_of([SIZE, SIZE], *originals, flip=flip is not None, flip_direction=flip)
    assert_same(network_of(align_corners), data)


@pytest.mark.parametrize('align_corners', [False, True])
@pytest.mark.parametrize('original', [(140, 160), (201, 163)])
def test_padding(align_corners: bool, original: tuple[int, int]) -> None:
    changes = preprocessor(SIZE, test_cfg=dict(size_divisor=32))
    network = network_of(align_corners, data_preprocessor=changes)
    data = data_of([(140, 160)], original)
    assert_same(network, data)
    [padded] = network.data_preprocessor(copy.deepcopy(data))['data_samples']
    assert padded.metainfo['img_padding_size'] == (0, 0, 0, 20)
    assert padded.metainfo['pad_shape'] == (160, 160)


def test_padding_on_all_sides_and_a_flip() -> None:
    padding = dict(padding_size=[3, 5, 7, 11], flip=True, flip_direction='horizontal')
    assert_same(network_of(), data_of([SIZE], (260, 310), **padding))


def test_wrapper(tmp_path: Path) -> None:
    student = resnet(4, data_preprocessor=preprocessor(SIZE))
    checkpoint = save_weights(resnet(8), tmp_path / 'teacher.pth')
    wrapper = build(wrapper_config(student, resnet(8), checkpoint, term())).eval()
    torch.nn.init.normal_(wrapper.student.decode_head.conv_seg.weight)
    assert_same(wrapper, data_of([SIZE, SIZE], (130, 200)), wrapper.student)


def test_sliding_windows() -> None:
    test_cfg = dict(mode='slide', crop_size=(96, 96), stride=(64, 64))
    assert_same(network_of(test_cfg=test_cfg), data_of([SIZE], (130, 200)))


def test_heads_that_predict_in_their_own_way() -> None:
    cascade = ocr_cascade()
    cascade['data_preprocessor'] = preprocessor(SIZE)
    network = build(cascade).eval()
    torch.nn.init.normal_(network.decode_head[-1].conv_seg.weight)
    assert_same(network, data_of([SIZE], (130, 200)))


def test_scores_that_a_class_gives_in_its_own_way() -> None:
    class Own(EncoderDecoder):  # type: ignore[misc]
        def encode_decode(self, *args: Any) -> Tensor:
            scores: Tensor = super().encode_decode(*args)
            return scores.flip(1)

    network = network_of()
    plain = outputs_of(network, data_of([SIZE]))[0].pred_sem_seg.data
    network.__class__ = Own
    assert not torch.equal(outputs_of(network, data_of([SIZE]))[0].pred_sem_seg.data, plain)
    assert_same(network, data_of([SIZE], (130, 200)))


def test_copies_keep_their_own_weights() -> None:
    """As the moving average of the weights that a hook makes of a model."""
    network = network_of()
    data = data_of([SIZE])
    assert use_lean_prediction(network)
    average = copy.deepcopy(network)
    torch.nn.init.normal_(average.decode_head.conv_seg.weight)
    [ours], [theirs] = outputs_of(network, data), outputs_of(average, data)
    assert not torch.equal(ours.pred_sem_seg.data, theirs.pred_sem_seg.data)
    assert network.state_dict().keys() == average.state_dict().keys()


def test_inside_ddp(tmp_path: Path) -> None:
    distributed.init_process_group(
        'gloo', init_method=f'file://{tmp_path / "store"}', rank=0, world_size=1
    )
    try:
        network = network_of()
        assert_same(MMDistributedDataParallel(network), data_of([SIZE]), network)
    finally:
        distributed.destroy_process_group()


# What keeps its scores.


def test_augmentation_keeps_its_scores() -> None:
    network = network_of()
    model = MODELS.build(dict(type='SegTTAModel', module=network))
    assert isinstance(model, BaseTTAModel)
    assert not use_lean_prediction(model)
    one = data_of([SIZE])
    flipped = data_of([SIZE], flip=True, flip_direction='horizontal')
    data = {key: [one[key], flipped[key]] for key in one}
    [sample] = outputs_of(model, data)
    assert 'seg_logits' in sample


def test_one_channel_for_two_classes() -> None:
    head = fcn_head(8, 1, 2, out_channels=1, threshold=0.3)
    head['loss_decode'] = dict(type='CrossEntropyLoss', use_sigmoid=True)
    network = network_of(decode_head=head)
    assert not use_lean_prediction(network)
    assert 'predict' not in vars(network)


def test_a_class_with_a_prediction_of_its_own() -> None:
    class Own(EncoderDecoder):  # type: ignore[misc]
        def postprocess_result(self, *args: Any) -> Any:
            return super().postprocess_result(*args)

    network = network_of()
    network.__class__ = Own
    assert not use_lean_prediction(network)


def test_without_samples_there_are_scores() -> None:
    network = network_of()
    inputs = torch.randn(1, 3, *SIZE)
    with torch.no_grad():
        [expected] = network.predict(inputs)
        assert use_lean_prediction(network)
        [found] = network.predict(inputs)
    assert torch.equal(found.seg_logits.data, expected.seg_logits.data)


def test_small_maps_are_mmsegs() -> None:
    network = network_of(data_preprocessor=preprocessor())
    assert use_lean_prediction(network)
    [sample] = outputs_of(network, batch(1))
    assert isinstance(sample.seg_logits, PixelData)


# The arg max of scores that are set.


@pytest.mark.parametrize('align_corners', [False, True])
@pytest.mark.parametrize('kind', ['noise', 'blobs', 'ties'])
@pytest.mark.parametrize('classes', [2, 19, 64])
@pytest.mark.parametrize(
    ('scores_size', 'size', 'original'),
    [
        ((64, 72), (256, 288), (256, 288)),
        ((37, 41), (148, 163), (211, 190)),
        ((40, 50), (160, 200), (113, 147)),
        ((70, 150), (140, 149), (299, 150)),
        ((150, 160), (150, 160), (301, 322)),
        ((1, 9), (150, 160), (150, 160)),
    ],
)
def test_to_the_last_pixel(
    align_corners: bool,
    kind: str,
    classes: int,
    scores_size: tuple[int, int],
    size: tuple[int, int],
    original: tuple[int, int],
) -> None:
    scores = blobs(classes, scores_size, images=2)
    if kind == 'noise':
        scores = torch.randn_like(scores)
    elif kind == 'ties':
        scores = scores.div(4).round()
    expected, found = Scores(align_corners).labels(scores, size, original)
    assert torch.equal(expected, found)
    assert found.dtype == torch.int64
    assert found.shape == (2, 1, *original)


def test_more_classes_than_a_byte_holds() -> None:
    scores = blobs(300, (40, 50))
    expected, found = Scores().labels(scores, (160, 200))
    assert torch.equal(expected, found)
    assert found.max() > 255


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize('classes', [5, 40])
def test_other_precisions(dtype: torch.dtype, classes: int) -> None:
    scores = blobs(classes, (40, 50)).to(dtype)
    stub = Scores()
    expected, found = stub.labels(scores, (160, 200), (211, 190))
    assert torch.equal(expected, found)
    assert not stub.has_scores


@pytest.mark.parametrize('value', [torch.nan, torch.inf, -torch.inf])
def test_what_is_not_finite_is_treated_as_ever(value: float) -> None:
    scores = blobs(5, (40, 50))
    scores[0, 2, 3, 3] = value
    expected, found = Scores().labels(scores, (160, 200))
    assert torch.equal(expected, found)


@pytest.mark.parametrize(
    'layout',
    [
        lambda x: x.to(memory_format=torch.channels_last),
        lambda x: x.transpose(2, 3).contiguous().transpose(2, 3),
        lambda x: torch.stack([x, x], -1)[..., 0],
        lambda x: torch.cat([x, x])[::2],
    ],
    ids=['channels last', 'transposed', 'every second number', 'every second image'],
)
def test_any_layout(layout: Any) -> None:
    """Another layout has another kernel, that rounds in its own way: mmseg's way is taken."""
    stub = Scores()
    scores = layout(blobs(19, (37, 41), images=2))
    expected, found = stub.labels(scores, (148, 163), (211, 190))
    assert torch.equal(expected, found)
    assert stub.has_scores


@pytest.mark.parametrize('classes', [range(19), [3, 5, 15, 16, 18]])
def test_any_classes_one_by_one(classes: Sequence[int]) -> None:
    scores = blobs(19, (20, 30)).mul(2).round()
    chosen = torch.full_like(scores, -torch.inf)
    chosen[:, list(classes)] = scores[:, list(classes)]
    found = prediction.arg_max_one_by_one(scores, lambda x: x, classes)
    assert torch.equal(found, chosen[0].argmax(0))


@pytest.mark.parametrize('at_once', [1, 2, 7, 19, 1000])
@pytest.mark.parametrize('what', [0.0, torch.nan, torch.inf, -torch.inf])
def test_any_pieces(at_once: int, what: float) -> None:
    scores = blobs(19, (20, 30)).mul(2).round()
    scores[torch.rand(scores.shape, generator=torch.Generator().manual_seed(0)) < 0.1] = what
    found = prediction.arg_max_in_pieces(scores, lambda x: x, at_once)
    assert torch.equal(found, scores[0].argmax(0))
    assert found.dtype == torch.int64


@pytest.mark.parametrize('piece', [1, 7 * 211 * 190, 2**26])
@pytest.mark.parametrize('align_corners', [False, True])
@pytest.mark.parametrize('original', [(148, 163), (211, 190)])
@pytest.mark.parametrize('is_deterministic', [False, True])
def test_the_way_of_a_gpu(
    piece: int,
    align_corners: bool,
    original: tuple[int, int],
    is_deterministic: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """All classes in pieces, by both of torch's algorithms for a GPU."""
    monkeypatch.setattr(Tensor, 'is_cuda', True, raising=False)
    monkeypatch.setattr(Tensor, 'is_cpu', False, raising=False)
    monkeypatch.setattr(torch, 'are_deterministic_algorithms_enabled', lambda: is_deterministic)
    monkeypatch.setattr(prediction, 'PIECE', piece)
    monkeypatch.setattr(prediction, 'possible_classes', None)
    monkeypatch.setattr(triton_arg_max, 'can_take', lambda *args: False)
    scores = blobs(19, (37, 41), images=2)
    # Only another size: to the same, this CPU does not copy as a GPU does.
    if original != (148, 163) or is_deterministic:
        scores[0, 2, 3, 3], scores[1, 4, 9, 9] = torch.nan, torch.inf
    stub = Scores(align_corners)
    expected, found = stub.labels(scores, (148, 163), original)
    assert torch.equal(expected, found)
    assert found.dtype == torch.int64
    assert not stub.has_scores


def test_scores_stay_as_they_are() -> None:
    scores = blobs(5, (150, 160))
    before = scores.clone()
    Scores().labels(scores, (150, 160))
    assert torch.equal(scores, before)


# Which classes are looked at.


def test_few_classes_are_scaled_where_few_can_win(monkeypatch: pytest.MonkeyPatch) -> None:
    scores = blobs(150, (40, 50), images=2)
    with possible(monkeypatch) as counts:
        expected, found = Scores().labels(scores, (160, 200))
    assert torch.equal(expected, found)
    assert len(counts) == 2
    assert all(4 <= count < 60 for count in counts)


@pytest.mark.parametrize('reach', [1, 2])
def test_a_possible_class_is_near_the_top_somewhere(reach: int) -> None:
    scores = torch.zeros(4, 9, 9)
    scores[0] = 1.0
    scores[1, 4, 4] = 1.5  # above the others
    scores[2, 4, 4] = 0.99  # below the lowest of class 0 everywhere
    assert prediction.possible_classes(scores, reach) == [0, 1]
    # Class 0 is low at one pixel: all that is above that near it is possible.
    scores[0, 4, 4 + reach] = 0.5
    assert prediction.possible_classes(scores, reach) == [0, 1, 2]
    scores[2, 4, 4] = 0.0
    scores[2, 4, 3] = 0.99
    assert prediction.possible_classes(scores, reach) == [0, 1]


def test_equal_scores_are_possible() -> None:
    scores = torch.ones(3, 5, 5)
    scores[2] -= 1e-7  # within what rounding may bring up
    assert prediction.possible_classes(scores, 1) == [0, 1, 2]


def test_a_class_may_win_between_two_pixels_only() -> None:
    """Second at every pixel, first in between."""
    scores = torch.zeros(1, 40, 40, 50)
    scores[0, 0, :, ::2] = 10.0
    scores[0, 1, :, 1::2] = 10.0
    scores[0, 2] = 9.0
    expected, found = Scores().labels(scores, (160, 200))
    assert torch.equal(expected, found)
    assert (found == 2).any()
    assert not (scores.argmax(1) == 2).any()


def test_a_class_may_win_between_three_pixels_only() -> None:
    """Below class 0 or 1 in every square of two pixels a side, not after two interpolations."""
    scores = torch.zeros(1, 3, 40, 50)
    scores[0, 0], scores[0, 1], scores[0, 2] = 10.0, 10.0, 9.0
    scores[0, 0, :, 26:] = -100.0
    scores[0, 1, :, :25] = -100.0
    # The middle column has both at 10.
    expected, found = Scores().labels(scores, (160, 200), (320, 400))
    assert torch.equal(expected, found)
    assert (found == 2).any()
    assert prediction.possible_classes(scores[0], 1) == [0, 1]


def test_a_class_may_win_between_pixels_that_a_smaller_input_leaves_out() -> None:
    """Every third column alone is seen, and class 2 wins between two of these."""
    scores = torch.zeros(1, 3, 390, 390)
    scores[0, :2] = 20.0
    scores[0, 0, :, 1::6], scores[0, 1, :, 1::6] = 10.0, 0.0
    scores[0, 0, :, 4::6], scores[0, 1, :, 4::6] = 0.0, 10.0
    scores[0, 2, :, 1::3] = 9.0
    expected, found = Scores().labels(scores, (130, 130), (780, 780))
    assert torch.equal(expected, found)
    assert (found == 2).any()
    assert prediction.possible_classes(scores[0], 2) == [0, 1]


# What is held.


class Largest(TorchDispatchMode):
    """The most numbers that a floating point tensor made inside has."""

    def __init__(self) -> None:
        super().__init__()
        self.numbers = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for one in tree_leaves(out):
            if isinstance(one, Tensor) and one.is_floating_point():
                self.numbers = max(self.numbers, one.numel())
        return out


@pytest.mark.parametrize('kind', ['noise', 'blobs'])
@pytest.mark.parametrize('original', [(160, 200), (320, 400)])
def test_no_map_of_all_classes_at_full_size(kind: str, original: tuple[int, int]) -> None:
    scores = blobs(64, (40, 50))
    if kind == 'noise':
        scores = torch.randn_like(scores)
    stub = Scores()
    stub.network.decode_head.forward = lambda inputs: scores
    inputs = torch.zeros(1, 3, 160, 200)
    numbers = []
    for predict in (EncoderDecoder.predict, prediction.predict):
        sample = SegDataSample(metainfo=dict(img_shape=(160, 200), ori_shape=original))
        with Largest() as largest, torch.no_grad():
            predict(stub.network, inputs, [sample])
        numbers.append(largest.numbers)
    height, width = original
    assert numbers == [64 * height * width, max(scores.numel(), height * width)]
