"""The teacher: frozen, in eval mode, fed in its own way, run no further than needed."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from mmengine.logging import print_log
from torch import Tensor, nn

from mmseg_kd.checkpoints import LoadReport, load_weights
from mmseg_kd.errors import CheckpointError, ConfigError
from mmseg_kd.network import (
    NetworkSpec,
    build_network,
    run_to_layers,
    without_initialisation,
)
from mmseg_kd.taps import Taps


class Normalisation:
    """From images normalised for the student to images normalised for the teacher.

    With x = (raw - mean) / std on either side this is one affine map per channel. Channels
    are swapped where one network takes RGB and the other BGR, and padding gets the teacher's
    padding value.

    Args:
        student, teacher: mmseg's data preprocessors of the two networks.
    """

    def __init__(self, student: nn.Module, teacher: nn.Module) -> None:
        mean_s, std_s, flip_s = _statistics(student)
        mean_t, std_t, flip_t = _statistics(teacher)
        self._flip = flip_s != flip_t
        if self._flip:
            mean_s, std_s = mean_s.flip(0), std_s.flip(0)
        self._scale = (std_s / std_t).float().view(1, -1, 1, 1)
        self._shift = ((mean_s - mean_t) / std_t).float().view(1, -1, 1, 1)
        self._pad = float(getattr(teacher, 'pad_val', 0))
        self._is_same = (
            bool((self._scale == 1).all() and (self._shift == 0).all())
            and float(getattr(student, 'pad_val', 0)) == self._pad
        )

    def __call__(self, images_NCHW: Tensor, data_samples: Sequence[Any]) -> Tensor:
        if self._flip:
            images_NCHW = images_NCHW.flip(1)
        if self._is_same:
            return images_NCHW
        scale, shift = self._scale.to(images_NCHW), self._shift.to(images_NCHW)
        images_NCHW = torch.addcmul(shift, images_NCHW, scale)
        height, width = images_NCHW.shape[-2:]
        for image, sample in zip(images_NCHW, data_samples, strict=False):
            left, right, top, bottom = sample.metainfo.get('padding_size', (0, 0, 0, 0))
            image[:, :top] = self._pad
            image[:, height - bottom :] = self._pad
            image[:, :, :left] = self._pad
            image[:, :, width - right :] = self._pad
        return images_NCHW


def _statistics(preprocessor: Any) -> tuple[Tensor, Tensor, bool]:
    """Mean and std (C,) in float64, and whether channels are swapped after loading."""
    flip = bool(getattr(preprocessor, '_channel_conversion', False))
    if not getattr(preprocessor, '_enable_normalize', False):
        return torch.zeros(3, dtype=torch.float64), torch.ones(3, dtype=torch.float64), flip
    mean, std = preprocessor.mean, preprocessor.std
    return mean.detach().double().flatten().cpu(), std.detach().double().flatten().cpu(), flip


class Teacher:
    """A frozen network that is asked for the outputs of some layers.

    It is no `nn.Module` on purpose: no `train()`, `state_dict()`, `parameters()`, optimiser,
    DDP or EMA of the module that holds it ever reaches the network. Copies share it.

    Args:
        spec: What the config says of it.
        label: What messages call it.
    """

    def __init__(self, spec: NetworkSpec, label: str = 'teacher') -> None:
        self.spec = spec
        self.label = label
        self.network = build_network(without_initialisation(spec.model), label)
        self.network.requires_grad_(False)
        self.network.eval()
        self._normalisation: Normalisation | None = None
        self._clone: Collection[str] = ()

    def __deepcopy__(self, memo: dict[int, Any]) -> Teacher:
        return self

    def load(self, used: Collection[str]) -> LoadReport:
        """Fill the network from its checkpoint and report in the log.

        Args:
            used: Keys of the tensors that the run to the tapped layers goes through.

        Raises:
            ConfigError: There is no checkpoint in the config.
            CheckpointError: It cannot be read, or a tensor of `used` is missing or of another
                shape and `strict` is on.
        """
        if self.spec.checkpoint is None:
            raise ConfigError(
                f'{self.label}: expected checkpoint=..., the file or URL of its trained weights, '
                'got none; a teacher with random weights teaches nothing.'
            )
        report = load_weights(self.network, self.spec.checkpoint)
        print_log(f'{self.label.capitalize()} {report}', logger='current')
        missing = [key for key in report.missing if key in used]
        mismatched = [
            line
            for key, line in zip(report.mismatched, report.describe_mismatched(), strict=True)
            if key in used
        ]
        if self.spec.strict and (missing or mismatched):
            raise CheckpointError(
                f'{self.spec.checkpoint}: does not fit the {self.label}. In the layers that '
                f'distillation uses {len(missing)} tensors are missing and {len(mismatched)} '
                f'have another shape, such as {(missing + mismatched)[0]}. Give the checkpoint '
                'of this very network, or write strict=False to go on with what fits.'
            )
        return report

    def prepare(self, clone: Collection[str], student_preprocessor: nn.Module) -> None:
        """Say which layers' outputs the network changes in place, and how images come."""
        self._clone = clone
        self._normalisation = Normalisation(student_preprocessor, self.network.data_preprocessor)

    @torch.no_grad()
    def __call__(
        self, images_NCHW: Tensor, data_samples: Sequence[Any], layers: Collection[str]
    ) -> Taps:
        """What `layers` put out.

        Args:
            images_NCHW: Images that the student's preprocessor made.
            data_samples: Theirs; `padding_size` in the metainfo says what is padding.
            layers: Names as in `find_tap`.
        """
        assert self._normalisation is not None, 'prepare() comes first'
        images_NCHW = self._normalisation(images_NCHW, data_samples)
        if self.spec.input_size is not None:
            images_NCHW = F.interpolate(
                images_NCHW, self.spec.input_size, mode='bilinear', align_corners=False
            )
        outputs = run_to_layers(self.network, images_NCHW, layers, self._clone)
        height, width = images_NCHW.shape[-2:]
        return Taps(outputs, (height, width))

    def apply(self, function: Callable[[Tensor], Tensor]) -> None:
        """What `nn.Module._apply` does: move or cast every tensor."""
        self.network._apply(function)
