"""What layers hold, as numbers and as colours."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from builders import batch, build, fcn_head, mit, preprocessor, resnet

from mmseg_kd.analysis.activation import (
    COLOURS,
    TappedNetwork,
    as_rgb,
    attention_of,
    energy,
    entropy,
    heat,
    is_attention,
    principal_components,
    tap,
    turned,
)
from mmseg_kd.config.input_scaling import InputScaling
from mmseg_kd.errors import ConfigError, ShapeError


def item(size: tuple[int, int] = (32, 48)) -> Any:
    made = batch([size])
    return dict(inputs=made['inputs'][0], data_samples=made['data_samples'][0])


def test_energy_is_the_root_mean_square_as_a_share_of_the_highest() -> None:
    features = torch.tensor([[[3.0, 0.0]], [[4.0, 5.0]]])
    assert energy(2 * features)[0].tolist() == pytest.approx([1.0, 1.0])
    assert energy(torch.tensor([[[2.0, -1.0, 0.0]]])).tolist() == [[1.0, 0.5, 0.0]]
    assert energy(torch.zeros(2, 1, 2)).tolist() == [[0.0, 0.0]]


def test_entropy_is_1_where_all_classes_are_alike() -> None:
    scores = torch.tensor([[[0.0, 100.0, math.log(3)]], [[0.0, 0.0, 0.0]]])
    p = np.array([0.75, 0.25])
    expected = [1.0, 0.0, float(-(p * np.log(p)).sum() / math.log(2))]
    assert entropy(scores)[0].tolist() == pytest.approx(expected)


def test_heat_has_the_colours_from_end_to_end() -> None:
    picture = heat(np.array([[0.0, 1.0, 2.0]]))
    assert picture[0].tolist() == [COLOURS[0].tolist(), *[COLOURS[-1].tolist()] * 2]


def features_of(*patterns: Any, seed: int = 0) -> torch.Tensor:
    """Channels (8, h, w) that mix patterns (h, w) and a little noise."""
    generator = torch.Generator().manual_seed(seed)
    stacked = torch.stack([torch.as_tensor(p, dtype=torch.float64) for p in patterns])
    mixing, _ = torch.linalg.qr(torch.randn(8, len(patterns), generator=generator).double())
    mixed = torch.einsum('ck,khw->chw', mixing, stacked)
    return mixed + 1e-3 * torch.randn(mixed.shape, generator=generator).double()


ROWS, COLUMNS = np.mgrid[0:12, 0:16] / 8.0
PATTERNS = (9 * np.sin(ROWS), 2 * np.cos(3 * COLUMNS), np.sin(5 * ROWS * COLUMNS))


def test_principal_components_find_the_patterns() -> None:
    found = principal_components(features_of(*PATTERNS))
    assert found.shape == (3, 12, 16)
    assert found[0].std() == pytest.approx(1)
    assert abs(np.corrcoef(found[0].ravel(), PATTERNS[0].ravel())[0, 1]) > 0.99
    variances = found.reshape(3, -1).var(1)
    assert (np.diff(variances) < 0).all()
    assert np.allclose(np.corrcoef(found.reshape(3, -1)), np.eye(3), atol=1e-6)


def test_components_of_two_networks_are_turned_to_agree() -> None:
    """The same patterns in other channels, of another size and in another order of strength."""
    teacher = principal_components(features_of(*PATTERNS))
    student = principal_components(features_of(*PATTERNS, seed=1))
    assert np.allclose(turned(-student[[1, 0, 2]], teacher), teacher, atol=0.05)
    small = principal_components(features_of(*(p[::2, ::2] for p in PATTERNS), seed=2))
    again = turned(small, teacher)
    assert again.shape == small.shape
    # Turning keeps lengths.
    assert np.allclose((again**2).sum(0), (small**2).sum(0))
    agreement = np.corrcoef(again[0].ravel(), teacher[0, ::2, ::2].ravel())[0, 1]
    assert agreement > 0.95


def test_few_channels_and_constant_maps_are_grey_at_most() -> None:
    one = principal_components(torch.arange(6.0).reshape(1, 2, 3))
    assert np.abs(one[1:]).max() == 0
    constant = principal_components(torch.ones(4, 2, 3))
    assert np.abs(constant).max() == 0
    assert as_rgb(constant).tolist() == [[[128] * 3] * 3] * 2


def test_attention_is_that_of_the_query_under_the_point() -> None:
    # An image of 32x48: 8x12 queries at stride 4, 2x3 keys at stride 16.
    weights = torch.zeros(96, 6)
    weights[3 * 12 + 9] = torch.tensor([0.1, 0.0, 0.0, 0.0, 0.4, 0.5])
    values = attention_of(weights, (32, 48), (9.5 / 12, 3.5 / 8), 'a')
    assert values.ravel().tolist() == pytest.approx([0.2, 0, 0, 0, 0.8, 1])
    assert values.shape == (2, 3)
    assert attention_of(weights, (32, 48), (1.0, 1.0), 'a').max() == 0


def test_attention_of_no_grid() -> None:
    with pytest.raises(ShapeError, match=r"'a' puts out weights \(97, 6\); expected a grid"):
        attention_of(torch.zeros(97, 6), (32, 48), (0, 0), 'a')


def test_a_tap_is_what_the_network_computes() -> None:
    network = build(resnet(data_preprocessor=preprocessor(size=None)))
    network.train()
    one = item()
    taps = tap(TappedNetwork(network), one, ['decode_head.conv_seg', 'backbone.layer1'])
    assert network.training
    network.eval()
    data = dict(inputs=[one['inputs']], data_samples=[one['data_samples']])
    images = network.data_preprocessor(data)['inputs']
    with torch.no_grad():
        expected = network(images, mode='tensor')
    assert torch.equal(taps.outputs['decode_head.conv_seg'], expected)
    assert taps.image_size == (32, 48)
    scaled = tap(TappedNetwork(network, InputScaling((64, 64))), one, ['backbone.layer1'])
    assert scaled.outputs['backbone.layer1'].shape[-2:] == (16, 16)
    assert scaled.image_size == (64, 64)


def test_outputs_that_are_changed_in_place_later_are_shown_as_they_were() -> None:
    network = build(resnet(data_preprocessor=preprocessor(size=None)))
    # The run goes on to the second layer.
    layers = ['backbone.layer1.0.bn1', 'backbone.layer1']
    taps = tap(TappedNetwork(network), item(), layers)
    assert taps.outputs['backbone.layer1.0.bn1'].min() < 0  # before the ReLU


def test_layers_that_do_not_exist_or_run() -> None:
    network = build(resnet(data_preprocessor=preprocessor(size=None)))
    with pytest.raises(ConfigError, match=r'^backbone\.unused: does not run'):
        network.backbone.unused = torch.nn.Identity()
        tap(TappedNetwork(network), item(), ['backbone.unused', 'backbone.layer1'])


def test_an_auxiliary_head_can_be_shown() -> None:
    head = fcn_head(4, 0)
    network = build(resnet(data_preprocessor=preprocessor(size=None), auxiliary_head=head))
    taps = tap(TappedNetwork(network), item(), ['auxiliary_head.conv_seg'])
    assert taps.outputs['auxiliary_head.conv_seg'].shape == (1, 5, 8, 12)


def test_attention_weights_are_told_by_their_name() -> None:
    network = build(mit())
    assert is_attention(network, 'backbone.layers.0.1.0.attn.attn.weights')
    assert not is_attention(network, 'backbone.layers.0.1.0.attn.attn.value')
    assert not is_attention(network, 'decode_head.conv_seg')
