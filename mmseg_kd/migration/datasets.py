"""One data set of the old config, with its pipeline."""

from __future__ import annotations

from typing import Any

from mmseg.registry import DATASETS

from mmseg_kd.migration.registered import as_it_is, defaults, find
from mmseg_kd.migration.section import Section
from mmseg_kd.migration.transforms import Pipeline, Step, convert_step

Dataset = dict[str, Any]

_RENAMED = {'CustomDataset': 'BaseSegDataset'}


def convert_dataset(section: Section, train: bool) -> list[Dataset]:
    """Convert a data set.

    Args:
        train: Whether it is for training, where the pipeline loads the labels.

    Returns:
        The new one, or several that are to be joined, each with its `Pipeline` as `pipeline`.
    """
    kind = section.peek('type')
    if kind == 'RepeatDataset':
        times = section.take('times')
        section.note(f'the {times} repetitions go: InfiniteSampler begins anew by itself', 'times')
        return _inside(section, 'dataset', train)
    if kind == 'ConcatDataset':
        return _inside(section, 'datasets', train)
    if 'dataset' in section:
        section.problem(f'{kind} is not converted, only the data set in it', 'type')
        return _inside(section, 'dataset', train)
    return _plain(section, train)


def _inside(section: Section, key: str, train: bool) -> list[Dataset]:
    """The data sets that another one has in it."""
    section.take('type')
    inner = list(section.sections(key))
    section.close()
    return [one for part in inner for one in convert_dataset(part, train)]


def convert_pipeline(section: Section) -> Pipeline:
    """Convert the steps of `pipeline=[...]`."""
    pipeline = Pipeline()
    for step in section.sections('pipeline'):
        with step.tolerant():
            convert_step(step, pipeline)
    return pipeline


def packed(pipeline: Pipeline) -> list[Step]:
    """All steps of a pipeline as a data set runs them."""
    steps = list(pipeline.steps)
    if not any(step['type'] == 'LoadAnnotations' for step in steps):
        # A test measures at the labels' own size, so they are loaded behind the resizing.
        steps.append(dict(type='LoadAnnotations'))
    return [*steps, dict(type='PackSegInputs')]


def _plain(section: Section, train: bool) -> list[Dataset]:
    """A data set of images; one for each of its folders where there are several."""
    pipeline = convert_pipeline(section)
    section.drop('test_mode', 'mmseg 1.x does not ask for it', unless=[True, False])
    section.drop('file_client_args', 'files are read from the disk', unless=[None])
    section.drop('gt_seg_map_loader_cfg', 'labels are loaded by the pipeline', unless=[None])
    root = section.take('data_root')
    metainfo = {key: section.take(key) for key in ('classes', 'palette') if key in section}
    folders = _folders(section)
    kind = section.peek('type')
    common = as_it_is(section, DATASETS, 'data set', name=_RENAMED.get(kind, kind))
    name = common.pop('type')
    if train:
        _set_zero_label(common, name, pipeline)
    if metainfo:
        common['metainfo'] = metainfo
    return [
        {
            'type': name,
            **({} if root is None else {'data_root': root}),
            **folder,
            **common,
            'pipeline': pipeline,
        }
        for folder in folders
    ]


def _folders(section: Section) -> list[Dataset]:
    """Where images, labels and the list of their names are: one entry for each folder."""
    images, labels = section.take('img_dir'), section.take('ann_dir')
    lists = section.take('split')
    count = max((len(one) for one in (images, labels, lists) if isinstance(one, list)), default=1)
    folders = []
    for index in range(count):
        image, label, names = (
            one[index] if isinstance(one, list) and index < len(one) else one
            for one in (images, labels, lists)
        )
        prefix = dict(img_path=image, seg_map_path=label)
        folder: Dataset = {'data_prefix': {k: v for k, v in prefix.items() if v is not None}}
        folders.append({'ann_file': names, **folder} if names is not None else folder)
    return folders


def _set_zero_label(dataset: Dataset, name: Any, pipeline: Pipeline) -> None:
    """In training the pipeline said what becomes of label 0; today the data set does."""
    kind = find(DATASETS, name)
    usual = False if kind is None else defaults(kind).get('reduce_zero_label', False)
    dataset.pop('reduce_zero_label', None)
    if pipeline.reduce_zero_label != usual:
        dataset['reduce_zero_label'] = pipeline.reduce_zero_label
