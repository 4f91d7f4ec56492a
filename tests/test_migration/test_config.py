"""Whole configs: what is written, what is listed, and that it trains."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from builders import CLASSES, build, gradients, save_weights, write_dataset
from mmengine.config import Config, ConfigDict
from mmengine.registry import HOOKS
from mmengine.runner import Runner
from old_configs import (
    ADAMW,
    ADE20K,
    CITYSCAPES,
    KLD,
    PSPNET,
    RUNTIME,
    SGD,
    SWIN,
    line_of,
    sd_module,
    segformer,
    term,
    tiny,
    write_old,
)

from mmseg_kd.config.load import check_keys
from mmseg_kd.config.network_spec import parse_network, parse_teachers
from mmseg_kd.config.term_spec import parse_terms
from mmseg_kd.errors import ConfigError, Problems
from mmseg_kd.migration import ConvertedConfig, convert_config
from mmseg_kd.schedules import at_iteration

B3_B0 = sd_module(
    segformer('b0'),
    segformer('b3', 768),
    KLD,
    checkpoint='pretrained/segformer_b3.pth',
    start='pretrained/mit_b0.pth',
)


def convert(path: Path) -> tuple[ConvertedConfig, Any]:
    """The conversion, and the new config as mmengine reads it."""
    converted = convert_config(path)
    converted.save(path.with_name('new.py'))
    cfg = Config.fromfile(path.with_name('new.py'))
    check_keys(cfg)
    return converted, cfg


def problems(converted: ConvertedConfig) -> list[str]:
    return [str(remark) for remark in converted.report.problems]


def parse(model: Any) -> None:
    """Read what the wrapper reads before it builds the networks."""
    found = Problems()
    names, specs = parse_teachers(model.teacher, found)
    parse_network(model.student, 'student')
    assert len(parse_terms(model.distillation, names, found).specs) == len(model.distillation)
    found.raise_if_any()
    assert len(specs) == len(names)


def test_segformer_on_ade20k(tmp_path: Path) -> None:
    converted, cfg = convert(write_old(tmp_path, B3_B0))
    assert problems(converted) == []
    model = cfg.model.to_dict()
    config = 'mmseg::segformer/segformer_mit-{}_8xb2-160k_ade20k-512x512.py'
    assert model['type'] == 'DistillationWrapper'
    assert model['student'] == dict(config=config.format('b0'))
    assert model['teacher'] == dict(
        config=config.format('b3'),
        cfg_options={'model.decode_head.channels': 768, 'model.decode_head.act_cfg': None},
        checkpoint='pretrained/segformer_b3_mmseg.pth',
    )
    assert model['distillation'] == [
        dict(
            student_layer='decode_head.conv_seg',
            teacher_layer='decode_head.conv_seg',
            loss=dict(type='CGDLoss', group_size=10, tau=2, shuffle_interval=1000),
            weight=3,
            schedule=[
                dict(type='CountedFromOne', schedule=dict(type='LinearWarmup', end=2000)),
                dict(
                    type='CountedFromOne',
                    schedule=dict(type='LinearDecay', begin=110000, end=120000),
                ),
            ],
        )
    ]
    assert model['data_preprocessor'] == cfg.data_preprocessor.to_dict()
    assert cfg.data_preprocessor.size == (512, 512)
    assert cfg.custom_imports.imports == ['mmseg_kd.register']
    assert cfg.default_scope == 'mmseg'
    assert cfg.train_dataloader.batch_size == 4
    assert cfg.train_dataloader.sampler.type == 'InfiniteSampler'
    assert cfg.train_dataloader.dataset.pipeline == cfg.train_pipeline
    assert cfg.test_dataloader == cfg.val_dataloader
    assert cfg.test_evaluator == cfg.val_evaluator == dict(type='IoUMetric', iou_metrics=['mIoU'])
    assert cfg.optim_wrapper.optimizer.type == 'AdamW'
    assert cfg.optim_wrapper.optimizer.lr == 6e-5
    assert [one.type for one in cfg.param_scheduler] == ['LinearLR', 'PolyLR']
    assert cfg.train_cfg == dict(type='IterBasedTrainLoop', max_iters=160000, val_interval=16000)
    assert (cfg.val_cfg.type, cfg.test_cfg.type) == ('ValLoop', 'TestLoop')
    assert cfg.default_hooks.checkpoint.interval == 4000
    assert cfg.env_cfg.cudnn_benchmark is True
    assert (cfg.load_from, cfg.resume, cfg.log_level) == (None, False, 'INFO')
    assert [one.type for one in cfg.visualizer.vis_backends] == [
        'LocalVisBackend',
        'TensorboardVisBackend',
    ]
    assert 'find_unused_parameters' not in cfg
    assert converted.report.commands == [
        'mmseg-kd convert-segdistill checkpoint pretrained/segformer_b3.pth '
        'pretrained/segformer_b3_mmseg.pth'
    ]
    parse(cfg.model)


def test_the_file_is_readable(tmp_path: Path) -> None:
    path = write_old(tmp_path, B3_B0)
    converted, _ = convert(path)
    lines = path.with_name('new.py').read_text().splitlines()
    assert lines[0] == '# Converted from old.py of SegDistill.'
    assert str(tmp_path) not in converted.text
    assert max(map(len, lines)) <= 100
    assert '        pipeline=train_pipeline,' in lines
    assert 'test_dataloader = val_dataloader' in lines
    assert '_base_' not in converted.text
    assert '    data_preprocessor=data_preprocessor,' in lines
    assert converted.text == convert_config(path).text


STUDENTS = {
    'segformer': (segformer('b0'), 'decode_head.linear_pred'),
    'swin': (SWIN, 'decode_head.conv_seg'),
    'pspnet': (PSPNET.format(depth=50), 'decode_head.conv_seg'),
}
LOSSES = {
    'PDLoss': 'KLLoss',
    'CDLoss': 'CDLoss',
    'CGDLoss': 'CGDLoss',
    'CGDLossWS': 'CGDLoss',
    'ATLoss': 'ATLoss',
    'IFVDLoss': 'IFVDLoss',
}


@pytest.mark.parametrize('student', STUDENTS)
@pytest.mark.parametrize('loss', LOSSES)
def test_published_students_and_losses(student: str, loss: str, tmp_path: Path) -> None:
    text, layer = STUDENTS[student]
    one = term(loss, layer).replace(
        f"'teacher_layer': {layer!r}", "'teacher_layer': 'decode_head.linear_pred'"
    )
    path = write_old(tmp_path, sd_module(text, segformer('b3', 768), one), CITYSCAPES, SGD)
    converted, cfg = convert(path)
    assert problems(converted) == []
    (made,) = cfg.model.distillation
    assert made.student_layer == made.teacher_layer == 'decode_head.conv_seg'
    assert made.loss.type == LOSSES[loss]
    assert ('schedule' in made) == (loss == 'CGDLossWS')
    assert cfg.train_dataloader.dataset.type == 'CityscapesDataset'
    assert cfg.optim_wrapper.optimizer.type == 'SGD'
    assert cfg.train_cfg.max_iters == 80000
    parse(cfg.model)


# Several teachers


def several(head: str, *terms: str) -> str:
    """An SDModuleMT; `head` has its teachers and their files."""
    return f"""
norm_cfg = dict(type='BN', requires_grad=True)
model = dict(
    type='SDModuleMT',
    cfg_s={segformer('b0')},
    {head},
    distillation=[{', '.join(terms)}],
    s_pretrain='pretrained/mit_b0.pth')
"""


LISTS = f"""cfg_t=[{segformer('b3', 768)}, {PSPNET.format(depth=101)}],
    t_pretrain=['b3.pth',
                'psp.pth']"""
NUMBERS = f"""cfg_t1={segformer('b3', 768)},
    cfg_t2={PSPNET.format(depth=101)},
    t_pretrain1='b3.pth',
    t_pretrain2='psp.pth'"""
PRED = 'decode_head.linear_pred'
B3 = segformer('b3', 768)


@pytest.mark.parametrize('head', [LISTS, NUMBERS], ids=['lists', 'numbers'])
def test_several_teachers(head: str, tmp_path: Path) -> None:
    first = term('CGDLoss', PRED)[:-1] + ", 'teacher_idx': 0}"
    both = term('CDLoss', PRED).replace(f"'teacher_layer': {PRED!r}", "'teacher_layer': 'backbone'")
    second = term('CDLoss', PRED)[:-1] + ", 'teacher': 1}"
    second = second.replace(f"'teacher_layer': {PRED!r}", "'teacher_layer': 'decode_head.conv_seg'")
    path = write_old(tmp_path, several(head, first, second, both))
    converted, cfg = convert(path)
    assert [one.get('checkpoint') for one in cfg.model.teacher] == ['b3_mmseg.pth', 'psp.pth']
    assert [one.config.split('/')[0] for one in cfg.model.teacher] == [
        'mmseg::segformer',
        'mmseg::pspnet',
    ]
    terms = [(one.loss.type, one.teacher, one.teacher_layer) for one in cfg.model.distillation]
    assert terms == [
        ('CGDLoss', 0, 'decode_head.conv_seg'),
        ('CDLoss', 1, 'decode_head.conv_seg'),
        # SegFormer's backbone has no one output; that of the ResNet is what it was.
        ('CDLoss', 1, 'backbone'),
    ]
    (listed,) = problems(converted)
    assert 'distillation[2].teacher_layer: backbone: no layer of mmseg' in listed
    assert any('one term for each of the 2' in note.text for note in converted.report.notes)
    assert len(converted.report.commands) == 1
    parse(cfg.model)


def test_files_that_teachers_lack(tmp_path: Path) -> None:
    head = LISTS.replace("['b3.pth',\n                'psp.pth']", "'b3.pth'")
    converted, cfg = convert(write_old(tmp_path, several(head)))
    assert [one.get('checkpoint') for one in cfg.model.teacher] == ['b3_mmseg.pth', None]
    (listed,) = problems(converted)
    assert listed.endswith("model.t_pretrain: expected the file of the teacher's weights, got none")


# What the student starts from


def start(path: Path, more: str = '', old: str = 'pretrained/mit_b0.pth') -> Any:
    text = B3_B0.replace(f's_pretrain={"pretrained/mit_b0.pth"!r}', f's_pretrain={old!r}')
    return convert(write_old(path, text, runtime=RUNTIME.replace('load_from = None', more)))


def test_a_student_that_goes_on(tmp_path: Path) -> None:
    converted, cfg = start(tmp_path, old='work/student.pth')
    assert cfg.model.student.checkpoint == 'work/student_mmseg.pth'
    # What the checkpoint overwrites is not fetched first.
    assert cfg.model.student.cfg_options == {
        'model.decode_head.act_cfg': None,
        'model.backbone.init_cfg': None,
    }
    assert len(converted.report.commands) == 2
    assert problems(converted) == []


def test_a_distillation_that_goes_on(tmp_path: Path) -> None:
    converted, cfg = start(tmp_path, "load_from = 'work/iter_4000.pth'")
    assert cfg.model.student.checkpoint == 'work/iter_4000_student_mmseg.pth'
    assert cfg.load_from is None
    assert converted.report.commands[0].endswith(
        'work/iter_4000.pth work/iter_4000_student_mmseg.pth --side student'
    )
    assert problems(converted) == []


def test_two_files_for_the_backbone(tmp_path: Path) -> None:
    converted, cfg = start(tmp_path, old='other/mit_b0_mine.pth')
    assert problems(converted)[0].endswith(
        'model.s_pretrain: says otherwise than cfg_s.pretrained; other/mit_b0_mine.pth is taken'
    )
    init_cfg = dict(type='Pretrained', checkpoint='other/mit_b0_mine_mmseg.pth')
    assert cfg.model.student.cfg_options['model.backbone.init_cfg'] == init_cfg


def test_settings_of_the_module_for_the_student(tmp_path: Path) -> None:
    slide = "test_cfg=dict(mode='slide', crop_size=(8, 8), stride=(4, 4)),\n    distillation"
    text = B3_B0.replace("test_cfg=dict(mode='whole'),\n    distillation", slide)
    converted, _ = convert(write_old(tmp_path, text))
    assert problems(converted)[0].endswith(
        'model.test_cfg: says otherwise than cfg_s.test_cfg, which is taken'
    )
    cfg_s = segformer('b0').replace("test_cfg=dict(mode='whole')", 'test_cfg=None')
    text = text.replace(segformer('b0'), cfg_s)
    converted, cfg = convert(write_old(tmp_path, text))
    assert problems(converted) == []
    assert parse_network(cfg.model.student, 'student').model.test_cfg.mode == 'slide'


# As they lie in the old repository


OLDER = """{'student_layer': 'decode_head.linear_pred',
          'teacher_layer': 'decode_head.linear_pred',
          'loss_name': 'KLDLoss',
          'log_grad': True,
          'loss_config': {
              'weight': 3,
              'tau': 2,
              'reshape_config': 'logits',
              'resize_config': {'mode': 'bilinear', 'align_corners': False},
              'mask_config': False,
              'transform_config': {'loss_type': 'channel', 'group_size': c},
              'ff_config': False,
              'shift_config': True,
              'warmup_config': 2000,
              'earlystop_config': 140000,
          },
          },"""


def chosen_by_name(term: str) -> str:
    """Networks of which a computed name says which ones count."""
    return f"""
norm_cfg = dict(type='SyncBN', requires_grad=True)
b0_cfg = {segformer('b0')}
b1_cfg = {segformer('b1')}
b3_cfg = {segformer('b3', 768)}
t_num = '3'
s_num = '0'
cfg_t = eval(f'b{{t_num}}_cfg')
cfg_s = eval(f'b{{s_num}}_cfg')
c = 10
es = 80
model = dict(
    type='SDModule',
    cfg_s=cfg_s,
    cfg_t=cfg_t,
    distillation=[
        {term}
    ],
    s_pretrain='./pretrained/mit_b0.pth',
    t_pretrain=f'./pretrained/segformer.b{{t_num}}.512x512.ade.160k.pth',
    train_cfg=dict(),
    test_cfg=dict(mode='whole'))
"""


def test_networks_chosen_by_name(tmp_path: Path) -> None:
    converted, cfg = convert(write_old(tmp_path, chosen_by_name(OLDER)))
    assert problems(converted) == []
    notes = [note.text.split(': ')[0] for note in converted.report.notes]
    assert {'b1_cfg', 'es'} <= set(notes)
    config = 'mmseg::segformer/segformer_mit-{}_8xb2-160k_ade20k-512x512.py'
    # ./pretrained/mit_b0.pth is pretrained/mit_b0.pth, the weights of its backbone.
    assert cfg.model.student.to_dict() == dict(config=config.format('b0'))
    assert cfg.model.teacher.config == config.format('b3')
    assert converted.report.commands == [
        'mmseg-kd convert-segdistill checkpoint '
        'pretrained/segformer.b3.512x512.ade.160k.pth '
        'pretrained/segformer.b3.512x512.ade.160k_mmseg.pth'
    ]
    (one,) = cfg.model.distillation
    assert one.loss == dict(type='CGDLoss', group_size=10, tau=2)
    assert one.weight == 3
    assert cfg.custom_hooks == [dict(type='GradientConflictHook')]
    assert HOOKS.get('GradientConflictHook') is not None
    resizing = [dict(type='Resize', scale=(2048, 512), keep_ratio=True)]
    resizing.append(dict(type='ResizeToMultiple', size_divisor=32))
    assert cfg.test_pipeline[1:3] == resizing
    parse(cfg.model)


def test_one_file_by_two_names_is_converted_once(tmp_path: Path) -> None:
    text = several(LISTS.replace("'psp.pth'", "'./b3.pth'").replace(PSPNET.format(depth=101), B3))
    converted, _ = convert(write_old(tmp_path, text))
    assert len(converted.report.commands) == 1


def test_a_network_that_nothing_uses_is_told_of(tmp_path: Path) -> None:
    text = f'{B3_B0}\nspare = {segformer("b1")}\n'
    converted, _ = convert(write_old(tmp_path, text))
    assert problems(converted) == []
    assert any(note.text.startswith('spare: dropped: a network') for note in converted.report.notes)


def test_numbers_that_nothing_uses_are_told_of(tmp_path: Path) -> None:
    converted, cfg = convert(write_old(tmp_path, f'{B3_B0}\nc = 15\nes = 0\nlrs = 1\n'))
    assert [note.text for note in converted.report.notes if 'nothing uses' in note.text] == [
        'c: dropped: a number that nothing uses',
        'es: dropped: a number that nothing uses',
    ]
    (line,) = problems(converted)
    assert line.endswith('lrs: unknown key, left out')
    assert 'c' not in cfg


def test_terms_and_teachers_in_pairs(tmp_path: Path) -> None:
    first, second = term('CGDLoss', PRED), term('CDLoss', PRED)
    second = second.replace(f"'teacher_layer': {PRED!r}", "'teacher_layer': 'decode_head.conv_seg'")
    converted, cfg = convert(write_old(tmp_path, several(LISTS, first, second)))
    assert problems(converted) == []
    assert [(one.loss.type, one.teacher) for one in cfg.model.distillation] == [
        ('CGDLoss', 0),
        ('CDLoss', 1),
    ]
    parse(cfg.model)


# What is listed, with its line


def test_lines_of_what_is_listed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    bad = term('CGDLos', 'decode_head.linear_pred')
    text = (
        sd_module(segformer('b0'), segformer('b3', 768), KLD, f'\n        {bad}')
        .replace("'alpha': 3,", "'alpha': 3,\n              'beta': 4,")
        .replace(
            "backbone=dict(type='mit_b3', style='pytorch')",
            "backbone=dict(\n        type='mit_b9')",
        )
        .replace('s_pretrain=', 'mode=1,\n    s_pretrain=')
    )
    data = ADE20K.replace("dict(type='PhotoMetricDistortion')", "dict(type='Distortion', x=1)")
    schedule = ADAMW.replace("policy='poly'", "policy='wavy'") + 'my_own_key = 3\n'
    path = write_old(tmp_path, text, data, schedule, more='unused_name = 1\nused = 2\nextra = used')
    converted, cfg = convert(path.relative_to(tmp_path))
    top, base = Path('local_configs/old.py'), Path('_base_')
    expected = {
        f'{base}/data.py:{line_of(base / "data.py", "Distortion")}': (
            'data.train.dataset.pipeline[5].type'
        ),
        f'{base}/schedule.py:{line_of(base / "schedule.py", "wavy")}': 'lr_config.policy',
        f'{base}/schedule.py:{line_of(base / "schedule.py", "my_own_key")}': 'my_own_key',
        f'{top}:{line_of(top, "mit_b9")}': 'model.cfg_t.backbone.type',
        f'{top}:{line_of(top, "beta")}': 'model.distillation[0].loss_config.beta',
        f'{top}:{line_of(top, "CGDLos")}': 'model.distillation[1].loss_name',
        f'{top}:{line_of(top, "mode=1")}': 'model.mode',
        f'{top}:{line_of(top, "unused_name")}': 'unused_name',
        f'{top}:{line_of(top, "extra = used")}': 'extra',
    }
    assert dict(line.split(': ')[:2] for line in problems(converted)) == expected
    # The rest is converted all the same, but no term in part.
    assert cfg.model.distillation == []
    assert len(cfg.train_pipeline) == 6
    assert cfg.param_scheduler[0].type == 'LinearLR'


@pytest.mark.parametrize(
    ('text', 'message'),
    [
        ('a = 1', "expected model=dict(type='SDModule', cfg_s=..., cfg_t=...), got no model"),
        ("model = dict(type='EncoderDecoder')", "got type='EncoderDecoder'; only distillations"),
        ("model = dict(type='SDModule')", "got type='SDModule'"),
        ("model = dict(type='SDModule', cfg_s=3, cfg_t=dict())", 'model.cfg_s: expected a network'),
        (
            f"norm_cfg = None\nmodel = dict(type='SDModule', cfg_s={tiny()})",
            'expected a teacher in model.cfg_t, got none',
        ),
    ],
)
def test_no_distillation_of_segdistill(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / 'old.py'
    path.write_text(text)
    with pytest.raises(ConfigError) as error:
        convert_config(path)
    assert message in str(error.value)


def test_bare_minimum(tmp_path: Path) -> None:
    path = tmp_path / 'old.py'
    # Names of mmseg's bases that nothing uses any more lose nothing.
    path.write_text(sd_module(tiny(), tiny(8)) + 'crop_size = (8, 8)\n')
    converted, cfg = convert(path)
    assert sorted(line.split(': ')[1] for line in problems(converted)) == [
        'data.train',
        'optimizer',
        'runner',
    ]
    assert cfg.model.distillation == []
    assert not {'train_cfg', 'val_cfg', 'val_evaluator', 'param_scheduler'} & set(cfg)


@pytest.mark.parametrize('name', ['new.yaml', 'old.py', 'folder.py'])
def test_where_it_cannot_be_written(name: str, tmp_path: Path) -> None:
    path = tmp_path / 'old.py'
    path.write_text(sd_module(tiny(), tiny(8)))
    (tmp_path / 'folder.py').mkdir()
    converted = convert_config(path)
    with pytest.raises(ConfigError):
        converted.save(tmp_path / name)
    assert path.read_text() == sd_module(tiny(), tiny(8))


def test_folders_on_the_way_are_made(tmp_path: Path) -> None:
    path = tmp_path / 'old.py'
    path.write_text(sd_module(tiny(), tiny(8)))
    convert_config(path).save(tmp_path / 'a' / 'b' / 'new.py')
    assert (tmp_path / 'a' / 'b' / 'new.py').is_file()


# It trains


def plain_bn(model: Any) -> Any:
    return ConfigDict(eval(repr(model.to_dict()).replace('SyncBN', 'BN')))


FEATURES = term('ATLoss', 'backbone.layer2')


def test_the_wrapper_is_built(tmp_path: Path) -> None:
    text = sd_module(
        tiny(),
        tiny(8),
        term('CGDLoss', config="{'group_size': 2}"),
        term('CDLoss'),
        FEATURES,
        checkpoint=str(tmp_path / 'teacher.pth'),
    )
    converted, cfg = convert(write_old(tmp_path, text))
    assert problems(converted) == []
    model = plain_bn(cfg.model)
    model.data_preprocessor.size = (32, 32)
    teacher = {k: v for k, v in model.teacher.items() if k != 'checkpoint'}
    save_weights(teacher, tmp_path / 'teacher.pth')
    wrapper = build(model)
    assert [one.loss.__class__.__name__ for one in wrapper.terms.values()] == [
        'CGDLoss',
        'CDLoss',
        'ATLoss',
    ]
    assert wrapper.student.backbone.layer2[0].conv1.out_channels == 8
    # Eight channels here and sixteen there: the connector is the term's own.
    with at_iteration(0):
        found = gradients(wrapper)
    assert all(gradient is not None for gradient in found.values())


@pytest.mark.slow
def test_it_trains(tmp_path: Path) -> None:
    root = write_dataset(tmp_path / 'data')
    names = [str(i) for i in range(CLASSES)]
    data = (
        ADE20K.replace("'ADE20KDataset'", "'CustomDataset'")
        .replace("'data/ade/ADEChallengeData2016'", repr(str(root)))
        .replace('images/training', 'images/train')
        .replace('annotations/training', 'annotations/train')
        .replace('images/validation', 'images/val')
        .replace('annotations/validation', 'annotations/val')
        .replace(', reduce_zero_label=True', '')
        .replace('(512, 512)', '(32, 32)')
        .replace('(2048, 512)', '(64, 32)')
        .replace('workers_per_gpu=4', 'workers_per_gpu=0')
        .replace('samples_per_gpu=4', 'samples_per_gpu=2')
        .replace('data_root=data_root,', f'data_root=data_root, classes={names}, palette=PALETTE,')
    )
    data = f'PALETTE = {[[i, i, i] for i in range(CLASSES)]}\n{data}'
    schedule = (
        ADAMW.replace('max_iters=160000', 'max_iters=3')
        .replace('warmup_iters=1500', 'warmup_iters=1')
        .replace('interval=16000', 'interval=3')
        .replace('interval=4000', 'interval=3')
    )
    checkpoint = tmp_path / 'teacher.pth'
    terms = (term('CGDLoss', config="{'group_size': 2}"), FEATURES)
    text = sd_module(tiny(), tiny(8), *terms, checkpoint=str(checkpoint))
    converted, cfg = convert(write_old(tmp_path, text, data, schedule))
    assert problems(converted) == []
    cfg.model = plain_bn(cfg.model)
    save_weights({k: v for k, v in cfg.model.teacher.items() if k != 'checkpoint'}, checkpoint)
    cfg.work_dir = str(tmp_path / 'work')
    cfg.env_cfg.dist_cfg.backend = 'gloo'
    runner = Runner.from_cfg(cfg)
    before = {key: value.clone() for key, value in runner.model.student.state_dict().items()}
    runner.train()
    assert runner.iter == 3
    after = runner.model.student.state_dict()
    assert any(not torch.equal(before[key], value) for key, value in after.items())
    assert (tmp_path / 'work' / 'iter_3.pth').is_file()
    assert {'train/kd.cgd', 'train/kd.at', 'val/mIoU'} <= set(runner.message_hub.log_scalars)
