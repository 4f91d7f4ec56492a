"""The command that brings configs and checkpoints of SegDistill here."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from builders import ROOT, resnet, write_config
from mmengine.config import Config
from mmseg.registry import MODELS
from test_migration.test_checkpoints import original_networks

from mmseg_kd.cli.convert_segdistill import main
from mmseg_kd.errors import ConfigError

HEAD = """dict(
        type='SegFormerHead',
        in_channels=[32, 64, 160, 256],
        in_index=[0, 1, 2, 3],
        feature_strides=[4, 8, 16, 32],
        channels=128,
        num_classes=5,
        norm_cfg=dict(type='BN', requires_grad=True),
        align_corners=False,
        decoder_params=dict(embed_dim=12))"""
NETWORK = f"""dict(
    type='EncoderDecoder',
    backbone=dict(type='mit_b0', style='pytorch'),
    decode_head={HEAD})"""
OLD = f"""
cfg_s = {NETWORK}
cfg_t = {NETWORK}
model = dict(
    type='SDModule',
    cfg_s=cfg_s,
    cfg_t=cfg_t,
    distillation=[{{
        'student_layer': 'decode_head.linear_pred',
        'teacher_layer': 'decode_head.linear_pred',
        'loss_name': 'CGDLossWS',
        'loss_config': {{}}}}],
    t_pretrain='old/b0.pth')
optimizer = dict(type='SGD', lr=0.01)
lr_config = dict(policy='fixed')
runner = dict(type='IterBasedRunner', max_iters=10)
checkpoint_config = dict(by_epoch=False, interval=5)
data = dict(
    samples_per_gpu=2,
    train=dict(
        type='CityscapesDataset',
        img_dir='a',
        ann_dir='b',
        pipeline=[
            dict(type='LoadImageFromFile'),
            dict(type='LoadAnnotations'),
            dict(type='RandomCrop', crop_size=(64, 64)),
            dict(type='Normalize', mean=[1., 2., 3.], std=[4., 5., 6.]),
            dict(type='Collect', keys=['img'])]))
"""
ABOUT = 'What SegDistill did otherwise, and which results that changes: docs/from_segdistill.md'

Capture = pytest.CaptureFixture[str]


@pytest.fixture
def old(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A config in a folder of its own, from which the commands run."""
    monkeypatch.chdir(tmp_path)
    Path('old.py').write_text(OLD, encoding='utf-8')
    return Path('old.py')


def test_all_is_converted(old: Path, capsys: Capture) -> None:
    assert main(['config', 'old.py', 'made/new.py']) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == 'old.py -> made/new.py'
    assert 'Not converted:' not in lines
    assert lines[-1] == ABOUT
    cfg = Config.fromfile('made/new.py')
    assert cfg.model.type == 'DistillationWrapper'
    assert cfg.model.distillation[0].weight == 3
    run = lines.index('To run before the first training:')
    assert lines[run + 1 : -1] == [
        'mmseg-kd convert-segdistill checkpoint old/b0.pth old/b0_mmseg.pth'
    ]


def test_what_is_left_is_listed(old: Path, capsys: Capture) -> None:
    text = old.read_text().replace("'loss_config': {}", "\n'loss_config': {\n  'gamma': 2}")
    old.write_text(text + 'momentum = 3\n')
    number = text.splitlines().index("  'gamma': 2}}],") + 1
    assert main(['config', 'old.py', 'new.py']) == 2
    lines = capsys.readouterr().out.splitlines()
    listed = lines[lines.index('Not converted:') + 1 : lines.index('To know:')]
    assert listed == [
        f'old.py:{number}: model.distillation[0].loss_config.gamma: unknown key, left out',
        f'old.py:{len(text.splitlines()) + 1}: momentum: unknown key, left out',
    ]
    assert all(re.match(r'old\.py:\d+: ', line) for line in listed)
    assert lines[-1] == ABOUT
    # A term of which a part is not known is left out, and not kept without that part.
    assert Config.fromfile('new.py').model.distillation == []


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        (None, 'expected an old config, a .py file; there is none at old.py.'),
        (('cfg_t =', 'cfg_t = ('), 'old.py:15: cannot be read as Python: '),
        (("'SDModule'", "'EncoderDecoder'"), "got type='EncoderDecoder'; only distillations of"),
        (("'SDModule'", 'SDModule'), "old.py: cannot be read: NameError: name 'SDModule'"),
        (('interval=5', 'interval=5, out_dir=object()'), 'in a config, got <object'),
    ],
)
def test_errors_are_one_message(
    old: Path, change: tuple[str, str] | None, message: str, capsys: Capture
) -> None:
    if change is None:
        old.unlink()
    else:
        old.write_text(old.read_text().replace(*change))
    code = main(['config', 'old.py', 'new.py'])
    out, err = capsys.readouterr()
    assert code == 1
    assert out == ''
    assert err.startswith('error: ')
    assert message in err
    assert err.count('\n') == 1
    assert not Path('new.py').exists()


@pytest.mark.parametrize(
    ('change', 'where'),
    [
        (('dict(policy=', 'dict(warmup="linear", warmup_iters="9", policy='), 'lr_config.warmup_i'),
        (('data = dict(', "data = dict(test='x',"), 'data.test'),
        (('mean=[1., 2., 3.]', 'mean=3'), 'data.train.pipeline[3]'),
        (('optimizer = dict(', 'optimizer = dict(paramwise_cfg=3,'), 'optimizer.paramwise_cfg'),
        (('interval=5', 'interval=[5]'), 'checkpoint_config.interval'),
        (("'loss_config': {}", "'loss_config': 'WS'"), 'model.distillation[0].loss_config'),
        (("'decode_head.linear_pred'", '3'), 'model.distillation[0].student_layer'),
    ],
)
def test_values_that_are_something_else_are_listed(
    old: Path, change: tuple[str, str], where: str, capsys: Capture
) -> None:
    old.write_text(old.read_text().replace(*change))
    assert main(['config', 'old.py', 'new.py']) == 2
    lines = capsys.readouterr().out.splitlines()
    assert f': {where}' in lines[lines.index('Not converted:') + 1]
    assert Path('new.py').is_file()


def test_the_old_config_is_not_overwritten(old: Path, capsys: Capture) -> None:
    text = old.read_text()
    assert main(['config', 'old.py', './old.py']) == 1
    assert 'is the old config itself' in capsys.readouterr().err
    with pytest.raises(ConfigError, match='is the old config itself'):
        main(['config', 'old.py', './old.py', '--debug'])
    assert old.read_text() == text


def test_a_base_of_the_old_config_is_not_overwritten(old: Path, capsys: Capture) -> None:
    text = old.read_text()
    Path('based.py').write_text(f"_base_ = '{old.name}'\n")
    assert main(['config', 'based.py', './old.py']) == 1
    assert 'old.py is a base of the old config; give another name' in capsys.readouterr().err
    assert old.read_text() == text


def test_arguments(capsys: Capture) -> None:
    for arguments in ([], ['config', 'old.py'], ['checkpoint', 'a', 'b', '--side', 'both']):
        with pytest.raises(SystemExit) as error:
            main(arguments)
        assert error.value.code == 2
    assert 'usage: mmseg-kd convert-segdistill' in capsys.readouterr().err


@pytest.mark.slow
def test_as_a_program(old: Path) -> None:
    done = subprocess.run(
        [sys.executable, '-m', 'mmseg_kd', 'convert-segdistill', 'config', 'old.py', 'new.py'],
        env={**os.environ, 'PYTHONPATH': str(ROOT)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.startswith('old.py -> new.py\n')
    assert done.stderr == ''


# Checkpoints


@pytest.fixture
def original(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A SegFormer-B0 under NVIDIA's names, with the head of `OLD`."""
    monkeypatch.setattr(original_networks, 'WIDTHS', (32, 64, 160, 256))
    monkeypatch.setattr(original_networks, 'DEPTHS', (2, 2, 2, 2))
    return original_networks.randomise(original_networks.SegFormer())


def test_the_command_of_the_report_gives_the_teacher_its_old_scores(
    old: Path, original: Any, capsys: Capture
) -> None:
    Path('old').mkdir()
    torch.save(dict(state_dict=original.state_dict()), 'old/b0.pth')
    main(['config', 'old.py', 'new.py'])
    (command,) = [line for line in capsys.readouterr().out.splitlines() if 'checkpoint' in line]
    _, _, *arguments = shlex.split(command)
    assert main(arguments) == 0
    out = capsys.readouterr().out
    assert out.startswith('old/b0.pth: nvidia-segformer, ')
    assert out.endswith('weights: old/b0_mmseg.pth\nnetwork: old/b0_mmseg.py\n')
    assert 'eval mode' in out
    assert Config.fromfile('old/b0_mmseg.py').model.decode_head.act_cfg is None
    model = Config.fromfile('new.py').model
    # Ten channels a group, as they were, are more than these classes.
    model.distillation[0].loss.group_size = original_networks.CLASSES
    wrapper = MODELS.build(model)
    images = torch.randn(1, 3, 64, 64, dtype=torch.float64)
    teacher = wrapper.teacher.double()
    with torch.no_grad():
        expected = original(images)
        scores = teacher(images, mode='tensor')
    # The teacher's weights went through float32.
    torch.testing.assert_close(scores, expected, rtol=0.0, atol=1e-5)
    assert expected.std() > 0.1


def test_one_side_of_a_distillation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    """The checkpoint of an SDModule, with the network from a config."""
    monkeypatch.chdir(tmp_path)
    model = resnet(4)
    config = str(write_config(tmp_path, model, tmp_path))
    state = {
        f'{side}.{key}': value + offset
        for side, offset in (('student', 0), ('teacher', 1))
        for key, value in MODELS.build(model).state_dict().items()
    }
    torch.save(dict(state_dict=state), 'iter_10.pth')
    for side in ('student', 'teacher'):
        arguments = ['checkpoint', 'iter_10.pth', f'{side}.pth', '--side', side]
        assert main([*arguments, '--config', config]) == (side == 'teacher')
    out, err = capsys.readouterr()
    assert 'Took the student' in out
    assert '--teacher: the config is no distillation' in err
    converted = torch.load('student.pth', weights_only=True)['state_dict']
    assert converted.keys() == {key[8:] for key in state if key.startswith('student.')}
    assert all(torch.equal(value, state[f'student.{key}']) for key, value in converted.items())


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (['absent.pth', 'new.pth'], 'absent.pth'),
        (['torn.pth', 'new.pth'], 'torn.pth'),
        (['unknown.pth', 'new.pth'], 'cannot tell the network'),
        (['b0.pth', 'new.bin'], 'expected a name that ends in .pth'),
        (['b0.pth', 'new.pth', '--side', 'student'], 'there is no student in it'),
        (['b0.pth', 'new.pth', '--config', 'absent.py'], "no config file 'absent.py'"),
    ],
)
def test_checkpoints_that_cannot_be_converted(
    arguments: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: Capture,
) -> None:
    monkeypatch.chdir(tmp_path)
    Path('torn.pth').write_bytes(b'PK torn')
    torch.save({'a.weight': torch.zeros(2)}, 'unknown.pth')
    network = original_networks.randomise(original_networks.SegFormer())
    torch.save(network.state_dict(), 'b0.pth')
    assert main(['checkpoint', *arguments]) == 1
    err = capsys.readouterr().err
    assert err.startswith('error: ')
    assert message in err
    assert not Path('new.pth').exists()
