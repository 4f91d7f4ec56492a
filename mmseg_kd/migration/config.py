"""A whole config of SegDistill as one of this project."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any

from mmengine.config import Config

from mmseg_kd.checks import is_number
from mmseg_kd.config.text import Name, resolve, write
from mmseg_kd.errors import ConfigError
from mmseg_kd.migration.data import Data
from mmseg_kd.migration.networks import Network, convert_network
from mmseg_kd.migration.optimisation import convert_optimiser, convert_schedulers
from mmseg_kd.migration.report import Report
from mmseg_kd.migration.runtime import (
    convert_hooks,
    convert_loops,
    convert_max_iters,
    convert_measuring,
    convert_surroundings,
    drop_meaningless,
)
from mmseg_kd.migration.section import Section
from mmseg_kd.migration.sides import Sides, is_backbone
from mmseg_kd.migration.source import KeyPath, OldConfig
from mmseg_kd.migration.terms import asks_for_angles, convert_terms

_MODULES = ('SDModule', 'SDModuleMT')

# Variables of mmseg's own old configs. Where a config no longer uses one, nothing is lost.
_USUAL_VARIABLES = {
    'backbone_norm_cfg',
    'crop_size',
    'data_root',
    'dataset_type',
    'img_norm_cfg',
    'norm_cfg',
    'test_pipeline',
    'train_pipeline',
    'val_pipeline',
}

# A number under a name no longer than this is the config's own: no key that mmcv reads is as short.
_LONGEST_NAME = 2


@dataclass(frozen=True)
class ConvertedConfig:
    """What became of an old config.

    Attributes:
        source: The old file.
        bases: The files that it is based on.
        groups: The new config's entries, those that belong together in one dict.
        report: What was not converted, and what else to know.
    """

    source: Path
    bases: Sequence[Path]
    groups: Sequence[Mapping[str, Any]]
    report: Report

    @property
    def values(self) -> dict[str, Any]:
        """The new config as plain values."""
        written = {key: value for group in self.groups for key, value in group.items()}
        return {key: resolve(value, written) for key, value in written.items()}

    @property
    def text(self) -> str:
        """The new config as a file.

        Raises:
            ConfigError: It has a value that no config can have.
        """
        header = f'# Converted from {self.source.name} of SegDistill.\n'
        text = header + '\n'.join(write(group) for group in self.groups if group)
        read = Config.fromstring(text, '.py').to_dict()
        assert read == self.values, 'the text does not say what was converted'
        return text

    def save(self, target: Path) -> None:
        """Write the file; folders on the way are made.

        Raises:
            ConfigError: As `text`; or the target is no .py file, is the old one or a base of it.
        """
        if target.suffix != '.py' or target.is_dir():
            raise ConfigError(f'expected the name of a .py file to write, got {target}.')
        if target.exists() and target.samefile(self.source):
            raise ConfigError(f'{target} is the old config itself; give another name.')
        if target.exists() and any(map(target.samefile, self.bases)):
            raise ConfigError(f'{target} is a base of the old config; give another name.')
        text = self.text
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text, encoding='utf-8')


def convert_config(path: Path) -> ConvertedConfig:
    """Convert a config of SegDistill, as far as that can be done.

    Raises:
        ConfigError: It cannot be read, or there is no SDModule in it.
    """
    old = OldConfig(path)
    report = Report(old.place)
    config = Section(old.values, (), report)
    model = _sd_module(config, path)
    drop_meaningless(config)
    data = Data(config.section_or_empty('data'))
    student = _student(model)
    teachers = _teachers(model)
    if not teachers:
        raise ConfigError(f'{path}: expected a teacher in model.cfg_t, got none.')
    sides = Sides(data.preprocessor, report)
    hooks = _custom_hooks(model)
    distillation = dict(
        type='DistillationWrapper',
        data_preprocessor=Name('data_preprocessor'),
        student=_write_student(sides, student, model, config.take('load_from')),
        teacher=_write_teachers(sides, teachers, report),
        distillation=convert_terms(model, student, [one.network for one in teachers]),
    )
    model.close()
    max_iters = convert_max_iters(config)
    measuring = convert_measuring(config, data.measures)
    schedulers = convert_schedulers(config, max_iters)
    groups: list[dict[str, Any]] = [
        dict(
            default_scope='mmseg',
            custom_imports=dict(imports=['mmseg_kd.register'], allow_failed_imports=False),
        ),
        dict(data_preprocessor=data.preprocessor, model=distillation),
        data.values,
        dict(
            optim_wrapper=convert_optimiser(config, student),
            **(dict(param_scheduler=schedulers) if schedulers else {}),
        ),
        convert_loops(max_iters, measuring, data.measures),
        {
            **convert_hooks(config, measuring.get('save_best')),
            **hooks,
            **convert_surroundings(config),
        },
    ]
    _report_rest(config, old)
    return ConvertedConfig(path, old.bases, groups, report)


def _custom_hooks(model: Section) -> dict[str, Any]:
    if not asks_for_angles(model):
        return {}
    model.note(
        'log_grad is GradientConflictHook, for all terms; it looks in every `interval`-th '
        'iteration, where the angle was taken in each',
        'distillation',
        0,
        'log_grad',
    )
    return dict(custom_hooks=[dict(type='GradientConflictHook')])


def _report_rest(config: Section, old: OldConfig) -> None:
    """Keys at the top that nobody has asked for."""
    for key, value in config.rest().items():
        if key in old.variables | _USUAL_VARIABLES:
            continue
        if isinstance(value, Mapping) and 'backbone' in value:
            config.note('dropped: a network that is neither student nor teacher', key)
        elif len(key) <= _LONGEST_NAME and is_number(value):
            config.note('dropped: a number that nothing uses', key)
        elif old.computes_names:
            config.note('dropped: known to nobody, if it is not one of the names computed', key)
        else:
            config.problem('unknown key, left out', key)


def _sd_module(config: Section, path: Path) -> Section:
    model = config.section('model')
    kind = None if model is None else model.take('type')
    if model is None or kind not in _MODULES or 'cfg_s' not in model:
        raise ConfigError(
            f"{path}: expected model=dict(type='SDModule', cfg_s=..., cfg_t=...), got "
            f'{"no model" if model is None else f"type={kind!r}"}; only distillations of '
            'SegDistill are converted.'
        )
    return model


def _student(model: Section) -> Network:
    """`cfg_s`, with the settings that the old module had for it."""
    section = model.section('cfg_s')
    if section is None:
        raise ConfigError(f'model.cfg_s: expected a network, got {model.peek("cfg_s")!r}.')
    network = convert_network(section)
    for key in ('train_cfg', 'test_cfg'):
        outer, own = model.take(key), network.model[key]
        if outer and not own:
            network.model[key] = outer
        elif outer and outer != own:
            model.problem(f'says otherwise than cfg_s.{key}, which is taken', key)
    return network


@dataclass(frozen=True)
class _Teacher:
    """A teacher's network, its checkpoint, and the keys that lead to the latter's name."""

    network: Network
    checkpoint: Any
    path: KeyPath


def _teachers(model: Section) -> list[_Teacher]:
    """`cfg_t`, one or a list; or `cfg_t1`, `cfg_t2` and so on. Checkpoints come likewise."""
    numbers = sorted(int(key[5:]) for key in model.values if re.fullmatch(r'cfg_t\d+', key))
    found = []
    for number in ['', *map(str, numbers)]:
        key = f't_pretrain{number}'
        for index, section in enumerate(model.sections(f'cfg_t{number}')):
            files, path = model.take(key), (*model.path, key)
            if isinstance(files, list | tuple):
                file = files[index] if index < len(files) else None
                path = (*path, index)
            else:
                file = files if index == 0 else None
            found.append(_Teacher(convert_network(section), file, path))
    return found


def _write_teachers(sides: Sides, teachers: Sequence[_Teacher], report: Report) -> Any:
    """One teacher as a dict, several as a list."""
    written = []
    for one in teachers:
        if isinstance(one.checkpoint, str):
            written.append(sides.trained(one.network, one.checkpoint, one.path))
        else:
            report.problem(one.path, "expected the file of the teacher's weights, got none")
            written.append(sides.described(one.network.model))
    return written[0] if len(written) == 1 else written


def _write_student(
    sides: Sides, student: Network, model: Section, load_from: str | None
) -> dict[str, Any]:
    """The student with what it started from in the old training."""
    pretrained, backbone = model.take('s_pretrain'), student.initial_weights
    path = (*model.path, 's_pretrain')
    if load_from is not None:
        return sides.trained_student(student, load_from, ('load_from',), part='student')
    if pretrained is None or _is_same_file(pretrained, backbone):
        return sides.student(student, (*model.path, 'cfg_s', 'pretrained'))
    if not is_backbone(pretrained):
        return sides.trained_student(student, pretrained, path)
    if backbone is not None:
        model.problem(f'says otherwise than cfg_s.pretrained; {pretrained} is taken', 's_pretrain')
    return sides.student(replace(student, initial_weights=pretrained), path)


def _is_same_file(one: str, other: str | None) -> bool:
    """Whether two names are one file's: `./a.pth` is `a.pth`."""
    return other is not None and PurePosixPath(one) == PurePosixPath(other)
