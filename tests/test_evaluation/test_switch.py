"""The commands measure the fast way, and mmseg's where something may read the scores."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from builders import preprocessor, resnet, save_weights, write_config, write_dataset
from mmengine.config import Config, ConfigDict
from mmengine.evaluator import Evaluator
from mmengine.hooks import Hook
from mmengine.runner import loops
from mmseg.evaluation.metrics import IoUMetric
from mmseg.registry import EVALUATOR, HOOKS, LOOPS, METRICS, VISUALIZERS
from mmseg.visualization import SegLocalVisualizer

from mmseg_kd.cli import test as test_command
from mmseg_kd.cli import train as train_command
from mmseg_kd.evaluation import FastIoUMetric, switch, use_fast_metrics
from mmseg_kd.evaluation import lean_prediction as prediction
from mmseg_kd.evaluation.pack_byte_labels import PackByteLabels

SIZE = (144, 176)


class Run:
    """Test and train commands on a plain network, in this process.

    Args:
        folder: An empty folder.
        patch: To see what the commands use.
    """

    def __init__(self, folder: Path, patch: pytest.MonkeyPatch) -> None:
        self.folder = folder
        self.model = resnet(4, data_preprocessor=preprocessor(SIZE))
        self.checkpoint = save_weights(self.model, folder / 'weights.pth')
        self.data = write_dataset(folder / 'data', train=2, val=2, size=SIZE)
        self.metrics: list[type] = []
        self.labels: set[torch.dtype] = set()
        self.lean = 0
        self._spy(patch)

    def _spy(self, patch: pytest.MonkeyPatch) -> None:
        original = prediction.original_labels
        process = IoUMetric.process

        def labels(*args: Any) -> Any:
            self.lean += 1
            return original(*args)

        def processed(metric: IoUMetric, *args: Any) -> None:
            self.metrics.append(type(metric))
            [sample] = args[1]
            self.labels.add(sample['gt_sem_seg']['data'].dtype)
            process(metric, *args)

        patch.setattr(prediction, 'original_labels', labels)
        patch.setattr(IoUMetric, 'process', processed)

    def __call__(self, command: Any, *args: str, extra: str = '') -> None:
        path = write_config(self.folder, self.model, self.data)
        path.write_text(path.read_text(encoding='utf-8') + extra, encoding='utf-8')
        files = [self.checkpoint] if command is test_command else []
        self.metrics.clear()
        self.labels.clear()
        self.lean = 0
        assert command.main([str(path), *files, *args]) == 0

    def test(self, name: str, *args: str, extra: str = '') -> dict[str, float]:
        """What a test measures, in a work folder of its own."""
        folder = self.folder / name
        self(test_command, '--work-dir', str(folder), *args, extra=extra)
        [report] = folder.glob('*/*.json')
        found = json.loads(report.read_text(encoding='utf-8'))
        return {key: value for key, value in found.items() if 'time' not in key}


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    return Run(tmp_path, monkeypatch)


def test_both_ways_measure_the_same(run: Run) -> None:
    fast = run.test('fast', '--out', str(run.folder / 'masks'))
    assert run.metrics == [FastIoUMetric] * 2
    assert run.lean == 2
    assert run.labels == {torch.uint8}
    plain = run.test('plain', '--plain-eval', '--out', str(run.folder / 'plain_masks'))
    assert run.metrics == [IoUMetric] * 2
    assert run.lean == 0
    assert run.labels == {torch.int64}
    assert fast == plain
    assert 0 < fast['mIoU'] < 100
    for name in ('0.png', '1.png'):
        masks = [run.folder / folder / name for folder in ('masks', 'plain_masks')]
        assert masks[0].read_bytes() == masks[1].read_bytes()


def test_augmentation_averages_scores(run: Run) -> None:
    assert run.test('fast', '--tta') == run.test('plain', '--tta', '--plain-eval')
    run.test('again', '--tta')
    assert run.metrics == [FastIoUMetric] * 2
    assert run.lean == 0


def test_validation_is_fast(run: Run) -> None:
    run(train_command, '--cfg-options', 'train_cfg.max_iters=1', 'train_cfg.val_interval=1')
    assert run.lean == 2
    assert run.metrics == [FastIoUMetric] * 2
    assert run.labels == {torch.uint8}


def test_plain_validation(run: Run) -> None:
    options = ('train_cfg.max_iters=1', 'train_cfg.val_interval=1')
    run(train_command, '--plain-eval', '--cfg-options', *options)
    assert run.lean == 0
    assert run.metrics == [IoUMetric] * 2


def test_painted_images(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    painted = []
    monkeypatch.setattr(SegLocalVisualizer, 'add_image', lambda *args, **kwargs: painted.append(1))
    run.test('painted', '--show-dir', str(run.folder / 'painted'))
    assert run.lean == 2
    assert len(painted) == 2


def test_loaders_with_byte_labels() -> None:
    pack = dict(type='PackSegInputs', meta_keys=('img_path',))
    other = dict(type='PackSegInputsOfMine')
    pipeline = [dict(type='LoadAnnotations'), pack, other, dict(transforms=[[dict(pack)]])]
    cfg = ConfigDict(
        dataset=dict(type='RepeatDataset', dataset=dict(pipeline=pipeline, indices=(1, 2))),
        sampler=dict(type='DefaultSampler', shuffle=False),
        batch_size=1,
    )
    before = copy.deepcopy(cfg)
    found = switch.with_byte_labels(cfg)
    assert cfg == before
    assert isinstance(found.dataset.dataset, ConfigDict)
    loading, packing, mine, augmenting = found.dataset.dataset.pipeline
    assert packing == dict(type=PackByteLabels, meta_keys=('img_path',))
    assert augmenting.transforms[0][0].type is PackByteLabels
    found.dataset.dataset.pipeline = before.dataset.dataset.pipeline
    assert (loading, mine) == (pipeline[0], other)
    assert found == before


# What may read the scores.


class ReadingHook(Hook):
    """Wants the scores of every result."""

    def after_test_iter(self, *args: Any, outputs: Any = None, **kwargs: Any) -> None:
        assert all('seg_logits' in output for output in outputs)


class OtherHook(Hook):
    """Does not see results."""

    def before_test_epoch(self, *args: Any) -> None: ...


class ReadingMetric(IoUMetric):  # type: ignore[misc]
    """Wants the scores of every result."""

    def process(self, data_batch: Any, data_samples: Any) -> None:
        assert all('seg_logits' in one for one in data_samples)
        super().process(data_batch, data_samples)


class ReadingEvaluator(Evaluator):  # type: ignore[misc]
    """An evaluator that is not mmengine's own."""


class ReadingLoop(loops.TestLoop):  # type: ignore[misc]
    """A loop that is not mmengine's own."""


class ReadingVisualizer(SegLocalVisualizer):  # type: ignore[misc]
    """A visualiser that is not mmseg's own."""


@pytest.fixture
def registered() -> Any:
    """The classes above, registered for a test."""
    places = [
        (HOOKS, ReadingHook),
        (HOOKS, OtherHook),
        (METRICS, ReadingMetric),
        (EVALUATOR, ReadingEvaluator),
        (LOOPS, ReadingLoop),
        (VISUALIZERS, ReadingVisualizer),
    ]
    for registry, kind in places:
        registry.register_module(module=kind)
    yield
    for registry, kind in places:
        del registry.module_dict[kind.__name__]


@pytest.mark.usefixtures('registered')
@pytest.mark.parametrize(
    ('reader', 'extra'),
    [
        ('ReadingHook', "custom_hooks = [dict(type='ReadingHook')]"),
        (
            'ReadingMetric',
            "test_evaluator = [val_evaluator, dict(type='ReadingMetric', prefix='b')]",
        ),
        (
            'ReadingEvaluator',
            "test_evaluator = dict(type='ReadingEvaluator', metrics=[val_evaluator])",
        ),
        ('ReadingLoop', "test_cfg = dict(type='ReadingLoop')"),
        ('ReadingVisualizer', "visualizer = dict(type='ReadingVisualizer', _delete_=True)"),
    ],
)
def test_scores_are_kept_for_what_may_read_them(
    run: Run, reader: str, extra: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    monkeypatch.setattr(switch, 'print_log', lambda text, logger: said.append(text))
    plain = run.test('plain', '--plain-eval')
    assert not said
    kept = run.test('kept', extra=extra + '\n')
    assert run.lean == 0
    assert FastIoUMetric in run.metrics
    assert {key: kept[key] for key in plain} == plain
    assert said == [f"{reader} may read the scores: they are kept (mmseg's own prediction)."]


@pytest.mark.usefixtures('registered')
@pytest.mark.parametrize(
    'extra',
    [
        "custom_hooks = [dict(type='OtherHook')]",
        'test_evaluator = [test_evaluator]',
        'test_evaluator = dict(metrics=[test_evaluator])',
    ],
)
def test_what_reads_labels_alone_changes_nothing(run: Run, extra: str) -> None:
    run.test('lean', extra=extra + '\n')
    assert run.lean == 2
    assert run.metrics == [FastIoUMetric] * 2


def test_only_mmsegs_metric_is_replaced() -> None:
    cfg = Config(
        dict(
            val_evaluator=[
                dict(type='IoUMetric', iou_metrics=['mDice'], beta=2),
                dict(type='CityscapesMetric', output_dir='x'),
            ],
            test_evaluator=dict(type='Evaluator', metrics=dict(type=IoUMetric)),
        )
    )
    use_fast_metrics(cfg)
    assert cfg.val_evaluator == [
        dict(type='FastIoUMetric', iou_metrics=['mDice'], beta=2),
        dict(type='CityscapesMetric', output_dir='x'),
    ]
    assert cfg.test_evaluator.metrics.type == 'FastIoUMetric'
    use_fast_metrics(Config(dict(val_evaluator=None)))
