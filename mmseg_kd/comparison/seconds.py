"""A budget in seconds: how many steps of each method it is."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from mmseg_kd.checkpoints.save import atomic_write
from mmseg_kd.comparison import steps
from mmseg_kd.comparison.folder import differences
from mmseg_kd.comparison.plan import STEPS, Plan
from mmseg_kd.comparison.process import (
    POLL_S,
    STOPPED,
    StoppedError,
    last_words,
    start,
    stop_requests,
)
from mmseg_kd.errors import ConfigError
from mmseg_kd.runs.comparison import LOG


def within_seconds(plan: Plan, folder: Path, environment: Mapping[str, str]) -> Plan:
    """A plan with the lengths that its seconds allow, without methods that cannot be measured.

    Raises:
        ConfigError: The baseline cannot be measured, or the seconds allow less than a validation.
        StoppedError: A signal asked to stop.
    """
    seconds, failed = measure_steps(plan, folder, environment)
    for name, reason in failed.items():
        print(f'{name}: left out, its steps cannot be measured: {reason}', flush=True)
    there = {name: config for name, config in plan.methods.items() if name in seconds}
    found = replace(plan, methods=there).within(seconds)
    for name, config in found.methods.items():
        steps_made = config.train_cfg.max_iters
        print(f'{name}: {seconds[name] * 1e3:.1f} ms a step, {steps_made} steps', flush=True)
    return found


def measure_steps(
    plan: Plan, folder: Path, environment: Mapping[str, str]
) -> tuple[dict[str, float], dict[str, str]]:
    """Seconds of a step by method, and what is wrong with the methods that have none.

    What was measured before is kept, so that runs which go on have the lengths that they began
    with; methods that are new, or have another config now, are measured beside the baseline, on
    whose time theirs are put.

    Args:
        plan: With a budget in seconds.
        folder: Of the comparison.
        environment: Of the process that measures.

    Raises:
        ConfigError: The baseline cannot be measured.
        StoppedError: A signal asked to stop.
    """
    here = folder / STEPS
    texts = {name: str(config.pretty_text) for name, config in plan.methods.items()}
    kept = {
        name: seconds
        for name, seconds in _read(here / steps.MEASURED).items()
        if name not in texts
        or not (of := here / f'{name}.py').exists()
        or not differences(of, texts[name])
    }
    new = [name for name in plan.methods if name not in kept]
    if not new:
        return kept, {}
    shutil.rmtree(here / 'now', ignore_errors=True)
    now = here / 'now'
    now.mkdir(parents=True)
    for name in dict.fromkeys((plan.baseline, *new)):
        (now / f'{name}.py').write_text(texts[name], encoding='utf-8')
    print(f'Measuring steps: {", ".join(new)}', flush=True)
    with stop_requests() as asked:
        process = start(['steps', str(now)], environment, here / LOG)
        while process.poll() is None:
            if asked:
                process.terminate()
            time.sleep(POLL_S)
    if asked or process.returncode in STOPPED:
        raise StoppedError
    measured, failed = _read(now / steps.MEASURED), _read(now / steps.FAILED)
    if plan.baseline not in measured:
        reason = failed.get(plan.baseline) or last_words(here / LOG)
        raise ConfigError(f'the steps of {plan.baseline} cannot be measured: {reason}')
    unit = kept.get(plan.baseline, measured[plan.baseline]) / measured[plan.baseline]
    kept |= {name: measured[name] * unit for name in new if name in measured}
    with atomic_write(here / steps.MEASURED) as unfinished:
        unfinished.write_text(json.dumps(kept, indent=2) + '\n', encoding='utf-8')
    for name in new:
        (now / f'{name}.py').replace(here / f'{name}.py')
    shutil.rmtree(now)
    return kept, failed


def _read(file: Path) -> dict[str, Any]:
    return dict(json.loads(file.read_text(encoding='utf-8'))) if file.exists() else {}
