"""A step that was not finite, run again to see where it began."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from mmengine.config import Config
from mmengine.optim import OptimWrapper
from mmengine.utils import import_modules_from_strings

from mmseg_kd.checkpoints.digest import sha256_of
from mmseg_kd.checkpoints.source import local_file
from mmseg_kd.checkpoints.trust import checkpoints_are_trusted
from mmseg_kd.config.network_spec import is_distillation, teachers_of
from mmseg_kd.engine.isolation import isolated
from mmseg_kd.engine.runner import build_runner, prepare_run
from mmseg_kd.errors import CheckpointError, Problems
from mmseg_kd.hooks.failed_step import FailedStep, read_step
from mmseg_kd.hooks.iteration_seed_hook import seed_networks
from mmseg_kd.hooks.non_finite_layers import Origin, named_networks, watching
from mmseg_kd.hooks.step_guard import StepGuard, Verdict
from mmseg_kd.host.iteration import at_iteration
from mmseg_kd.networks.build import unwrapped


@dataclass(frozen=True)
class Replay:
    """What became of a step when it was run again.

    Attributes:
        step: As it was kept.
        losses: The log entries of each batch.
        gradient: The last parameter whose gradient is not finite; None: all are finite.
        is_finite: Whether the step would have been taken.
        origin: Where a number was not finite first.
    """

    step: FailedStep
    losses: Sequence[Mapping[str, float]]
    gradient: str | None
    is_finite: bool
    origin: Origin

    @property
    def changed(self) -> list[str]:
        """What is not as in the run, to the bit."""
        then = [*self.step.losses, {'the gradient': self.step.gradient}]
        now = [*self.losses, {'the gradient': self.gradient}]
        return [
            f'{name} was {before.get(name)} and is {after.get(name)}'
            for before, after in zip(then, now, strict=True)
            for name in {**before, **after}
            if not _is_same(before.get(name), after.get(name))
        ]


def _is_same(*values: Any) -> bool:
    are_nan = all(isinstance(value, float) and math.isnan(value) for value in values)
    return are_nan or len(set(values)) == 1


def replay(file: Path, device: str = 'auto') -> Replay:
    """Run a step again that was kept, as it was; then once more, and look at every layer.

    On the machine of the run, with its versions, it is the same to the bit.

    Args:
        file: What `NonFiniteHook` has written.
        device: As in `prepare_run`.

    Raises:
        CheckpointError: The file is none, a teacher's weights are others or gone, or its config
            names code and is not trusted.
        KDError: What else is wrong with networks and devices.
    """
    step = read_step(file)
    _check_trust(step.config, str(file))
    with TemporaryDirectory() as folder, isolated():
        if step.config.get('custom_imports'):
            import_modules_from_strings(**step.config['custom_imports'])
        cfg = Config({**step.config, 'work_dir': folder, 'log_level': 'WARNING'})
        optimisation = cfg.pop('optim_wrapper')
        _check_teachers(cfg, step, str(file))
        prepare_run(cfg, device)
        runner = build_runner(cfg)
        wrapper = runner.build_optim_wrapper(optimisation)
        scaler = getattr(wrapper, 'loss_scaler', None)
        if scaler is not None and step.scale is not None:
            scaler.load_state_dict({**scaler.state_dict(), 'scale': step.scale})
        runner._maybe_compile('train_step')
        guard = StepGuard(wrapper, runner.model)
        losses, verdict = _run(step, runner.model, wrapper, guard)
        origin = Origin()
        if not verdict.is_taken:
            with watching(named_networks(runner.model)) as origin:
                _run(step, runner.model, wrapper, guard)
        return Replay(step, losses, verdict.gradient, verdict.is_taken, origin)


def _run(
    step: FailedStep, model: Any, wrapper: OptimWrapper, guard: StepGuard
) -> tuple[list[dict[str, float]], Verdict]:
    """Take the step as a runner does; returns the log entries of each batch, and what became."""
    unwrapped(model).load_state_dict(step.weights)
    wrapper.initialize_count_status(model, step.iterations[0], step.max_iters)
    model.train()
    guard.keep_buffers()
    losses = []
    for iteration, data in zip(step.iterations, step.batches, strict=True):
        seed_networks(step.seed, step.rank, iteration)
        with at_iteration(iteration):
            outputs = model.train_step(data, optim_wrapper=wrapper)
        losses.append({name: float(value) for name, value in outputs.items()})
    assert guard.verdict is not None
    return losses, guard.verdict


def _check_teachers(cfg: Config, step: FailedStep, where: str) -> None:
    """See that the teachers' files are those of the run."""
    specs = teachers_of(cfg)[1] if is_distillation(cfg) else {}
    problems = Problems()
    for name, spec in specs.items():
        # Others are the student, or come with their weights.
        if spec.kind != 'frozen' or spec.checkpoint is None:
            continue
        with problems:
            digest = sha256_of(local_file(str(spec.checkpoint)))
            if digest != step.teachers.get(name, digest):
                raise CheckpointError(
                    f'{where}: teacher {name!r}: {spec.checkpoint} has other weights than in the '
                    'run; put those back.'
                )
    problems.raise_if_any()


def _check_trust(config: Mapping[str, Any], where: str) -> None:
    """See that a config builds what is registered and runs nothing else.

    A name with dots is imported and called, whatever it is; a config of a network is run.
    """
    if checkpoints_are_trusted():
        return
    for place, value in _entries(config):
        key = place.rpartition('.')[2]
        is_text = isinstance(value, str)
        is_import = key in ('type', 'constructor') and is_text and '.' in value
        is_call = key == 'module' and is_text and ':' in value
        # A network by one word is a run, whose config is one too.
        is_run = is_text and bool(re.fullmatch(r'model\.(student|teacher(\.\d+)?)', place))
        if is_import or is_call or is_run or key in ('config', 'custom_imports', 'run'):
            raise CheckpointError(
                f'{where}: refused, because its config would run code ({place}={value!r}). If you '
                'trust whoever made the file, replay it with --trust-checkpoint.'
            )


def _entries(node: Any, place: str = '') -> Iterator[tuple[str, Any]]:
    """All that is in a config, by its place."""
    items: Iterable[tuple[Any, Any]] = ()
    if isinstance(node, Mapping):
        items = node.items()
    elif isinstance(node, list | tuple):
        items = enumerate(node)
    for key, value in items:
        yield f'{place}.{key}'.lstrip('.'), value
        yield from _entries(value, f'{place}.{key}')
