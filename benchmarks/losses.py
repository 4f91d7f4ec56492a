"""Time and memory of the losses, forward and backward, against the plain formulas.

    python benchmarks/losses.py [--rounds 5] [--json losses.json]

The plain formula upsamples both maps, and is differentiated by autograd. Both ways of a row run in
turns on the same maps, each in a process of its own, so that the peak of its memory is its own;
the median of the times is taken. The growth tables vary one size at a time.

The table 'every loss' has all of the registry beside KLLoss, in turns with it. The site shows it:

    python benchmarks/losses.py --only 'every loss' --json docs/losses_cpu.json

and `docs/losses_gpu.json` where there is a GPU.
"""

from __future__ import annotations

import argparse
import inspect
import json
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from turns import allocated_mib, device_name, measure

import mmseg_kd.register
from mmseg_kd.host.iteration import at_iteration
from mmseg_kd.losses import LogitLoss, functional
from mmseg_kd.losses.cross_entropy import cross_entropy_sums
from mmseg_kd.losses.functional import resize_map
from mmseg_kd.losses.kernels import piecewise
from mmseg_kd.losses.kernels.dispatch import group_divergence_at, pixel_divergence_at
from mmseg_kd.registry import KD_LOSSES

Loss = Callable[[Tensor, Tensor, Tensor, tuple[int, int]], Tensor]


def _plain_cross_entropy(s: Tensor, t: Tensor, label: Tensor, size: tuple[int, int]) -> Tensor:
    # With the accuracy over all classes that mmseg logs.
    s = resize_map(s, size)
    correct = s.topk(1, dim=1)[1][:, 0] == label
    return F.cross_entropy(s, label, reduction='sum') + 0 * correct.sum()


def _divergences(pixel: Any, group: Any) -> dict[str, Loss]:
    return {
        'KL': lambda s, t, label, size: pixel(s, t, size=size, tau=1.0),
        'CD': lambda s, t, label, size: group(s, t, size=size, group_size=1, tau=4.0),
        'CGD': lambda s, t, label, size: group(s, t, size=size, group_size=10, tau=2.0),
    }


def _cross_entropy(sums: Any) -> Loss:
    return lambda s, t, label, size: sums(s, label)[0]


# On a CPU ours are the pieces.
WAYS: dict[str, dict[str, Loss]] = {
    'plain': {
        **_divergences(functional.pixel_divergence, functional.group_divergence),
        'CE': _plain_cross_entropy,
    },
    'pieces': {
        **_divergences(piecewise.pixel_divergence, piecewise.group_divergence),
        'CE': _cross_entropy(piecewise.cross_entropy_sums),
    },
    'ours': {
        **_divergences(pixel_divergence_at, group_divergence_at),
        'CE': _cross_entropy(cross_entropy_sums),
    },
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
    yield 'losses', [Case(loss) for loss in WAYS['ours']]
    # With more classes the plain formula's maps at the largest size take more than 20 GB.
    sizes = (256, 512, 1024, 2048)
    yield 'output size', [Case('CGD', 1, 19, n // 4, n) for n in sizes]
    yield 'output size of the same maps', [Case('CGD', 1, 19, 64, n) for n in sizes]
    yield 'classes', [Case('CGD', 1, c) for c in (19, 150, 847)]
    yield 'batch', [Case('CGD', b, 19) for b in (1, 4, 16)]


def make(case: Case, way: str) -> Callable[[], None]:
    """One of `WAYS` of a case, on random maps."""
    return make_step(case, WAYS[way][case.loss])


def make_step(case: Case, loss: Loss) -> Callable[[], None]:
    """A loss of a case and its backward pass, on random maps."""
    device = 'cuda' if torch.cuda.is_available() else 'cpu'
    shape = (case.batch, case.classes, case.native, case.native)
    student = torch.randn(shape, device=device, requires_grad=True)
    teacher = torch.randn(shape, device=device)
    size = (case.output, case.output)
    label = torch.randint(case.classes, (case.batch, *size), device=device)

    def step() -> None:
        loss(student, teacher, label, size).backward()
        student.grad = None

    return step


def measure_case(case: Case, rounds: int, threads: int) -> Row:
    """Both ways of a case."""
    found = measure({way: (make, case, way) for way in ('plain', 'ours')}, rounds, threads)
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


# Batch, channels, height and width of the maps that every loss is measured on; labels are 512x512.
MAPS = {'scores': (2, 19, 64, 64), 'features': (2, 256, 32, 32)}
LABEL = (512, 512)
# So many at a time are in turns with KLLoss.
AT_ONCE = 6
EVERY = 'every loss'


@dataclass(frozen=True)
class Cost:
    """What a loss costs on one of `MAPS`: seconds and MiB, its own and those of KLLoss.

    Attributes:
        loss: Its name.
        maps: One of `MAPS`.
        seconds, mib: Of a forward and a backward pass, the latter above the maps themselves.
        kl_seconds, kl_mib: Of `KLLoss`, in turns with it.
        state_mib: What a checkpoint has of it.
    """

    loss: str
    maps: str
    seconds: float
    mib: float
    kl_seconds: float
    kl_mib: float
    state_mib: float


def build_loss(name: str, channels: int) -> torch.nn.Module:
    """A loss of the registry with its defaults, as a term makes it."""
    kind = KD_LOSSES.get(name)
    needed = inspect.signature(kind).parameters
    given = {'channels': channels, 'num_classes': 19}
    loss = kind(
        **{key: given[key] for key, one in needed.items() if one.default is inspect.Parameter.empty}
    )
    if hasattr(loss, 'check_channels'):
        loss.check_channels(channels)
    return loss.to('cuda' if torch.cuda.is_available() else 'cpu')


def is_for(name: str, maps: str) -> bool:
    """Whether a loss is made for such maps."""
    kind = KD_LOSSES.get(name)
    is_of_scores = issubclass(kind, LogitLoss) or name == 'MasKDLoss'
    return is_of_scores == (maps == 'scores')


def make_loss(name: str, maps: str) -> Callable[[], None]:
    """A loss of the registry and its backward pass, on random maps."""
    device = 'cuda' if torch.cuda.is_available() else 'cpu'
    student, teacher = torch.randn(2, *MAPS[maps], device=device)
    student.requires_grad_()
    label = torch.randint(19, (student.shape[0], *LABEL), device=device)
    loss = build_loss(name, student.shape[1])

    def inputs(x: Tensor) -> Any:
        if getattr(loss, 'layers_per_side', 1) == 1:
            return x
        value = x.flatten(2).mT
        return [(value @ value.mT).softmax(-1), value]

    def step() -> None:
        with at_iteration(0):
            loss(inputs(student), inputs(teacher), label).backward()
        student.grad = None

    return step


def measure_every_loss(rounds: int, threads: int) -> Iterator[Cost]:
    """What each loss of the registry costs, on the maps that it is made for."""
    for maps, (_, channels, *_) in MAPS.items():
        others = sorted(KD_LOSSES.module_dict.keys() - {'KLLoss'})
        names = [name for name in others if is_for(name, maps)]
        for begin in range(0, len(names), AT_ONCE):
            chosen = ['KLLoss', *names[begin : begin + AT_ONCE]]
            found = measure({name: (make_loss, name, maps) for name in chosen}, rounds, threads)
            # A process takes over the peak of the one that starts it: on a CPU its own is small
            # beside that.
            peaks = {
                name: found[name].mib
                if torch.cuda.is_available()
                else allocated_mib(make_loss(name, maps))
                for name in chosen
            }
            for name in chosen if begin == 0 else chosen[1:]:
                state = build_loss(name, channels).state_dict().values()
                yield Cost(
                    name,
                    maps,
                    found[name].seconds,
                    peaks[name],
                    found['KLLoss'].seconds,
                    peaks['KLLoss'],
                    sum(x.numel() * x.element_size() for x in state) / 2**20,
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
    if args.only in (None, EVERY):
        print(f'\n{EVERY}\n\n| loss | maps | ms | of KLLoss | MiB |')
        print('| --- | --- | ---: | ---: | ---: |')
        costs = []
        for cost in measure_every_loss(args.rounds, args.threads):
            costs.append(asdict(cost))
            print(
                f'| {cost.loss} | {cost.maps} | {cost.seconds * 1e3:.1f} | '
                f'{cost.seconds / cost.kl_seconds:.2f} | {cost.mib:.1f} |',
                flush=True,
            )
        tables[EVERY] = dict(
            device=device_name(), threads=args.threads, torch=torch.__version__, costs=costs
        )
    if args.json is not None:
        args.json.write_text(json.dumps(tables, indent=2) + '\n', encoding='utf-8')


if __name__ == '__main__':
    main()
