from __future__ import annotations

import re

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from mmseg_kd.connectors import (
    ChainConnector,
    ConvConnector,
    ConvModuleConnector,
    LinearConnector,
    NormConnector,
    teacher_side,
)
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


def test_conv_module_is_convolution_norm_and_activation_in_turn() -> None:
    x = torch.randn(2, 3, 4, 5)
    for norm, kind in (('BN', nn.BatchNorm2d), ('GN', nn.GroupNorm), ('IN', nn.InstanceNorm2d)):
        connector = ConvModuleConnector(3, 6, 3, norm=norm, activation='ReLU')
        assert [type(one) for one in connector] == [nn.Conv2d, kind, nn.ReLU]
        expected = connector.norm(connector.conv(x)).relu()
        torch.testing.assert_close(connector(x), expected)
    assert len(ConvModuleConnector(3, 6, norm=None)) == 1


def test_group_norm_has_as_many_groups_as_divide_the_channels() -> None:
    assert ConvModuleConnector(1, 48, norm='GN').norm.num_groups == 24
    assert ConvModuleConnector(1, 7, norm='GN').norm.num_groups == 7


@pytest.mark.parametrize(
    ('argument', 'message'),
    [(dict(norm='LN'), "got 'LN'; nearest"), (dict(activation='Relu'), "'Relu'; nearest: ReLU")],
)
def test_conv_module_of_unknown_parts(argument: dict[str, str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ConvModuleConnector(3, 6, **argument)


@pytest.mark.parametrize('hidden', [None, 5])
def test_linear_maps_each_token_alone(hidden: int | None) -> None:
    connector = LinearConnector(3, 4, hidden_channels=hidden)
    tokens = torch.randn(2, 6, 3)
    expected = torch.stack([connector.layers(token) for token in tokens.flatten(0, 1)])
    torch.testing.assert_close(connector(tokens), expected.view(2, 6, 4))
    as_image = tokens.transpose(1, 2).reshape(2, 3, 2, 3)
    torch.testing.assert_close(connector(as_image).flatten(2), connector(tokens).transpose(1, 2))
    with pytest.raises(ValueError, match='hidden_channels'):
        LinearConnector(3, 4, hidden_channels=0)


@pytest.mark.parametrize(
    ('over', 'dims'), [('batch', (0, 2, 3)), ('image', (2, 3)), ('position', (1,))]
)
def test_norm_leaves_mean_0_and_variance_1_on_both_sides(over: str, dims: tuple[int, ...]) -> None:
    connector = NormConnector(3, 3, over)
    x = torch.randn(2, 3, 4, 5, dtype=torch.float64)
    for out in (connector(3 * x + 7), teacher_side(connector, x)):
        torch.testing.assert_close(out.mean(dims), torch.zeros_like(out.mean(dims)))
        ones = torch.ones_like(out.mean(dims))
        torch.testing.assert_close(out.var(dims, correction=0), ones, rtol=1e-2, atol=1e-2)
    # A scale and a shift are no difference.
    torch.testing.assert_close(connector(3 * x + 7), connector(x), rtol=1e-2, atol=1e-2)
    assert connector(x.half()).dtype == torch.float32
    assert not connector.state_dict()


def test_squared_distance_after_norm_is_pearsons_correlation() -> None:
    """As in PKD: 2 (1 - r), the mean over the channels."""
    student, teacher = torch.randn(2, 1, 1, 400, 3, dtype=torch.float64).unbind()
    connector = NormConnector(1, 1, eps=1e-12)
    distance = (connector(student) - connector.of_teacher(teacher)).square().mean()
    r = torch.corrcoef(torch.stack([student.flatten(), teacher.flatten()]))[0, 1]
    torch.testing.assert_close(distance, 2 * (1 - r))


def test_chain_goes_through_each_on_both_sides() -> None:
    parts = [
        dict(type='NormConnector', over='image'),
        dict(type='ConvConnector'),
        dict(type='NormConnector', over='position'),
    ]
    connector = ChainConnector(3, 4, parts)
    first, conv, last = connector.connectors
    x, y = torch.randn(2, 3, 4, 5), torch.randn(2, 4, 4, 5)
    torch.testing.assert_close(connector(x), last(conv(first(x))))
    torch.testing.assert_close(connector.of_teacher(y), last(first(y)))
    assert teacher_side(conv, y) is y
    assert teacher_side(None, y) is y


@pytest.mark.parametrize(
    ('parts', 'message'),
    [
        ([], r'must be a list of dicts, got \[\]'),
        ([dict(type='ConvConector')], r"connectors\[0\]: there is no connector 'ConvConector'"),
        (
            [dict(type='ConvConnector'), dict(type='NormConnector', over='all')],
            r'connectors\[1\]: NormConnector: over must be one of',
        ),
    ],
)
def test_chain_of_what_is_not_there(parts: list[dict[str, str]], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ChainConnector(3, 4, parts)


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
