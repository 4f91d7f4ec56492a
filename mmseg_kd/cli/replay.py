"""Run a step again that was not finite, and name the layer where that began.

FILE is what a run keeps of such a step in its work dir: non_finite_iter_N.pth.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from mmseg_kd.cli.common import add_device_argument, add_trust_argument, main_of

if TYPE_CHECKING:
    from mmseg_kd.engine.replay import Replay


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog='mmseg-kd replay',
        description=__doc__,
        epilog='example: mmseg-kd replay work_dirs/RUN/non_finite_iter_1200.pth',
    )
    parser.add_argument('file', type=Path, metavar='FILE', help='the step')
    add_trust_argument(parser)
    add_device_argument(parser)
    return parser


def run(args: argparse.Namespace) -> int:
    """Run the command; 1 where the step is not as it was in the run."""
    from mmseg_kd.engine.replay import replay

    found = replay(args.file, args.device)
    print('\n'.join(_describe(found)))
    return 1 if found.changed else 0


def _describe(found: Replay) -> list[str]:
    """What to say, a line each."""
    import math

    lines = []
    for iteration, losses in zip(found.step.iterations, found.losses, strict=True):
        bad = [f'{name} is {v}' for name, v in losses.items() if not math.isfinite(v)]
        lines.append(f'Iteration {iteration + 1}: {", ".join(bad) or "all losses are finite"}.')
    if found.is_finite:
        lines.append('Here the step is finite.')
    else:
        layer, gradient = found.origin.layer, found.origin.gradient
        lines.append(f'Forward: {f"first in {layer}" if layer else "all layers are finite"}.')
        # A loss that is not finite has no finite gradient anywhere.
        if all(math.isfinite(v) for losses in found.losses for v in losses.values()):
            lines.append(f'Backward: first in the gradient of {gradient}.')
    if found.changed:
        lines.append(
            'Not the same as in the run, as on another machine, with other versions, or of one of '
            'several ranks:'
        )
        return [*lines, *(f'  - {one}' for one in found.changed)]
    return [*lines, 'The same as in the run, to the bit.']


main = main_of(_parser, run)
