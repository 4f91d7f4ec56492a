"""A teacher of a config: its network, its weights, and what it sees."""

from __future__ import annotations

from collections.abc import Collection

from mmengine.logging import print_log
from torch import nn

from mmseg_kd.checkpoints import LoadReport, load_weights
from mmseg_kd.checkpoints.digest import sha256_of, sha256_of_tensors
from mmseg_kd.checkpoints.load import conversion_hint
from mmseg_kd.checkpoints.source import local_file
from mmseg_kd.config.network_spec import NetworkSpec
from mmseg_kd.errors import CheckpointError, ConfigError, Problems
from mmseg_kd.networks.forward import as_network
from mmseg_kd.networks.network import Preprocessing
from mmseg_kd.networks.probe import PROBE_SIZE, Probe, probe
from mmseg_kd.teacher.normalisation import Normalisation
from mmseg_kd.teacher.stored import StoredTeacher
from mmseg_kd.teacher.teacher import Teacher


def build_teacher(
    network: nn.Module,
    spec: NetworkSpec,
    layers: Collection[str],
    student: Preprocessing,
    label: str,
    problems: Problems,
) -> tuple[Teacher | StoredTeacher | None, Probe | None]:
    """Fill a network with a teacher's weights and make a teacher of it.

    Args:
        network: The network that `spec` describes; that of an EMATeacher has its weights.
        spec: What the config says of the teacher.
        layers: All that will be asked for; names as in `find_tap`.
        student: What the images have gone through that it will get.
        label: What messages call it.
        problems: Gets all that is wrong: as in `probe` and `Teacher`; there is no checkpoint in
            the config, or it cannot be read; with `strict`, a tensor that the run to the layers
            goes through is missing or of another shape.

    Returns:
        The teacher, and what a dry run to the layers found, in which one that does not run is
        absent; None for either where it failed.
    """
    found: Probe | None = None
    teacher: Teacher | StoredTeacher | None = None
    with problems:
        sizes = [size for size in [spec.scaling.of(PROBE_SIZE)] if size != PROBE_SIZE]
        found = probe(network, layers, label, sizes)
    with problems:
        report, own = None, None
        if spec.kind == 'frozen':
            report = _load(network, spec, label, found.used if found else ())
            own = sha256_of_tensors(network.state_dict()) if report is None else None
        lacking = {*report.missing, *report.mismatched} if report else set()
        if found is not None and spec.stored:
            sha256 = own or sha256_of(local_file(str(spec.checkpoint)))
            teacher = StoredTeacher(network, layers, sha256, label)
        elif found is not None:
            teacher = Teacher(
                network,
                layers,
                options=spec.options,
                normalisation=Normalisation(student, as_network(network).preprocessing),
                input_size=spec.scaling.size or _only_size(network, found),
                input_scale=spec.scaling.scale,
                size_divisor=spec.scaling.divisor,
                label=label,
                probed=found,
            )
            teacher.is_complete = found.used_in_all.isdisjoint(lacking)
        if teacher is not None:
            teacher.own_weights = own
    return teacher, found


def _only_size(network: nn.Module, found: Probe) -> tuple[int, int] | None:
    """The size of images that a network from elsewhere is made for, where it takes no other."""
    size: tuple[int, int] | None = getattr(network, 'img_size', None)
    return size if size == tuple(found.images_NCHW.shape[-2:]) != PROBE_SIZE else None


def _load(
    network: nn.Module, spec: NetworkSpec, label: str, used: Collection[str]
) -> LoadReport | None:
    """Fill the network from its checkpoint and report in the log; None: it came with its weights.

    Args:
        used: Keys of the tensors that the run to the tapped layers goes through.
    """
    if spec.checkpoint is None and getattr(network, 'is_pretrained', False):
        return None
    if spec.checkpoint is None:
        raise ConfigError(
            f'{label}: expected checkpoint=..., the file or URL of its trained weights, '
            'got none; a teacher with random weights teaches nothing.'
        )
    report = load_weights(network, spec.checkpoint, strict=False)
    print_log(f'{label.capitalize()} {report}', logger='current')
    missing = [key for key in report.missing if key in used]
    mismatched = [
        line
        for key, line in zip(report.mismatched, report.describe_mismatched(), strict=True)
        if key in used
    ]
    if spec.strict and (missing or mismatched):
        hint = conversion_hint(report.unexpected)
        raise CheckpointError(
            f'{spec.checkpoint}: does not fit the {label}. In the layers that '
            f'distillation uses {len(missing)} tensors are missing and {len(mismatched)} '
            f'have another shape, such as {(missing + mismatched)[0]}.'
            + (
                hint
                or ' Give the checkpoint of the same architecture, or write strict=False to go on '
                'with what fits.'
            )
        )
    return report
