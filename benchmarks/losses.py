"""Time and memory of the losses, forward and backward, against the plain formulas.

    python benchmarks/losses.py [--rounds 5] [--json losses.json]

The plain formula upsamples both maps, and is differentiated by autograd. Both ways of a row run in
turns on the same maps, each in a process of its own, so that the peak of its memory is its own;
the median of the times is taken. The growth tables vary one size at a time.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from turns import device_name, measure

import mmseg_kd.register
from mmseg_kd.losses import functional
from mmseg_kd.losses.cross_entropy import cross_entropy_sums
from mmseg_kd.losses.functional import resize_map
from mmseg_kd.losses.kernels.dispatch import group_divergence_at, pixel_divergence_at

Loss = Callable[[Tensor, Tensor, Tensor, tuple[int, int]], Tensor]


def _plain_cross_entropy(s: Tensor, t: Tensor, label: Tensor, size: tuple[int, int]) -> Tensor:
    # With the accuracy over all classes that mmseg logs.
    s = resize_map(s, size)
    correct = s.topk(1, dim=1)[1][:, 0] == label
    return F.cross_entropy(s, label, reduction='sum') + 0 * correct.sum()


LOSSES: dict[str, tuple[Loss, Loss]] = {
    'KL': (
        lambda s, t, label, size: functional.pixel_divergence(s, t, size=size, tau=1.0),
        lambda s, t, label, size: pixel_divergence_at(s, t, size=size, tau=1.0),
    ),
    'CD': (
        lambda s, t, label, size: functional.group_divergence(
            s, t, size=size, group_size=1, tau=4.0
        ),
        lambda s, t, label, size: group_divergence_at(s, t, size=size, group_size=1, tau=4.0),
    ),
    'CGD': (
        lambda s, t, label, size: functional.group_divergence(
            s, t, size=size, group_size=10, tau=2.0
        ),
        lambda s, t, label, size: group_divergence_at(s, t, size=size, group_size=10, tau=2.0),
    ),
    'CE': (_plain_cross_entropy, lambda s, t, label, size: cross_entropy_sums(s, label)[0]),
}


@dataclass(frozen=True)
class Case:
    """Maps of `native` x `native` at `output` x `output`."""

    loss: str
    batch: int = 2
    classes: int = 150
    native: int = 128
    output: int = 512


@dataclass(frozen=True)
class Row:
    """What was measured of a case: seconds and MiB above the maps themselves, plain and ours."""

    case: Case
    plain_s: float
    ours_s: float
    plain_mib: float
    ours_mib: float


def cases() -> Iterator[tuple[str, list[Case]]]:
    """The tables, each with its title."""
    yield 'losses', [Case(loss) for loss in LOSSES]
    # With more classes the plain formula's maps at the largest size take more than 20 GB.
    sizes = (256, 512, 1024, 2048)
    yield 'output size', [Case('CGD', 1, 19, n // 4, n) for n in sizes]
    yield 'output size of the same maps', [Case('CGD', 1, 19, 64, n) for n in sizes]
    yield 'classes', [Case('CGD', 1, c) for c in (19, 150, 847)]
    yield 'batch', [Case('CGD', b, 19) for b in (1, 4, 16)]


def make(case: Case, is_plain: bool) -> Callable[[], None]:
    """One way of a case, on random maps."""
    device = 'cuda' if torch.cuda.is_available() else 'cpu'
    shape = (case.batch, case.classes, case.native, case.native)
    student = torch.randn(shape, device=device, requires_grad=True)
    teacher = torch.randn(shape, device=device)
    size = (case.output, case.output)
    label = torch.randint(case.classes, (case.batch, *size), device=device)
    loss = LOSSES[case.loss][0 if is_plain else 1]

    def step() -> None:
        student.grad = None
        loss(student, teacher, label, size).backward()

    return step


def measure_case(case: Case, rounds: int, threads: int) -> Row:
    """Both ways of a case."""
    ways = {'plain': (make, case, True), 'ours': (make, case, False)}
    found = measure(ways, rounds, threads)
    plain, ours = found['plain'], found['ours']
    return Row(case, plain.seconds, ours.seconds, plain.mib, ours.mib)


def print_table(title: str, rows: list[Row]) -> None:
    """Print the rows as a table in Markdown."""
    print(f'\n{title}\n')
    print('| loss | maps | size | plain ms | ours ms | ratio | plain MiB | ours MiB | ratio |')
    print('| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |')
    for row in rows:
        case = row.case
        maps = f'{case.batch}x{case.classes}x{case.native}x{case.native}'
        print(
            f'| {case.loss} | {maps} | {case.output} | {row.plain_s * 1e3:.0f} | '
            f'{row.ours_s * 1e3:.0f} | {row.ours_s / row.plain_s:.3f} | {row.plain_mib:.0f} | '
            f'{row.ours_mib:.0f} | {row.ours_mib / row.plain_mib:.3f} |',
            flush=True,
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--rounds', type=int, default=5)
    parser.add_argument('--threads', type=int, default=torch.get_num_threads())
    parser.add_argument('--only', help='one table, by its title')
    parser.add_argument('--json', type=Path, metavar='FILE', help='write the figures there too')
    args = parser.parse_args()
    print(f'{device_name()}, {args.threads} threads, {args.rounds} rounds')
    print(f'mmseg_kd {mmseg_kd.__version__}, torch {torch.__version__}')
    tables: dict[str, Any] = {}
    for title, chosen in cases():
        if args.only in (None, title):
            rows = [measure_case(case, args.rounds, args.threads) for case in chosen]
            print_table(title, rows)
            tables[title] = [asdict(row) for row in rows]
    if args.json is not None:
        args.json.write_text(json.dumps(tables, indent=2) + '\n', encoding='utf-8')


if __name__ == '__main__':
    main()
