"""What happens at a bad image or mask."""

from __future__ import annotations

from typing import Any

import torch
from mmengine.dist import get_world_size
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import Runner

from mmseg_kd.checks import is_integer
from mmseg_kd.data_checks.checked_loading import ReportingCollate, Skips, check_loading
from mmseg_kd.data_checks.findings import SEE_ALL
from mmseg_kd.data_checks.heads import heads_of
from mmseg_kd.data_checks.loading import leaves
from mmseg_kd.errors import ConfigError, DatasetError

# Entry of the message hub, which goes into the checkpoint.
SKIPPED = 'skipped_samples'


@HOOKS.register_module()
class BadDataHook(Hook):
    """Looks at every image and mask as it is loaded, and stops the run at a bad one.

    Bad is what `mmseg-kd check-data` lists as an error, damaged files excepted, which only it
    finds. With `max_skipped` a run skips so many bad training samples: another sample takes
    the place of each, drawn with the random numbers of its batch, so that a resumed run draws the
    same. Each is named in the log once and kept in the checkpoint. Validations and tests never
    skip a sample.

    `mmseg-kd train` and `mmseg-kd test` add this hook to every run; to change it, put it into
    the config: `custom_hooks = [dict(type='BadDataHook', max_skipped=20)]`.

    Args:
        max_skipped: How many bad samples a run skips, in all processes together.

    Raises:
        ConfigError: `max_skipped` is no whole number from 0.
    """

    # Before the hooks that prepare an iteration: the batch is theirs without what is taken here.
    priority = 'VERY_HIGH'

    def __init__(self, max_skipped: int = 0) -> None:
        if not (is_integer(max_skipped) and max_skipped >= 0):
            raise ConfigError(
                'BadDataHook: expected max_skipped to be a number of samples, 0 or more; got '
                f'{max_skipped!r}.'
            )
        self.max_skipped = max_skipped
        self.skipped: dict[str, str] = {}
        self.group: Any = None

    def before_train(self, runner: Runner) -> None:
        """Check what is loaded from here on.

        Raises:
            ConfigError: All samples might be skipped.
        """
        loader = runner.train_dataloader
        skips = Skips() if self.max_skipped else None
        self._check(runner, loader, 'train', skips)
        if skips is None:
            return
        samples = sum(map(len, leaves(loader.dataset)))
        if self.max_skipped >= samples:
            raise ConfigError(
                f'BadDataHook: expected max_skipped to be less than the {samples} samples of the '
                f'train data; got {self.max_skipped}.'
            )
        loader.collate_fn = ReportingCollate(loader.collate_fn, skips)
        self.skipped = dict(runner.message_hub.runtime_info.get(SKIPPED, {}))
        if get_world_size() > 1:
            # On CPUs: what is exchanged must not make the host wait for the GPU.
            self.group = torch.distributed.new_group(backend='gloo')

    def before_val(self, runner: Runner) -> None:
        """Check what is loaded from here on."""
        self._check(runner, runner.val_dataloader, 'val')

    def before_test(self, runner: Runner) -> None:
        """Check what is loaded from here on."""
        self._check(runner, runner.test_dataloader, 'test')

    @staticmethod
    def _check(runner: Runner, loader: Any, split: str, skips: Skips | None = None) -> None:
        model = runner.model
        while hasattr(model, 'module'):  # distributed, or in test-time augmentation
            model = model.module
        mean = getattr(model.data_preprocessor, 'mean', None)
        network = getattr(model, 'student', model)
        check_loading(
            loader.dataset,
            split,
            getattr(network, 'num_classes', None),
            None if mean is None else mean.numel(),
            skips,
            heads_of(network) if split == 'train' else (),
        )

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None) -> None:
        """Name the bad samples that were met while this batch was made.

        Raises:
            DatasetError: They are too many.
        """
        if not self.max_skipped:
            return
        for name, message in self._of_all_ranks(data_batch.pop(ReportingCollate.KEY, {})).items():
            if name in self.skipped:
                continue
            self.skipped[name] = message
            if len(self.skipped) > self.max_skipped:
                raise DatasetError(
                    f'train data: more than max_skipped={self.max_skipped} bad samples, the last: '
                    f'{message} {SEE_ALL}'
                )
            runner.logger.warning(
                f'train data: skipped bad sample {len(self.skipped)} of at most '
                f'{self.max_skipped}: {message}'
            )
            runner.message_hub.update_info(SKIPPED, dict(self.skipped))

    def _of_all_ranks(self, found: dict[str, str]) -> dict[str, str]:
        """What the ranks found in this iteration, the same on each."""
        if self.group is None:
            return found
        count = torch.tensor(len(found))
        torch.distributed.all_reduce(count, group=self.group)
        if not count:
            return {}
        of_ranks: list[Any] = [None] * get_world_size()
        torch.distributed.all_gather_object(of_ranks, found, group=self.group)
        return {name: message for one in of_ranks for name, message in one.items()}

    def after_train(self, runner: Runner) -> None:
        """Say how many there were."""
        if self.skipped:
            runner.logger.warning(
                f'train data: {len(self.skipped)} bad samples were skipped; '
                'mmseg-kd check-data CONFIG tells of all.'
            )
