"""The page on losses: a table of all that are registered, and what each says of itself.

The words are the docstrings', the costs those of `docs/losses_cpu.json` and `docs/losses_gpu.json`,
which `benchmarks/losses.py` writes, and the results those of a comparison whose methods are called
as their losses are.
"""

from __future__ import annotations

import inspect
import json
import re
from pathlib import Path
from typing import Any

import reference_page

DOCS = Path(__file__).resolve().parents[1]
DEVICES = ('cpu', 'gpu')
MAPS = ('scores', 'features')
NONE = '—'
# What is for transformers has a comparison of its own.
RESULTS = ('results/losses-240x320.json', 'results/transformers-240x320.json')


class MissingParagraph(Exception):
    """A loss that does not say what the page is made of."""


def tables() -> str:
    """All of it, in Markdown.

    Raises:
        MissingParagraph: Of all losses without one, at once.
    """
    losses = reference_page.registered()['kd_loss']
    missing = [
        f'{name}: {beginning}'
        for name, kind in losses.items()
        for beginning in ('.. math::', 'Taps: ', 'Choose it ', 'Reference: ')
        if not re.search(f'^{re.escape(beginning)}', inspect.getdoc(kind) or '', re.M)
    ]
    if missing:
        raise MissingParagraph('no paragraph that begins so: ' + ', '.join(missing))
    measured = {device: _read(f'losses_{device}.json').get('every loss') for device in DEVICES}
    results = {
        row['method']: f'{row["mean"]:.2f} ({row["gain"]["mean"]:+.2f})'
        for file in RESULTS
        for row in _read(file).get('methods', ())
        if row['gain'] is not None
    }
    parts = [_costs(losses, {k: v for k, v in measured.items() if v}, results)]
    parts += [f'## {name}\n\n{reference_page.prose(kind)}' for name, kind in losses.items()]
    return '\n\n'.join(parts) + '\n'


def _read(name: str) -> dict[str, Any]:
    path = DOCS / name
    return dict(json.loads(path.read_text(encoding='utf-8'))) if path.exists() else {}


def _costs(
    losses: dict[str, type], measured: dict[str, dict[str, Any]], results: dict[str, str]
) -> str:
    """The table, and what it was measured on."""
    heads = [f'{maps}, {device.upper()}' for device in measured for maps in MAPS]
    lines = [
        '| ' + ' | '.join(['loss', 'from', *heads, 'state', 'mIoU']) + ' |',
        '| --- | --- |' + ' ---: |' * (len(heads) + 2),
    ]
    for name, kind in losses.items():
        costs = {
            (device, one['maps']): one
            for device, found in measured.items()
            for one in found['costs']
            if one['loss'] == name
        }
        cells = [_cost(costs.get((device, maps))) for device in measured for maps in MAPS]
        state = next((f'{one["state_mib"]:.1f} MiB' for one in reversed(costs.values())), NONE)
        if not any(one['state_mib'] for one in costs.values()):
            state = NONE
        link = f'[`{name}`](#{name.lower()})'
        cells = [link, _source(kind), *cells, state, results.get(name, NONE)]
        lines.append('| ' + ' | '.join(cells) + ' |')
    devices = [
        f'{device.upper()}: {found["device"]}, {found["threads"]} threads, torch {found["torch"]}'
        for device, found in measured.items()
    ]
    return '\n'.join(lines) + ('\n\n' + '; '.join(devices) + '.' if devices else '')


def _cost(cost: dict[str, Any] | None) -> str:
    """Time and memory, relative to `KLLoss`."""
    if cost is None:
        return NONE
    return f'{cost["seconds"] / cost["kl_seconds"]:.2g}, {cost["mib"] / cost["kl_mib"]:.2g}'


def _source(kind: type) -> str:
    """The beginning of the reference: who, and where or when."""
    [reference] = re.findall(r'^Reference: (.*(?:\n.+)*)', inspect.getdoc(kind) or '', re.M)
    text = ' '.join(reference.split())
    found = re.match(r'(.+?(?: et al\.| and \w+|)), .*?([A-Z]\w+ \d{4}|\d{4}),', text)
    return f'{found[1]}, {found[2]}' if found else re.split(r' \(|\.', text)[0]
