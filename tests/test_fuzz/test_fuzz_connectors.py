"""Connectors on maps and tokens of any shape, dtype and layout."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st
from maps import DTYPES, LAYOUTS, laid_out, values

from mmseg_kd.connectors import ConvConnector
from mmseg_kd.errors import ShapeError
from mmseg_kd.networks.tokens import as_map


@given(
    shape=st.tuples(*(st.integers(1, 6) for _ in range(4))),
    channels=st.integers(1, 6),
    kernel_size=st.sampled_from([1, 3, 5, 7]),
    dtype=st.sampled_from(DTYPES),
    layout=st.sampled_from(LAYOUTS),
    seed=st.integers(0, 2**31),
)
def test_a_convolution_changes_channels_alone(
    shape: tuple[int, int, int, int],
    channels: int,
    kernel_size: int,
    dtype: torch.dtype,
    layout: str,
    seed: int,
) -> None:
    x = values(shape, seed).to(dtype)
    connector = ConvConnector(shape[1], channels, kernel_size).to(dtype)
    out = connector(laid_out(x, layout))
    assert out.shape == (shape[0], channels, *shape[2:])
    assert out.dtype == dtype
    assert out.isfinite().all()
    # Other layouts may go to other kernels.
    tolerance = dict(rtol=0.05, atol=0.05) if dtype.itemsize == 2 else dict(rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(out, connector(x), **tolerance)


@given(
    shape=st.lists(st.integers(0, 40), min_size=1, max_size=5),
    image_size=st.tuples(st.integers(1, 130), st.integers(1, 130)),
)
def test_an_output_is_a_map_or_refused(shape: list[int], image_size: tuple[int, int]) -> None:
    x = torch.arange(float(torch.Size(shape).numel())).view(shape)
    try:
        found = as_map(x, image_size, 'layer')
    except ShapeError:
        assert len(shape) != 4
        return
    if len(shape) == 4:
        assert found is x
    else:
        assert len(shape) == 3
        assert torch.equal(found.flatten(2).transpose(1, 2), x)
