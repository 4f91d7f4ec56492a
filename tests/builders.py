"""Tiny networks, batches, data sets and configs that the tests of several files share."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.config import Config as ReadConfig
from mmengine.config import ConfigDict
from mmengine.model import BaseModel
from mmengine.optim import OptimWrapper
from mmengine.registry import init_default_scope
from mmengine.structures import PixelData
from mmseg.models.decode_heads import FCNHead
from mmseg.registry import MODELS
from mmseg.structures import SegDataSample
from PIL import Image
from torch import Tensor, nn
from yapf.yapflib import yapf_api

ROOT = Path(__file__).resolve().parents[1]
CLASSES = 5
SIZE = (32, 32)
BN = dict(type='BN', requires_grad=True)
# Groups of channels of one image: batches of any number of images give the same gradients.
GN = dict(type='GN', num_groups=2, requires_grad=True)

Config = dict[str, Any]

# On tensors this small threads cost more than they bring, most of all on a busy machine.
torch.set_num_threads(1)

# The formatting of configs takes most of the time of runs this short; all of it is there without.
yapf_api.FormatCode = lambda text, **_: (text, True)


def preprocessor(size: tuple[int, int] = SIZE, **changes: Any) -> Config:
    """ImageNet's mean and std, padding to `size`, and `changes` to that."""
    return {
        'type': 'SegDataPreProcessor',
        'mean': [123.675, 116.28, 103.53],
        'std': [58.395, 57.12, 57.375],
        'bgr_to_rgb': True,
        'pad_val': 0,
        'seg_pad_val': 255,
        'size': size,
        **changes,
    }


def fcn_head(
    in_channels: int, index: int, classes: int = CLASSES, norm: Config = BN, **changes: Any
) -> Config:
    """An FCNHead with one convolution of 8 channels."""
    return {
        'type': 'FCNHead',
        'in_channels': in_channels,
        'in_index': index,
        'channels': 8,
        'num_convs': 1,
        'concat_input': False,
        'dropout_ratio': 0.1,
        'num_classes': classes,
        'norm_cfg': norm,
        'align_corners': False,
        **changes,
    }


@MODELS.register_module(force=True)
class FlatteningHead(FCNHead):
    """Takes a view that a map in channels_last does not have."""

    def forward(self, inputs: Any) -> Tensor:
        output = super().forward(inputs)
        return output.view(output.shape[0], -1).view(output.shape)


def resnet(
    width: int = 4,
    classes: int = CLASSES,
    norm: Config = BN,
    dropout: float = 0.1,
    **changes: Any,
) -> Config:
    """A ResNet of two stages (`width` and twice as many channels) under an FCNHead.

    `changes` go into the model dict: auxiliary_head, neck, test_cfg, data_preprocessor.
    """
    return {
        'type': 'EncoderDecoder',
        'data_preprocessor': preprocessor(),
        'backbone': dict(
            type='ResNetV1c',
            depth=18,
            num_stages=2,
            strides=(1, 2),
            dilations=(1, 1),
            out_indices=(0, 1),
            stem_channels=4,
            base_channels=width,
            norm_cfg=norm,
        ),
        'decode_head': fcn_head(2 * width, 1, classes, norm, dropout_ratio=dropout),
        'train_cfg': dict(),
        'test_cfg': dict(mode='whole'),
        **changes,
    }


def mit(width: int = 8, classes: int = CLASSES, drop_path: float = 0.3) -> Config:
    """A mix transformer of two stages under a SegformerHead, with dropout and drop path."""
    return dict(
        type='EncoderDecoder',
        data_preprocessor=preprocessor(),
        backbone=dict(
            type='MixVisionTransformer',
            embed_dims=width,
            num_stages=2,
            num_layers=[1, 1],
            num_heads=[1, 2],
            patch_sizes=[7, 3],
            strides=[4, 2],
            sr_ratios=[4, 2],
            out_indices=(0, 1),
            drop_rate=0.1,
            drop_path_rate=drop_path,
        ),
        decode_head=dict(
            type='SegformerHead',
            in_channels=[width, 2 * width],
            in_index=[0, 1],
            channels=8,
            dropout_ratio=0.1,
            num_classes=classes,
            norm_cfg=BN,
            align_corners=False,
        ),
        train_cfg=dict(),
        test_cfg=dict(mode='whole'),
    )


def ocr_cascade(width: int = 4) -> Config:
    """A CascadeEncoderDecoder: FCNHead, then OCRHead."""
    model = resnet(width)
    ocr = fcn_head(2 * width, 1)
    del ocr['num_convs'], ocr['concat_input']
    model.update(
        type='CascadeEncoderDecoder',
        num_stages=2,
        decode_head=[model['decode_head'], {**ocr, 'type': 'OCRHead', 'ocr_channels': 4}],
    )
    return model


def fpn(width: int = 4, out_channels: int = 4) -> Config:
    """A ResNet with an FPN for a neck."""
    neck = dict(type='FPN', in_channels=[width, 2 * width], out_channels=out_channels, num_outs=2)
    return resnet(width, neck=neck, decode_head=fcn_head(out_channels, 0))


def save_weights(model: Config, path: Path, seed: int = 7) -> str:
    """Save the state dict of a freshly initialised network; returns the path as text."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = MODELS.build(model)
        network.init_weights()
        # Statistics unlike those at the start, and scores as wide as a trained network's.
        for key, tensor in network.state_dict().items():
            if key.endswith(('running_mean', 'running_var')):
                tensor.add_(torch.rand(tensor.shape) * 0.1)
            elif key.endswith('conv_seg.weight'):
                tensor.mul_(100)
    torch.save(network.state_dict(), path)
    return str(path)


class RunsCode:
    """Calls `function(*arguments)` when it is unpickled."""

    def __init__(self, function: Callable[..., Any], *arguments: Any) -> None:
        self.call = (function, arguments)

    def __reduce__(self) -> Any:
        return self.call


def term(
    student_layer: str = 'decode_head.conv_seg',
    teacher_layer: str = 'decode_head.conv_seg',
    loss: str | Config = 'KLLoss',
    **changes: Any,
) -> Config:
    """One entry of `distillation`."""
    loss = dict(type=loss) if isinstance(loss, str) else loss
    return dict(student_layer=student_layer, teacher_layer=teacher_layer, loss=loss, **changes)


def wrapper_config(
    student: Config, teacher: Config, checkpoint: str, *terms: Config, **changes: Any
) -> Config:
    """A DistillationWrapper; `changes` go into the teacher's dict."""
    return dict(
        type='DistillationWrapper',
        student=student,
        teacher={**teacher, 'checkpoint': checkpoint, **changes},
        distillation=list(terms),
    )


def build(model: Mapping[str, Any], seed: int = 0) -> Any:
    """Build a segmentor and initialise its weights."""
    torch.manual_seed(seed)
    network = MODELS.build(ConfigDict(model))
    network.init_weights()
    return network


def batch(
    sizes: list[tuple[int, int]] | int = 2,
    seed: int = 0,
    classes: int = CLASSES,
    blank: float = 0.0,
) -> Config:
    """Random raw images and masks as a data loader gives them.

    Args:
        sizes: Height and width of every image, or a number of images of `SIZE`.
        blank: The fraction of pixels with the label 255.
    """
    sizes = [SIZE] * sizes if isinstance(sizes, int) else sizes
    generator = torch.Generator().manual_seed(seed)
    images, samples = [], []
    for height, width in sizes:
        images.append(
            torch.randint(0, 256, (3, height, width), generator=generator, dtype=torch.uint8)
        )
        mask = torch.randint(0, classes, (1, height, width), generator=generator)
        mask[torch.rand(mask.shape, generator=generator) < blank] = 255
        sample = SegDataSample(gt_sem_seg=PixelData(data=mask))
        shape = (height, width)
        sample.set_metainfo(dict(img_shape=shape, ori_shape=shape, img_path='', flip=False))
        samples.append(sample)
    return dict(inputs=images, data_samples=samples)


class KeepsGradients(OptimWrapper):
    """Leaves the gradients of the last backward pass on the parameters, and takes no step."""

    def step(self, **kwargs: Any) -> None:
        """Do nothing."""

    def zero_grad(self, **kwargs: Any) -> None:
        """Do nothing."""


def sgd(network: nn.Module, lr: float = 0.01) -> OptimWrapper:
    """Plain SGD over all that the network learns."""
    return OptimWrapper(torch.optim.SGD(network.parameters(), lr=lr))


def train(network: Any, steps: int, lr: float = 0.01, seed: int = 3) -> list[dict[str, Tensor]]:
    """Take optimiser steps as a runner does, each on a batch of its own; returns the logs."""
    torch.manual_seed(seed)
    optimiser = sgd(network, lr)
    logs = []
    for step in range(steps):
        network.train()
        logs.append(network.train_step(batch(seed=step), optimiser))
    return logs


def gradients(network: Any, seed: int = 3, **kwargs: Any) -> dict[str, Tensor | None]:
    """The gradients of one training step, by parameter; None where there is none."""
    torch.manual_seed(seed)
    network.train()
    network.zero_grad()
    network.train_step(batch(**kwargs), KeepsGradients(sgd(network).optimizer))
    return {k: None if p.grad is None else p.grad.clone() for k, p in network.named_parameters()}


@contextmanager
def counted(network: nn.Module, *layers: str) -> Iterator[dict[str, int]]:
    """How often each of `layers` begins to run inside the context."""
    counts = dict.fromkeys(layers, 0)
    handles = []

    def count(name: str) -> Any:
        def hook(*_: Any) -> None:
            counts[name] += 1

        return hook

    for name in layers:
        handles.append(network.get_submodule(name).register_forward_pre_hook(count(name)))
    try:
        yield counts
    finally:
        for handle in handles:
            handle.remove()


def same_tensors(a: Mapping[str, Tensor], b: Mapping[str, Tensor]) -> bool:
    """Whether two state dicts have the same keys and the same values to the bit."""
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


def write_dataset(root: Path, train: int = 4, val: int = 3, size: tuple[int, int] = SIZE) -> Path:
    """Write images of coloured stripes and their masks, `CLASSES` classes and 255."""
    rng = np.random.default_rng(0)
    height, width = size
    for split, count in (('train', train), ('val', val)):
        for kind in ('images', 'annotations'):
            (root / kind / split).mkdir(parents=True)
        for index in range(count):
            column = (np.arange(width) // 5 + rng.integers(CLASSES)) % CLASSES
            mask = np.tile(column, (height, 1)).astype(np.uint8)
            image = (mask[..., None] * 40 + rng.integers(0, 40, (height, width, 3))).astype(
                np.uint8
            )
            mask[:2] = 255
            Image.fromarray(image).save(root / 'images' / split / f'{index}.jpg')
            Image.fromarray(mask).save(root / 'annotations' / split / f'{index}.png')
    return root


CONFIG = """
_base_ = {base!r}
work_dir = {work_dir!r}
load = [dict(type='LoadImageFromFile'), dict(type='LoadAnnotations')]
train_pipeline = [*load, dict(type='RandomFlip', prob=0.5), dict(type='PackSegInputs')]
test_pipeline = [*load, dict(type='PackSegInputs')]
tta_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(
        type='TestTimeAug',
        transforms=[
            [dict(type='Resize', scale_factor=s, keep_ratio=True) for s in (0.5, 1.0)],
            [dict(type='RandomFlip', prob=p, direction='horizontal') for p in (0.0, 1.0)],
            [dict(type='LoadAnnotations')],
            [dict(type='PackSegInputs')],
        ],
    ),
]


def loader(split, pipeline, sampler):
    return dict(
        batch_size=2,
        num_workers=0,
        sampler=sampler,
        dataset=dict(
            type='BaseSegDataset',
            data_root={data!r},
            data_prefix=dict(img_path='images/' + split, seg_map_path='annotations/' + split),
            metainfo=dict(classes=('a', 'b', 'c', 'd', 'e'), palette=[[i, i, i] for i in range(5)]),
            pipeline=pipeline,
        ),
    )


train_dataloader = loader('train', train_pipeline, dict(type='InfiniteSampler', shuffle=True))
val_dataloader = loader('val', test_pipeline, dict(type='DefaultSampler', shuffle=False))
val_dataloader['batch_size'] = 1
test_dataloader = val_dataloader
val_evaluator = test_evaluator = dict(type='IoUMetric', iou_metrics=['mIoU'])
del loader
optim_wrapper = dict(type='OptimWrapper', optimizer=dict(type='SGD', lr=0.01))
train_cfg = dict(type='IterBasedTrainLoop', max_iters=4, val_interval=1000)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')
default_hooks = dict(
    logger=dict(type='LoggerHook', interval=1),
    checkpoint=dict(type='CheckpointHook', by_epoch=False, interval=2, max_keep_ckpts=2),
)
log_processor = dict(by_epoch=False, window_size=1)
randomness = dict(seed=0)
vis_backends = [dict(type='LocalVisBackend')]
visualizer = dict(vis_backends=vis_backends)
model = {model!r}
"""


def write_config(folder: Path, model: Config, data: Path, name: str = 'tiny.py') -> Path:
    """Write a config for `write_dataset` that trains for 4 iterations into `folder`/work."""
    path = folder / name
    text = CONFIG.format(
        base=[str(ROOT / 'configs' / '_base_' / 'runtime.py')],
        work_dir=str(folder / 'work'),
        data=str(data),
        model=model,
    )
    path.write_text(text, encoding='utf-8')
    return path


# In `changed`: the entry is taken out.
TAKEN_OUT = object()


def good_config(folder: Path) -> Config:
    """A whole config of a distillation in which nothing is wrong, as a plain dict.

    Its files are named as seen from `folder`; the teacher's weights are written there, images
    are not.
    """
    # A fixture of a module comes before the one that sets the scope of each test.
    init_default_scope('mmseg')
    teacher = resnet(8)
    save_weights(teacher, folder / 'teacher.pth')
    schedule = [dict(type='LinearWarmup', end=10), dict(type='LinearDecay', begin=20, end=30)]
    loss = dict(type='CGDLoss', group_size=2, tau=2.0)
    model = wrapper_config(
        resnet(4),
        teacher,
        'teacher.pth',
        term(loss=loss, weight=3.0, schedule=schedule),
        term('backbone.layer1', 'backbone.layer1', 'CDLoss', name='features'),
    )
    path = write_config(folder, model, Path('data'), 'good.py')
    cfg: Config = ReadConfig.fromfile(path).to_dict()
    return cfg


def changed(cfg: Config, place: str, value: Any) -> Config:
    """A copy of a config in which the entry at a dotted place is `value`, or `TAKEN_OUT`."""
    cfg = copy.deepcopy(cfg)
    node: Any = cfg
    *parents, last = place.split('.')
    for part in parents:
        node = node[int(part) if isinstance(node, list) else part]
    key = int(last) if isinstance(node, list) else last
    if value is TAKEN_OUT:
        del node[key]
    else:
        node[key] = value
    return cfg


class MeanModel(BaseModel):
    """A convolution whose mean is to become small."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 2, 1)

    def forward(self, inputs: list[Tensor], mode: str = 'tensor') -> Any:
        out = self.conv(torch.stack(inputs))
        return dict(loss=out.mean()) if mode == 'loss' else out
