"""The size at which a teacher sees images, and that its maps lie where the student's do."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from mmseg_kd.config.input_scaling import InputScaling
from mmseg_kd.teacher import Teacher


@pytest.mark.parametrize(
    ('scaling', 'expected'),
    [
        (InputScaling(), (100, 60)),
        (InputScaling(size=(64, 96)), (64, 96)),
        (InputScaling(scale=1.5), (150, 90)),
        (InputScaling(scale=0.33), (33, 20)),
        (InputScaling(divisor=14), (112, 70)),
        (InputScaling(scale=0.5, divisor=32), (64, 32)),
        (InputScaling(size=(64, 96), divisor=32), (64, 96)),
    ],
)
def test_size(scaling: InputScaling, expected: tuple[int, int]) -> None:
    assert scaling.of((100, 60)) == expected
    assert scaling(torch.zeros(1, 3, 100, 60)).shape[-2:] == expected


def test_images_of_the_right_size_stay_as_they_are() -> None:
    images = torch.randn(1, 3, 28, 42)
    assert InputScaling(divisor=14)(images) is images


def patches(size: int) -> nn.Sequential:
    """The mean of each patch, as an embedding that drops what is left at the border."""
    conv = nn.Conv2d(1, 1, size, stride=size, bias=False)
    nn.init.constant_(conv.weight, 1 / size**2)
    return nn.Sequential(conv)


@pytest.mark.parametrize('size', [(100, 60), (57, 84), (29, 30)])
def test_maps_cover_the_whole_image(size: tuple[int, int]) -> None:
    """A patch's place in the map is its place in the image: a ramp from 0 to 1 tells."""
    height, width = size
    ramp_W = (torch.arange(width) + 0.5) / width
    images = ramp_W.expand(1, 1, height, width)
    teacher = Teacher(patches(14), ['0'], size_divisor=14)
    taps = teacher(images)
    columns = -(-width // 14)
    assert taps['0'].shape[-2:] == (-(-height // 14), columns)
    expected = (torch.arange(columns) + 0.5) / columns
    torch.testing.assert_close(taps['0'][0, 0, 0], expected, rtol=0.0, atol=0.2 / width)
    # Where the border is cut off they do not: the last patch is elsewhere.
    cut = Teacher(patches(14), ['0'])(images)['0'][0, 0, 0]
    if width % 14 > 3:
        assert (cut[-1] - (len(cut) - 0.5) / len(cut)).abs() > 0.01
