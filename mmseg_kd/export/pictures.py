"""Pictures that an exported network is checked and calibrated on."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from mmengine.config import Config
from mmseg.registry import DATASETS
from torch import Tensor

from mmseg_kd.data_checks.loading import leaf
from mmseg_kd.data_checks.preflight import check_dataset
from mmseg_kd.errors import DatasetError

# Of random pictures: the second is no multiple of any stride.
RANDOM_SIZES = ((128, 160), (117, 147))


def pictures_of(
    cfg: Config, split: str, count: int, num_classes: int, size: Sequence[int] | None = None
) -> list[Tensor]:
    """Evenly spaced pictures of a config's split, as its test pipeline leaves them.

    Args:
        cfg: The config.
        split: 'train' or 'test'.
        count: How many at most.
        num_classes: Of the network, to see that the data are its own.
        size: Height and width that they are scaled to; None: as they are.

    Returns:
        Pictures (3, H, W), uint8, BGR.

    Raises:
        DatasetError: There is no such data.
        ConfigError: They cannot be built, or have other classes.
    """
    loader, test = cfg.get(f'{split}_dataloader'), cfg.get('test_dataloader')
    if loader is None or test is None:
        raise DatasetError(f'{split} data: the config has no {split}_dataloader.')
    dataset_cfg = {**leaf(loader['dataset']), 'pipeline': leaf(test['dataset'])['pipeline']}
    check_dataset(dataset_cfg, split, num_classes)
    dataset = DATASETS.build(dataset_cfg)
    count = min(count, len(dataset))
    indices = (len(dataset) * index // count for index in range(count))
    return [scaled(dataset[index]['inputs'], size) for index in indices]


def random_pictures() -> list[Tensor]:
    """Noise of two sizes, always the same; (3, H, W), uint8."""
    generator = torch.Generator().manual_seed(0)
    return [
        torch.randint(0, 256, (3, *size), generator=generator, dtype=torch.uint8)
        for size in RANDOM_SIZES
    ]


def scaled(picture_3HW: Tensor, size: Sequence[int] | None) -> Tensor:
    """A picture (3, H, W), uint8, at another height and width; None: as it is."""
    if size is None or tuple(picture_3HW.shape[1:]) == tuple(size):
        return picture_3HW
    values = F.interpolate(picture_3HW[None].float(), tuple(size), mode='bilinear')[0]
    return values.round().to(torch.uint8)
