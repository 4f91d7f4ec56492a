"""How a run is put together."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import init_default_scope
from training_runs import variant, write_project

from mmseg_kd.config.load import load_config
from mmseg_kd.data_checks import without_masks
from mmseg_kd.engine.isolation import isolated
from mmseg_kd.engine.runner import CUBLAS
from mmseg_kd.engine.training import (
    TrainingOptions,
    apply_options,
    log_means_of_terms,
    prepare_training,
    run_training,
)
from mmseg_kd.errors import ConfigError, KDError, ManyErrors
from mmseg_kd.hooks import (
    BadDataHook,
    ExactResumeHook,
    IterationSeedHook,
    NonFiniteHook,
    RankZeroBuffersHook,
    StopSignalHook,
    StudentCheckpointHook,
)
from mmseg_kd.hooks.find import find_hooks
from mmseg_kd.host.bfloat16_optim_wrapper import BFloat16OptimWrapper

ADDED = {
    BadDataHook: dict(max_skipped=2),
    ExactResumeHook: dict(),
    IterationSeedHook: dict(priority=49),
    NonFiniteHook: dict(limit=3),
    RankZeroBuffersHook: dict(),
    StopSignalHook: dict(interval=2),
    StudentCheckpointHook: dict(rule='less'),
}


@pytest.mark.parametrize('of_config', [False, True], ids=['new', 'of the config'])
def test_each_hook_is_there_once(tmp_path: Path, of_config: bool) -> None:
    own = [dict(type=kind.__name__, **arguments) for kind, arguments in ADDED.items()]
    extra = f'custom_hooks = {own if of_config else []}\n'
    runner = prepare_training(load_config(write_project(tmp_path, extra), None), TrainingOptions())
    for kind, arguments in ADDED.items():
        (hook,) = find_hooks(runner, kind)
        changed = [getattr(hook, name) == value for name, value in arguments.items()]
        assert all(changed) == (of_config or not arguments), kind


def test_terms_are_means_in_the_log_as_losses_are() -> None:
    cfg = Config(dict(log_processor=dict(by_epoch=False)))
    log_means_of_terms(cfg)
    assert cfg.log_processor.by_epoch is False
    pattern = re.compile(cfg.log_processor.mean_pattern)
    for name in ('loss', 'decode.loss_ce', 'kd.cgd', 'grad_norm', 'time'):
        assert pattern.search(name), name
    for name in ('kd_weight.cgd', 'lr', 'decode.acc_seg'):
        assert not pattern.search(name), name
    own = Config(dict(log_processor=dict(mean_pattern='lr')))
    other = Config(dict(log_processor=dict(type='OfTheUser')))
    for cfg in (own, other):
        before = cfg.log_processor.to_dict()
        log_means_of_terms(cfg)
        assert cfg.log_processor.to_dict() == before
    without = Config(dict())
    log_means_of_terms(without)
    assert without.log_processor.mean_pattern


def test_deterministic_ranks_keep_the_order_of_their_sums() -> None:
    open_to_it, decided = Config(dict()), Config(dict(find_unused_parameters=False))
    for cfg in (open_to_it, decided):
        apply_options(cfg, TrainingOptions(deterministic=True))
        assert cfg.randomness == dict(deterministic=True)
    assert open_to_it.find_unused_parameters is True
    assert decided.find_unused_parameters is False


def test_deterministic_runs_are_ready_for_cuda(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = write_project(tmp_path)
    with isolated():
        monkeypatch.delenv(CUBLAS, raising=False)
        prepare_training(load_config(config, None), TrainingOptions())
        assert CUBLAS not in os.environ
        assert not torch.are_deterministic_algorithms_enabled()
    with isolated():
        prepare_training(load_config(config, None), TrainingOptions(deterministic=True))
        # What cuBLAS needs, before it starts; what has no deterministic algorithm is no error.
        assert os.environ[CUBLAS] == ':4096:8'
        assert torch.are_deterministic_algorithms_enabled()
        assert torch.is_deterministic_algorithms_warn_only_enabled()


@pytest.mark.parametrize('resume', [False, None])
def test_a_run_that_is_not_resumed_keeps_its_weights_to_begin_with(resume: bool | None) -> None:
    cfg = Config(dict(load_from='weights.pth'))
    apply_options(cfg, TrainingOptions(resume=resume))  # type: ignore[arg-type]
    assert cfg.load_from == 'weights.pth'
    assert 'resume' not in cfg


@pytest.mark.parametrize(
    ('wrapper', 'device', 'expected'),
    [
        ({}, 'cpu', dict(type='BFloat16OptimWrapper')),
        (
            dict(type='AmpOptimWrapper', loss_scale=512.0, dtype='float16', accumulative_counts=2),
            'cpu',
            dict(type='BFloat16OptimWrapper', accumulative_counts=2),
        ),
        (dict(type='OptimWrapper'), 'cuda', dict(type='AmpOptimWrapper', loss_scale='dynamic')),
        (
            dict(type='AmpOptimWrapper', loss_scale=512.0),
            'cuda',
            dict(type='AmpOptimWrapper', loss_scale=512.0),
        ),
        (dict(type='BFloat16OptimWrapper'), 'cuda', dict(type='BFloat16OptimWrapper')),
    ],
)
def test_mixed_precision_is_that_of_the_device(
    wrapper: dict[str, Any],
    device: str,
    expected: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr('mmseg_kd.engine.training.find_device', torch.device)
    cfg = Config(dict(optim_wrapper=wrapper))
    apply_options(cfg, TrainingOptions(amp=True, device=device))
    assert cfg.optim_wrapper.to_dict() == expected


def test_mixed_precision_with_a_wrapper_of_another_kind_is_refused() -> None:
    cfg = Config(dict(optim_wrapper=dict(type='ApexOptimWrapper')))
    with pytest.raises(ConfigError, match=r"^--amp: expected .* got 'ApexOptimWrapper'"):
        apply_options(cfg, TrainingOptions(amp=True, device='cpu'))


def test_a_run_in_mixed_precision(project: str) -> None:
    with isolated():
        cfg = load_config(project, None)
        cfg.train_cfg.max_iters = 2
        cfg.work_dir = str(Path(project).with_name('mixed'))
        runner = prepare_training(cfg, TrainingOptions(amp=True, device='cpu'))
        run_training(runner)
    assert runner.iter == 2
    assert isinstance(runner.optim_wrapper, BFloat16OptimWrapper)


def test_a_hook_that_is_there_twice(project: str) -> None:
    extra = "custom_hooks = [dict(type='NonFiniteHook')] * 2\n"
    assert str(refusal(project, extra)).startswith('custom_hooks: NonFiniteHook is there 2 times')


def test_a_config_without_default_hooks(project: str) -> None:
    with isolated():
        cfg = load_config(variant(project, 'other.py', 'default_hooks = None\n'), None)
        prepare_training(cfg, TrainingOptions())


def test_where_a_training_stops_early_there_is_a_checkpoint(project: str, tmp_path: Path) -> None:
    stopping = dict(type='EarlyStoppingHook', monitor='mIoU', min_delta=100.0, patience=1)
    extra = (
        f'custom_hooks = [{stopping}]\n'
        'train_cfg.update(max_iters=20, val_interval=2)\n'
        "default_hooks['checkpoint'].update(interval=100)\n"
    )
    config = variant(project, 'other.py', extra)
    stops = []
    for resume in (False, True):
        with isolated():
            cfg = load_config(config, {'work_dir': str(tmp_path)})
            runner = prepare_training(cfg, TrainingOptions(resume=resume))
            run_training(runner)
        stops.append(runner.iter)
        assert [path.name for path in tmp_path.glob('iter_*.pth')] == [f'iter_{stops[0]}.pth']
    assert stops[0] == stops[1] < 20


@pytest.mark.parametrize('resume', [False, True])
def test_a_training_in_the_folder_of_another_is_told(
    project: str, resume: bool, tmp_path: Path
) -> None:
    def prepared(resume: bool) -> str:
        with isolated():
            cfg = load_config(project, {'train_cfg.max_iters': 2, 'work_dir': str(tmp_path)})
            runner = prepare_training(cfg, TrainingOptions(resume=resume))
            log = Path(runner.log_dir, f'{runner.timestamp}.log')
            if not list(tmp_path.glob('*.pth')):
                run_training(runner)
            return log.read_text(encoding='utf-8')

    said = f'{tmp_path} has checkpoints of another training'
    assert said not in prepared(False)
    assert (said in prepared(resume)) == (not resume)


@pytest.fixture(scope='module')
def project(tmp_path_factory: pytest.TempPathFactory) -> str:
    # A fixture of a module comes before the one that sets the scope of each test.
    init_default_scope('mmseg')
    return write_project(tmp_path_factory.mktemp('project'))


def refusal(project: str, extra: str) -> KDError:
    """What is said of a config with these lines before its first batch."""
    with pytest.raises(KDError) as caught:
        prepare_training(load_config(variant(project, 'other.py', extra), None), TrainingOptions())
    return caught.value


AUXILIARY = """
student = model['student']
student['auxiliary_head'] = [{**student['decode_head'], 'in_channels': 4, 'in_index': 0}]
"""


@pytest.mark.parametrize(
    ('extra', 'said'),
    [
        (
            AUXILIARY + "student['auxiliary_head'][0]['num_classes'] = 7",
            'train data: BaseSegDataset has 5 classes and auxiliary_head.0 num_classes=7; set',
        ),
        (
            AUXILIARY + "student['auxiliary_head'][0]['ignore_index'] = 100",
            'nor a class in auxiliary_head.0 (num_classes=5, ignore_index=100)',
        ),
        (
            AUXILIARY + "student['auxiliary_head'][0]['num_classes'] = 1",
            'student: auxiliary_head.0.loss_decode: CrossEntropyLoss is a softmax over the classes',
        ),
        (
            "model['student']['data_preprocessor']['size'] = None",
            'data_preprocessor: expected either size or size_divisor',
        ),
        (
            "model['student']['data_preprocessor']['size_divisor'] = 32",
            'got size=(32, 32) and size_divisor=32',
        ),
        (
            'train_pipeline.insert(2, dict(type="RandomResize", scale=(48, 48), '
            'ratio_range=(0.5, 4.0), keep_ratio=True))',
            'data_preprocessor: size=(32, 32) pads smaller images to one size',
        ),
    ],
    ids=['classes', 'ignored', 'channels', 'no size', 'two sizes', 'larger'],
)
def test_network_and_data_do_not_fit(project: str, extra: str, said: str) -> None:
    assert said in str(refusal(project, extra))


def test_all_that_does_not_fit_is_told_at_once(project: str) -> None:
    extra = AUXILIARY + (
        "student['auxiliary_head'][0]['num_classes'] = 7\n"
        "student['data_preprocessor']['size'] = None\n"
        "val_dataloader['dataset']['data_prefix'] = dict(img_path='images/val', "
        "seg_map_path='nowhere')\n"
    )
    error = refusal(project, extra)
    assert isinstance(error, ManyErrors)
    starts = [
        'data_preprocessor: ',
        'train data: BaseSegDataset has',
        'val data: 3 files are missing',
    ]
    for one, start in zip(error.errors, starts, strict=True):
        assert str(one).startswith(start)


WITHOUT_MASKS = """
labelled = train_dataloader['dataset']
root, pipeline = labelled['data_root'], labelled['pipeline']
without = dict(type='UnlabelledDataset', data_root=root, img_path='images/val', pipeline=pipeline)
train_dataloader['dataset'] = dict(type='MixedDataset', datasets=[labelled, without])
all_alike = train_dataloader['sampler']
train_dataloader['sampler'] = dict(type='MixedSampler', ratio=(1, 1))
"""
FEATURES = dict(student_layer='backbone.layer2', teacher_layer='backbone.layer2')


@pytest.mark.parametrize(
    ('extra', 'is_warned'),
    [
        (WITHOUT_MASKS, False),
        (WITHOUT_MASKS + "model['distillation'] = []", True),
        (
            WITHOUT_MASKS
            + f"model['distillation'] = [{dict(**FEATURES, loss=dict(type='PKDLoss'))}]",
            True,
        ),
        (WITHOUT_MASKS + "model['distillation'][0]['loss'] = dict(type='DKDLoss')", True),
        (WITHOUT_MASKS + 'train_dataloader |= dict(dataset=without, sampler=all_alike)', False),
        ("model['distillation'] = []", False),
    ],
    ids=[
        'scores',
        'no term',
        'features',
        'scores of labelled pixels',
        'no masks at all',
        'all with masks',
    ],
)
def test_images_that_nothing_says_anything_of(
    project: str, extra: str, is_warned: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    monkeypatch.setattr(without_masks, 'print_log', lambda text, **_: said.append(text))
    prepare_training(load_config(variant(project, 'other.py', extra), None), TrainingOptions())
    assert ['3 of 7 images have no masks' in text for text in said] == [True] * is_warned


def test_the_student_teaches_itself_beside_another(project: str) -> None:
    extra = """
teacher = dict(type='SelfTeacher', name='self')
model['teacher'] = [dict(model['teacher'], name='frozen'), teacher]
scores = model['distillation'][0]
features = dict(student_layer='backbone.layer1', teacher_layer='backbone.layer2')
features.update(loss=dict(type='CDLoss'), teacher='self')
model['distillation'] = [dict(scores, teacher='frozen'), features]
"""
    runner = prepare_training(
        load_config(variant(project, 'other.py', extra), None), TrainingOptions()
    )
    assert set(runner.model.terms) == {'kl_frozen', 'cd_self'}
