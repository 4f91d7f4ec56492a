from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from mmseg_kd.errors import LayerNotFoundError, ShapeError
from mmseg_kd.networks.recorder import Recorder
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
