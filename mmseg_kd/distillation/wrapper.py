"""Teachers and student in one segmentor."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from typing import Any

import torch
from mmengine.logging import print_log
from mmengine.model import BaseModel
from mmengine.structures import BaseDataElement
from mmseg.models.segmentors.base import BaseSegmentor
from mmseg.registry import MODELS
from torch import Tensor, nn

from mmseg_kd.checkpoints import load_weights
from mmseg_kd.config.task_weight import TaskWeight
from mmseg_kd.config.term_spec import student_layers, teacher_layers
from mmseg_kd.datasets.unlabelled import NO_MASK
from mmseg_kd.distillation.assemble import assemble
from mmseg_kd.distillation.balance import balance
from mmseg_kd.distillation.task_loss import fuse_task_loss, labelled_only
from mmseg_kd.distillation.term import Term, idle_loss
from mmseg_kd.errors import ConfigError
from mmseg_kd.host.log_names import TASK_LOSS, TASK_WEIGHT, TERM_PREFIX, WEIGHT_PREFIX
from mmseg_kd.networks.forward import run_whole
from mmseg_kd.networks.memory_format import use_channels_last
from mmseg_kd.networks.probe import evaluating, run_on_noise
from mmseg_kd.networks.recorder import Recorder
from mmseg_kd.networks.taps import Taps, no_gradient
from mmseg_kd.teacher.averaged import Averaged

# The label of pixels that no mask says anything of: neither a class nor what masks call ignored.
NO_CLASS = -1


@MODELS.register_module()
class DistillationWrapper(BaseSegmentor):
    """Trains a student with its own losses and with terms that compare it with a teacher.

    Inference (`predict` and `tensor`) is the student's. `state_dict()` holds the student
    (`student.`) and what the terms learn (`terms.`), never a teacher, which is frozen, always
    in eval mode and read from its own checkpoint; but for the averages of the student that are
    its teachers (`averaged.`). A teacher whose terms all have weight 0 is
    not run, and without terms none is even built, so that an empty list trains the plain
    student, from the same initial weights for the same seed.

    Args:
        student: A network: an inline model (`type='EncoderDecoder', ...`), or `config=` with
            optional `cfg_options=`; both with optional `checkpoint=`, the weights to start
            from, and `strict=`.
        teacher: The same, with `checkpoint=` needed, and what `TeacherFields` and `TeacherOptions`
            have; or the work dir of a run; or the student itself, as `dict(type='EMATeacher')` or
            `dict(type='SelfTeacher')`. A list of these, each with an optional `name`, for several.
            Needed where there are terms.
        distillation: The terms: dicts with `student_layer`, `teacher_layer` (names as in
            `find_tap`; lists where the loss takes several layers; a dict by teacher where their
            layers differ), `loss`, and optionally `weight` (1.0), `schedule`, `connector`
            ('auto': a 1x1 convolution where the channels differ), `name`; and, with several
            teachers, `teacher` (a name or index, or a list), `reduction` ('sum', 'mean' or
            'random') and `teacher_weights`.
        data_preprocessor: As in mmseg; None: the student's own.
        task_weight: A factor >= 0 of the student's own losses. At 0 they are not computed.
        task_schedule: A schedule's dict, or a list of them: factors of `task_weight`.
        fused_task_loss: Compute the student's cross-entropy and accuracy without scores at the
            size of the labels; heads with other losses stay as they are.
        channels_last: The student runs in the memory format channels_last; a teacher has an
            option of its own.

    Raises:
        ConfigError: All that is wrong with the config, at once.
        CheckpointError: The teacher's weights cannot be read or do not fit.
    """

    def __init__(
        self,
        student: dict[str, Any],
        teacher: dict[str, Any] | Sequence[Any] | str | None = None,
        distillation: Sequence[dict[str, Any]] = (),
        data_preprocessor: dict[str, Any] | None = None,
        task_weight: float = 1.0,
        task_schedule: dict[str, Any] | Sequence[dict[str, Any]] | None = None,
        fused_task_loss: bool = True,
        channels_last: bool = False,
    ) -> None:
        parts = assemble(
            student, teacher, distillation, data_preprocessor, task_weight, task_schedule
        )
        super().__init__(parts.student.data_preprocessor)
        self.student: Any = parts.student
        self._is_channels_last = channels_last
        if channels_last:
            use_channels_last(self.student, 'model', self._dry_run)
        if fused_task_loss:
            fuse_task_loss(self.student)
        self.terms = nn.ModuleDict({term.name: term for term in parts.terms})
        self.averaged = nn.ModuleDict(parts.averaged)
        self._selves = parts.selves
        self._task = parts.task
        self._student_spec = parts.student_spec
        self._modified_in_place = parts.modified_in_place
        self._teachers = parts.teachers
        # Called with the student's own total and the weighted terms of an iteration, by name.
        self.loss_observer: Callable[[Tensor, dict[str, Tensor]], None] | None = None

    def _dry_run(self) -> None:
        """Run the student on an image of noise."""
        with evaluating(self.student):
            run_on_noise(self.student, lambda images: run_whole(self.student, images), 'student')

    @property
    def teachers(self) -> dict[str, nn.Module]:
        """The teachers' networks, by name; none where there are no terms."""
        return {name: teacher.network for name, teacher in self._teachers.items()}

    @property
    def predicting_teachers(self) -> dict[str, nn.Module]:
        """Those whose networks are loaded as a whole, and not just as far as they are tapped."""
        return {name: one.network for name, one in self._teachers.items() if one.is_complete}

    @property
    def own_weights(self) -> dict[str, str]:
        """The SHA-256 of the weights of teachers that have no checkpoint, by name."""
        return {name: one.own_weights for name, one in self._teachers.items() if one.own_weights}

    @property
    def teacher(self) -> nn.Module | None:
        """The first teacher's network; None where there are no terms."""
        return next(iter(self.teachers.values()), None)

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
        # Random numbers are drawn in the order of the memory, which is not to change the weights.
        if self._is_channels_last:
            self.student.to(memory_format=torch.contiguous_format)
        self.student.init_weights()
        if self._is_channels_last:
            self.student.to(memory_format=torch.channels_last)
        checkpoint = self._student_spec.checkpoint
        if checkpoint is None:
            return
        report = load_weights(self.student, checkpoint, strict=self._student_spec.strict)
        print_log(f'Student {report}', logger='current')

    def loss(self, inputs: Tensor, data_samples: list[Any]) -> dict[str, Tensor]:
        """The student's own losses and the weighted terms.

        Args:
            inputs: Images (N, 3, H, W), normalised for the student.
            data_samples: One `SegDataSample` an image, with `gt_sem_seg`. Those of an
                `UnlabelledDataset` take part in the terms alone.

        Returns:
            The student's log entries as they are, `kd.<name>`, the weighted term, and
            `kd_weight.<name>`, its weight; and the `task_weight` that is not always 1.
        """
        for average in self.averaged.values() if self.training else ():
            assert isinstance(average, Averaged)
            average.update(self.student)
        weights = {term.name: term.planned_weight() for term in self._term_list}
        active = [term for term in self._term_list if weights[term.name] != 0]
        teacher_taps = {
            name: teacher(inputs, data_samples, layers)
            for name, teacher in self._teachers.items()
            if (layers := teacher_layers(active, name))
        }
        task_weight = self._task.current()
        ours = student_layers(active)
        deeper = [layer for name in self._selves for layer in teacher_layers(active, name)]
        layers = list(dict.fromkeys([*ours, *deeper]))
        with Recorder(self.student, layers, self._modified_in_place) as recorder:
            losses = self._task_losses(inputs, data_samples, task_weight, layers)
            outputs = recorder.outputs
            _check_kept(recorder.modified_in_place)
        student_taps = Taps({layer: outputs[layer] for layer in ours}, _size(inputs))
        if torch.is_grad_enabled():
            _check_gradients(student_taps)
        for name, taps in teacher_taps.items():
            self._teachers[name].join(taps.outputs)
        of_itself = Taps({layer: outputs[layer].detach() for layer in deeper}, _size(inputs))
        teacher_taps |= dict.fromkeys(self._selves, of_itself)
        label_NHW = _labels(data_samples) if active else None
        # Terms read them beside the student's way: what one layer gives is then no part of what
        # a later one does, and a term's gradient is over each alone.
        beside = {layer: tap.view_as(tap) for layer, tap in student_taps.outputs.items()}
        read = replace(student_taps, outputs=beside)
        values = {t.name: t(read, teacher_taps, label_NHW) for t in active}
        if torch.is_grad_enabled() and task_weight > 0:
            # In half precision the squares of gradients vanish.
            with torch.autocast(inputs.device.type, enabled=False):
                balance(
                    active,
                    values,
                    student_taps,
                    read,
                    task_loss=lambda: task_weight * self._task_loss(losses)[0],
                )
        entries: dict[str, Tensor] = {}
        if self._task != TaskWeight():
            entries[TASK_WEIGHT] = torch.tensor(task_weight)
        for term in self._term_list:
            weight = weights[term.name] * (1.0 if term.auto is None else term.auto.ratio)
            if weight == 0:
                value = idle_loss(term.parameters(), inputs.device)
            else:
                value = weight * values[term.name]
            entries[TERM_PREFIX + term.name] = value
            entries[WEIGHT_PREFIX + term.name] = torch.tensor(weight)
        return {**losses, **entries}

    def _task_losses(
        self, inputs: Tensor, data_samples: list[Any], weight: float, layers: Sequence[str]
    ) -> dict[str, Tensor]:
        """The student's own losses; with the weight 0 it only runs, through `layers` too."""
        if weight > 0:
            with labelled_only(self.student, [*map(_has_mask, data_samples)]):
                losses: dict[str, Tensor] = self.student.loss(inputs, data_samples)
            return losses
        run_whole(self.student, inputs, layers)
        # Its terms may not reach all that learns.
        learning = (p for p in self.student.parameters() if p.requires_grad)
        return {TASK_LOSS: idle_loss(learning, inputs.device)}

    def parse_losses(self, losses: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """The total to differentiate and the log entries.

        mmengine adds up every entry with 'loss' in its key; terms are added here by what they
        are, whatever their names are. `task_loss` is the total without them, which a run without
        terms has as well: two runs compare by it.
        """
        prefixes = (TERM_PREFIX, WEIGHT_PREFIX)
        own = {key: value for key, value in losses.items() if not key.startswith(prefixes)}
        weight = own.pop(TASK_WEIGHT, None)
        total, log = self._task_loss(own)
        is_computed = weight is None or weight > 0
        if is_computed:
            log[TASK_LOSS] = total.detach()
        else:
            del log[TASK_LOSS]
        if weight is not None:
            log[TASK_WEIGHT] = weight
            total = total * weight.to(total)
        if self.loss_observer is not None and is_computed:
            active = [name for name in self.terms if losses[WEIGHT_PREFIX + name] != 0]
            self.loss_observer(total, {name: losses[TERM_PREFIX + name] for name in active})
        for key, value in losses.items():
            if key.startswith(TERM_PREFIX):
                if value.requires_grad:
                    total = total + value
                log[key] = value.detach()
            elif key.startswith(WEIGHT_PREFIX):
                log[key] = value
        log['loss'] = total
        return total, log

    def _task_loss(self, losses: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """The student's own losses in all, and their log entries."""
        parsed: tuple[Tensor, dict[str, Tensor]] = super().parse_losses(losses)
        return parsed

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

    def _set_device(self, device: torch.device) -> None:
        """Tell the data preprocessors where batches go, the teachers' too."""
        super()._set_device(device)
        for network in self.teachers.values():
            if isinstance(network, BaseModel):
                network._set_device(device)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> DistillationWrapper:
        super()._apply(fn, recurse)
        for teacher in self._teachers.values():
            teacher.apply(fn)
        return self


def _check_kept(modified_in_place: Collection[str]) -> None:
    """See that what was recorded is still what the layers put out.

    Raises:
        ConfigError: It is not, since the dry run of the network's eval mode did not show it.
    """
    if modified_in_place:
        raise ConfigError(
            f'student_layer: in training the student changes the output of '
            f'{", ".join(map(repr, sorted(modified_in_place)))} in place; tap another layer or '
            'give the module behind it inplace=False.'
        )


def _check_gradients(student: Taps) -> None:
    """See that a term can teach the student something through each layer that it taps.

    Raises:
        ConfigError: It cannot.
    """
    for layer, output in student.outputs.items():
        if not output.requires_grad:
            raise no_gradient('student_layer', layer)


def _has_mask(sample: BaseDataElement) -> bool:
    return bool(sample.metainfo.get('seg_map_path') != NO_MASK)


def _labels(data_samples: Sequence[BaseDataElement]) -> Tensor:
    """The class indices (N, H, W) of a batch.

    Pixels of images without a mask are neither a class nor ignored: terms count them. What such an
    image is padded with stays as it is.
    """
    label_NHW = torch.stack([sample.gt_sem_seg.data.squeeze(0) for sample in data_samples])
    for label_HW, sample in zip(label_NHW, data_samples, strict=True):
        if not _has_mask(sample):
            _, right, _, bottom = sample.metainfo.get('padding_size', (0, 0, 0, 0))
            height, width = label_HW.shape
            label_HW[: height - bottom, : width - right] = NO_CLASS
    return label_NHW


def _size(images_NCHW: Tensor) -> tuple[int, int]:
    height, width = images_NCHW.shape[-2:]
    return height, width
