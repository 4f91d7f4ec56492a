"""Export a trained student: for stock mmseg, as safetensors, as ONNX, or for torch.export."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from mmseg_kd.cli.common import add_config_arguments, add_trust_argument, main_of
from mmseg_kd.export.options import COLOURS, INT8_MODES, SUFFIXES

if TYPE_CHECKING:
    from mmseg_kd.export.student import Exported


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog='mmseg-kd export',
        description=__doc__,
        epilog='example: mmseg-kd export CONFIG work_dirs/NAME/iter_160000.pth --to onnx '
        '--with-preprocessing --int8 static --benchmark',
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
        choices=INT8_MODES,
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
    import torch
    from mmengine.logging import MMLogger

    from mmseg_kd.export.latency import table
    from mmseg_kd.export.student import export_student
    from mmseg_kd.host.quiet import HostNoise

    MMLogger.get_current_instance().addFilter(HostNoise())
    exported = export_student(
        args.config,
        args.checkpoint,
        to=args.to,
        out=args.out,
        with_preprocessing=args.with_preprocessing,
        labels=args.labels,
        fixed_size=args.fixed_size,
        one_image=args.one_image,
        int8=args.int8,
        images=args.images,
        calibration_images=args.calibration_images,
        benchmark=args.benchmark,
        cfg_options=args.cfg_options,
    )
    _print_files(exported, args.one_image)
    for name, file in exported.files.items():
        if file.miou is not None:
            print(f'mIoU on the test split, {name}: {file.miou:.2f}')
    for remark in exported.remarks:
        print(remark)
    if exported.timings:
        height, width = exported.timed_size
        threads = torch.get_num_threads()
        print(f'\nOne image of {height}x{width}, CPU, {threads} thread{"s" * (threads > 1)}:\n')
        print(table(exported.timings))
    return 0


def _print_files(exported: Exported, one_image: bool) -> None:
    for number, file in enumerate(exported.files.values()):
        is_first = number == 0
        signature = f', {exported.signature}' if exported.signature and is_first else ''
        print(f'{file.path}: {file.path.stat().st_size / 2**20:.2f} MiB{signature}')
        if exported.config:
            print(f"{exported.config}: the config, for mmseg's own tools/test.py")
        if exported.modules:
            print(f'It needs these modules beside mmseg: {exported.modules}')
        if file.function is None:
            print(f'The config builds a network that loads it strictly. {file.agreement}.')
        else:
            together = ', the last two images as one batch' if is_first and not one_image else ''
            print(f'Against PyTorch{together}: {file.agreement}.')


main = main_of(_parser, run, log_level='WARNING')
