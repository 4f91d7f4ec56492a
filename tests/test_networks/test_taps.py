from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from mmseg_kd.errors import ConfigError, LayerNotFoundError, ShapeError
from mmseg_kd.networks.layers import list_layers
from mmseg_kd.networks.recorder import Recorder
from mmseg_kd.networks.tap_name import parse_tap_name
from mmseg_kd.networks.taps import Taps, find_tap, tap_names


class Attention(nn.Module):
    """4 images of 5 queries and 3 keys, as tokens (N, L, C)."""

    def __init__(self, batch_first: bool, vdim: int | None = None, **call: Any) -> None:
        super().__init__()
        self.attn = nn.MultiheadAttention(
            8, 2, batch_first=batch_first, vdim=vdim, dtype=torch.float64
        )
        nn.init.normal_(self.attn.in_proj_bias)
        self.call = call

    def forward(self, query: Tensor, memory: Tensor, value: Tensor) -> Tensor:
        if not self.attn.batch_first:
            query, memory, value = (x.transpose(0, 1) for x in (query, memory, value))
        # The first by position and the others by name: both must be found.
        out: Tensor = self.attn(query, key=memory, value=value, **self.call)[0]
        return out if self.attn.batch_first else out.transpose(0, 1)


def inputs(value_channels: int = 8) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)

    def random(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    return random(4, 5, 8), random(4, 3, 8), random(4, 3, value_channels)


def test_find_tap() -> None:
    network = nn.ModuleDict({'decode_head': nn.ModuleDict({'conv_seg': nn.Conv2d(1, 1, 1)})})
    tap = find_tap(network, 'decode_head.conv_seg', 'student')
    assert tap.module is network['decode_head']['conv_seg']


@pytest.mark.parametrize('name', ['decode_head.conv_sg', 'conv_seg', ''])
def test_unknown_layer_has_the_nearest_names(name: str) -> None:
    network = nn.ModuleDict({'decode_head': nn.ModuleDict({'conv_seg': nn.Conv2d(1, 1, 1)})})
    with pytest.raises(LayerNotFoundError) as caught:
        find_tap(network, name, 'teacher')
    assert f'the teacher has no layer {name!r}; nearest: ' in str(caught.value)
    assert 'decode_head.conv_seg' in str(caught.value)


@pytest.mark.parametrize('batch_first', [True, False])
@pytest.mark.parametrize('vdim', [None, 6])
def test_parts_of_an_attention_rebuild_its_output(batch_first: bool, vdim: int | None) -> None:
    torch.manual_seed(0)
    network = Attention(batch_first, vdim)
    names = [f'attn.{part}' for part in ('query', 'key', 'value', 'weights')]
    with Recorder(network, names) as taps:
        out = network(*inputs(vdim or 8))
        query, key, value, weights = (taps[name] for name in names)
    assert query.shape == (4, 5, 8)
    assert key.shape == value.shape == (4, 3, 8)
    heads = [x.unflatten(2, (2, 4)).transpose(1, 2) for x in (query, key, value)]
    attention = (heads[0] @ heads[1].mT / 4**0.5).softmax(-1)
    torch.testing.assert_close(weights, attention.mean(1))
    rebuilt = network.attn.out_proj((attention @ heads[2]).transpose(1, 2).flatten(2))
    torch.testing.assert_close(rebuilt, out)


def test_parts_of_an_attention_pass_the_gradient_on() -> None:
    network = Attention(batch_first=True)
    with Recorder(network, ['attn.value', 'attn.weights']) as taps:
        network(*inputs())
        (taps['attn.value'].sum() + taps['attn.weights'].square().sum()).backward()
    gradient = network.attn.in_proj_weight.grad
    assert gradient is not None
    assert all(part.abs().sum() > 0 for part in gradient.chunk(3))


def test_weights_of_each_head_are_averaged() -> None:
    network = Attention(batch_first=True, average_attn_weights=False)
    with Recorder(network, ['attn.weights']) as taps:
        network(*inputs())
        assert taps['attn.weights'].shape == (4, 5, 3)


def test_weights_that_are_not_computed() -> None:
    network = Attention(batch_first=True, need_weights=False)
    with (
        Recorder(network, ['attn.weights']),
        pytest.raises(ShapeError, match='asks this layer for no weights'),
    ):
        network(*inputs())


def test_an_attention_as_a_whole_names_its_parts() -> None:
    network = Attention(batch_first=True)
    with (
        Recorder(network, ['attn']),
        pytest.raises(ShapeError, match=r'puts out a tuple.*attn\.query, attn\.key'),
    ):
        network(*inputs())


def test_only_an_attention_has_parts() -> None:
    network = nn.Sequential(nn.Linear(2, 2))
    with pytest.raises(LayerNotFoundError, match=r"no layer '0\.value'"):
        find_tap(network, '0.value', 'student')


def test_names_in_order() -> None:
    assert list(tap_names(nn.Sequential(nn.ReLU(), Attention(True)))) == [
        '0',
        '1',
        '1.attn',
        '1.attn.query',
        '1.attn.key',
        '1.attn.value',
        '1.attn.weights',
        '1.attn.out_proj',
    ]


def test_map_of_tokens_and_of_a_map() -> None:
    tokens = torch.arange(2 * 6 * 3.0).view(2, 6, 3)
    taps = Taps({'tokens': tokens, 'map': torch.zeros(1, 2, 3, 4)}, image_size=(8, 12))
    assert taps.map('map') is taps.outputs['map']
    assert torch.equal(taps.map('tokens')[:, :, 1, 2], tokens[:, 5])


class Stages(nn.Module):
    """Puts out a tuple of a map and a dict."""

    def forward(self, x: Tensor, scale: float = 1.0) -> tuple[Tensor, dict[str, Tensor]]:
        return x + 1, {'logits': scale * x, '0': x - 1}


class Nested(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stages = Stages()
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.relu(self.stages(x, scale=3.0)[1]['logits'])


def first_half(x: Tensor) -> Tensor:
    """A function of a tap."""
    return x[:, : x.shape[1] // 2]


def in_pairs(x: Tensor) -> tuple[Tensor, Tensor]:
    return x, x


def failing(x: Tensor) -> Tensor:
    raise KeyError('tokens')


IMAGES = torch.linspace(-1, 1, 2 * 4 * 3 * 3).view(2, 4, 3, 3)


def tapped(name: str) -> Tensor:
    network = Nested()
    with Recorder(network, [name], modified_in_place=[name]) as taps:
        network(IMAGES)
        return taps[name]


@pytest.mark.parametrize(
    ('name', 'expected'),
    [
        ('stages[0]', IMAGES + 1),
        ('stages[1][logits]', 3 * IMAGES),
        ("stages[1]['logits']", 3 * IMAGES),
        ('stages[1][0]', IMAGES - 1),
        ('stages:input', IMAGES),
        ('relu:input', 3 * IMAGES),  # before it is changed in place
        (f'stages[0] | {__name__}:first_half', IMAGES[:, :2] + 1),
        (f'relu|{__name__}:first_half', 3 * IMAGES[:, :2].relu()),
    ],
)
def test_parts_and_inputs_of_a_layer(name: str, expected: Tensor) -> None:
    torch.testing.assert_close(tapped(name), expected)


def test_an_input_that_is_a_list() -> None:
    class Head(nn.Module):
        def forward(self, features: list[Tensor]) -> Tensor:
            return features[0]

    network = nn.Sequential()
    network.add_module('head', Head())
    with Recorder(network, ['head:input[1]']) as taps:
        network.head(features=[IMAGES, 2 * IMAGES])
        assert torch.equal(taps['head:input[1]'], 2 * IMAGES)


def test_a_tuple_names_its_entries() -> None:
    with pytest.raises(ShapeError) as caught:
        tapped('stages')
    for name in ('stages[0]', 'stages[1][logits]', 'stages[1][0]'):
        assert repr(name) in str(caught.value)


@pytest.mark.parametrize(
    ('name', 'message'),
    [
        ('stages[2]', r'a tuple has no \[2\]; it has \[0\], \[1\]'),
        ('stages[1][scores]', r'a dict has no \[scores\]; it has \[logits\], \[0\]'),
        ('relu[0]', r'a Tensor has no \[0\]; it has no entries'),
        (f'relu | {__name__}:in_pairs', 'gives a tuple, not one tensor; expected one tensor'),
        (f'relu | {__name__}:failing', "KeyError: 'tokens'"),
    ],
)
def test_parts_that_are_not_there(name: str, message: str) -> None:
    with pytest.raises(ShapeError, match=message):
        tapped(name)


@pytest.mark.parametrize(
    ('name', 'message'),
    [
        ('relu[0', "expected a layer's name"),
        ('relu[0]:input', "expected a layer's name"),
        ('relu | first_half', "expected a layer's name"),
        ('relu | nowhere.at_all:f', r'nowhere\.at_all cannot be imported.*PYTHONPATH'),
        (f'relu | {__name__}:first_hal', "no function 'first_hal'; nearest: first_half"),
        ('rel[0]', "no layer 'rel'; nearest: relu"),
    ],
)
def test_names_of_another_form(name: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        find_tap(Nested(), name, 'student')


@pytest.mark.parametrize('name', ['0', 'backbone.layer4.1', 'block.attn.weights'])
def test_a_name_alone_is_plain(name: str) -> None:
    assert parse_tap_name(name).is_plain
    for more in (':input', '[0]', ' | a:b'):
        assert not parse_tap_name(name + more).is_plain
        assert parse_tap_name(name + more).layer == name


def test_what_can_be_indexed_is_listed() -> None:
    found = {layer.name: layer.shape for layer in list_layers(Nested())}
    shape = found['relu']
    assert found == {
        'stages[0]': shape,
        'stages[1][logits]': shape,
        'stages[1][0]': shape,
        'relu': shape,
    }
