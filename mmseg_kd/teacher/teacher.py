"""The teacher: frozen, in eval mode, fed in its own way, run no further than needed."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from mmengine.logging import print_log
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from mmseg_kd.config.input_scaling import InputScaling
from mmseg_kd.config.teacher_options import TeacherOptions
from mmseg_kd.errors import ShapeError
from mmseg_kd.networks.forward import run_to_layers, run_whole
from mmseg_kd.networks.memory_format import use_channels_last
from mmseg_kd.networks.probe import Probe, evaluating, keep_random_state, probe
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
    BatchNorm is folded, the network has other tensors than before.

    Args:
        network: Any network, with its weights.
        layers: All that will be asked for; names as in `find_tap`.
        options: How it is run.
        normalisation: Makes its images of the student's; None: they are the same.
        input_size: Height and width that its images are scaled to; None: as they come.
        input_scale: A factor of the size of the student's images, instead.
        size_divisor: Its images are scaled up to a multiple of this, such as its patch size.
        label: What messages call it.
        example_NCHW: Images, as it takes them, for the dry runs; None: noise of 128x128.
        probed: What a dry run to the layers found; None: one is made.

    Raises:
        LayerNotFoundError: A layer is not there.
        ConfigError: The network fails in a dry run or in the memory format channels_last, or
            cannot be compiled as the options say; `ShapeError`: a layer does not run.

    Example:
        >>> teacher = Teacher(network, ['backbone.layer4', 'classifier'])
        >>> taps = teacher(images)
        >>> taps['classifier'].shape
    """

    def __init__(
        self,
        network: nn.Module,
        layers: Collection[str],
        *,
        options: TeacherOptions | None = None,
        normalisation: Normalisation | None = None,
        input_size: tuple[int, int] | None = None,
        input_scale: float = 1.0,
        size_divisor: int = 1,
        label: str = 'teacher',
        example_NCHW: Tensor | None = None,
        probed: Probe | None = None,
    ) -> None:
        network.requires_grad_(False).eval()
        self.network = network
        self.label = label
        self._scaling = InputScaling(input_size, input_scale, size_divisor)
        # Whether it can predict: all that takes part in that has its weights.
        self.is_complete = True
        # The SHA-256 of weights that the network came with; None: they are from a checkpoint.
        self.own_weights: str | None = None
        self._options = TeacherOptions() if options is None else options
        self._normalisation = normalisation
        self._stream = SideStream() if self._options.stream else None
        if probed is None:
            probed = probe(network, layers, label, example_NCHW=example_NCHW)
            for layer in set(layers) - probed.outputs.keys():
                raise ShapeError(f'{label}: {layer!r} does not run in a forward pass.')
        self._layers = tuple(probed.outputs)
        self._modified_in_place = probed.modified_in_place
        self._calls = probed.calls
        self._compiled: CompiledTaps | None = None
        self._prepare(probed.images_NCHW)

    def __deepcopy__(self, memo: dict[int, Any]) -> Teacher:
        return self

    def _prepare(self, images_NCHW: Tensor) -> None:
        """Do what the options say, trying it on some images."""
        options = self._options
        if options.fold_bn:
            self._fold(images_NCHW)
        if options.fused_attention:
            use_fused_attention(self.network, self._layers)
        if options.channels_last:
            use_channels_last(self.network, self.label, lambda: self._dry_run(images_NCHW))
        if options.compile is not None:
            self._compiled = CompiledTaps(
                self.network,
                self._layers,
                self._modified_in_place,
                self._calls,
                options.compile,
                self.label,
            )

    def _dry_run(self, images_NCHW: Tensor) -> dict[str, Tensor]:
        """The outputs of the layers, and, under numbers, of the whole."""
        images_NCHW = self._in_format(images_NCHW)
        with (
            evaluating(self.network),
            Recorder(self.network, self._layers, self._modified_in_place) as taps,
        ):
            whole = run_whole(self.network, images_NCHW, self._layers)
            tensors = [leaf for leaf in tree_leaves(whole) if isinstance(leaf, Tensor)]
            return {**taps.outputs, **{str(i): tensor for i, tensor in enumerate(tensors)}}

    def _fold(self, images_NCHW: Tensor) -> None:
        try:
            folding = fold_batchnorm(self.network, lambda: self._dry_run(images_NCHW))
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

    def _in_format(self, images_NCHW: Tensor) -> Tensor:
        if self._options.channels_last:
            return images_NCHW.contiguous(memory_format=torch.channels_last)
        return images_NCHW

    @torch.no_grad()
    def __call__(
        self,
        images_NCHW: Tensor,
        data_samples: Sequence[Any] = (),
        layers: Collection[str] | None = None,
    ) -> Taps:
        """What layers put out; with the option `stream` it is to be joined before it is read.

        Args:
            images_NCHW: Images for the student.
            data_samples: Theirs, of mmseg; `padding_size` in the metainfo says what is padding.
            layers: Some of those that were named at the beginning; None: all.
        """
        layers = self._layers if layers is None else layers
        # Some networks draw random numbers in eval mode too: those of the student stay as they are.
        with (
            nullcontext() if self._stream is None else self._stream.fork(images_NCHW),
            keep_random_state(images_NCHW.device),
        ):
            if self._normalisation is not None:
                images_NCHW = self._normalisation(images_NCHW, data_samples)
            images_NCHW = self._scaling(images_NCHW)
            with _precision(self._options.autocast, images_NCHW.device.type):
                outputs = self._run(self._in_format(images_NCHW), layers)
        height, width = images_NCHW.shape[-2:]
        return Taps(outputs, (height, width))

    def _run(self, images_NCHW: Tensor, layers: Collection[str]) -> dict[str, Tensor]:
        if self._compiled is not None:
            return self._compiled(images_NCHW, layers)
        return run_to_layers(
            self.network, images_NCHW, layers, self._modified_in_place, self._calls
        )

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
