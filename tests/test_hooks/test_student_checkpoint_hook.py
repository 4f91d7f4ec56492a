from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from builders import (
    build,
    resnet,
    same_tensors,
    save_weights,
    term,
    wrapper_config,
    write_config,
    write_dataset,
)
from mmseg.registry import MODELS

from mmseg_kd.checkpoints import read_checkpoint
from mmseg_kd.cli import train
from mmseg_kd.errors import ConfigError
from mmseg_kd.hooks import StudentCheckpointHook


def runner_with(model: Any, folder: Path, iteration: int = 7) -> Any:
    """What the hook sees of a runner."""
    dataset = SimpleNamespace(metainfo=dict(classes=('a', 'b'), palette=[[0] * 3] * 2, label_map=0))
    return SimpleNamespace(
        model=model,
        work_dir=str(folder),
        iter=iteration,
        val_dataloader=SimpleNamespace(dataset=dataset),
    )


def test_the_best_student_is_kept(tmp_path: Path) -> None:
    network = build(resnet())
    runner = runner_with(SimpleNamespace(student=network), tmp_path)
    hook = StudentCheckpointHook()
    saved = []
    for value in (30.0, 20.0, float('nan'), 40.0):
        with torch.no_grad():
            network.decode_head.conv_seg.bias.fill_(value)
        hook.after_val_epoch(runner, dict(aAcc=1.0, mIoU=value))
        content = torch.load(tmp_path / 'student_best.pth', weights_only=True)
        saved.append(content['state_dict']['decode_head.conv_seg.bias'][0].item())
    assert saved == [30, 30, 30, 40]
    assert content['meta']['mIoU'] == 40
    assert content['meta']['dataset_meta'] == dict(classes=('a', 'b'), palette=[[0] * 3] * 2)
    assert sorted(path.name for path in tmp_path.iterdir()) == ['student_best.pth']
    MODELS.build(resnet()).load_state_dict(content['state_dict'], strict=True)


@pytest.mark.parametrize('filename', ['student_best.pth', 'student_best.safetensors'])
def test_a_resumed_run_knows_the_best(tmp_path: Path, filename: str) -> None:
    network = build(resnet())
    target = tmp_path / filename
    StudentCheckpointHook(filename=filename).after_val_epoch(
        runner_with(network, tmp_path), dict(mIoU=30.0)
    )
    first = target.read_bytes()
    with torch.no_grad():
        network.decode_head.conv_seg.bias.fill_(1)
    resumed, anew = (StudentCheckpointHook(filename=filename) for _ in range(2))
    resumed.before_train(runner_with(network, tmp_path, 400))
    resumed.after_val_epoch(runner_with(network, tmp_path), dict(mIoU=29.0))
    assert target.read_bytes() == first
    anew.before_train(runner_with(network, tmp_path, 0))
    anew.after_val_epoch(runner_with(network, tmp_path), dict(mIoU=29.0))
    assert target.read_bytes() != first


def test_a_torn_file_is_replaced(tmp_path: Path) -> None:
    (tmp_path / 'student_best.pth').write_bytes(b'PK\x03\x04 torn')
    hook = StudentCheckpointHook()
    runner = runner_with(build(resnet()), tmp_path, 4)
    hook.before_train(runner)
    hook.after_val_epoch(runner, dict(mIoU=10.0))
    assert read_checkpoint(str(tmp_path / 'student_best.pth'))['meta']['mIoU'] == 10.0


def test_less_may_be_better(tmp_path: Path) -> None:
    runner = runner_with(build(resnet()), tmp_path)
    hook = StudentCheckpointHook('error', rule='less', filename='best.safetensors')
    hook.after_val_epoch(runner, dict(error=3.0))
    first = (tmp_path / 'best.safetensors').stat().st_mtime_ns
    hook.after_val_epoch(runner, dict(error=4.0))
    assert (tmp_path / 'best.safetensors').stat().st_mtime_ns == first
    hook.after_val_epoch(runner, dict(error=2.0))
    assert (tmp_path / 'best.safetensors').stat().st_mtime_ns > first


def test_nan_is_no_first_value(tmp_path: Path) -> None:
    runner = runner_with(build(resnet()), tmp_path)
    hook = StudentCheckpointHook()
    hook.after_val_epoch(runner, dict(mIoU=float('nan')))
    assert not list(tmp_path.iterdir())
    hook.after_val_epoch(runner, dict(mIoU=1.0))
    assert list(tmp_path.iterdir())


def test_a_metric_that_is_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lines: list[str] = []
    monkeypatch.setattr(
        'mmseg_kd.hooks.student_checkpoint_hook.print_log', lambda text, **_: lines.append(text)
    )
    hook = StudentCheckpointHook('mIoU')
    hook.after_val_epoch(runner_with(None, tmp_path), dict(mDice=1.0))
    assert "expected the metric 'mIoU', got mDice" in lines[0]
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ('metrics', 'expected'),
    [
        (dict(aAcc=9.0, mDice=1.0, mAcc=5.0), 'mDice'),
        (dict(aAcc=9.0, mFscore=1.0, mPrecision=3.0), 'mFscore'),
        (dict(aAcc=9.0, mAcc=5.0, mIoU=1.0, mDice=2.0), 'mIoU'),
        (dict(accuracy=1.0), 'accuracy'),
    ],
)
def test_without_miou_another_metric_is_taken(
    tmp_path: Path, metrics: dict[str, float], expected: str
) -> None:
    runner = runner_with(build(resnet()), tmp_path)
    hook = StudentCheckpointHook()
    hook.after_val_epoch(runner, metrics)
    hook.after_val_epoch(runner, {**metrics, expected: 0.5})
    meta = torch.load(tmp_path / 'student_best.pth', weights_only=True)['meta']
    assert meta['metric'] == expected and meta[expected] == 1.0
    resumed = StudentCheckpointHook()
    resumed.before_train(runner)
    assert (resumed.metric, resumed._best) == (expected, 1.0)


def test_a_wrong_rule() -> None:
    with pytest.raises(ConfigError, match=r'rule: expected one of greater, less, got .more.'):
        StudentCheckpointHook(rule='more')


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / 'file').write_text('')
    runner = runner_with(build(resnet()), tmp_path / 'file')
    hook = StudentCheckpointHook()
    hook.after_val_epoch(runner, dict(mIoU=1.0))
    # The next validation that is better than what is there tries again.
    runner.work_dir = str(tmp_path)
    hook.after_val_epoch(runner, dict(mIoU=0.5))
    assert read_checkpoint(str(tmp_path / 'student_best.pth'))['meta']['mIoU'] == 0.5


RUN = """
train_cfg = dict(type='IterBasedTrainLoop', max_iters=2, val_interval=2)
custom_hooks = [dict(type='EMAHook', momentum=0.5)]
"""


def test_training_keeps_the_averaged_student(tmp_path: Path) -> None:
    """The hook that `mmseg-kd train` adds, in a run with EMA: what was measured is what is kept."""
    data = write_dataset(tmp_path / 'data')
    checkpoint = save_weights(resnet(8), tmp_path / 'teacher.pth')
    model = wrapper_config(resnet(), resnet(8), checkpoint, term(weight=100.0))
    path = write_config(tmp_path, model, data)
    path.write_text(path.read_text(encoding='utf-8') + RUN, encoding='utf-8')
    assert train.main([str(path)]) == 0
    kept = torch.load(tmp_path / 'work' / 'student_best.pth', weights_only=True)
    run = torch.load(tmp_path / 'work' / 'iter_2.pth', weights_only=False)
    assert kept['meta']['iter'] == 2
    prefix = 'student.'
    # mmengine's checkpoint has the averaged weights in the first place, the others beside them.
    averaged, plain = (
        {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}
        for state in (
            run['state_dict'],
            {k.removeprefix('module.'): v for k, v in run['ema_state_dict'].items()},
        )
    )
    assert same_tensors(kept['state_dict'], averaged)
    assert not same_tensors(averaged, plain)
