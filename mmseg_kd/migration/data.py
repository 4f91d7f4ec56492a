"""`data=dict(...)`: loaders, pipelines, and what the data preprocessor does now."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mmseg_kd.config.text import Name
from mmseg_kd.migration.datasets import convert_dataset, packed
from mmseg_kd.migration.section import Section
from mmseg_kd.migration.transforms import Pipeline, Step

_TRAIN_SAMPLER = dict(type='InfiniteSampler', shuffle=True)
_TEST_SAMPLER = dict(type='DefaultSampler', shuffle=False)


class Data:
    """The data section of the new config.

    Args:
        section: The old one.

    Attributes:
        values: Entries of the config, in the order in which they are to be written.
        preprocessor: Its data preprocessor.
        measures: Whether there is data to measure on.
    """

    def __init__(self, section: Section) -> None:
        self.values: dict[str, Any] = {}
        self._section = section
        self._pipelines: dict[str, list[Pipeline]] = {'train': [], 'val': [], 'test': []}
        loaders = {split: self._loader(split) for split in ('train', 'val', 'test')}
        section.close()
        self.values |= self._tta()
        self._add_loaders(loaders)
        self.preprocessor = self._preprocessor()

    @property
    def measures(self) -> bool:
        return 'val_dataloader' in self.values

    def _loader(self, split: str) -> dict[str, Any] | None:
        """The loader of a split; None where the old config has none."""
        train = split == 'train'
        parts = [
            {**dataset, 'pipeline': self._place(dataset['pipeline'], split)}
            for part in self._section.sections(split)
            for dataset in convert_dataset(part, train)
        ]
        own = self._section.section_or_empty(f'{split}_dataloader')
        batch = self._section.take('samples_per_gpu', 1) if train else 1
        workers = own.take('workers_per_gpu', self._section.take('workers_per_gpu', 0))
        own.drop('shuffle', 'the sampler says it', unless=[train])
        own.drop('drop_last', 'batches of training are always full', unless=[train])
        batch = own.take('samples_per_gpu', batch)
        persistent = own.take('persistent_workers', self._section.take('persistent_workers', True))
        own.close()
        if not parts:
            return None
        return dict(
            batch_size=batch,
            num_workers=workers,
            persistent_workers=bool(persistent and workers),
            sampler=_TRAIN_SAMPLER if train else _TEST_SAMPLER,
            dataset=parts[0] if len(parts) == 1 else dict(type='ConcatDataset', datasets=parts),
        )

    def _place(self, pipeline: Pipeline, split: str) -> Any:
        """The variable that holds a pipeline's steps, or the steps where the name is taken."""
        self._pipelines[split].append(pipeline)
        steps = packed(pipeline)
        names = {'train': ['train'], 'val': ['test'], 'test': ['test', 'val']}[split]
        for name in (f'{one}_pipeline' for one in names):
            if self.values.setdefault(name, steps) == steps:
                return Name(name)
        return steps

    def _tta(self) -> dict[str, Any]:
        """Test-time augmentation, where the old test had some."""
        for pipeline in (*self._pipelines['test'], *self._pipelines['val']):
            if pipeline.alternatives:
                loading = [one for one in pipeline.steps if one['type'] == 'LoadImageFromFile']
                last: list[list[Step]] = [[dict(type='LoadAnnotations')]]
                last.append([dict(type='PackSegInputs')])
                alternatives = [*pipeline.alternatives, *last]
                augmentation = dict(type='TestTimeAug', transforms=alternatives)
                return dict(
                    tta_model=dict(type='SegTTAModel'), tta_pipeline=[*loading, augmentation]
                )
        return {}

    def _add_loaders(self, loaders: Mapping[str, dict[str, Any] | None]) -> None:
        if loaders['train'] is None:
            self._section.problem('expected the data to train on, got none', 'train')
        else:
            self.values['train_dataloader'] = loaders['train']
        val, test = loaders['val'] or loaders['test'], loaders['test'] or loaders['val']
        if val is not None:
            self.values['val_dataloader'] = val
            self.values['test_dataloader'] = Name('val_dataloader') if test == val else test

    def _preprocessor(self) -> dict[str, Any]:
        """What Normalize and Pad of the old pipelines did."""
        train = self._pipelines['train']
        first = train[0].preprocessor if train else {}
        made: dict[str, Any] = dict(
            type='SegDataPreProcessor',
            mean=first.get('mean'),
            std=first.get('std'),
            bgr_to_rgb=first.get('bgr_to_rgb', False),
            pad_val=first.get('pad_val', 0),
            seg_pad_val=first.get('seg_pad_val', 255),
        )
        tests = [*self._pipelines['val'], *self._pipelines['test']]
        for pipeline in (*train[1:], *tests):
            theirs = pipeline.preprocessor
            if any(theirs.get(key) != first.get(key) for key in ('mean', 'std', 'bgr_to_rgb')):
                self._section.problem('not all images were normalised alike; now all are')
        crops = [step['crop_size'] for p in train for step in p.steps if 'crop_size' in step]
        made |= _extent(first) or (dict(size=crops[0]) if crops else dict(size_divisor=1))
        for pipeline in tests:
            if _extent(pipeline.preprocessor):
                made['test_cfg'] = _extent(pipeline.preprocessor)
        return made


def _extent(preprocessor: Mapping[str, Any]) -> dict[str, Any]:
    """What says how large a padded image is."""
    return {key: preprocessor[key] for key in ('size', 'size_divisor') if key in preprocessor}
