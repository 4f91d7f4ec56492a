"""Export a trained student: for stock mmseg, as safetensors, as ONNX, or for torch.export."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from mmengine.config import Config
from mmengine.logging import MMLogger
from mmengine.registry import init_default_scope
from mmseg.registry import MODELS
from torch import Tensor

from mmseg_kd.checkpoints import load_weights, read_state_dict
from mmseg_kd.checkpoints.save import atomic_write
from mmseg_kd.cli.common import add_config_arguments, add_trust_argument, run_command
from mmseg_kd.config.load import load_config
from mmseg_kd.config.network_spec import networks_of, trained_network_of
from mmseg_kd.config.text import write
from mmseg_kd.errors import CheckpointError, ConfigError, DatasetError
from mmseg_kd.evaluation.latency import measure_latency
from mmseg_kd.export.agreement import compare
from mmseg_kd.export.export_module import COLOURS, ExportModule
from mmseg_kd.export.latency import Timing, table
from mmseg_kd.export.miou import miou
from mmseg_kd.export.onnx_file import OnnxModel, onnx_bytes, require_onnx
from mmseg_kd.export.pictures import pictures_of, random_pictures, scaled
from mmseg_kd.export.program import ProgramModel, program_bytes, trace
from mmseg_kd.export.quantisation import MODES, quantise
from mmseg_kd.export.stock_checkpoint import dataset_meta, save_student, stock_meta
from mmseg_kd.export.stock_config import stock_config
from mmseg_kd.host.quiet import HostNoise, as_config_error
from mmseg_kd.networks.build import build_network, replace_sync_bn, without_initialisation

SUFFIXES = {'mmseg': '.pth', 'safetensors': '.safetensors', 'onnx': '.onnx', 'torch_export': '.pt2'}
# Which formats an option goes with.
GRAPHS = ('onnx', 'torch_export')
OPTIONS = {
    'with_preprocessing': GRAPHS,
    'labels': GRAPHS,
    'fixed_size': GRAPHS,
    'one_image': GRAPHS,
    'int8': ('onnx',),
}
# What is added to a picture's height and width to see that the size may vary.
OTHER_SIZE = (11, 13)

HEADER = '# Complete in itself: mmseg reads and evaluates it with its own tools/test.py.\n'

Function = Callable[[Tensor], Tensor]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog='mmseg-kd export',
        description=__doc__,
        epilog='example: mmseg-kd export CONFIG work_dirs/NAME/iter_160000.pth '
        '--to onnx --with-preprocessing --int8 static --benchmark',
    )
    add_config_arguments(parser)
    parser.add_argument('checkpoint', help='of a distillation or of a student on its own')
    add_trust_argument(parser)
    parser.add_argument('--to', required=True, choices=list(SUFFIXES), help='the format')
    parser.add_argument(
        '--out', metavar='FILE', help='default: student.* in the folder of the checkpoint'
    )
    parser.add_argument(
        '--with-preprocessing',
        nargs='?',
        const='bgr',
        choices=COLOURS,
        help='take uint8 images (N, H, W, 3) with this order of channels (default: bgr, as OpenCV '
        'reads them) and normalise them inside',
    )
    parser.add_argument('--labels', action='store_true', help='put out labels, not scores')
    parser.add_argument(
        '--fixed-size',
        nargs=2,
        type=int,
        metavar=('HEIGHT', 'WIDTH'),
        help='for images of this size alone; default: of any size',
    )
    parser.add_argument(
        '--one-image', action='store_true', help='for a batch of one image; default: of any number'
    )
    parser.add_argument(
        '--int8',
        choices=MODES,
        help='also quantise the ONNX file (static: on images of the train split), and measure both',
    )
    parser.add_argument(
        '--images', type=int, default=8, metavar='N', help='test images to check on; default: 8'
    )
    parser.add_argument(
        '--calibration-images',
        type=int,
        default=32,
        metavar='N',
        help='train images for --int8 static; default: 32',
    )
    parser.add_argument(
        '--benchmark',
        action='store_true',
        help='time teacher, student and exported student on this machine',
    )
    return parser


def run(args: argparse.Namespace) -> int:
    """Run the command."""
    logger = MMLogger.get_current_instance()
    logger.setLevel('WARNING')
    logger.addFilter(HostNoise())
    init_default_scope('mmseg')
    target = _target(args)
    _check_options(args)
    cfg = load_config(args.config, args.cfg_options)
    network = _load_student(cfg, args.checkpoint)
    deployed = ExportModule(network, args.with_preprocessing, args.labels)
    pictures = _pictures(cfg, args.images, network.num_classes, args.fixed_size)
    exported: dict[str, Function] = {}
    files: dict[str, Path] = {}
    if args.to in GRAPHS:
        exported[args.to] = _export_graph(args, deployed, pictures, target)
        files[args.to] = target
        if args.int8:
            name = f'{args.to}, int8 {args.int8}'
            files[name] = target.with_suffix(f'.int8{target.suffix}')
            exported[name] = _export_int8(args, cfg, deployed, pictures, target, files[name])
            _print_miou(cfg, deployed, exported, args.fixed_size)
    else:
        _export_weights(args, cfg, deployed, pictures, target)
    if args.benchmark:
        _print_latency(cfg, deployed, exported, files, pictures[0])
    return 0


def _target(args: argparse.Namespace) -> Path:
    suffix = SUFFIXES[args.to]
    target = Path(args.out) if args.out else Path(args.checkpoint).parent / f'student{suffix}'
    if target.suffix != suffix:
        raise ConfigError(f'--out: expected a name that ends in {suffix}, got {args.out!r}.')
    if target.exists() and target.samefile(args.checkpoint):
        raise ConfigError(f'--out: {target} is the checkpoint itself; give another name.')
    return target


def _check_options(args: argparse.Namespace) -> None:
    for option, formats in OPTIONS.items():
        if getattr(args, option) and args.to not in formats:
            name = option.replace('_', '-')
            raise ConfigError(
                f'--{name} goes with --to {" or ".join(formats)}, got --to {args.to}.'
            )
    for option in ('images', 'calibration_images'):
        if getattr(args, option) < 1:
            name = option.replace('_', '-')
            raise ConfigError(f'--{name}: expected 1 or more, got {getattr(args, option)}.')
    if args.fixed_size and min(args.fixed_size) < 1:
        raise ConfigError(f'--fixed-size: expected 1 or more, got {args.fixed_size}.')
    if args.to == 'onnx':
        require_onnx()


def _load_student(cfg: Config, checkpoint: str) -> Any:
    """The trained network, on the CPU."""
    model = without_initialisation(trained_network_of(cfg).model)
    network = build_network(replace_sync_bn(model), 'student')
    report = load_weights(network, checkpoint)
    if report.missing or report.mismatched or report.unexpected:
        raise CheckpointError(f'{report}\nGive the checkpoint of this very network.')
    return network.eval()


def _pictures(
    cfg: Config, count: int, num_classes: int, size: Sequence[int] | None
) -> list[Tensor]:
    """Pictures of the test split, or random ones where there is none, and a line that says so."""
    try:
        pictures = pictures_of(cfg, 'test', count, num_classes)
    except DatasetError as error:
        print(f'No test images, random ones take their place. {error}')
        pictures = random_pictures()
    return [scaled(picture, size) for picture in pictures]


def _export_weights(
    args: argparse.Namespace,
    cfg: Config,
    deployed: ExportModule,
    pictures: Sequence[Tensor],
    target: Path,
) -> None:
    """Weights and config for stock mmseg: compared, written, and read again."""
    stock = stock_config(cfg, trained_network_of(cfg).model)
    text = HEADER + write(stock)
    meta = stock_meta(dataset_meta((stock.get('test_dataloader') or {}).get('dataset')))
    with as_config_error('the exported config'):
        again = MODELS.build(Config.fromstring(text, '.py').model)
    again.load_state_dict(deployed.network.state_dict(), strict=True)
    agreement = compare(deployed, ExportModule(again), map(deployed.input_of, pictures))
    agreement.check(str(target))
    if args.to == 'safetensors':
        save_student(deployed.network, target, {**meta, 'config': text})
    else:
        save_student(deployed.network, target, meta)
        with atomic_write(target.with_suffix('.py')) as unfinished:
            unfinished.write_text(text, encoding='utf-8')
    again.load_state_dict(read_state_dict(str(target)), strict=True)
    print(f'{target}: {_mib(target)}')
    if args.to == 'mmseg':
        print(f"{target.with_suffix('.py')}: the config, for mmseg's own tools/test.py")
    if stock.get('custom_imports'):
        print(f'It needs these modules beside mmseg: {stock["custom_imports"]["imports"]}')
    print(f'The config builds a network that loads it strictly. {agreement}.')


def _export_graph(
    args: argparse.Namespace, deployed: ExportModule, pictures: Sequence[Tensor], target: Path
) -> Function:
    """An ONNX file or a program, compared with PyTorch before it is written."""
    inputs = [deployed.input_of(picture) for picture in pictures]
    varying = [name for name in deployed.axes() if not (args.one_image and name == 'batch')]
    if args.fixed_size:
        varying = [name for name in varying if name == 'batch']
    program = trace(deployed, inputs[0], varying)
    exported: Function
    if args.to == 'onnx':
        content = onnx_bytes(program, deployed, _description(args))
        exported = OnnxModel(content)
    else:
        content = program_bytes(program)
        exported = ProgramModel(content)
    height, width = (0, 0) if args.fixed_size else OTHER_SIZE
    other = F.pad(pictures[0], (0, width, 0, height))
    others = [deployed.input_of(picture) for picture in (other, other.flip(2))]
    inputs += others if args.one_image else [torch.cat(others)]
    agreement = compare(deployed, exported, inputs)
    agreement.check(str(target))
    with atomic_write(target) as unfinished:
        unfinished.write_bytes(content)
    print(f'{target}: {_mib(target)}, {_signature(deployed, args)}')
    together = '' if args.one_image else ', the last two images as one batch'
    print(f'Against PyTorch{together}: {agreement}.')
    return exported


def _export_int8(
    args: argparse.Namespace,
    cfg: Config,
    deployed: ExportModule,
    pictures: Sequence[Tensor],
    source: Path,
    target: Path,
) -> Function:
    calibration = []
    if args.int8 == 'static':
        count = args.calibration_images
        taken = pictures_of(cfg, 'train', count, deployed.network.num_classes)
        calibration = [deployed.input_of(scaled(picture, args.fixed_size)) for picture in taken]
    quantise(source, target, args.int8, calibration)
    exported = OnnxModel(target)
    agreement = compare(deployed, exported, [deployed.input_of(picture) for picture in pictures])
    print(f'{target}: {_mib(target)}')
    print(f'Against PyTorch: {agreement}.')
    return exported


def _print_miou(
    cfg: Config,
    deployed: ExportModule,
    exported: dict[str, Function],
    size: Sequence[int] | None,
) -> None:
    if size is not None:
        print('mIoU is not measured with --fixed-size: test images may be of any size.')
        return
    try:
        for name, function in exported.items():
            print(f'mIoU on the test split, {name}: {miou(cfg, deployed, function):.2f}')
    except DatasetError as error:
        print(f'mIoU is not measured. {error}')


def _print_latency(
    cfg: Config,
    deployed: ExportModule,
    exported: dict[str, Function],
    files: dict[str, Path],
    picture: Tensor,
) -> None:
    """A table of the teachers, the student, and what was exported."""
    networks = {'student': deployed.network}
    calls: dict[str, Callable[[], Any]] = {}
    for name, spec in networks_of(cfg).items():
        if name not in ('student', 'model'):
            # Weights do not change how long it takes.
            network = build_network(replace_sync_bn(without_initialisation(spec.model)), name)
            networks[name] = network
            teacher = ExportModule(network)
            calls[name] = partial(teacher, teacher.input_of(scaled(picture, spec.input_size)))
    student = ExportModule(deployed.network)
    calls['student'] = partial(student, student.input_of(picture))
    image = deployed.input_of(picture)
    calls |= {f'student, {name}': partial(function, image) for name, function in exported.items()}
    seconds = measure_latency(calls)
    timings = []
    for name, median in seconds.items():
        network = networks.get(name, deployed.network)
        file = files.get(name.removeprefix('student, '))
        size = file.stat().st_size if file else _bytes_of(network)
        parameters = sum(p.numel() for p in network.parameters())
        timings.append(Timing(name, median, parameters, size))
    height, width = picture.shape[1:]
    threads = torch.get_num_threads()
    print(f'\nOne image of {height}x{width}, CPU, {threads} thread{"s" * (threads > 1)}:\n')
    print(table(timings))


def _bytes_of(network: torch.nn.Module) -> int:
    return sum(t.numel() * t.element_size() for t in network.state_dict().values())


def _description(args: argparse.Namespace) -> dict[str, str]:
    """What an ONNX file says of itself."""
    return {'config': args.config, 'checkpoint': Path(args.checkpoint).name}


def _signature(deployed: ExportModule, args: argparse.Namespace) -> str:
    batch = 1 if args.one_image else 'batch'
    height, width = args.fixed_size or ('height', 'width')
    shape = f'{batch}, {height}, {width}'
    if deployed.colours is None:
        image = f'float32 ({batch}, 3, {height}, {width}), normalised'
    else:
        image = f'uint8 ({shape}, 3), {deployed.colours.upper()}'
    channels = deployed.network.out_channels
    output = f'labels int32 ({shape})' if deployed.labels else ''
    return (
        f'image {image} -> {output or f"scores float32 ({batch}, {channels}, {height}, {width})"}'
    )


def _mib(path: Path) -> str:
    return f'{path.stat().st_size / 2**20:.2f} MiB'


def main(args: Sequence[str] | None = None) -> int:
    """Parse `args` (None: the command line) and export; returns the exit code."""
    return run_command(_parser(), run, args)
