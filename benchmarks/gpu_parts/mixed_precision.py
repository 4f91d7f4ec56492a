"""Whether runs with mixed precision learn, and survive what is not finite."""

from __future__ import annotations

import functools
import json
import math
import statistics
from pathlib import Path
from typing import Any

import torch
from builders import resnet, save_weights, term, wrapper_config, write_config, write_dataset
from mmengine.hooks import Hook
from mmengine.logging import MMLogger
from mmengine.optim.optimizer import amp_optimizer_wrapper
from mmengine.runner import Runner, amp

from gpu_parts.part import Part
from mmseg_kd.config.load import load_config
from mmseg_kd.engine.isolation import isolated
from mmseg_kd.engine.training import TrainingOptions, prepare_training, run_training
from mmseg_kd.hooks.non_finite_hook import FILE, SKIPPED, NonFiniteHook
from mmseg_kd.networks.build import unwrapped

ITERATIONS = 60
# Below which losses of the first iterations agree with those of float32.
TOLERANCES = {'float16': 0.02, 'bfloat16': 0.1}

CONFIG = f"""
optim_wrapper['optimizer'] = dict(type='SGD', lr=0.05, momentum=0.9)
train_cfg = dict(type='IterBasedTrainLoop', max_iters={ITERATIONS}, val_interval={ITERATIONS})
default_hooks['checkpoint']['interval'] = {ITERATIONS}
"""


class Poison(Hook):
    """Makes a weight infinite in one iteration, and mends it before the next."""

    # Looks after all others, and mends after them.
    priority = 'VERY_LOW'

    def __init__(self, iteration: int) -> None:
        self.iteration = iteration

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None) -> None:
        """Poison it."""
        if runner.iter == self.iteration:
            self._weight = unwrapped(runner.model).student.decode_head.conv_seg.bias
            self._kept = self._weight.detach().clone()
            self._weight.data.fill_(math.inf)

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None
    ) -> None:
        """Mend it."""
        if runner.iter == self.iteration:
            self._weight.data.copy_(self._kept)


def check(part: Part) -> None:
    """Runs as `mmseg-kd train --amp` makes them, in this process."""
    config = _write_config(part)
    plain: dict[str, list[float]] = {}
    with part.check('a run in float32 learns') as figures:
        plain = _losses(_train(part, config, 'float32'))
        _check_that_it_learns(plain['train/task_loss'], figures)
    for dtype in TOLERANCES:
        with part.check(f'a run in {dtype} learns, with the losses of float32') as figures:
            runner = _train(part, config, dtype, dtype=dtype)
            losses = _losses(runner)
            _check_that_it_learns(losses['train/task_loss'], figures)
            for name in ('train/task_loss', 'train/kd.kl'):
                first = zip(losses[name][:3], plain[name][:3], strict=True)
                figures[f'{name} off by'] = max(abs(a - b) / abs(b) for a, b in first)
                assert figures[f'{name} off by'] <= TOLERANCES[dtype], figures
            assert runner.message_hub.get_info(SKIPPED, 0) == 0
    with part.check('steps that the scaler leaves out are survived and not counted') as figures:
        _check_scaler(part, config, figures)
    with part.check('a step that is not finite is left out, and its layer named') as figures:
        _check_poison(part, config, figures)


def _write_config(part: Part) -> Path:
    folder = part.scratch / 'mixed_precision'
    folder.mkdir()
    teacher = resnet(8)
    checkpoint = save_weights(teacher, folder / 'teacher.pth')
    model = wrapper_config(
        resnet(4),
        teacher,
        checkpoint,
        term(loss='KLLoss', name='kl'),
        term('backbone.layer2', 'backbone.layer2', 'CDLoss', name='cd'),
    )
    path = write_config(folder, model, write_dataset(folder / 'data'))
    path.write_text(path.read_text(encoding='utf-8') + CONFIG, encoding='utf-8')
    return path


def _train(
    part: Part,
    config: Path,
    name: str,
    dtype: str | None = None,
    loss_scale: Any = 'dynamic',
    hook: Hook | None = None,
) -> Runner:
    """A whole run; with a `dtype` in mixed precision."""
    with isolated():
        # Also of the loggers that begin anew in here.
        MMLogger.get_instance('mmengine', logger_name='mmengine', log_level='WARNING')
        cfg = load_config(str(config), None)
        cfg.work_dir = str(config.parent / name)
        cfg.log_level = 'WARNING'
        if dtype is not None:
            cfg.optim_wrapper.update(type='AmpOptimWrapper', dtype=dtype, loss_scale=loss_scale)
            if part.rehearse:
                _allow_on_cpu()
        is_amp = dtype is not None and not part.rehearse
        options = TrainingOptions(amp=is_amp, device=part.device)
        runner = prepare_training(cfg, options)
        if hook is not None:
            runner.register_hook(hook)
        run_training(runner)
    return runner


def _allow_on_cpu() -> None:
    """mmengine's wrapper asks for CUDA, torch's autocast and scaler do not."""
    amp_optimizer_wrapper.GradScaler = functools.partial(torch.amp.GradScaler, device='cpu')
    amp_optimizer_wrapper.is_cuda_available = lambda: True
    amp.autocast = functools.partial(torch.autocast, 'cpu')


def _losses(runner: Runner) -> dict[str, list[float]]:
    """Those of each iteration, by name."""
    histories = runner.message_hub.log_scalars
    return {
        name: [float(value) for value in history.data[0]]
        for name, history in histories.items()
        if name.startswith('train/')
    }


def _check_that_it_learns(losses: list[float], figures: dict[str, Any]) -> None:
    assert len(losses) == ITERATIONS
    assert all(map(math.isfinite, losses)), losses
    figures['loss, first ten'] = statistics.mean(losses[:10])
    figures['last ten'] = statistics.mean(losses[-10:])
    assert figures['last ten'] < 0.8 * figures['loss, first ten'], figures


def _check_scaler(part: Part, config: Path, figures: dict[str, Any]) -> None:
    """More steps in a row than a run survives if they are not the scaler's."""
    scaler = dict(init_scale=2.0**36, growth_interval=1000)
    runner = _train(part, config, 'scaler', dtype='float16', loss_scale=scaler)
    left_out = round(36 - math.log2(runner.optim_wrapper.loss_scaler.get_scale()))
    figures['steps left out'] = left_out
    assert left_out > NonFiniteHook().limit, left_out
    assert runner.iter == ITERATIONS
    assert runner.message_hub.get_info(SKIPPED, 0) == 0
    assert not (Path(runner.work_dir) / FILE).exists()
    losses = _losses(runner)['train/task_loss']
    figures['loss, first ten'], figures['last ten'] = (
        statistics.mean(some) for some in (losses[:10], losses[-10:])
    )
    assert figures['last ten'] < figures['loss, first ten']
    state = runner.model.state_dict().values()
    assert all(tensor.isfinite().all() for tensor in state)


def _check_poison(part: Part, config: Path, figures: dict[str, Any]) -> None:
    runner = _train(part, config, 'poison', dtype='float16', hook=Poison(7))
    figures['skipped'] = runner.message_hub.get_info(SKIPPED, 0)
    assert figures['skipped'] == 1
    assert runner.iter == ITERATIONS
    (line,) = (Path(runner.work_dir) / FILE).read_text(encoding='utf-8').splitlines()
    found = json.loads(line)
    figures['layer'] = found['layer']
    assert found['layer'] == 'student.decode_head.conv_seg', found
    assert found['iteration'] == 8, found
    assert len(found['images']) == 2, found
    assert all(tensor.isfinite().all() for tensor in runner.model.state_dict().values())
