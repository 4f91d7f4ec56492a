"""Distillation as a function."""

from __future__ import annotations

import copy
import doctest
import os
import random
import signal
import sys
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from builders import (
    CLASSES,
    SIZE,
    Config,
    resnet,
    same_tensors,
    save_weights,
    term,
    write_config,
    write_dataset,
)
from hf_models import MASKS, PIXELS, PROCESSORS, write_model
from mmengine.config import Config as ReadConfig
from mmengine.hooks import Hook
from mmengine.logging import MessageHub, MMLogger
from mmengine.registry import HOOKS, DefaultScope
from mmengine.visualization import Visualizer
from mmseg.apis import inference_model, init_model
from PIL import Image
from torch import nn
from training_runs import tensors

import mmseg_kd
from mmseg_kd.cli import list_layers
from mmseg_kd.cli import test as test_command
from mmseg_kd.cli import train as train_command
from mmseg_kd.engine import distill as distillation
from mmseg_kd.engine.arguments import model_config, schedule_config
from mmseg_kd.engine.isolation import isolated
from mmseg_kd.errors import CheckpointError, ConfigError, DeviceError, KDError, ManyErrors
from mmseg_kd.export.student import export_student
from mmseg_kd.hooks import ValidationPicturesHook
from mmseg_kd.runs.log import read_log

LOAD = [dict(type='LoadImageFromFile'), dict(type='LoadAnnotations')]


@HOOKS.register_module()
class Interrupts(Hook):
    """Sends signals to its own process in an iteration."""

    def __init__(self, iteration: int, signals: list[str]) -> None:
        self.iteration = iteration
        self.signals = signals

    def before_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None) -> None:
        if runner.iter == self.iteration - 1:
            for name in self.signals:
                signal.raise_signal(signal.Signals[name])


def split(root: Path, name: str, *augmentations: Config) -> Config:
    return dict(
        type='BaseSegDataset',
        data_root=root,
        data_prefix=dict(img_path=f'images/{name}', seg_map_path=f'annotations/{name}'),
        metainfo=dict(
            classes=tuple('abcde'), palette=[[40 * index] * 3 for index in range(CLASSES)]
        ),
        img_suffix='.jpg',
        seg_map_suffix='.png',
        pipeline=[*LOAD, *augmentations, dict(type='PackSegInputs')],
    )


@pytest.fixture(autouse=True)
def no_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """They take most of the time of runs this short."""
    monkeypatch.setattr(ValidationPicturesHook, 'after_val_epoch', lambda *_, **__: None)


@pytest.fixture(autouse=True)
def interrupts_count() -> Iterator[None]:
    """As in a shell: a process that one starts in the background passes them over."""
    own = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, own)


@pytest.fixture
def data(tmp_path: Path) -> Config:
    root = write_dataset(tmp_path / 'data')
    return dict(
        train_dataloader=dict(
            batch_size=2,
            sampler=dict(type='InfiniteSampler', shuffle=True),
            dataset=split(root, 'train', dict(type='RandomFlip', prob=0.5)),
        ),
        val_dataloader=dict(batch_size=1, dataset=split(root, 'val')),
        val_evaluator=dict(type='IoUMetric', iou_metrics=['mIoU']),
    )


@pytest.fixture
def distil(
    tmp_path: Path, data: Config, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., mmseg_kd.Distilled]:
    """`distill` with small networks and data, for 4 iterations, into a folder."""
    monkeypatch.chdir(tmp_path)
    teacher = resnet(8)
    checkpoint = save_weights(teacher, tmp_path / 'teacher.pth')
    # As in a new process, whatever other tests have left.
    monkeypatch.setattr(DefaultScope, '_instance_dict', OrderedDict())

    def call(folder: str = 'run', **changes: Any) -> mmseg_kd.Distilled:
        arguments: dict[str, Any] = dict(
            student=resnet(4),
            teacher=teacher,
            teacher_checkpoint=checkpoint,
            terms=[term(name='kl')],
            data=data,
            iterations=4,
            val_interval=2,
            lr=0.01,
            seed=1,
            work_dir=tmp_path / folder,
        )
        return mmseg_kd.distill(**{**arguments, **changes})

    return call


def weights(result: mmseg_kd.Distilled) -> dict[str, torch.Tensor]:
    return dict(result.student.state_dict())


def test_three_calls_in_one_process(distil: Callable[..., mmseg_kd.Distilled]) -> None:
    kinds = (MMLogger, MessageHub, Visualizer, DefaultScope)
    before = [dict(kind._instance_dict) for kind in kinds]
    handlers = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    states = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()
    first, second, other = distil('a'), distil('b'), distil('c', seed=2)
    assert same_tensors(weights(first), weights(second))
    assert not same_tensors(weights(first), weights(other))
    assert first.metrics == second.metrics
    assert first.metrics.keys() == {'aAcc', 'mIoU', 'mAcc'}
    for name in ('train/loss', 'train/kd.kl', 'train/kd_weight.kl', 'train/lr', 'val/mIoU'):
        assert np.array_equal(first.history[name], second.history[name]), name
    assert first.history['train/loss'][0].tolist() == [1, 2, 3, 4]
    assert first.history['val/mIoU'][0].tolist() == [2, 4]
    assert first.history['val/mIoU'][1][-1] == first.metrics['mIoU']
    assert not np.array_equal(first.history['train/loss'][1], other.history['train/loss'][1])
    # The process is as it was.
    assert [dict(kind._instance_dict) for kind in kinds] == before
    assert handlers == [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    after = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()
    assert states == after


def test_it_is_what_the_command_does(
    distil: Callable[..., mmseg_kd.Distilled], monkeypatch: pytest.MonkeyPatch
) -> None:
    result = distil()
    again = result.work_dir.with_name('again')
    assert train_command.main([str(result.config), '--work-dir', str(again)]) == 0
    assert result.checkpoint == result.work_dir / 'iter_4.pth'
    assert same_tensors(tensors(result.checkpoint), tensors(again / 'iter_4.pth'))


def test_it_logs_what_the_command_does(
    distil: Callable[..., mmseg_kd.Distilled], tmp_path: Path
) -> None:
    """The means over four iterations, with the same networks, data, schedule and seed."""
    teacher = dict(**resnet(8), checkpoint=str(tmp_path / 'teacher.pth'))
    model = dict(
        type='DistillationWrapper',
        teacher=teacher,
        student=resnet(4),
        distillation=[term(name='kl')],
    )
    config = str(write_config(tmp_path, model, tmp_path / 'data'))
    one_line = {'default_hooks.logger.interval': 4}
    of_its_own = dict(iterations=None, lr=None, val_interval=None)
    result = distil(data=config, schedule=config, **of_its_own, cfg_options=one_line)
    folder = tmp_path / 'command'
    options = ['default_hooks.logger.interval=4', 'log_processor.window_size=10']
    command = [config, '--work-dir', str(folder), '--seed', '1', '--cfg-options', *options]
    with isolated():
        assert train_command.main(command) == 0
    of_command, of_function = read_log(folder).train, read_log(result.work_dir).train
    assert of_command.keys() == of_function.keys() >= {'loss', 'task_loss', 'kd.kl'}
    for name in of_command.keys() - {'time', 'data_time'}:
        assert of_command[name].values.tolist() == of_function[name].values.tolist(), name
    _, values = result.history['train/kd.kl']
    assert of_command['kd.kl'].last == pytest.approx(values.mean(), rel=1e-6)


def test_the_student_predicts_as_mmsegs_own(
    distil: Callable[..., mmseg_kd.Distilled], data: Config
) -> None:
    result = distil()
    assert not result.student.training
    image = data['val_dataloader']['dataset']['data_root'] / 'images' / 'val' / '0.jpg'
    assert DefaultScope.get_current_instance() is None
    prediction = inference_model(result.student, str(image))
    assert prediction.seg_logits.data.shape == (CLASSES, *SIZE)
    array = np.asarray(Image.open(image))[..., ::-1]
    of_array = inference_model(copy.deepcopy(result.student), array)
    assert torch.equal(prediction.pred_sem_seg.data, of_array.pred_sem_seg.data)
    # The best student is a file of stock mmseg's; here it is the last one or that of iteration 2.
    assert result.best is not None
    best = init_model(ReadConfig(dict(model=result.student.cfg.model)), str(result.best), 'cpu')
    assert best.dataset_meta['classes'] == tuple('abcde')
    assert result.student.dataset_meta['classes'] == tuple('abcde')


def test_networks_that_are_built_already(distil: Callable[..., mmseg_kd.Distilled]) -> None:
    teacher = distil('teacher', teacher=None, teacher_checkpoint=None, terms=[], student=resnet(8))
    assert not any('kd' in name for name in teacher.history)
    kept = {key: tensor.clone() for key, tensor in weights(teacher).items()}
    result = distil('student', teacher=teacher.student, teacher_checkpoint=None)
    assert same_tensors(weights(teacher), kept)
    file = torch.load(result.work_dir / 'teacher.pth', weights_only=True)
    assert same_tensors(file['state_dict'], kept)
    # A student begins with the weights that were given: a rate this small leaves them as they are.
    onward = distil('onward', student=result.student, lr=1e-12)
    parameters = dict(result.student.named_parameters())
    for name, parameter in onward.student.named_parameters():
        torch.testing.assert_close(parameter, parameters[name])


class Plain(nn.Module):
    """A network of nobody's library."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, width, 3, 2, 1), nn.BatchNorm2d(width), nn.ReLU())
        self.classifier = nn.Conv2d(width, CLASSES, 1)

    def forward(self, images_NCHW: torch.Tensor) -> torch.Tensor:
        scores: torch.Tensor = self.classifier(self.stem(images_NCHW))
        return scores


def test_a_teacher_that_is_any_module(
    distil: Callable[..., mmseg_kd.Distilled], monkeypatch: pytest.MonkeyPatch
) -> None:
    network = Plain(4)
    kept = {key: tensor.clone() for key, tensor in network.state_dict().items()}
    result = distil(teacher=network, teacher_checkpoint=None)
    # Nothing was folded into it, and it still learns.
    assert same_tensors(network.state_dict(), kept) and network.training
    assert all(parameter.requires_grad for parameter in network.parameters())
    again = result.work_dir.with_name('again')
    command = [str(result.config), '--work-dir', str(again)]
    # As another process has it.
    monkeypatch.setattr('mmseg_kd.networks.elsewhere.torch_segmentor._SAVED', {})
    assert train_command.main(command) == 1
    assert train_command.main([*command, '--trust-checkpoint']) == 0
    assert same_tensors(tensors(result.checkpoint), tensors(again / 'iter_4.pth'))
    # In a dict it may have more to say.
    given = dict(type='TorchSegmentor', module=network, num_classes=CLASSES)
    model = model_config(given, resnet(4), [], None, result.work_dir)
    assert model['teacher'] == {**given, 'module': str(result.work_dir / 'teacher.pt')}


def test_networks_of_transformers(
    distil: Callable[..., mmseg_kd.Distilled], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip('transformers')
    networks = {}
    for name, make in (('segformer', PIXELS), ('maskformer', MASKS)):
        write_model(tmp_path / name, make[name], PROCESSORS[name])
        networks[name] = dict(type='HFSegmentor', model=str(tmp_path / name))
    run = partial(
        distil,
        teacher=networks['maskformer'],
        student=networks['segformer'],
        teacher_checkpoint=None,
    )
    whole = run('whole')
    assert (whole.history['train/kd.kl'][1] > 0).all()
    hook = [dict(type='Interrupts', iteration=3, signals=['SIGINT'])]
    with pytest.raises(KeyboardInterrupt):
        run('stopped', cfg_options=dict(custom_hooks=hook))
    resumed = run('stopped', resume=True)
    assert same_tensors(weights(whole), weights(resumed))
    export = partial(export_student, whole.config, whole.checkpoint, images=1)
    assert export(to='torch_export', fixed_size=SIZE).files['torch_export'].path.is_file()
    exported = export(to='mmseg')
    assert exported.modules == ['mmseg_kd.networks.elsewhere']
    assert test_command.main([str(whole.config), '--teacher', '--work-dir', str(tmp_path)]) == 0
    assert list_layers.main([str(whole.config), '--filter', '*conv_seg']) == 0
    # Other weights than before are another run.
    write_model(tmp_path / 'maskformer', MASKS['maskformer'], PROCESSORS['maskformer'], seed=6)
    with pytest.raises(CheckpointError, match="teacher 'teacher': other weights"):
        run('stopped', resume=True, iterations=5)


def test_an_interrupt_leaves_a_checkpoint_to_go_on_from(
    distil: Callable[..., mmseg_kd.Distilled],
) -> None:
    handler = signal.getsignal(signal.SIGINT)
    whole = distil('whole')
    hook = [dict(type='Interrupts', iteration=3, signals=['SIGINT'])]
    with pytest.raises(KeyboardInterrupt, match=r'iter_3\.pth'):
        distil('stopped', cfg_options=dict(custom_hooks=hook))
    assert signal.getsignal(signal.SIGINT) is handler
    resumed = distil('stopped', resume=True)
    assert same_tensors(weights(whole), weights(resumed))
    assert whole.metrics == resumed.metrics
    for name in ('train/loss', 'val/mIoU'):
        assert np.array_equal(whole.history[name], resumed.history[name])


def test_a_second_interrupt_ends_it_at_once_and_not_the_process(
    distil: Callable[..., mmseg_kd.Distilled], tmp_path: Path
) -> None:
    hook = [dict(type='Interrupts', iteration=3, signals=['SIGINT', 'SIGINT'])]
    with pytest.raises(KeyboardInterrupt):
        distil(cfg_options=dict(custom_hooks=hook))
    assert not (tmp_path / 'run' / 'iter_3.pth').exists()
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_other_signals_do_what_they_did_before(distil: Callable[..., mmseg_kd.Distilled]) -> None:
    heard = []
    before = signal.signal(signal.SIGTERM, lambda number, _: heard.append(number))
    hook = [dict(type='Interrupts', iteration=1, signals=['SIGTERM'])]
    try:
        with pytest.raises(KeyboardInterrupt, match=r'iter_1\.pth'):
            distil(cfg_options=dict(custom_hooks=hook))
    finally:
        signal.signal(signal.SIGTERM, before)
    assert heard == [signal.SIGTERM]


def test_in_a_thread(distil: Callable[..., mmseg_kd.Distilled]) -> None:
    results: list[mmseg_kd.Distilled] = []
    thread = threading.Thread(target=lambda: results.append(distil('thread', iterations=2)))
    thread.start()
    thread.join()
    assert same_tensors(weights(results[0]), weights(distil('main', iterations=2)))


def test_averaged_weights_are_those_that_were_measured(
    distil: Callable[..., mmseg_kd.Distilled],
) -> None:
    hooks = [dict(type='EMAHook', momentum=0.5)]
    result = distil(cfg_options=dict(custom_hooks=hooks), iterations=3)
    plain = distil('plain', iterations=3)
    assert result.checkpoint is not None
    # mmengine saves the averaged weights in the place of the others.
    saved = torch.load(result.checkpoint, weights_only=False)['state_dict']
    own = {f'student.{key}': tensor for key, tensor in weights(result).items()}
    assert same_tensors(own, {key: saved[key] for key in own})
    assert not same_tensors(weights(result), weights(plain))


def test_without_validation_data(distil: Callable[..., mmseg_kd.Distilled], data: Config) -> None:
    del data['val_dataloader'], data['val_evaluator']
    result = distil()
    assert result.metrics == {}
    assert result.best is None
    assert result.history['train/loss'][0].tolist() == [1, 2, 3, 4]


def test_a_schedule_of_ones_own(
    distil: Callable[..., mmseg_kd.Distilled], capsys: pytest.CaptureFixture[str]
) -> None:
    schedule = ReadConfig(
        dict(
            optim_wrapper=dict(optimizer=dict(type='SGD', lr=0.5)),
            train_cfg=dict(type='IterBasedTrainLoop', max_iters=3, val_interval=3),
        )
    )
    result = distil(schedule=schedule, iterations=None, lr=None, val_interval=None)
    assert result.history['train/lr'][1].tolist() == [0.5, 0.5, 0.5]
    # The environment and the config are in the log file alone.
    shown = capsys.readouterr().out
    assert 'System environment' not in shown
    assert 'mIoU' in shown
    (log,) = result.work_dir.glob('*/*.log')
    assert 'System environment' in log.read_text(encoding='utf-8')


def test_the_default_schedule() -> None:
    schedule = schedule_config(None, 1000, None, None, None)
    rise, fall = schedule['param_scheduler']
    assert (rise['type'], rise['begin'], rise['end']) == ('LinearLR', 0, 50)
    assert (fall['type'], fall['begin'], fall['end']) == ('PolyLR', 50, 1000)
    assert schedule['optim_wrapper']['optimizer']['lr'] == 6e-5
    assert schedule['train_cfg']['val_interval'] == 100
    sgd = schedule_config(None, 10, 0.5, dict(type='SGD'), 3)
    assert sgd['optim_wrapper'] == dict(type='OptimWrapper', optimizer=dict(type='SGD', lr=0.5))
    assert [one['type'] for one in sgd['param_scheduler']] == ['PolyLR']
    assert sgd['default_hooks']['checkpoint']['interval'] == 3


@pytest.mark.parametrize(
    ('changes', 'error', 'messages'),
    [
        (
            dict(iterations=0, lr='fast', student=3, data=dict(train_dataloder=1), terms='kl'),
            ManyErrors,
            [
                'iterations: expected a whole number >= 1, got 0',
                "lr: expected a number > 0, got 'fast'",
                'student: expected a config',
                "data: unknown key 'train_dataloder'; nearest: train_dataloader",
                "terms: expected a list of dicts, got 'kl'",
            ],
        ),
        (dict(student=torch.nn.ReLU()), ConfigError, ['student: expected a network that knows']),
        (dict(iterations=None), ConfigError, ['iterations: expected a number']),
        (dict(schedule='mmseg::_base_/schedules/schedule_20k.py'), ConfigError, ['iterations, lr']),
        (dict(schedule=7, iterations=None, lr=None, val_interval=None), ConfigError, ['got 7']),
        (dict(optimizer='SGD'), ConfigError, ["optimizer: expected dict(type='...'"]),
        (dict(optimizer=dict(type='SGD', lr=1)), ConfigError, ['lr: the optimizer']),
        (dict(data={}), ConfigError, ['data: expected a train_dataloader']),
        (dict(data='nowhere.py'), ConfigError, ["there is no config file 'nowhere.py'"]),
        (dict(student='nowhere.py'), ConfigError, ['student.config: there is no config file']),
        (dict(student=ReadConfig(dict(a=1))), ConfigError, ['student: expected a config with']),
        (dict(teacher=None), ConfigError, ['teacher_checkpoint: there is no teacher']),
        (dict(teacher=[resnet(4)]), ConfigError, ['teacher_checkpoint: goes with one teacher']),
        (dict(teacher=None, teacher_checkpoint=None), ConfigError, ['but no teacher']),
        (dict(terms=[term(student_layer='nose')]), ConfigError, ["has no layer 'nose'"]),
        (dict(cfg_options={'model.student.0': 1, 'work_dir.a': 1}), ConfigError, ['cfg_options']),
        (dict(student=resnet(4, test_cfg=None)), ConfigError, ['expected test_cfg=']),
        (dict(device='gpu'), DeviceError, ['expected auto, cpu, cuda or cuda:N']),
        (dict(device='cuda:99'), DeviceError, ['--device cuda:99: there is none here', 'cpu']),
        (dict(resume=True, work_dir=None), ConfigError, ['resume=True: expected the work_dir']),
        (dict(resume='nowhere.pth'), KDError, ['nowhere.pth']),
    ],
)
def test_what_is_refused(
    distil: Callable[..., mmseg_kd.Distilled],
    changes: dict[str, Any],
    error: type[Exception],
    messages: list[str],
) -> None:
    with pytest.raises(error) as caught:
        distil(**changes)
    for message in messages:
        assert message in str(caught.value)
    assert DefaultScope.get_current_instance() is None


def test_it_is_for_one_process(
    distil: Callable[..., mmseg_kd.Distilled], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.distributed, 'is_initialized', lambda: True)
    with pytest.raises(ConfigError, match='mmseg-kd launch'):
        distil()


def test_the_example(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # without a checkout's configs
    monkeypatch.setattr(sys, 'path', [path for path in sys.path if path])
    examples = doctest.DocTestParser().get_examples(distillation.distill.__doc__ or '')
    scope: dict[str, Any] = {}
    shown = 0
    for example in examples:
        if example.want:
            assert repr(eval(example.source, scope)) == example.want.strip()
            shown += 1
        else:
            exec(example.source, scope)
    assert shown == 2


def test_where_modules_are_looked_for_is_as_before(
    distil: Callable[..., mmseg_kd.Distilled], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, 'path', [path for path in sys.path if path != os.getcwd()])
    before = list(sys.path)
    with pytest.raises(ConfigError):
        distil(student='nowhere.py')
    assert sys.path == before


def test_the_best_student_is_the_runs_own(
    distil: Callable[..., mmseg_kd.Distilled], data: Config, tmp_path: Path
) -> None:
    assert distil().best == tmp_path / 'run' / 'student_best.pth'
    unmeasured = {name: part for name, part in data.items() if name.startswith('train')}
    assert distil(data=unmeasured, val_interval=None).best is None
