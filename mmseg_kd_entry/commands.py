"""The commands of `mmseg-kd`: a line each."""

from __future__ import annotations

from typing import NamedTuple


class Command(NamedTuple):
    """A command.

    Attributes:
        name: On the command line.
        module: Has `_parser()` and `main(args) -> exit code`.
        summary: What the list of commands says of it.
    """

    name: str
    module: str
    summary: str


GROUPS = {
    'Train, measure, ship': (
        Command(
            'quickstart',
            'mmseg_kd.cli.quickstart',
            'teacher, student, student with CGD on toy scenes',
        ),
        Command('train', 'mmseg_kd.cli.train', 'train a network, or distil one'),
        Command('test', 'mmseg_kd.cli.test', 'measure mIoU on the test split'),
        Command('launch', 'mmseg_kd_entry.launch', 'train or test on several GPUs'),
        Command(
            'export',
            'mmseg_kd.cli.export_student',
            'export a student: stock mmseg, safetensors, ONNX',
        ),
    ),
    'Write a config': (
        Command('experiments', 'mmseg_kd.cli.list_experiments', 'list the shipped experiments'),
        Command(
            'layers', 'mmseg_kd.cli.list_layers', 'list layers that can be tapped, propose terms'
        ),
        Command(
            'print-config', 'mmseg_kd.cli.print_config', 'print a config with its bases as one file'
        ),
        Command('schedule', 'mmseg_kd.cli.plot_schedule', "plot the terms' weights over the run"),
        Command('flops', 'mmseg_kd.cli.get_flops', 'count parameters and operations'),
    ),
    'Look at runs': (
        Command(
            'analyze-logs', 'mmseg_kd.cli.analyze_logs', 'plot curves of runs, mean over seeds'
        ),
    ),
    'Data and older files': (
        Command(
            'check-data',
            'mmseg_kd.cli.check_dataset',
            'read every image and mask, list what is bad',
        ),
        Command('toy-scenes', 'mmseg_kd.cli.generate_toy_scenes', 'generate the toy scenes'),
        Command('convert-camvid', 'mmseg_kd.cli.convert_camvid', "convert SegNet's CamVid"),
        Command(
            'convert-segdistill',
            'mmseg_kd.cli.convert_segdistill',
            "convert SegDistill's configs and checkpoints",
        ),
    ),
    'The shell': (
        Command('completion', 'mmseg_kd.cli.completion', 'print a completion script for the shell'),
    ),
}

COMMANDS = {command.name: command for group in GROUPS.values() for command in group}
