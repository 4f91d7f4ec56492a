"""The configs of a folder of images and masks: data, teacher, baseline, distillation, a plan."""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmseg_kd.checkpoints.save import atomic_write
from mmseg_kd.config.packaged import packaged_path
from mmseg_kd.config.text import Name, resolve, write
from mmseg_kd.datasets.class_list import read_class_list
from mmseg_kd.errors import ConfigError, DatasetError, Problems, nearest
from mmseg_kd.own_data.classes import Classes, class_file, name_classes, write_masks
from mmseg_kd.own_data.networks import check_classes, first_terms, is_trained, network_of
from mmseg_kd.own_data.pairs import FindOptions, Pairs, find_pairs
from mmseg_kd.own_data.survey import Survey

SCHEDULES = 'mmseg_kd::configs/_base_/schedules/'
RUNTIME = 'mmseg_kd::configs/_base_/runtime.py'

# Images are brought down to this height or width, whichever is less.
_SHORT_SIDE = 512


@dataclass(frozen=True)
class Project:
    """What is to be written.

    Attributes:
        pairs: Images and masks.
        classes: Of the masks.
        size: Height and width that images are trained on.
        folder: Where to.
        name: What the configs' names begin with.
        teacher, student: As in `network_of`.
        schedule: The name of a file in `configs/_base_/schedules`.
    """

    pairs: Pairs
    classes: Classes
    size: tuple[int, int]
    folder: Path
    name: str
    teacher: str = 'efficientnet-lite2'
    student: str = 'mobilenetv2'
    schedule: str = 'adamw_20k'

    @property
    def num_classes(self) -> int:
        return len(self.classes.found.names)

    def config(self, part: str) -> str:
        return str(self.folder / f'{self.name}_{part}.py')

    def work_dir(self, part: str) -> str:
        return f'work_dirs/{self.name}_{part}'


def size_for(sizes: Counter[tuple[int, int]]) -> tuple[int, int]:
    """The height and width to train on: of the commonest image, brought down where it is large.

    Raises:
        DatasetError: No image can be read.
    """
    if not sizes:
        raise DatasetError('no image could be read.')
    height, width = sizes.most_common(1)[0][0]
    factor = min(1.0, _SHORT_SIDE / min(height, width))
    return round(height * factor), round(width * factor)


def _data_files(project: Project) -> dict[str, Any]:
    """Write them; returns the arguments of a `PairedDataset`, but for its `ann_file`, SPLIT.txt."""
    pairs, folder, splits = project.pairs, project.folder, project.pairs.splits
    masks = pairs.root
    if not project.classes.as_they_are:
        masks = folder / 'masks'
        splits = write_masks(pairs, project.classes, masks)
    _write(folder / 'classes.txt', str(project.classes.found))
    for split, found in splits.items():
        _write(folder / f'{split}.txt', ''.join(f'{pair.image}\t{pair.mask}\n' for pair in found))
    return dict(
        type='PairedDataset',
        classes=str(folder / 'classes.txt'),
        data_prefix=dict(img_path=str(pairs.root), seg_map_path=str(masks)),
    )


def write_project(project: Project) -> dict[str, str]:
    """Write all files of a project; returns the config of each training, by its name.

    Raises:
        KDError: What is wrong with the networks, all at once, or with the folder.
    """
    texts = _network_texts(project)
    write_data(project)
    for part, text in texts.items():
        _write(Path(project.config(part)), text)
    _write(Path(project.config('plan')), _plan_text(project))
    return {part: project.config(part) for part in texts}


def write_data(project: Project) -> str:
    """Write the lists of pairs, the classes, masks where they are needed, and the config of these.

    Returns:
        The config.

    Raises:
        CheckpointError: A file cannot be written.
    """
    _write(Path(project.config('data')), _data_text(project, _data_files(project)))
    return project.config('data')


def project_of(root: Path, folder: Path) -> Project:
    """The project of a folder of images and masks which has the names of its classes in a file.

    Args:
        root: The folder.
        folder: Where to write.

    Raises:
        DatasetError: What is wrong with images, masks or names.
    """
    survey = Survey(find_pairs(root, FindOptions()))
    for _ in survey.run(0):
        pass
    file = class_file(root)
    if file is None:
        raise DatasetError(
            f'{root}: expected classes.txt in it, with a line NAME, or R G B NAME, for each class.'
        )
    classes = name_classes(survey, read_class_list(file))
    return Project(survey.pairs, classes, size_for(survey.sizes), folder, root.resolve().name)


def _write(path: Path, text: str) -> None:
    with atomic_write(path) as partial:
        partial.write_text(text, encoding='utf-8')


def check_words(teacher: str, student: str, schedule: str) -> None:
    """See that there are networks and a schedule of these names.

    Raises:
        KDError: What there is not, all at once.
    """
    problems = Problems()
    for side, word in dict(teacher=teacher, student=student).items():
        with problems:
            network_of(word, side, 2, (64, 64))
    folder = packaged_path(SCHEDULES)
    assert folder is not None
    names = [path.stem for path in folder.glob('*.py')]
    if schedule not in names:
        problems.add(
            ConfigError(f'schedule: there is no {schedule!r}; {nearest(schedule, names)}.')
        )
    problems.raise_if_any()


def _dataset(project: Project, split: str) -> Name:
    pipeline = f'{"train" if split == "train" else "test"}_pipeline'
    file = str(project.folder / f'{split}.txt')
    return Name(f'dict(**files, ann_file={file!r}, pipeline={pipeline})')


def _data_text(project: Project, files: Mapping[str, Any]) -> str:
    """The config of the data, a base of the others."""
    height, width = project.size
    counts = ', '.join(f'{len(found)} {split}' for split, found in project.pairs.splits.items())
    load = [dict(type='LoadImageFromFile'), dict(type='LoadAnnotations')]
    resize = dict(scale=(width, height), keep_ratio=True)
    crop = dict(type='RandomCrop', crop_size=Name('size'), cat_max_ratio=0.75)
    train = [
        *load,
        dict(type='RandomResize', **resize, ratio_range=(0.5, 2.0)),
        crop,
        dict(type='RandomFlip', prob=0.5),
        dict(type='PhotoMetricDistortion'),
        dict(type='PackSegInputs'),
    ]
    test = [load[0], dict(type='Resize', **resize), load[1], dict(type='PackSegInputs')]
    values: dict[str, Any] = dict(
        _base_=RUNTIME,
        size=project.size,
        num_classes=project.num_classes,
        train_pipeline=train,
        test_pipeline=test,
        files=files,
    )
    for split in ('train', 'val'):
        of_train = split == 'train'
        kind = 'InfiniteSampler' if of_train else 'DefaultSampler'
        values[f'{split}_dataloader'] = dict(
            batch_size=4 if of_train else 1,
            num_workers=2,
            sampler=dict(type=kind, shuffle=of_train),
            dataset=_dataset(project, split),
        )
    values['test_dataloader'] = Name('val_dataloader')
    if 'test' in project.pairs.splits:
        other = f"{{**val_dataloader, 'dataset': {_dataset(project, 'test')}}}"
        values['test_dataloader'] = Name(other)
    metric = dict(type='IoUMetric', iou_metrics=['mIoU'])
    values |= dict(val_evaluator=metric, test_evaluator=metric)
    return f'# {project.pairs.root}: {counts} ({project.pairs.origin}).\n{write(values)}'


def _network_texts(project: Project) -> dict[str, str]:
    """The configs of teacher (none where it is trained already), baseline and distillation."""
    problems = Problems()
    named = {}
    names = Name('_base_.num_classes'), Name('_base_.size')
    for side, word in dict(teacher=project.teacher, student=project.student).items():
        with problems:
            named[side] = network_of(word, side, *names)
            check_classes(named[side], side, project.num_classes)
    problems.raise_if_any()
    values: dict[str, Any] = dict(zip(names, (project.num_classes, project.size), strict=True))
    terms = first_terms(*(resolve(named[side], values) for side in ('teacher', 'student')))
    texts = {}
    if is_trained(project.teacher, project.num_classes):
        teacher = {key: value for key, value in named['teacher'].items() if key != 'num_classes'}
    else:
        texts['teacher'] = _alone_text(project, 'teacher', named['teacher'])
        checkpoint = f'{project.work_dir("teacher")}/student_best.pth'
        teacher = dict(config=project.config('teacher'), checkpoint=checkpoint)
    texts['baseline'] = _alone_text(project, 'baseline', named['student'])
    runs = shlex.join(project.work_dir(part) for part in (*texts, 'distilled'))
    text = write(
        dict(
            _base_=f'./{project.name}_baseline.py', model=dict(teacher=teacher, distillation=terms)
        )
    )
    texts['distilled'] = (
        f'# {project.teacher} teaches {project.student}.\n'
        f'#   mmseg-kd train {shlex.quote(project.config("distilled"))}\n'
        f'# Next:\n#   mmseg-kd report {runs}\n'
        f'#   mmseg-kd compare {shlex.quote(project.config("plan"))}\n{text}'
    )
    return texts


def _plan_text(project: Project) -> str:
    """The plan of a comparison between baseline and distillation."""
    values = dict(
        _base_=f'./{project.name}_distilled.py',
        experiments=dict(alone=dict(options={'model.distillation': []}), distilled=dict()),
        comparison=dict(baseline='alone', seeds=3),
    )
    command = f'mmseg-kd compare {shlex.quote(project.config("plan"))}'
    return (
        '# Does it pay? Three seeds, each from the same weights over the same images.\n'
        f'#   {command}\n'
        f'# As long for both, whatever a step costs:\n#   {command} --budget seconds=3600\n'
        f'{write(values)}'
    )


def _alone_text(project: Project, part: str, network: Mapping[str, Any]) -> str:
    """The config of a network that is trained alone."""
    after = project.config('baseline' if part == 'teacher' else 'distilled')
    what = f'{project.teacher}, the teacher' if part == 'teacher' else f'{project.student} alone'
    values = dict(
        _base_=[f'./{project.name}_data.py', f'{SCHEDULES}{project.schedule}.py'],
        model=dict(type='DistillationWrapper', student=network, distillation=[]),
    )
    return (
        f'# {what}.\n#   mmseg-kd train {shlex.quote(project.config(part))}\n'
        f'# Next:\n#   mmseg-kd train {shlex.quote(after)}\n{write(values)}'
    )
