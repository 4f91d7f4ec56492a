"""The commands of `mmseg-kd`: a line each.

A command's module is read for its help and for the completion script, so nothing at its top imports
torch, mmengine, mmseg, numpy or matplotlib: what it works with is imported where it runs.
"""

from __future__ import annotations

from typing import NamedTuple


class Command(NamedTuple):
    """A command.

    Attributes:
        name: On the command line.
        module: Has `_parser()` and `main(args) -> exit code`, and is light to import.
        summary: What the list of commands says of it.
    """

    name: str
    module: str
    summary: str


CLI = 'mmseg_kd.cli.'

GROUPS = {
    'Train, measure, ship': (
        Command('quickstart', CLI + 'quickstart', 'the main job, on generated scenes'),
        Command('train', CLI + 'train', 'train a network, or distil one'),
        Command('test', CLI + 'test', 'measure mIoU on the test split'),
        Command('pseudo-label', CLI + 'pseudo_label', 'predict masks for images without any'),
        Command('launch', CLI + 'launch', 'train, test or label on several GPUs'),
        Command('compare', CLI + 'compare', 'does it pay? methods over seeds, equal budgets'),
        Command('sweep', CLI + 'sweep', 'try weights, temperatures, layers; find the best'),
        Command('export', CLI + 'export_student', 'export to stock mmseg, safetensors, ONNX'),
    ),
    'Write a config': (
        Command('init', CLI + 'init', 'your own images and masks: look at them, write configs'),
        Command('experiments', CLI + 'list_experiments', 'list the shipped experiments'),
        Command('layers', CLI + 'list_layers', 'list layers that can be tapped, propose terms'),
        Command('print-config', CLI + 'print_config', 'print a config with its bases as one file'),
        Command('schedule', CLI + 'plot_schedule', "plot the terms' weights over the run"),
        Command('flops', CLI + 'get_flops', 'count parameters and operations'),
    ),
    'Look at runs': (
        Command('report', CLI + 'report', 'write one HTML page about trainings'),
        Command('visualize', CLI + 'visualize', 'draw networks side by side, errors, layers'),
        Command('replay', CLI + 'replay', 'run a step with NaN or infinity again, name the layer'),
        Command('analyze-logs', CLI + 'analyze_logs', 'plot curves of runs, mean over seeds'),
    ),
    'Data and older files': (
        Command('check-data', CLI + 'check_dataset', 'read every image and mask, list what is bad'),
        Command('toy-scenes', CLI + 'generate_toy_scenes', 'generate the toy scenes'),
        Command('convert-camvid', CLI + 'convert_camvid', "convert SegNet's CamVid"),
        Command('convert-segdistill', CLI + 'convert_segdistill', "convert SegDistill's files"),
    ),
    'The shell': (
        Command('completion', CLI + 'completion', 'print a completion script for the shell'),
    ),
}

COMMANDS = {command.name: command for group in GROUPS.values() for command in group}
