"""All that is to be known of a GPU, in one command: what is right there, and how fast.

    python benchmarks/gpu.py --out DIR [--minutes 9] [--only PART ...] [--rehearse]

Parts run one after the other, the most important first, each in a process of its own with a time
limit: one that fails or hangs costs itself alone. After each, DIR/results.json and DIR/results.md
hold what was found until then; DIR/log.txt has all output. Nothing is fetched or installed.

With --rehearse every part runs on the CPU, with Triton in its interpreter, at tiny sizes.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import platform
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from gpu_parts.part import ROOT, Part

# A part is not begun with less time than this.
LEAST_SECONDS = 40
# What a process may need beside, to import all it works with from a disk that is cold, and to end;
# a rehearsal on a machine with other work, too.
MARGIN_SECONDS = 45
MARGIN_OF_REHEARSAL = 300


@dataclass(frozen=True)
class Entry:
    """A part: its module in `gpu_parts`, the most seconds it may take, and what it is about."""

    name: str
    seconds: int
    about: str


PARTS = (
    Entry('kernels', 110, 'the kernels of the losses against float64 on the CPU'),
    Entry('training', 140, "training steps against a CPU's, and a teacher's options"),
    Entry('runs', 110, 'runs that are killed, stopped, launched and exported'),
    Entry('losses', 90, 'time and memory of the losses'),
    Entry('steps', 150, 'time and memory of a whole step'),
    Entry('teachers', 110, 'the options of a teacher, one by one'),
    Entry('evaluation', 60, 'images a second of an evaluation'),
    Entry('loading', 60, 'the loader against the step, and the start-up'),
    Entry('study', 600, 'methods on CamVid, as long as the minutes last'),
)

PACKAGES = (
    'torch',
    'torchvision',
    'triton',
    'numpy',
    'onedl-mmengine',
    'onedl-mmcv',
    'onedl-mmsegmentation',
    'timm',
    'transformers',
    'safetensors',
    'onnx',
    'onnxruntime',
    'onnxscript',
    'tensorboard',
    'matplotlib',
    'rich',
    'filelock',
    'jinja2',
    'shtab',
    'opencv-python-headless',
)


def machine() -> dict[str, Any]:
    """What the machine is, and which packages are missing."""
    versions, missing = {}, []
    for name in PACKAGES:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            missing.append(name)
    found: dict[str, Any] = dict(
        python=platform.python_version(),
        system=platform.platform(),
        cores=len(os.sched_getaffinity(0)),
        packages=versions,
        missing=missing,
    )
    try:
        import torch

        found['cuda'] = torch.version.cuda
        if torch.cuda.is_available():
            properties = torch.cuda.get_device_properties(0)
            found['gpu'] = properties.name
            found['memory_gib'] = round(properties.total_memory / 2**30, 1)
            found['capability'] = f'{properties.major}.{properties.minor}'
    except ImportError as error:
        found['torch'] = str(error)
    query = ['nvidia-smi', '--query-gpu=driver_version', '--format=csv,noheader']
    try:
        found['driver'] = subprocess.run(
            query, capture_output=True, text=True, check=True
        ).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        found['driver'] = 'none'
    return found


def run_part(name: str, args: argparse.Namespace) -> None:
    """In the process of a part."""
    # First, as that is none of its work.
    module = importlib.import_module(f'gpu_parts.{name}')
    with tempfile.TemporaryDirectory() as scratch:
        part = Part(
            name=name,
            rehearse=args.rehearse,
            out=args.out,
            scratch=Path(scratch),
            ends=min(time.monotonic() + args.seconds, args.latest),
            records=args.records,
        )
        module.run(part)


def start_part(entry: Entry, latest: float, args: argparse.Namespace, records: Path) -> str:
    """Run a part in a process of its own, until `latest` of the monotonic clock; how it ended."""
    margin = MARGIN_OF_REHEARSAL if args.rehearse else MARGIN_SECONDS
    seconds = min(entry.seconds + margin, latest - time.monotonic())
    command = [sys.executable, '-u', __file__, '--out', str(args.out), '--part', entry.name]
    command += ['--seconds', str(entry.seconds), '--latest', str(latest)]
    command += ['--records', str(records)]
    environment = {**os.environ, 'PYTHONPATH': _python_path(), 'PYTHONUNBUFFERED': '1'}
    if args.rehearse:
        command.append('--rehearse')
        environment |= {'TRITON_INTERPRET': '1', 'CUDA_VISIBLE_DEVICES': ''}
    with (args.out / 'log.txt').open('a', encoding='utf-8') as log:
        print(f'\n=== {entry.name}: {entry.about}', file=log, flush=True)
        process = subprocess.Popen(
            command,
            cwd=ROOT,
            env=environment,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            status = process.wait(seconds)
        except subprocess.TimeoutExpired:
            return f'stopped after {seconds:.0f} s'
        finally:
            # Whatever it started, too.
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    return 'ended' if status == 0 else f'failed with status {status}'


def _python_path() -> str:
    return os.pathsep.join(filter(None, (str(ROOT), os.environ.get('PYTHONPATH'))))


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    names = [entry.name for entry in PARTS]
    parser.add_argument('--out', type=Path, required=True, metavar='DIR', help='for the results')
    parser.add_argument('--minutes', type=float, default=9, help='for all parts; default: 9')
    parser.add_argument('--only', nargs='+', choices=names, metavar='PART', help=', '.join(names))
    parser.add_argument('--rehearse', action='store_true', help='on the CPU, at tiny sizes')
    # What the process of a part is told.
    hidden = {'--part': str, '--seconds': float, '--latest': float, '--records': Path}
    for name, kind in hidden.items():
        parser.add_argument(name, type=kind, help=argparse.SUPPRESS)
    args = parser.parse_args()
    args.out = args.out.resolve()
    if args.part:
        run_part(args.part, args)
        return 0
    return run_all(args)


def run_all(args: argparse.Namespace) -> int:
    """Run the parts; 1 where one did not end or found something wrong."""
    ends = time.monotonic() + args.minutes * 60
    args.out.mkdir(parents=True, exist_ok=True)
    found: dict[str, Any] = dict(machine=machine(), rehearsal=args.rehearse, parts={})
    print(json.dumps(found['machine'], indent=2), flush=True)
    if not args.rehearse and 'gpu' not in found['machine']:
        print('No GPU is here: --rehearse runs every part on the CPU.', file=sys.stderr)
        return 2
    good = True
    for entry in PARTS:
        if args.only and entry.name not in args.only:
            continue
        if ends - time.monotonic() < LEAST_SECONDS:
            print(f'{entry.name}: no time left', flush=True)
            continue
        with tempfile.TemporaryDirectory() as folder:
            records = Path(folder, 'records.jsonl')
            begun = time.monotonic()
            status = start_part(entry, ends, args, records)
            lines = records.read_text(encoding='utf-8').splitlines() if records.exists() else []
        part = dict(status=status, seconds=round(time.monotonic() - begun, 1))
        part['records'] = [json.loads(line) for line in lines]
        found['parts'][entry.name] = part
        (args.out / 'results.json').write_text(json.dumps(found, indent=1), encoding='utf-8')
        (args.out / 'results.md').write_text('\n'.join(report(found)) + '\n', encoding='utf-8')
        wrong = [one for one in part['records'] if one.get('verdict') == 'wrong']
        good &= status == 'ended' and not wrong
        print(f'{entry.name}: {status}, {part["seconds"]} s, {len(lines)} findings', flush=True)
        for one in wrong:
            print(f'  wrong: {one["name"]}: {one["text"].splitlines()[0]}', flush=True)
    return 0 if good else 1


def report(found: dict[str, Any]) -> Iterator[str]:
    """The findings as Markdown."""
    place = found['machine']
    yield f'# {place.get("gpu", "CPU")}{", a rehearsal" if found["rehearsal"] else ""}'
    yield ''
    versions = ', '.join(f'{name} {number}' for name, number in place['packages'].items())
    yield f'Driver {place["driver"]}, CUDA {place.get("cuda")}, {place["cores"]} cores, Python '
    yield f'{place["python"]}, {versions}. Missing: {", ".join(place["missing"]) or "nothing"}.'
    for name, part in found['parts'].items():
        yield f'\n## {name}: {part["status"]}, {part["seconds"]} s\n'
        tables: dict[str, list[dict[str, Any]]] = {}
        for one in part['records']:
            if one['kind'] == 'check':
                figures = ', '.join(f'{key} {value}' for key, value in one['figures'].items())
                text = one['text'].splitlines()[0] if one['text'] else ''
                told = '; '.join(filter(None, (figures, text)))
                yield f'- {one["verdict"]}: {one["name"]}{f" ({told})" if told else ""}'
            elif one['kind'] == 'note':
                yield f'- {one["text"]}'
            else:
                tables.setdefault(one['table'], []).append(one['figures'])
        for title, rows in tables.items():
            columns = list(dict.fromkeys(key for row in rows for key in row))
            yield f'\n### {title}\n'
            yield f'| {" | ".join(columns)} |'
            yield f'| {" | ".join("---" for _ in columns)} |'
            for row in rows:
                yield f'| {" | ".join(_cell(row.get(key, "")) for key in columns)} |'


def _cell(value: Any) -> str:
    return f'{value:.4g}' if isinstance(value, float) else str(value)


if __name__ == '__main__':
    sys.exit(main())
