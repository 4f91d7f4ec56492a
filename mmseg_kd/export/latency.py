"""How long networks take for an image on this machine."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from mmengine.config import Config
from torch import Tensor, nn

from mmseg_kd.config.network_spec import networks_of
from mmseg_kd.evaluation.latency import measure_latency
from mmseg_kd.export.agreement import ExportedFile
from mmseg_kd.export.export_module import ExportModule
from mmseg_kd.export.pictures import scaled
from mmseg_kd.networks.build import build_network, replace_sync_bn, without_initialisation
from mmseg_kd.runs.markdown import markdown_table


@dataclass(frozen=True)
class Timing:
    """What was measured of a network.

    Attributes:
        name: What the table calls it.
        seconds: Median for a batch of one image.
        parameters: How many.
        size: Bytes of its file, or of its weights where it has no file of its own.
    """

    name: str
    seconds: float
    parameters: int
    size: int


def time_networks(
    cfg: Config,
    deployed: ExportModule,
    exported: Mapping[str, ExportedFile],
    picture: Tensor,
) -> list[Timing]:
    """Time the teachers of a config, the student, and what was exported, on the CPU in turns.

    Args:
        cfg: Says what the teachers are.
        deployed: The student.
        exported: Files by name; those of graphs are timed.
        picture: (3, H, W), uint8, BGR.
    """
    networks: dict[str, nn.Module] = {}
    calls: dict[str, Callable[[], Any]] = {}
    for name, spec in networks_of(cfg).items():
        if name not in ('student', 'model'):
            # Weights do not change how long it takes.
            network = build_network(replace_sync_bn(without_initialisation(spec.model)), name)
            networks[name] = network
            teacher = ExportModule(network)
            size = spec.scaling.of((picture.shape[1], picture.shape[2]))
            calls[name] = partial(teacher, teacher.input_of(scaled(picture, size)))
    student = ExportModule(deployed.network)
    calls['student'] = partial(student, student.input_of(picture))
    image = deployed.input_of(picture)
    sizes: dict[str, int] = {}
    for name, file in exported.items():
        if file.function is not None:
            calls[f'student, {name}'] = partial(file.function, image)
            sizes[f'student, {name}'] = file.path.stat().st_size
    timings = []
    for name, seconds in measure_latency(calls).items():
        network = networks.get(name, deployed.network)
        parameters = sum(p.numel() for p in network.parameters())
        timings.append(Timing(name, seconds, parameters, sizes.get(name) or _bytes_of(network)))
    return timings


def _bytes_of(network: nn.Module) -> int:
    return sum(t.numel() * t.element_size() for t in network.state_dict().values())


def table(timings: Sequence[Timing]) -> str:
    """The timings as a table in Markdown."""
    head = ('network', 'median ms', 'images / s', 'parameters', 'MiB')
    body = [
        (
            one.name,
            f'{one.seconds * 1000:.1f}',
            f'{1 / one.seconds:.1f}',
            f'{one.parameters / 1e6:.2f} M',
            f'{one.size / 2**20:.2f}',
        )
        for one in timings
    ]
    return markdown_table(head, body)
