"""Models and processors of Hugging Face's transformers, out of a folder or from the hub."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import InitVar, dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from torch import nn

from mmseg_kd.checkpoints.trust import checkpoints_are_trusted
from mmseg_kd.errors import CheckpointError, ConfigError
from mmseg_kd.networks.elsewhere.packages import require
from mmseg_kd.networks.network import Preprocessing, as_size


@dataclass(frozen=True)
class HFSource:
    """Where a model is.

    Attributes:
        model: A folder, or a name on the hub.
        revision: Branch, tag or commit there; None: the newest.
        needed_by: What messages call the network.
        trust_remote_code: False; there to be refused.

    Raises:
        ConfigError: The code of a repository is to be run, or transformers is not installed.
    """

    model: str
    revision: str | None
    needed_by: str
    trust_remote_code: InitVar[bool]

    def __post_init__(self, trust_remote_code: bool) -> None:
        if trust_remote_code:
            raise ConfigError(
                f'{self.needed_by}: trust_remote_code: code out of a repository is not run here; '
                'take a model that transformers has itself, or write a module that loads it and '
                "give it as TorchSegmentor(module='package.module:function')."
            )
        require('transformers', 'hf', self.needed_by)

    @property
    def _where(self) -> dict[str, Any]:
        # Code in a repository is never run: said here, transformers does not ask on the terminal.
        return dict(revision=self.revision or 'main', trust_remote_code=False)

    def config(self, num_classes: int | None = None) -> Any:
        """The model's configuration; its auxiliary heads and losses, which cost time, are off.

        Raises:
            ConfigError: There is none, or it belongs to code of its own.
        """
        from transformers import AutoConfig

        with self._opening():
            config = AutoConfig.from_pretrained(self.model, **self._where)
        if num_classes is not None and num_classes != config.num_labels:
            config.num_labels = num_classes
        config.use_auxiliary_head = False
        # Mask2Former reads its masks out of what this switch keeps.
        if config.model_type == 'maskformer':
            config.use_auxiliary_loss = False
        return config

    def build(self, auto: Any, config: Any, pretrained: bool) -> tuple[Any, list[str]]:
        """A model in float32, and the names of its tensors that have no trained values.

        Args:
            auto: The class of transformers that finds the model's own.
            config: As from `config`.
            pretrained: Whether it gets its trained weights, where they fit.

        Raises:
            CheckpointError: There are no weights that are data alone (`.safetensors`); others are
                read inside `checkpoint_trust(True)`.
        """
        if not pretrained:
            model = auto.from_config(config, trust_remote_code=False).float()
            return model, [name for name, _ in model.named_parameters()]
        safe = None if checkpoints_are_trusted() else True
        with self._opening(weights=True):
            model, info = auto.from_pretrained(
                self.model,
                config=config,
                ignore_mismatched_sizes=True,
                use_safetensors=safe,
                output_loading_info=True,
                **self._where,
            )
        mismatched = [one[0] if isinstance(one, tuple) else one for one in info['mismatched_keys']]
        return model.float(), sorted({*info['missing_keys'], *mismatched})

    def processor(self, config: Any) -> Any:
        """What prepares images for the model, or its settings.

        Raises:
            ConfigError: There is none.
        """
        from transformers import AutoImageProcessor

        if config.model_type == 'oneformer':
            # Its class fetches names from another repository, to be used nowhere here.
            from transformers.image_processing_utils import BaseImageProcessor

            with self._opening():
                settings, _ = BaseImageProcessor.get_image_processor_dict(
                    self.model, revision=self.revision or 'main'
                )
            return SimpleNamespace(**settings)
        with self._opening(hint=' Or say what it does: data_preprocessor=dict(mean=..., ...).'):
            return AutoImageProcessor.from_pretrained(self.model, **self._where)

    def tokens(self, text: str, length: int) -> Any:
        """A text as the model's tokenizer puts it, (1, length)."""
        from transformers import AutoTokenizer

        with self._opening():
            tokenizer = AutoTokenizer.from_pretrained(self.model, **self._where)
        padded = tokenizer(
            text, padding='max_length', max_length=length, truncation=True, return_tensors='pt'
        )
        return padded['input_ids']

    @contextmanager
    def _opening(self, weights: bool = False, hint: str = '') -> Iterator[None]:
        try:
            with _quiet():
                yield
        except (OSError, ValueError, KeyError, ImportError) as error:
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            what = f'{self.needed_by}: model={self.model!r}'
            if 'trust_remote_code' in str(error):
                raise ConfigError(
                    f'{what}: runs code of its own repository, which is not supported; take a '
                    'model that transformers has itself.'
                ) from error
            if not Path(self.model).is_dir():
                raise ConfigError(
                    f'{what}: is no folder here, and could not be had from the hub ({reason}). '
                    'Where there is no network, give a folder: hf download NAME --local-dir FOLDER '
                    "on another machine, then model='FOLDER'."
                ) from error
            if weights:
                raise CheckpointError(
                    f'{what}: its weights cannot be read ({reason}). Expected .safetensors, which '
                    'are data alone; files of other kinds are read with --trust-checkpoint.'
                ) from error
            raise ConfigError(f'{what}: {reason}{hint}') from error


@contextmanager
def _quiet() -> Iterator[None]:
    """Without bars and tables of transformers: what was not filled is said in a line."""
    from transformers.utils import logging

    verbosity, bar = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bar:
            logging.enable_progress_bar()


def preprocessing_of(processor: Any) -> Preprocessing:
    """What a processor does to the values of images."""
    factor = 1.0
    if getattr(processor, 'do_rescale', True):
        factor = getattr(processor, 'rescale_factor', 1 / 255)
    mean, std = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
    if getattr(processor, 'do_normalize', None):
        mean, std = processor.image_mean, processor.image_std
    return Preprocessing(
        [value / factor for value in mean],
        [value / factor for value in std],
        swaps_channels=not getattr(processor, 'do_flip_channel_order', None),
    )


def size_of(processor: Any) -> tuple[int, int] | None:
    """Height and width that a processor scales images to; None: it keeps their ratio."""
    size = getattr(processor, 'size', None) or {}
    if not isinstance(size, Mapping):
        size = vars(size)
    return as_size((size.get('height'), size.get('width')))


def any_size(model: nn.Module) -> dict[str, bool]:
    """What a model must be told in order to take images of any size."""
    name = 'interpolate_pos_encoding'
    return {name: True} if name in inspect.signature(model.forward).parameters else {}
