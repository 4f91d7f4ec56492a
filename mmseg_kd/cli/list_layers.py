"""List the layers that can be tapped, with class, output shape and parameters.

With --pair, propose terms instead: a `distillation` list for the config's teacher and student.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from fnmatch import fnmatch
from typing import Any

from mmengine.config import Config
from mmengine.logging import MMLogger
from mmengine.registry import init_default_scope

from mmseg_kd.analysis.pairing import Proposal, as_text, propose
from mmseg_kd.cli.common import add_config_arguments, run_command
from mmseg_kd.config.load import load_config
from mmseg_kd.config.network_spec import (
    NetworkSpec,
    is_distillation,
    networks_of,
    teacher_label,
    teachers_of,
    trained_network_of,
)
from mmseg_kd.errors import ConfigError, nearest
from mmseg_kd.networks.build import build_network, build_segmentor, without_initialisation
from mmseg_kd.networks.layers import Layer, list_layers
from mmseg_kd.networks.probe import PROBE_SIZE


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog='list_layers.py',
        description=__doc__,
        epilog="example: python tools/list_layers.py CONFIG --side student --filter '*conv_seg'",
    )
    add_config_arguments(parser)
    parser.add_argument('--side', choices=['teacher', 'student'], help='one side; default: both')
    parser.add_argument('--filter', default='*', metavar='GLOB', help='only names that match')
    parser.add_argument(
        '--pair', action='store_true', help='print terms to paste into the config, each with why'
    )
    return parser


def layers_by_side(cfg: Config) -> dict[str, list[Layer]]:
    """The layers of the teachers and the student of a distillation, or of the one model.

    Raises:
        ConfigError: A network cannot be built.
    """
    init_default_scope('mmseg')
    # Shapes need no weights.
    return {
        side: list_layers(build_network(without_initialisation(spec.model), side))
        for side, spec in networks_of(cfg).items()
    }


def print_layers(side: str, layers: Sequence[Layer], other: Sequence[Layer], glob: str) -> None:
    """Print a table; `=` marks a layer whose shape a layer of the other side has too."""
    shapes = {layer.shape for layer in other}
    chosen = [layer for layer in layers if fnmatch(layer.name, glob)]
    if not chosen:
        print(f'{side}: no layer matches {glob!r}\n')
        return
    size = 'x'.join(map(str, PROBE_SIZE))
    print(f'{side}: {len(chosen)} layers; output shapes for one image of {size}')
    if other:
        print('= marks a shape that a layer of the other side has too')
    width = max(len(layer.name) for layer in chosen)
    kind_width = max(len(layer.kind) for layer in chosen)
    print(f'  {"layer":<{width}}  {"class":<{kind_width}}  {"output":<18}  {"parameters":>12}')
    for layer in chosen:
        mark = '=' if layer.shape in shapes else ' '
        shape = 'x'.join(map(str, layer.shape))
        print(
            f'{mark} {layer.name:<{width}}  {layer.kind:<{kind_width}}  {shape:<18}  '
            f'{layer.parameters:>12,}'
        )
    print()


def proposals_of(cfg: Config) -> dict[str, list[Proposal]]:
    """Terms for the student of a distillation, by the names of its teachers.

    Raises:
        ConfigError: The config is no distillation, or a network cannot be built.
    """
    init_default_scope('mmseg')
    names, teachers = teachers_of(cfg) if is_distillation(cfg) else ([], {})
    if not names:
        raise ConfigError('--pair: expected a distillation, with a teacher and a student.')
    student = _built(trained_network_of(cfg), 'student')
    found = {}
    for name in names:
        teacher = _built(teachers[name], teacher_label(name, len(names)))
        found[name] = propose(teacher, student, teachers[name].input_size is None)
    return found


def _built(spec: NetworkSpec, side: str) -> Any:
    return build_segmentor(without_initialisation(spec.model), side)


def print_proposals(name: str, proposals: Mapping[str, Sequence[Proposal]]) -> None:
    """Print terms as the text of a config."""
    size = 'x'.join(map(str, PROBE_SIZE))
    print(f'# Terms for {name}.')
    print(f'# From what its layers put out for an image of {size}. The weights are to begin')
    print('# with; terms that are commented out may be added, or take the place of others.')
    print(as_text(proposals), end='')


def run(args: argparse.Namespace) -> int:
    """Run the command."""
    MMLogger.get_current_instance().setLevel('WARNING')
    cfg = load_config(args.config, args.cfg_options)
    if args.pair:
        if args.side or args.filter != '*':
            raise ConfigError('--pair looks at all of both sides: omit --side and --filter.')
        print_proposals(args.config, proposals_of(cfg))
        return 0
    found = layers_by_side(cfg)
    sides = [side for side in found if side.startswith(args.side or '')]
    if not sides:
        raise ConfigError(f'the config has no {args.side}; it has: {", ".join(found)}.')
    names = [layer.name for side in sides for layer in found[side]]
    if not any(fnmatch(name, args.filter) for name in names):
        raise ConfigError(f'no layer matches {args.filter!r}; {nearest(args.filter, names)}.')
    for side in sides:
        others = [layer for name, layers in found.items() if name != side for layer in layers]
        print_layers(side, found[side], others, args.filter)
    return 0


def main(args: Sequence[str] | None = None) -> int:
    """Parse `args` (None: the command line) and print; returns the exit code."""
    return run_command(_parser(), run, args)
