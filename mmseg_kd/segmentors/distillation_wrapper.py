"""Teacher and student in one segmentor."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from mmengine.logging import print_log
from mmengine.structures import BaseDataElement
from mmseg.models.segmentors.base import BaseSegmentor
from mmseg.registry import MODELS
from torch import Tensor, nn

from mmseg_kd.checkpoints import load_weights
from mmseg_kd.errors import (
    CheckpointError,
    ConfigError,
    LayerNotFoundError,
    Problems,
    ShapeError,
)
from mmseg_kd.iteration import current_iteration
from mmseg_kd.network import PROBE_SIZE, NetworkSpec, build_network, parse_network
from mmseg_kd.probe import Probe, probe
from mmseg_kd.recorder import Recorder, find_layer
from mmseg_kd.teacher import Teacher
from mmseg_kd.term import Term, TermSpec, layers_of, make_term, parse_terms

# Entries of the log: the weighted term, and its weight at this iteration.
TERM_PREFIX = 'kd.'
WEIGHT_PREFIX = 'kd_weight.'


@MODELS.register_module()
class DistillationWrapper(BaseSegmentor):
    """Trains a student with its own losses and with terms that compare it with a teacher.

    Inference (`predict` and `tensor`) is the student's. `state_dict()` holds the student
    (`student.`) and what the terms learn (`terms.`), never the teacher, which is frozen,
    always in eval mode and read from its own checkpoint. While every term has weight 0 the
    teacher is not run, and without terms it is not even built, so that an empty list trains
    the plain student, from the same initial weights for the same seed.

    Args:
        student: A network: an inline model (`type='EncoderDecoder', ...`), or `config=` with
            optional `cfg_options=`; both with optional `checkpoint=`, the weights to start
            from, and `strict=`.
        teacher: The same, with `checkpoint=` needed and optional `input_size=`, the height and
            width that the images are scaled to for it. Needed where there are terms.
        distillation: The terms: dicts with `student_layer`, `teacher_layer` (names as in
            `named_modules()`), `loss`, and optionally `weight` (1.0), `schedule`, `connector`
            ('auto': a 1x1 convolution where the channels differ), `name`.
        data_preprocessor: As in mmseg; None: the student's own.
        init_cfg: As in mmengine.

    Raises:
        ConfigError: All that is wrong with the config, at once.
        CheckpointError: The teacher's weights cannot be read or do not fit.
    """

    def __init__(
        self,
        student: dict[str, Any],
        teacher: dict[str, Any] | None = None,
        distillation: Sequence[dict[str, Any]] = (),
        data_preprocessor: dict[str, Any] | None = None,
        init_cfg: dict[str, Any] | None = None,
    ) -> None:
        problems = Problems()
        student_spec: NetworkSpec | None = None
        teacher_spec: NetworkSpec | None = None
        with problems.collect():
            student_spec = parse_network(student, 'student')
        network: Any = None
        if student_spec is not None:
            if data_preprocessor is not None:
                student_spec.model['data_preprocessor'] = data_preprocessor
            with problems.collect():
                network = build_network(student_spec.model, 'student')
        # From here on nothing may move the random state that initialises the student.
        with torch.random.fork_rng(devices=[]):
            specs = parse_terms(distillation, problems)
            with problems.collect():
                if teacher is not None:
                    teacher_spec = parse_network(teacher, 'teacher')
                elif distillation:
                    raise ConfigError('teacher: there are terms in distillation, but no teacher.')
            built: Teacher | None = None
            if distillation and teacher_spec is not None:
                with problems.collect():
                    built = Teacher(teacher_spec)
            terms: list[Term] = []
            student_probe = teacher_probe = None
            if network is not None and built is not None:
                specs = _existing(specs, distillation, network, built.network, problems)
                with problems.collect():
                    student_probe = probe(network, layers_of(specs, 'student'), 'student')
                with problems.collect():
                    teacher_probe = probe(built.network, layers_of(specs, 'teacher'), 'teacher')
                if student_probe and teacher_probe:
                    for spec in specs:
                        with problems.collect():
                            terms.append(
                                _make_term(spec, network, built, student_probe, teacher_probe)
                            )
            if built is not None:
                with problems.collect():
                    built.load(teacher_probe.used if teacher_probe else ())
        problems.raise_if_any()
        assert network is not None and student_spec is not None

        super().__init__(network.data_preprocessor, init_cfg)
        self.student: Any = network
        self.terms = nn.ModuleDict({term.name: term for term in terms})
        self._student_spec = student_spec
        self._teacher = built
        self._clone = student_probe.changed if student_probe else set()
        if built is not None and teacher_probe is not None:
            built.prepare(teacher_probe.changed, self.data_preprocessor)

    @property
    def teacher(self) -> nn.Module | None:
        """The teacher's network; None where there are no terms."""
        return None if self._teacher is None else self._teacher.network

    @property
    def out_channels(self) -> int:
        """Of the student's scores; mmseg's test-time augmentation asks for it."""
        return int(self.student.out_channels)

    @property
    def decode_head(self) -> Any:
        """The student's; for one class, test-time augmentation asks for its threshold."""
        return self.student.decode_head

    @property
    def _term_list(self) -> list[Term]:
        return [term for term in self.terms.values() if isinstance(term, Term)]

    def init_weights(self) -> None:
        """Initialise the student, then fill it from its checkpoint where the config has one.

        Raises:
            CheckpointError: The checkpoint cannot be read; or does not fit, with `strict`.
        """
        self.student.init_weights()
        checkpoint = self._student_spec.checkpoint
        if checkpoint is None:
            return
        report = load_weights(self.student, checkpoint)
        print_log(f'Student {report}', logger='current')
        if self._student_spec.strict and (report.missing or report.mismatched):
            raise CheckpointError(
                f'Student {report}\nGive the checkpoint of this very network, or write '
                'strict=False to start from what fits.'
            )

    def loss(self, inputs: Tensor, data_samples: list[Any]) -> dict[str, Tensor]:
        """The student's own losses and the weighted terms.

        Args:
            inputs: Images (N, 3, H, W), normalised for the student.
            data_samples: One `SegDataSample` an image, with `gt_sem_seg`.

        Returns:
            The student's log entries as they are, `kd.<name>`, the weighted term, and
            `kd_weight.<name>`, its weight.
        """
        iteration = current_iteration()
        weights = {term.name: term.weight_at(iteration) for term in self._term_list}
        active = [term for term in self._term_list if weights[term.name] != 0]
        if not active:
            losses: dict[str, Tensor] = self.student.loss(inputs, data_samples)
            return {**losses, **self._compare({}, {}, weights, inputs, data_samples)}
        assert self._teacher is not None
        teacher_taps = self._teacher(inputs, data_samples, layers_of(active, 'teacher'))
        with Recorder(self.student, layers_of(active, 'student'), self._clone) as taps:
            losses = self.student.loss(inputs, data_samples)
            student_taps = taps.outputs
        return {
            **losses,
            **self._compare(student_taps, teacher_taps, weights, inputs, data_samples),
        }

    def _compare(
        self,
        student_taps: dict[str, Tensor],
        teacher_taps: dict[str, Tensor],
        weights: dict[str, float],
        inputs: Tensor,
        data_samples: list[Any],
    ) -> dict[str, Tensor]:
        """The log entries of the terms."""
        if not weights:
            return {}
        image_size = _size(inputs)
        teacher_size = image_size
        if self._teacher is not None and self._teacher.spec.input_size is not None:
            teacher_size = self._teacher.spec.input_size
        label_NHW: Tensor | None = None
        entries: dict[str, Tensor] = {}
        for term in self._term_list:
            weight = weights[term.name]
            value: Tensor | None
            if weight == 0:
                value = term.idle()
            else:
                if label_NHW is None:
                    label_NHW = _labels(data_samples)
                value = weight * term(
                    student_taps[term.student_layer],
                    teacher_taps[term.teacher_layer],
                    label_NHW,
                    image_size,
                    teacher_size,
                )
            entries[TERM_PREFIX + term.name] = inputs.new_zeros(()) if value is None else value
            entries[WEIGHT_PREFIX + term.name] = torch.tensor(weight)
        return entries

    def parse_losses(self, losses: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """The total to differentiate and the log entries.

        mmengine adds up every entry with 'loss' in its key; terms are added here by what they
        are, whatever their names are.
        """
        prefixes = (TERM_PREFIX, WEIGHT_PREFIX)
        own = {key: value for key, value in losses.items() if not key.startswith(prefixes)}
        total, log = super().parse_losses(own)
        for key, value in losses.items():
            if key.startswith(TERM_PREFIX):
                if value.requires_grad:
                    total = total + value
                log[key] = value.detach()
            elif key.startswith(WEIGHT_PREFIX):
                log[key] = value
        log['loss'] = total
        return total, log

    def predict(self, inputs: Tensor, data_samples: list[Any] | None = None) -> Any:
        """The student's predictions."""
        return self.student.predict(inputs, data_samples)

    def _forward(self, inputs: Tensor, data_samples: list[Any] | None = None) -> Any:
        return self.student._forward(inputs, data_samples)

    def extract_feat(self, inputs: Tensor) -> Any:
        """The student's features."""
        return self.student.extract_feat(inputs)

    def encode_decode(self, inputs: Tensor, batch_data_samples: list[Any]) -> Any:
        """The student's class scores at the size of the images."""
        return self.student.encode_decode(inputs, batch_data_samples)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> DistillationWrapper:
        super()._apply(fn, recurse)
        if self._teacher is not None:
            self._teacher.apply(fn)
        return self


def _existing(
    specs: Sequence[TermSpec],
    cfgs: Any,
    student: nn.Module,
    teacher: nn.Module,
    problems: Problems,
) -> list[TermSpec]:
    """The terms whose layers exist on both sides; layers that do not are problems.

    The layers are looked up as `cfgs` names them, so that those of a term with another fault
    are looked up too.
    """
    missing = set()
    for index, cfg in enumerate(cfgs if isinstance(cfgs, (list, tuple)) else ()):
        where = f'distillation[{index}]'
        for side, network in (('student', student), ('teacher', teacher)):
            layer = cfg.get(f'{side}_layer') if isinstance(cfg, Mapping) else None
            try:
                if isinstance(layer, str):
                    find_layer(network, layer, side)
            except LayerNotFoundError as error:
                problems.add(LayerNotFoundError(f'{where}.{side}_layer: {error}'))
                missing.add(where)
    return [spec for spec in specs if spec.where not in missing]


def _make_term(
    spec: TermSpec, student: Any, teacher: Teacher, student_probe: Probe, teacher_probe: Probe
) -> Term:
    for side, probed in (('student', student_probe), ('teacher', teacher_probe)):
        layer = getattr(spec, f'{side}_layer')
        if layer not in probed.outputs:
            raise ShapeError(
                f'{spec.where}.{side}_layer: {layer!r} does not run in a forward pass; '
                'tap a layer that does (tools/list_layers.py prints them).'
            )
    classes = None
    if _is_classifier(student, spec.student_layer) and _is_classifier(
        teacher.network, spec.teacher_layer
    ):
        classes = (student.num_classes, teacher.network.num_classes)
    return make_term(
        spec,
        student_probe.outputs[spec.student_layer],
        teacher_probe.outputs[spec.teacher_layer],
        PROBE_SIZE,
        PROBE_SIZE,
        classes,
    )


def _is_classifier(network: nn.Module, layer: str) -> bool:
    """Whether a layer puts out class scores: a head as a whole, or its `conv_seg`."""
    path = layer.split('.')
    return path[0] in ('decode_head', 'auxiliary_head') and (
        path[-1] == 'conv_seg' or all(part.isdigit() for part in path[1:])
    )


def _labels(data_samples: Sequence[BaseDataElement]) -> Tensor:
    """The class indices (N, H, W) of a batch."""
    return torch.stack([sample.gt_sem_seg.data.squeeze(0) for sample in data_samples])


def _size(images_NCHW: Tensor) -> tuple[int, int]:
    height, width = images_NCHW.shape[-2:]
    return height, width
