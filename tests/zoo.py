"""A family of mmseg's networks as student and as its own teacher: `python tests/zoo.py FAMILY`.

A process of its own, so that the memory of a large network goes with it.
"""

from __future__ import annotations

import json
import logging
import re
import sys
import time
import traceback
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import mmseg
import torch
from builders import batch, sgd, wrapper_config
from mmengine.config import ConfigDict
from mmengine.logging import MMLogger
from mmengine.registry import init_default_scope
from mmengine.structures import PixelData
from mmseg.registry import MODELS

import mmseg_kd.register  # noqa: F401  what the dicts name
from mmseg_kd.analysis.pairing import Proposal, propose
from mmseg_kd.config.network_spec import parse_network
from mmseg_kd.errors import KDError, message_of
from mmseg_kd.networks.build import build_segmentor, replace_sync_bn, without_initialisation

CONFIGS = Path(mmseg.__file__).parent / '.mim' / 'configs'

SIDE = 128
# LR-ASPP's head pools over windows of 49 positions.
LARGER = dict(mobilenet_v3=512)
STEPS = 2
# The seconds after which a family has hung.
LIMIT = 240

# What mmseg calls the small variants, the smallest first: a family's first config with the first
# of these that it has is tried.
_SMALLEST = (
    *('mit-b0', 'r18', 'hr18s', 'slim', 'swin-tiny.*in1k', 'convnext-tiny', 'mscan-t', '_s12'),
    *('swin-t', '-s_', '_svt-s', 'vit-s', 'deit-s', 'r50', 'base', 'b16'),
)

# The families that cannot be distilled as mmseg and mmcv are installed here: what is missing, and a
# part of the message that says so. The page on customising a distillation has them too.
REFUSED = {
    'ccnet': ('CrissCrossAttention', 'for CrissCrossAttention ops'),
    'convnext': ('mmpretrain', 'custom_imports: Failed to import mmpretrain.models'),
    'mask2former': ('mmdet', 'custom_imports: Failed to import mmdet.models'),
    # What mmseg takes in the place of mmdet's class does not know its arguments.
    'maskformer': ('mmdet', "unexpected keyword argument 'in_channels'"),
    'point_rend': ('point_sample', 'for point_sample ops'),
    'poolformer': ('mmpretrain', 'custom_imports: Failed to import mmpretrain.models'),
    'psanet': ('PSAMask', 'for PSAMask ops'),
    'san': ('point_sample', 'for point_sample ops'),
    'vpd': ('ldm', 'To use VPD model, please install required packages'),
}


def families() -> list[str]:
    """The folders of mmseg's configs that hold networks."""
    found = (path.name for path in CONFIGS.iterdir() if path.is_dir())
    return sorted(name for name in found if name != '_base_')


def smallest(family: str) -> Path:
    """The config of a family that is tried: by its name one of the smallest network."""

    def order(path: Path) -> tuple[int, int, str]:
        sizes = [i for i, size in enumerate(_SMALLEST) if re.search(size, path.name)]
        return min(sizes, default=len(_SMALLEST)), len(path.name), path.name

    return min((CONFIGS / family).glob('*.py'), key=order)


def shrunk(node: Any, side: int) -> Any:
    """A model dict whose parts are made for images of `side`, where they say a size."""
    if isinstance(node, dict):
        changed = {key: shrunk(value, side) for key, value in node.items()}
        for key in changed.keys() & {'img_size', 'crop_size', 'size'}:
            if changed[key] is not None:
                changed[key] = (side, side)
        return type(node)(changed)
    return (
        type(node)(shrunk(one, side) for one in node) if isinstance(node, (list, tuple)) else node
    )


def model_of(path: Path, side: int) -> ConfigDict:
    """The model dict of a config of mmseg's, to be built from random weights."""
    spec = parse_network(dict(config=f'mmseg::{path.parent.name}/{path.name}'), 'teacher')
    model = shrunk(replace_sync_bn(without_initialisation(spec.model)), side)
    # UPerNet's config for ResNet-18 says none, which mmseg itself takes amiss.
    model['data_preprocessor'].update(size=(side, side), size_divisor=None)
    return model


def images(side: int, classes: int, seed: int) -> dict[str, Any]:
    """A batch of two, with the edges that PIDNet learns as well."""
    data = batch([(side, side)] * 2, seed, classes)
    for sample in data['data_samples']:
        edges_1HW = torch.zeros_like(sample.gt_sem_seg.data)
        edges_1HW[:, ::8] = 1
        sample.gt_edge_map = PixelData(data=edges_1HW)
    return data


def distil(
    model: ConfigDict, side: int, folder: Path
) -> tuple[list[Proposal], list[dict[str, float]]]:
    """Train a network of random weights with all that is proposed for it and its like.

    Returns:
        What is proposed, and the losses of each step.
    """
    torch.manual_seed(0)
    network = build_segmentor(model, 'teacher')
    proposals = propose(network, network)
    torch.save(network.state_dict(), folder / 'teacher.pth')
    classes = network.num_classes
    del network
    terms = [dict(one.term) for one in proposals if one.term and not one.instead]
    wrapper = MODELS.build(
        ConfigDict(wrapper_config(model, model, str(folder / 'teacher.pth'), *terms))
    )
    optimiser = sgd(wrapper.train(), lr=1e-4)
    logs = []
    for seed in range(STEPS):
        log = wrapper.train_step(images(side, classes, seed), optimiser)
        logs.append({key: value.item() for key, value in log.items()})
    return proposals, logs


def attempt(family: str) -> dict[str, Any]:
    """What became of a family: its logs, or the error and its message."""
    side = LARGER.get(family, SIDE)
    try:
        with TemporaryDirectory() as folder:
            proposals, logs = distil(model_of(smallest(family), side), side, Path(folder))
    except KDError as error:
        return dict(error=type(error).__name__, message=message_of(error))
    except Exception as error:
        return dict(error=type(error).__name__, message=str(error), trace=traceback.format_exc())
    return dict(proposals=[[p.why, p.term, p.instead] for p in proposals], logs=logs)


if __name__ == '__main__':
    init_default_scope('mmseg')
    MMLogger.get_current_instance().setLevel(logging.ERROR)
    begun = time.monotonic()
    result = attempt(sys.argv[1])
    result['seconds'] = time.monotonic() - begun
    print(json.dumps(result))
