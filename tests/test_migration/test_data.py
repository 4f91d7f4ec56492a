"""Old pipelines, data sets and loaders, built as mmseg builds them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from builders import CLASSES, write_dataset
from mmengine.config import Config
from mmengine.dataset import Compose
from mmseg.registry import DATASETS, MODELS, TRANSFORMS
from old_configs import ADE20K, CITYSCAPES
from old_sections import notes, problems, section
from PIL import Image

from mmseg_kd.config.text import resolve
from mmseg_kd.migration.data import Data
from mmseg_kd.migration.datasets import convert_pipeline, packed
from mmseg_kd.migration.transforms import Pipeline

MEAN = [123.675, 116.28, 103.53]
NORMALIZE = dict(type='Normalize', mean=MEAN, std=[1.0, 2.0, 3.0], to_rgb=True)
INFINITE = dict(type='InfiniteSampler', shuffle=True)
IN_ORDER = dict(type='DefaultSampler', shuffle=False)
LOAD = dict(type='LoadImageFromFile')
PACK = dict(type='PackSegInputs')
ALIGNED = ['AlignResize', 'AlignedResize']


def convert(old: dict[str, Any]) -> tuple[Data, dict[str, Any], Any]:
    """The converted data, its entries without variables, and the section with its report."""
    one = section(old, 'data')
    data = Data(one)
    return data, {key: resolve(value, data.values) for key, value in data.values.items()}, one


def pipeline(*steps: dict[str, Any]) -> tuple[Pipeline, Any]:
    one = section(dict(pipeline=list(steps)))
    return convert_pipeline(one), one


def data_of(text: str) -> dict[str, Any]:
    values: dict[str, Any] = Config.fromstring(text, '.py').to_dict()['data']
    return values


def build_all(values: dict[str, Any], preprocessor: dict[str, Any]) -> None:
    """Build all that mmengine would, but for the files on the disk."""
    for split in ('train', 'val', 'test'):
        dataset = dict(values[f'{split}_dataloader']['dataset'], lazy_init=True)
        DATASETS.build(dataset)
    MODELS.build(preprocessor)


def test_ade20k() -> None:
    data, values, one = convert(data_of(ADE20K))
    assert problems(one) == []
    assert len(notes(one)) == 1
    assert 'the 50 repetitions go' in notes(one)[0]
    train = [
        LOAD,
        dict(type='LoadAnnotations'),
        dict(type='RandomResize', scale=(2048, 512), ratio_range=(0.5, 2.0), keep_ratio=True),
        dict(type='RandomCrop', crop_size=(512, 512), cat_max_ratio=0.75),
        dict(type='RandomFlip', prob=0.5),
        dict(type='PhotoMetricDistortion'),
        PACK,
    ]
    test = [
        LOAD,
        dict(type='Resize', scale=(2048, 512), keep_ratio=True),
        dict(type='ResizeToMultiple', size_divisor=32),
        dict(type='LoadAnnotations'),
        PACK,
    ]
    root = 'data/ade/ADEChallengeData2016'
    assert values['train_dataloader'] == dict(
        batch_size=4,
        num_workers=4,
        persistent_workers=True,
        sampler=INFINITE,
        dataset=dict(
            type='ADE20KDataset',
            data_root=root,
            data_prefix=dict(img_path='images/training', seg_map_path='annotations/training'),
            pipeline=train,
        ),
    )
    assert values['val_dataloader'] == dict(
        batch_size=1,
        num_workers=4,
        persistent_workers=True,
        sampler=IN_ORDER,
        dataset=dict(
            type='ADE20KDataset',
            data_root=root,
            data_prefix=dict(img_path='images/validation', seg_map_path='annotations/validation'),
            pipeline=test,
        ),
    )
    assert data.values['test_dataloader'] == 'val_dataloader'
    assert data.values['train_dataloader']['dataset']['pipeline'] == 'train_pipeline'
    assert (values['train_pipeline'], values['test_pipeline']) == (train, test)
    assert 'tta_pipeline' not in values
    assert data.measures
    assert data.preprocessor == dict(
        type='SegDataPreProcessor',
        mean=MEAN,
        std=[58.395, 57.12, 57.375],
        bgr_to_rgb=True,
        pad_val=0,
        seg_pad_val=255,
        size=(512, 512),
    )
    build_all(values, data.preprocessor)


def test_cityscapes() -> None:
    data, values, one = convert(data_of(CITYSCAPES))
    assert problems(one) == notes(one) == []
    train, val = values['train_dataloader'], values['val_dataloader']
    assert (train['batch_size'], train['num_workers']) == (2, 2)
    assert train['dataset']['type'] == 'CityscapesDataset'
    assert train['dataset']['data_root'] == 'data/cityscapes/'
    assert train['dataset']['data_prefix'] == dict(
        img_path='leftImg8bit/train', seg_map_path='gtFine/train'
    )
    assert val['dataset']['pipeline'][1] == dict(type='Resize', scale=(2048, 1024), keep_ratio=True)
    assert not any('reduce_zero_label' in one['dataset'] for one in (train, val))
    assert data.preprocessor['size'] == (512, 1024)
    build_all(values, data.preprocessor)


# Pipelines


@pytest.mark.parametrize(
    ('old', 'new'),
    [
        (dict(img_scale=(8, 4)), dict(type='Resize', scale=(8, 4), keep_ratio=True)),
        (
            dict(img_scale=[(8, 4)], keep_ratio=False),
            dict(type='Resize', scale=(8, 4), keep_ratio=False),
        ),
        (
            dict(img_scale=[(8, 4), (9, 5)], multiscale_mode='value'),
            dict(type='RandomChoiceResize', scales=[(8, 4), (9, 5)], keep_ratio=True),
        ),
        (
            dict(img_scale=[(8, 4), (9, 5)]),
            dict(type='RandomResize', scale=[(8, 4), (9, 5)], keep_ratio=True),
        ),
        (
            dict(img_scale=(8, 4), ratio_range=(0.5, 2.0)),
            dict(type='RandomResize', scale=(8, 4), ratio_range=(0.5, 2.0), keep_ratio=True),
        ),
    ],
)
def test_resizing(old: dict[str, Any], new: dict[str, Any]) -> None:
    made, one = pipeline(dict(type='Resize', **old))
    assert problems(one) == []
    assert made.steps == [new]
    TRANSFORMS.build(new)


@pytest.mark.parametrize(
    ('old', 'new'),
    [
        (dict(prob=0.5), dict(prob=0.5)),
        (dict(flip_ratio=0.3), dict(prob=0.3)),
        (dict(prob=0.5, direction='vertical'), dict(prob=0.5, direction='vertical')),
        (dict(), None),
    ],
)
def test_flipping(old: dict[str, Any], new: dict[str, Any] | None) -> None:
    made, one = pipeline(dict(type='RandomFlip', **old))
    assert problems(one) == []
    assert made.steps == ([] if new is None else [dict(type='RandomFlip', **new)])
    assert bool(notes(one)) == (new is None)


@pytest.mark.parametrize(
    'step',
    [
        dict(type='RandomRotate', prob=0.5, degree=10, pad_val=0, seg_pad_val=255),
        dict(type='CLAHE', clip_limit=3.0),
        dict(type='RandomCutOut', prob=0.5, n_holes=2, cutout_shape=(2, 2)),
        dict(type='PhotoMetricDistortion', brightness_delta=12),
        dict(type='LoadImageFromFile', to_float32=True, color_type='color'),
    ],
)
def test_steps_that_are_called_the_same(step: dict[str, Any]) -> None:
    made, one = pipeline(step)
    assert problems(one) == []
    assert made.steps == [step]
    TRANSFORMS.build(step)


def test_padding_before_normalising_stays_a_step() -> None:
    made, one = pipeline(dict(type='Pad', size=(4, 8), pad_val=7), NORMALIZE)
    assert problems(one) == []
    pad = dict(type='Pad', size=(8, 4), pad_val=dict(img=7, seg=255))
    assert made.steps == [pad]
    assert 'size' not in made.preprocessor
    results = dict(img=np.zeros((2, 3, 3), np.uint8), gt_seg_map=np.zeros((2, 3), np.uint8))
    padded = TRANSFORMS.build(pad)({**results, 'seg_fields': ['gt_seg_map']})
    assert padded['img'].shape == (4, 8, 3)
    assert (padded['img'][3, 7] == 7).all()
    assert padded['gt_seg_map'][3, 7] == 255


def test_padding_to_a_multiple() -> None:
    made, _ = pipeline(NORMALIZE, dict(type='Pad', size_divisor=32))
    assert made.preprocessor == dict(
        mean=MEAN,
        std=[1.0, 2.0, 3.0],
        bgr_to_rgb=True,
        pad_val=0,
        seg_pad_val=255,
        size_divisor=32,
    )


@pytest.mark.parametrize(
    ('step', 'listed'),
    [
        (dict(type='Rescale', x=1), "type: there is no transform 'Rescale' in mmseg 1.x"),
        (dict(type='RandomCrop', crop_size=(4, 4), deep=1), 'deep: RandomCrop of mmseg 1.x has no'),
        (dict(type='Resize', ratio_range=(1, 2)), 'ratio_range: random sizes need one img_scale'),
        (dict(type='Resize'), ' expected img_scale, got none'),
        (dict(type='Resize', img_scale=(4, 4), min_size=3), 'min_size: unknown key'),
        (dict(type='Resize', img_scale=512), ' cannot be read: TypeError'),
        (dict(type='MultiScaleFlipAug', transforms=[]), ' expected img_scale or img_ratios'),
    ],
)
def test_steps_that_are_listed(step: dict[str, Any], listed: str) -> None:
    made, one = pipeline(LOAD, step, dict(type='RandomFlip', prob=0.5))
    (line,) = problems(one)
    separator = ':' if listed.startswith(' ') else '.'
    assert line.startswith(f'pipeline[1]{separator}{listed}')
    assert made.steps[0] == LOAD
    assert made.steps[-1] == dict(type='RandomFlip', prob=0.5)
    Compose([TRANSFORMS.build(one) for one in packed(made)])


def test_changing_values_behind_normalize_is_listed() -> None:
    _, one = pipeline(NORMALIZE, dict(type='RandomFlip', prob=0.5), dict(type='CLAHE'))
    assert problems(one) == [
        'pipeline[2]: CLAHE stood behind Normalize, which now comes last of all'
    ]


def test_a_test_without_resizing() -> None:
    flip = dict(type='MultiScaleFlipAug', img_scale=(8, 4), transforms=[NORMALIZE])
    made, one = pipeline(LOAD, flip)
    assert problems(one) == notes(one) == []
    assert packed(made) == [LOAD, dict(type='LoadAnnotations'), PACK]


@pytest.mark.parametrize('kind', ALIGNED)
@pytest.mark.parametrize(
    ('size', 'kept', 'aligned'),
    [
        # Width and height: 70x30 by 50/30.
        ((70, 30), (117, 50), (128, 64)),
        # The longer side decides.
        ((90, 10), (200, 22), (224, 32)),
        ((64, 48), (67, 50), (96, 64)),
        # Nothing to do.
        ((192, 32), (200, 33), (224, 64)),
    ],
)
def test_aligned_pixels(
    kind: str,
    size: tuple[int, int],
    kept: tuple[int, int],
    aligned: tuple[int, int],
    tmp_path: Path,
) -> None:
    """As SegFormer's: the ratio is kept, then both sides go up to a multiple."""
    made, one = pipeline(
        LOAD,
        dict(
            type='MultiScaleFlipAug',
            img_scale=(200, 50),
            transforms=[dict(type=kind, keep_ratio=True, size_divisor=32)],
        ),
    )
    assert problems(one) == []
    image = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    Image.fromarray(image).save(tmp_path / 'a.png')
    results: Any = dict(img_path=str(tmp_path / 'a.png'))
    for step in made.steps:
        results = TRANSFORMS.build(step)(results)
    factor = min(200 / max(size), 50 / min(size))
    assert kept == tuple(int(side * factor + 0.5) for side in size)
    # Twice bilinear; mmseg reads BGR.
    expected = cv2.resize(image[..., ::-1], kept, interpolation=cv2.INTER_LINEAR)
    expected = cv2.resize(expected, aligned, interpolation=cv2.INTER_LINEAR)
    np.testing.assert_array_equal(results['img'], expected)


FLIPS = [dict(type='RandomFlip', prob=p, direction='horizontal') for p in (0.0, 1.0)]


@pytest.mark.parametrize(
    ('scales', 'sizes'),
    [
        (
            dict(img_scale=(2048, 512), img_ratios=[0.5, 1.0, 1.75]),
            [dict(scale=s) for s in ((2048, 512), (1024, 256), (3584, 896))],
        ),
        (dict(img_scale=[(8, 4), (9, 5)]), [dict(scale=s) for s in ((8, 4), (9, 5))]),
        (dict(img_scale=None, img_ratios=[0.5, 1.0]), [dict(scale_factor=s) for s in (1.0, 0.5)]),
        (dict(img_scale=None, img_ratios=1.0), [dict(scale_factor=1.0)]),
        (dict(img_scale=(8, 4)), [dict(scale=(8, 4))]),
    ],
)
@pytest.mark.parametrize('flip', [False, True])
@pytest.mark.parametrize('kind', ['Resize', *ALIGNED])
def test_test_time_augmentation(
    scales: dict[str, Any], sizes: list[dict[str, Any]], flip: bool, kind: str
) -> None:
    old = dict(
        type='MultiScaleFlipAug',
        **scales,
        flip=flip,
        transforms=[dict(type=kind, keep_ratio=True), dict(type='RandomFlip'), NORMALIZE],
    )
    test = dict(type='CityscapesDataset', img_dir='a', ann_dir='b', pipeline=[LOAD, old])
    _, values, one = convert(dict(train=test, val=test))
    assert problems(one) == []
    resize = dict(type='Resize', keep_ratio=True)
    assert values['test_pipeline'][1] == {**resize, **sizes[0]}
    if len(sizes) == 1 and not flip:
        assert 'tta_pipeline' not in values
        assert notes(one) == []
        return
    assert all('--tta' in note for note in notes(one))
    aligned = [[dict(type='ResizeToMultiple', size_divisor=32)]] if kind in ALIGNED else []
    assert values['tta_pipeline'] == [
        LOAD,
        dict(
            type='TestTimeAug',
            transforms=[
                [{**resize, **size} for size in sizes],
                *aligned,
                FLIPS if flip else FLIPS[:1],
                [dict(type='LoadAnnotations')],
                [PACK],
            ],
        ),
    ]
    assert values['tta_model'] == dict(type='SegTTAModel')
    Compose([TRANSFORMS.build(step) for step in values['tta_pipeline']])


# Data sets


def dataset(**changes: Any) -> dict[str, Any]:
    plain = dict(type='CityscapesDataset', img_dir='i', ann_dir='a', pipeline=[LOAD])
    return {**plain, **changes}


def train_set(old: Any) -> tuple[dict[str, Any], Any]:
    data, _, one = convert(dict(train=old))
    found = data.values['train_dataloader']['dataset']
    return found, one


def test_words_of_data_sets() -> None:
    found, one = train_set(
        dataset(
            type='CustomDataset',
            data_root='r',
            split='train.txt',
            img_suffix='.jpg',
            classes=['a', 'b'],
            palette=[[0, 0, 0], [1, 1, 1]],
            ignore_index=7,
            test_mode=False,
        )
    )
    assert problems(one) == notes(one) == []
    assert found == dict(
        type='BaseSegDataset',
        data_root='r',
        ann_file='train.txt',
        data_prefix=dict(img_path='i', seg_map_path='a'),
        img_suffix='.jpg',
        ignore_index=7,
        metainfo=dict(classes=['a', 'b'], palette=[[0, 0, 0], [1, 1, 1]]),
        pipeline='train_pipeline',
    )


def test_several_folders_and_data_sets() -> None:
    found, one = train_set(
        [
            dataset(img_dir=['i', 'j'], ann_dir=['a', 'b'], split=['x.txt', 'y.txt']),
            dict(type='RepeatDataset', times=3, dataset=dataset(img_dir='k')),
            dict(type='ConcatDataset', datasets=[dataset(img_dir='l')]),
        ]
    )
    assert problems(one) == []
    assert found['type'] == 'ConcatDataset'
    prefixes = [part['data_prefix'] for part in found['datasets']]
    assert [(p['img_path'], p['seg_map_path']) for p in prefixes] == [
        ('i', 'a'),
        ('j', 'b'),
        ('k', 'a'),
        ('l', 'a'),
    ]
    assert [part.get('ann_file') for part in found['datasets']] == ['x.txt', 'y.txt', None, None]


@pytest.mark.parametrize(
    ('kind', 'in_pipeline', 'written'),
    [
        ('ADE20KDataset', True, None),
        ('ADE20KDataset', False, False),
        ('CustomDataset', True, True),
        ('CustomDataset', False, None),
    ],
)
def test_label_zero(kind: str, in_pipeline: bool, written: bool | None) -> None:
    load = dict(type='LoadAnnotations', reduce_zero_label=in_pipeline)
    one = dataset(type=kind, pipeline=[LOAD, load], reduce_zero_label=not in_pipeline)
    found, _ = train_set(one)
    assert found.get('reduce_zero_label') == written
    data, _, _ = convert(dict(train=one, val={**one, 'pipeline': [LOAD]}))
    # What is measured on was told by the data set.
    assert data.values['val_dataloader']['dataset']['reduce_zero_label'] == (not in_pipeline)


def test_pipelines_that_differ() -> None:
    flips = [dict(type='RandomFlip', prob=p) for p in (0.1, 0.2)]
    data, values, _ = convert(
        dict(
            train=[dataset(pipeline=[LOAD, flip]) for flip in flips],
            val=dataset(pipeline=[LOAD]),
            test=dataset(pipeline=[LOAD, flips[0]]),
        )
    )
    first, second = data.values['train_dataloader']['dataset']['datasets']
    assert first['pipeline'] == 'train_pipeline'
    assert second['pipeline'][1] == flips[1]
    assert data.values['val_dataloader']['dataset']['pipeline'] == 'test_pipeline'
    assert data.values['test_dataloader']['dataset']['pipeline'] == 'val_pipeline'
    assert values['val_pipeline'][1] == flips[0]


def test_loaders() -> None:
    data, _, one = convert(
        dict(
            samples_per_gpu=3,
            workers_per_gpu=2,
            train=dataset(),
            val=dataset(),
            val_dataloader=dict(samples_per_gpu=4, workers_per_gpu=0),
            train_dataloader=dict(drop_last=True, shuffle=False, pin=1),
        )
    )
    train, val = data.values['train_dataloader'], data.values['val_dataloader']
    assert (train['batch_size'], train['num_workers'], train['persistent_workers']) == (3, 2, True)
    assert (val['batch_size'], val['num_workers'], val['persistent_workers']) == (4, 0, False)
    assert problems(one) == ['data.train_dataloader.pin: unknown key, left out']
    assert notes(one) == ['data.train_dataloader.shuffle: dropped: the sampler says it']


def test_no_data() -> None:
    data, _, one = convert({})
    assert problems(one) == ['data.train: expected the data to train on, got none']
    assert not data.measures
    data, _, one = convert(dict(train=dataset(), test=dataset(), vall=1))
    assert problems(one) == ['data.vall: unknown key, left out']
    assert data.measures


def test_a_data_set_that_is_not_there() -> None:
    found, one = train_set(dataset(type='MyDataset', mine=1))
    assert found['type'] == 'MyDataset'
    assert found['mine'] == 1
    (line,) = problems(one)
    assert line.startswith("data.train.type: there is no data set 'MyDataset' in mmseg 1.x")


def test_a_data_set_around_another() -> None:
    mixing = dict(type='MultiImageMixDataset', dataset=dataset(), pipeline=[LOAD])
    found, one = train_set(mixing)
    assert found['type'] == 'CityscapesDataset'
    assert problems(one) == [
        'data.train.pipeline: unknown key, left out',
        'data.train.type: MultiImageMixDataset is not converted, only the data set in it',
    ]


def test_preprocessor_without_padding_or_normalising() -> None:
    data, _, _ = convert(dict(train=dataset()))
    assert data.preprocessor['mean'] is None
    assert data.preprocessor['size_divisor'] == 1
    crop = dict(type='RandomCrop', crop_size=(4, 6))
    data, _, _ = convert(dict(train=dataset(pipeline=[LOAD, crop])))
    assert data.preprocessor['size'] == (4, 6)
    MODELS.build(data.preprocessor)


def test_padding_of_tests_and_other_normalising() -> None:
    pad = dict(type='Pad', size_divisor=16)
    data, _, one = convert(
        dict(
            train=dataset(pipeline=[LOAD, NORMALIZE, dict(type='Pad', size=(4, 4))]),
            val=dataset(pipeline=[LOAD, NORMALIZE, pad]),
            test=dataset(pipeline=[LOAD, {**NORMALIZE, 'to_rgb': False}, pad]),
        )
    )
    assert data.preprocessor['size'] == (4, 4)
    assert data.preprocessor['test_cfg'] == dict(size_divisor=16)
    assert problems(one) == ['data: not all images were normalised alike; now all are']


def test_a_batch_is_as_it_was(tmp_path: Path) -> None:
    """From files to the network: sizes, channels, normalisation and labels."""
    root = write_dataset(tmp_path, size=(20, 24))
    steps = [
        LOAD,
        dict(type='LoadAnnotations'),
        dict(type='RandomCrop', crop_size=(32, 32)),
        NORMALIZE,
        dict(type='Pad', size=(32, 32), pad_val=0, seg_pad_val=255),
        dict(type='DefaultFormatBundle'),
        dict(type='Collect', keys=['img', 'gt_semantic_seg']),
    ]
    names = [str(i) for i in range(CLASSES)]
    one = dataset(
        type='CustomDataset',
        data_root=str(root),
        img_dir='images/train',
        ann_dir='annotations/train',
        classes=names,
        palette=[[i, i, i] for i in range(CLASSES)],
        pipeline=steps,
    )
    data, values, _ = convert(dict(train=one))
    built = DATASETS.build(values['train_dataloader']['dataset'])
    sample = built[0]
    batch = dict(inputs=[sample['inputs']], data_samples=[sample['data_samples']])
    made = MODELS.build(data.preprocessor)(batch, training=True)
    image = np.asarray(Image.open(root / 'images/train/0.jpg')).astype(np.float32)
    expected = (image - MEAN) / [1.0, 2.0, 3.0]
    found = made['inputs'][0].permute(1, 2, 0).numpy()
    assert found.shape == (32, 32, 3)
    np.testing.assert_allclose(found[:20, :24], expected, atol=1e-4)
    assert (found[20:] == 0).all()
    label = made['data_samples'][0].gt_sem_seg.data[0].numpy()
    assert (label[20:] == 255).all()
    mask = np.asarray(Image.open(root / 'annotations/train/0.png'))
    assert (label[:20, :24] == mask).all()
