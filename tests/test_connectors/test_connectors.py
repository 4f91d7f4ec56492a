from __future__ import annotations

import re

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from mmseg_kd.connectors import ConvConnector
from mmseg_kd.errors import ConfigError, ShapeError
from mmseg_kd.networks.tokens import as_map, grid_of
from mmseg_kd.registry import CONNECTORS, build


@pytest.mark.parametrize('kernel_size', [1, 3, 5])
def test_conv_connector_changes_channels_only(kernel_size: int) -> None:
    connector = ConvConnector(4, 7, kernel_size)
    assert connector(torch.randn(2, 4, 5, 6)).shape == (2, 7, 5, 6)


def test_conv_connector_is_a_matrix_per_position() -> None:
    connector = ConvConnector(3, 2)
    x = torch.randn(1, 3, 4, 5)
    weight = connector.conv.weight[:, :, 0, 0]
    expected = torch.einsum('oc,nchw->nohw', weight, x) + connector.conv.bias.view(1, 2, 1, 1)
    torch.testing.assert_close(connector(x), expected)


def test_conv_connector_learns() -> None:
    connector = ConvConnector(3, 2)
    x = torch.randn(1, 3, 4, 5, requires_grad=True)
    connector(x).sum().backward()
    assert x.grad is not None
    assert all(p.grad is not None and p.grad.any() for p in connector.parameters())


@pytest.mark.parametrize('kernel_size', [0, 2, -1])
def test_conv_connector_wants_an_odd_kernel(kernel_size: int) -> None:
    with pytest.raises(ValueError, match=f'odd and >= 1, got {kernel_size}'):
        ConvConnector(3, 2, kernel_size)


def test_conv_connector_from_a_config() -> None:
    cfg = dict(type='ConvConnector', kernel_size=3)
    connector = build(CONNECTORS, cfg, 'connector', student_channels=4, teacher_channels=6)
    assert connector.conv.weight.shape == (6, 4, 3, 3)
    with pytest.raises(ConfigError, match="no argument 'student_channels'; nearest: kernel_size"):
        build(
            CONNECTORS,
            dict(type='ConvConnector', student_channels=4),
            'connector',
            student_channels=4,
            teacher_channels=6,
        )


def test_map_stays_as_it_is() -> None:
    x = torch.randn(2, 3, 4, 5)
    assert as_map(x, (64, 64), 'layer') is x


def flatten(x: Tensor) -> Tensor:
    """As patch embeddings do: (N, C, h, w) to tokens (N, h*w, C), row by row."""
    return x.flatten(2).transpose(1, 2)


def mit_stages(image_size: tuple[int, int]) -> list[Tensor]:
    """Maps of the four overlapping patch embeddings of a mix transformer."""
    x = torch.randn(1, 3, *image_size)
    maps = []
    for kernel, stride in ((7, 4), (3, 2), (3, 2), (3, 2)):
        x = nn.Conv2d(x.shape[1], 2, kernel, stride, kernel // 2)(x).detach()
        maps.append(x)
    return maps


@pytest.mark.parametrize(
    'image_size', [(64, 64), (128, 64), (64, 96), (97, 65), (101, 77), (33, 127), (240, 320)]
)
def test_tokens_of_a_mix_transformer(image_size: tuple[int, int]) -> None:
    for x in mit_stages(image_size):
        assert torch.equal(as_map(flatten(x), image_size, 'layer'), x)


@pytest.mark.parametrize(
    ('image_size', 'stride'), [((224, 160), 16), ((50, 70), 16), ((30, 41), 7)]
)
def test_tokens_of_whole_patches(image_size: tuple[int, int], stride: int) -> None:
    """As ViT cuts them: what is left over at the border is dropped."""
    x = torch.randn(2, 3, image_size[0] // stride, image_size[1] // stride)
    assert torch.equal(as_map(flatten(x), image_size, 'layer'), x)


@settings(max_examples=200, deadline=None, database=None)
@given(
    height=st.integers(1, 300),
    width=st.integers(1, 300),
    stride=st.sampled_from([1, 2, 4, 7, 8, 14, 16, 32]),
    padded=st.booleans(),
)
def test_grid_is_the_one_of_the_stride(height: int, width: int, stride: int, padded: bool) -> None:
    grid = (height // stride, width // stride)
    if padded:
        grid = (-(-height // stride), -(-width // stride))
    if grid[0] * grid[1] > 0:
        assert grid_of(grid[0] * grid[1], (height, width)) == grid


@pytest.mark.parametrize('length', [0, 197, 4097])
def test_no_stride_gives_this_many_tokens(length: int) -> None:
    assert grid_of(length, (64, 64)) is None


def test_class_token_is_an_error() -> None:
    with pytest.raises(ShapeError, match=r"'backbone\.norm' puts out 17 tokens.* 64x64; tap"):
        as_map(torch.zeros(1, 17, 8), (64, 64), 'backbone.norm')


@pytest.mark.parametrize('shape', [(2,), (2, 3), (1, 2, 3, 4, 5)])
def test_neither_map_nor_tokens(shape: tuple[int, ...]) -> None:
    with pytest.raises(ShapeError, match=f"layer 'fc' puts out {re.escape(str(shape))}; expected"):
        as_map(torch.zeros(shape), (64, 64), 'fc')
