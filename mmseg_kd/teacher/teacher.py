"""The teacher: frozen, in eval mode, fed in its own way, run no further than needed."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
import torch.nn.functional as F
from mmengine.logging import print_log
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from mmseg_kd.checkpoints import LoadReport, load_weights
from mmseg_kd.config.network_spec import NetworkSpec
from mmseg_kd.errors import CheckpointError, ConfigError
from mmseg_kd.networks.build import build_segmentor, without_initialisation
from mmseg_kd.networks.forward import is_auxiliary, run_to_layers, run_whole
from mmseg_kd.networks.probe import evaluating, probe_images
from mmseg_kd.networks.recorder import Recorder
from mmseg_kd.networks.taps import Taps
from mmseg_kd.teacher.compiled import CompiledTaps
from mmseg_kd.teacher.fold_batchnorm import fold_batchnorm
from mmseg_kd.teacher.fused_attention import use_fused_attention
from mmseg_kd.teacher.normalisation import Normalisation
from mmseg_kd.teacher.side_stream import SideStream


class Teacher:
    """A frozen network that is asked for the outputs of some layers.

    It is no `nn.Module` on purpose: no `train()`, `state_dict()`, `parameters()`, optimiser,
    DDP or EMA of the module that holds it ever reaches the network. Copies share it. Where
    BatchNorm is folded, the network has other tensors than its checkpoint.

    Args:
        spec: What the config says of it.
        label: What messages call it.
    """

    def __init__(self, spec: NetworkSpec, label: str = 'teacher') -> None:
        self.spec = spec
        self.label = label
        self.network = build_segmentor(without_initialisation(spec.model), label)
        self.network.requires_grad_(False)
        self.network.eval()
        # Whether it can predict: all that takes part in that is loaded.
        self.is_complete = False
        self._normalisation: Normalisation | None = None
        self._modified_in_place: Collection[str] = ()
        self._compiled: CompiledTaps | None = None
        self._stream = SideStream() if spec.options.stream else None

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
        report = load_weights(self.network, self.spec.checkpoint, strict=False)
        print_log(f'{self.label.capitalize()} {report}', logger='current')
        self.is_complete = all(map(is_auxiliary, [*report.missing, *report.mismatched]))
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
                'of the same architecture, or write strict=False to go on with what fits.'
            )
        return report

    def prepare(
        self,
        layers: Collection[str],
        modified_in_place: Collection[str],
        student_preprocessor: nn.Module,
    ) -> None:
        """Make the loaded network ready for its work.

        Args:
            layers: All that will be asked for.
            modified_in_place: Those whose outputs the network changes in place.
            student_preprocessor: What images come from.

        Raises:
            ConfigError: The network does not run in channels_last, or cannot be compiled as the
                config says.
        """
        self._modified_in_place = modified_in_place
        self._normalisation = Normalisation(student_preprocessor, self.network.data_preprocessor)
        options = self.spec.options
        if options.fold_bn:
            self._fold(layers)
        if options.fused_attention:
            use_fused_attention(self.network, layers)
        if options.channels_last:
            self.network.to(memory_format=torch.channels_last)
            self._try_channels_last(layers)
        if options.compile is not None:
            self._compiled = CompiledTaps(
                self.network, layers, modified_in_place, options.compile, self.label
            )

    def _dry_run(self, layers: Collection[str]) -> dict[str, Tensor]:
        """The outputs of `layers`, and, under numbers, of the whole, on a probe image."""
        images_NCHW = self._in_format(probe_images(self.network))
        with (
            evaluating(self.network),
            Recorder(self.network, layers, self._modified_in_place) as taps,
        ):
            whole = run_whole(self.network, images_NCHW, any(map(is_auxiliary, layers)))
            tensors = [leaf for leaf in tree_leaves(whole) if isinstance(leaf, Tensor)]
            return {**taps.outputs, **{str(i): tensor for i, tensor in enumerate(tensors)}}

    def _fold(self, layers: Collection[str]) -> None:
        try:
            folding = fold_batchnorm(self.network, lambda: self._dry_run(layers))
        except Exception as error:  # a run that is watched may fail where others do not
            self._say(f'BatchNorm is not folded: {type(error).__name__}: {error}')
            return
        if folding.folded:
            self._say(f'{len(folding.folded)} BatchNorm layers are folded into convolutions.')
        if folding.kept:
            names = ', '.join(folding.kept)
            self._say(f'BatchNorm is not folded where that would change the outputs: {names}.')

    def _say(self, text: str) -> None:
        print_log(f'{self.label.capitalize()}: {text}', logger='current')

    def _try_channels_last(self, layers: Collection[str]) -> None:
        try:
            self._dry_run(layers)
        except Exception as error:  # whatever a network raises, such as of a view
            raise ConfigError(
                f'{self.label}.channels_last: the network fails in this memory format; leave the '
                f'option out. {type(error).__name__}: {error}'
            ) from error

    def _in_format(self, images_NCHW: Tensor) -> Tensor:
        if self.spec.options.channels_last:
            return images_NCHW.contiguous(memory_format=torch.channels_last)
        return images_NCHW

    @torch.no_grad()
    def __call__(
        self, images_NCHW: Tensor, data_samples: Sequence[Any], layers: Collection[str]
    ) -> Taps:
        """What `layers` put out; to be joined before it is read.

        Args:
            images_NCHW: Images that the student's preprocessor made.
            data_samples: Theirs; `padding_size` in the metainfo says what is padding.
            layers: Names as in `find_tap`.
        """
        assert self._normalisation is not None, 'prepare() comes first'
        with nullcontext() if self._stream is None else self._stream.fork(images_NCHW):
            images_NCHW = self._normalisation(images_NCHW, data_samples)
            if self.spec.input_size is not None:
                images_NCHW = F.interpolate(
                    images_NCHW, self.spec.input_size, mode='bilinear', align_corners=False
                )
            with _precision(self.spec.options.autocast, images_NCHW.device.type):
                outputs = self._run(self._in_format(images_NCHW), layers)
        height, width = images_NCHW.shape[-2:]
        return Taps(outputs, (height, width))

    def _run(self, images_NCHW: Tensor, layers: Collection[str]) -> dict[str, Tensor]:
        if self._compiled is not None:
            return self._compiled(images_NCHW, layers)
        return run_to_layers(self.network, images_NCHW, layers, self._modified_in_place)

    def join(self, outputs: Mapping[str, Tensor]) -> None:
        """Wait for outputs that may come from a stream of the teacher's own."""
        if self._stream is not None:
            self._stream.join(outputs.values())

    def apply(self, function: Callable[[Tensor], Tensor]) -> None:
        """What `nn.Module._apply` does: move or cast every tensor."""
        self.network._apply(function)


def _precision(name: str | None, device: str) -> AbstractContextManager[Any]:
    """An autocast context of the teacher's own; with None it stays in the one around it."""
    if name is None:
        return nullcontext()
    if name == 'float32':
        return torch.autocast(device, enabled=False)
    return torch.autocast(device, dtype=getattr(torch, name))
