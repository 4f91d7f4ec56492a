"""Count parameters and operations of teacher and student, part by part."""

from __future__ import annotations

import argparse
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from mmseg_kd.cli.common import add_config_arguments, main_of
from mmseg_kd.errors import ConfigError
from mmseg_kd.runs.markdown import markdown_table

if TYPE_CHECKING:
    from mmseg_kd.config.network_spec import NetworkSpec
    from mmseg_kd.evaluation.complexity import Complexity, Part

HEAD = ('network', 'params', 'GFLOPs')


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog='mmseg-kd flops',
        description=__doc__,
        epilog='example: mmseg-kd flops CONFIG --shape 512 1024',
    )
    add_config_arguments(parser)
    parser.add_argument(
        '--shape',
        type=int,
        nargs=2,
        metavar=('H', 'W'),
        help='height and width of the image; default: size of the data_preprocessor, the crop '
        'that the trained network is fed with',
    )
    return parser


def image_size(shape: Sequence[int] | None, spec: NetworkSpec) -> tuple[int, int]:
    """Height and width of the image.

    Args:
        shape: What the command says; None: as the config says.
        spec: The network that is trained.

    Raises:
        ConfigError: The config does not say it, or it is no size.
    """
    if shape is None:
        shape = (spec.model.get('data_preprocessor') or {}).get('size')
    if shape is None:
        raise ConfigError('the config has no size in its data_preprocessor; give --shape H W.')
    if len(shape) != 2 or min(shape) < 1:
        raise ConfigError(f'expected a height and a width >= 1, got {tuple(shape)}.')
    return shape[0], shape[1]


def rows_of(found: Mapping[str, Complexity]) -> Iterator[tuple[str, str, str]]:
    """Rows of the table: each network with its parts, and how many times the student it is."""
    for name, one in found.items():
        yield name, *_cells(one.whole)
        yield from ((f'- {part}', *_cells(cost)) for part, cost in one.parts.items())
    *teachers, (student, small) = found.items()
    for name, one in teachers:
        yield (
            f'{name} / {student}',
            f'{one.whole.parameters / small.whole.parameters:.1f} x',
            f'{one.whole.flops / small.whole.flops:.1f} x',
        )


def _cells(part: Part) -> tuple[str, str]:
    return f'{part.parameters / 1e6:.3f} M', f'{part.flops / 1e9:.3f}' if part.flops else '-'


def run(args: argparse.Namespace) -> int:
    """Run the command."""
    from mmengine.registry import init_default_scope

    from mmseg_kd.config.load import load_config
    from mmseg_kd.config.network_spec import networks_of
    from mmseg_kd.evaluation.complexity import COUNTED, complexity
    from mmseg_kd.host.quiet import as_config_error
    from mmseg_kd.networks.build import build_network, without_initialisation

    init_default_scope('mmseg')
    specs = networks_of(load_config(args.config, args.cfg_options))
    *_, trained = specs.values()
    size = image_size(args.shape, trained)
    found = {}
    for name, spec in specs.items():
        network = build_network(without_initialisation(spec.model), name)
        # A teacher may see the images at another size.
        with as_config_error(f'{name}, on an image of {size[0]}x{size[1]}'):
            found[name] = complexity(network, spec.scaling.of(size))
    print(markdown_table(HEAD, list(rows_of(found))))
    sizes = {name: spec.scaling.of(size) for name, spec in specs.items()}
    scaled = [f'the {name} scales it to {one}' for name, one in sizes.items() if one != size]
    image = '; '.join([f'{size[0]}x{size[1]}', *scaled])
    print('\n' + textwrap.fill(f'For one image of {image}. {COUNTED}', 80))
    if any(not part.flops for one in found.values() for part in one.parts.values()):
        print('- stands for what does not run in a prediction.')
    return 0


main = main_of(_parser, run, log_level='ERROR')
