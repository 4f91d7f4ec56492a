"""Steps that are not finite: kept in a file, and run again as they were."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from builders import RunsCode, mit, resnet, save_weights, term, wrapper_config, write_config
from builders import write_dataset as write_data
from mmengine.hooks import Hook
from torch import Tensor

from mmseg_kd.checkpoints import checkpoint_trust, read_checkpoint
from mmseg_kd.cli.replay import main
from mmseg_kd.config.load import load_config
from mmseg_kd.engine.isolation import isolated
from mmseg_kd.engine.replay import replay
from mmseg_kd.engine.training import TrainingOptions, prepare_training, run_training
from mmseg_kd.errors import CheckpointError
from mmseg_kd.hooks.failed_step import read_step
from mmseg_kd.hooks.step_guard import StepGuard
from mmseg_kd.losses import KLLoss
from mmseg_kd.registry import KD_LOSSES

Gradients = list[dict[str, Tensor]]


class RootOfKL(KLLoss):
    """A finite value whose gradient is NaN: that of the root of 0."""

    def forward(self, student: Any, *args: Any) -> Tensor:
        zero = student - student.detach()
        return super().forward(student, *args) + zero.abs().sqrt().sum()


@pytest.fixture(autouse=True)
def with_the_root(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is registered for these tests alone."""
    monkeypatch.setitem(KD_LOSSES.module_dict, 'RootOfKL', RootOfKL)


class Damage(Hook):
    """Makes a weight of the student infinite before an iteration."""

    priority = 'LOW'

    def before_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None) -> None:
        if runner.iter == 2:
            with torch.no_grad():
                runner.model.get_parameter(self.weight).view(-1)[0] = torch.inf

    def __init__(self, weight: str) -> None:
        self.weight = weight


@pytest.fixture
def steps(monkeypatch: pytest.MonkeyPatch) -> Iterator[Gradients]:
    """The gradients of all steps that a guard has seen."""
    found: Gradients = []
    own = StepGuard.step

    def step(self: StepGuard, **kwargs: Any) -> None:
        found.append({n: p.grad.clone() for n, p in self._parameters if p.grad is not None})
        own(self, **kwargs)

    monkeypatch.setattr(StepGuard, 'step', step)
    yield found


def write(folder: Path, student: Any, *terms: Any, extra: str = '') -> str:
    data = write_data(folder / 'data')
    checkpoint = save_weights(resnet(8), folder / 'teacher.pth')
    path = write_config(folder, wrapper_config(student, resnet(8), checkpoint, *terms), data)
    text = path.read_text(encoding='utf-8') + 'val_cfg = None\n'
    text += 'val_dataloader = val_evaluator = None\n' + extra
    path.write_text(text, encoding='utf-8')
    return str(path)


def train(config: str, *hooks: Hook) -> None:
    with isolated():
        runner = prepare_training(load_config(config, None), TrainingOptions(seed=3))
        for hook in hooks:
            runner.register_hook(hook)
        run_training(runner)


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    """To the bit, where NaN is equal to NaN."""
    return one.keys() == other.keys() and all(
        torch.equal(one[name].nan_to_num(), other[name].nan_to_num())
        and torch.equal(one[name].isnan(), other[name].isnan())
        for name in one
    )


def test_a_layer_that_puts_out_infinity(
    tmp_path: Path, steps: Gradients, capsys: pytest.CaptureFixture[str]
) -> None:
    layer = 'student.decode_head.fusion_conv.conv'
    loss = term(loss=dict(type='CGDLoss', group_size=2))
    config = write(tmp_path, mit(), loss, extra='train_cfg["max_iters"] = 5\n')
    train(config, Damage(f'{layer}.weight'))
    kept = sorted((tmp_path / 'work').glob('non_finite_iter_*.pth'))
    # Of three bad steps.
    assert [file.name for file in kept] == ['non_finite_iter_3.pth', 'non_finite_iter_4.pth']
    out = capsys.readouterr().out
    assert f'mmseg-kd replay {kept[0]} (' in out and 'MiB) runs the step again.' in out
    in_the_run = steps[2]
    steps.clear()
    # Moved, and with the config gone.
    (tmp_path / 'tiny.py').unlink()
    assert main([str(kept[0].rename(tmp_path / 'a.pth')), '--device', 'cpu']) == 0
    assert len(steps) == 2
    assert same(in_the_run, steps[0]) and same(in_the_run, steps[1])
    out = capsys.readouterr().out
    assert 'Iteration 3: ' in out and 'decode.loss_ce is nan' in out
    assert f'Forward: first in {layer}.\n' in out
    assert 'Backward' not in out
    assert out.endswith('The same as in the run, to the bit.\n')


def test_a_gradient_alone_with_accumulated_batches(tmp_path: Path, steps: Gradients) -> None:
    extra = "optim_wrapper['accumulative_counts'] = 2\n"
    train(write(tmp_path, resnet(4), term(loss='RootOfKL', name='root'), extra=extra))
    in_the_run = steps[0]
    steps.clear()
    found = replay(tmp_path / 'work' / 'non_finite_iter_2.pth', 'cpu')
    # Dropout: other random numbers would give other losses.
    assert not found.changed and not found.is_finite
    assert found.step.iterations == [0, 1]
    assert all(math.isfinite(value) for losses in found.losses for value in losses.values())
    assert same(in_the_run, steps[0])
    assert found.origin.layer is None
    assert found.origin.gradient == 'student.decode_head.conv_seg'


@pytest.fixture
def kept(tmp_path: Path) -> Path:
    """The file of a step that was not finite."""
    train(write(tmp_path, resnet(4), term(loss='RootOfKL'), extra='train_cfg["max_iters"] = 1\n'))
    return tmp_path / 'work' / 'non_finite_iter_1.pth'


def test_what_differs_is_said(kept: Path, capsys: pytest.CaptureFixture[str]) -> None:
    content = read_checkpoint(str(kept))
    loss = content['losses'][0]['loss']
    content['losses'][0]['loss'] = loss + 1
    torch.save(content, kept)
    assert main([str(kept)]) == 1
    assert f'  - loss was {loss + 1} and is {loss}\n' in capsys.readouterr().out


def test_a_step_that_is_finite_now(
    kept: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(RootOfKL, 'forward', KLLoss.forward)
    assert main([str(kept)]) == 1
    out = capsys.readouterr().out
    assert 'Here the step is finite.' in out
    assert '  - the gradient was student.' in out


def test_other_weights_of_the_teacher_are_refused(kept: Path, tmp_path: Path) -> None:
    save_weights(resnet(8), tmp_path / 'teacher.pth', seed=8)
    with pytest.raises(CheckpointError, match=r"teacher 'teacher': .*teacher\.pth has other weig"):
        replay(kept)


@pytest.mark.parametrize(
    ('place', 'value'),
    [
        ('model.student.backbone.type', 'os.abort'),
        ('model.student.config', 'evil.py'),
        ('optim_wrapper.constructor', 'os.abort'),
        ('custom_imports', dict(imports=['evil'])),
        ('model.student.module', 'os:abort'),
        ('model.teacher.run', 'evil'),
        ('model.student', 'evil'),
    ],
)
def test_a_config_that_would_run_code_is_refused(kept: Path, place: str, value: Any) -> None:
    content = read_checkpoint(str(kept))
    node = content['config']
    *parents, last = place.split('.')
    for part in parents:
        node = node[part]
    node[last] = value
    torch.save(content, kept)
    with checkpoint_trust(False), pytest.raises(CheckpointError, match=f'run code .{place}='):
        replay(kept)


def test_files_that_are_no_step(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / 'a.pth'
    torch.save(dict(state_dict={}), file)
    assert main([str(file)]) == 1
    assert 'expected a step that was not finite' in capsys.readouterr().err
    torch.save(dict(failed_step=RunsCode(print, 'ran')), file)
    assert main([str(file)]) == 1
    out, err = capsys.readouterr()
    assert 'would run code' in err and 'ran' not in out.split()


def test_what_is_no_data_is_a_warning(tmp_path: Path) -> None:
    class Odd(Hook):
        def before_train(self, runner: Any) -> None:
            runner.cfg.model.student.odd = object()

    config = write(tmp_path, resnet(4), term(loss='RootOfKL'), extra='train_cfg["max_iters"] = 1\n')
    train(config, Odd())
    assert not [*(tmp_path / 'work').glob('non_finite_iter_*')]
    [log] = (tmp_path / 'work').glob('*/*.log')
    text = log.read_text(encoding='utf-8')
    assert 'Keeping the step in ' in text and 'is no data: <object' in text
    assert 'The step is skipped (1 in a row, 1 in all)' in text


def test_samples_come_back_as_they_were(kept: Path) -> None:
    [batch] = read_step(kept).batches
    [one, _] = batch['data_samples']
    assert type(one).__name__ == 'SegDataSample'
    assert one.gt_sem_seg.data.shape == (1, 32, 32)
    assert one.img_path.endswith('.jpg') and one.ori_shape == (32, 32)
