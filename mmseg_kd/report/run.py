"""A run of the report: what its folder holds, and what is missing in it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mmengine.config import Config, ConfigDict

from mmseg_kd.checkpoints import read_checkpoint
from mmseg_kd.checkpoints.digest import sha256_of
from mmseg_kd.checkpoints.trust import checkpoints_are_trusted
from mmseg_kd.config.distillation_spec import DistillationSpec, parse_distillation
from mmseg_kd.config.file import read_config_file
from mmseg_kd.config.input_scaling import InputScaling
from mmseg_kd.config.network_spec import NetworkSpec, teacher_label
from mmseg_kd.errors import CheckpointError, ConfigError, KDError, Problems, message_of
from mmseg_kd.report.logs import Logged, read_logs
from mmseg_kd.report.measurement import Measurement
from mmseg_kd.runs.comparison import is_comparison, read_comparison
from mmseg_kd.runs.work_dir import find_checkpoint, find_config, split_title, title_of

STUDENT, BASELINE, TEACHER, NETWORK = 'student', 'baseline', 'teacher', 'network'
# In which order the page has them.
ROLES = (STUDENT, BASELINE, NETWORK, TEACHER)


@dataclass
class Run:
    """One column of the report.

    Attributes:
        title: What the page calls it.
        folder: Its work dir; of a teacher without one, that of the run that names it.
        role: 'student' (with terms), 'baseline' (without), 'teacher', or 'network' where there
            is nothing to tell.
        log: What its logs say.
        config: The config it was trained with; None where there is none.
        config_file: Where that is written, to train or test with it.
        checkpoint: The network's weights, a file or a URL.
        model: The network's model dict.
        distillation: What the config says of teachers and terms; None: it is no distillation.
        meta: What the checkpoint says of itself.
        scaling: What its images are scaled to first, as a teacher's may be.
        measured: What was measured of the network.
        gaps: What is missing and how to get it, by section of the page.
        has_folder: Whether the folder is its own.
    """

    title: str
    folder: Path
    role: str = NETWORK
    log: Logged = field(default_factory=Logged)
    config: Config | None = None
    config_file: Path | None = None
    checkpoint: str | None = None
    model: ConfigDict | None = None
    distillation: DistillationSpec | None = None
    meta: dict[str, Any] = field(default_factory=dict)
    scaling: InputScaling = field(default_factory=InputScaling)
    measured: Measurement | None = None
    gaps: dict[str, list[str]] = field(default_factory=dict)
    has_folder: bool = True

    def add_gap(self, section: str, text: str) -> None:
        """Say in a section what is missing and how to get it."""
        known = self.gaps.setdefault(section, [])
        if text not in known:
            known.append(text)

    @property
    def scored_at(self) -> int | None:
        """The iteration of the last validation with an mIoU; None where there is none."""
        found = [i for i, metrics in self.log.validations.items() if 'mIoU' in metrics]
        return max(found, default=None)

    @property
    def miou(self) -> float | None:
        """mIoU in percent: as measured, or of the last validation that has one."""
        if self.measured is not None:
            return self.measured.mean()
        return None if self.scored_at is None else self.log.validations[self.scored_at]['mIoU']

    @property
    def iou(self) -> dict[str, float]:
        """IoU in percent by class: as measured, or of the last validation that printed it."""
        return self.measured.iou if self.measured is not None else self.log.classes

    @property
    def max_iters(self) -> int | None:
        """How long the config trains; None where it does not say."""
        value = ((self.config or {}).get('train_cfg') or {}).get('max_iters')
        return value if isinstance(value, int) and value > 0 else None


def read_runs(names: Sequence[str]) -> list[Run]:
    """Runs by their folders or TITLE=FOLDER, and the teachers that they name.

    Raises:
        ConfigError: There is no such folder, or nothing of a run in it; `ManyErrors` where that
            is more than one.
    """
    problems = Problems()
    runs = []
    for name in names:
        with problems:
            folder = split_title(name)[1]
            runs += read_comparison_runs(folder) if is_comparison(folder) else [read_run(name)]
    problems.raise_if_any()
    return with_teachers(runs)


def read_run(name: str) -> Run:
    """A run by its folder, or by TITLE=FOLDER.

    Raises:
        ConfigError: There is no such folder, or nothing of a run in it.
    """
    title, rest = split_title(name)
    folder = Path(rest)
    if not folder.is_dir():
        what = 'that is a file' if folder.exists() else 'there is no such folder'
        raise ConfigError(f'{folder}: {what}; expected the work dir of a run.')
    run = Run(title or '', folder)
    run.log = read_logs(folder)
    if count := run.log.unread:
        lines = 'A line' if count == 1 else f'{count} lines'
        run.add_gap(
            'curves',
            f'{lines} of the log could not be read and {"is" if count == 1 else "are"} left out.',
        )
    _find_checkpoint(run)
    _find_config(run)
    if run.config is None and run.checkpoint is None and not run.log.starts:
        raise ConfigError(
            f'{folder}: there is nothing of a run in it: no log (*/vis_data/scalars.json), no '
            'config and no checkpoint. Expected the --work-dir of mmseg-kd train.'
        )
    _say_what_logs_lack(run)
    if run.config is not None:
        _read_model(run, run.config.model)
    return run


def read_comparison_runs(folder: str) -> list[Run]:
    """The runs of a comparison with its first seed, in which its baseline is the baseline.

    Raises:
        ConfigError: None has begun.
    """
    comparison = read_comparison(folder)
    found = []
    for one in comparison.runs():
        if one.seed != comparison.seeds[0] or not one.folder.is_dir():
            continue
        try:
            run = read_run(str(one.folder))
        except ConfigError:  # it has not come to its first entry
            continue
        run.title = one.method
        if one.checkpoint.is_file():
            run.checkpoint = str(one.checkpoint)  # what was tested, and not the best one
        if one.method == comparison.baseline:
            run.role = BASELINE
        found.append(run)
    if not found:
        raise ConfigError(f'{folder}: none of the runs of the comparison has begun.')
    return found


def _read_model(run: Run, model: ConfigDict) -> None:
    """The network that is trained, and what it learns from."""
    if model.get('type') != 'DistillationWrapper':
        run.model = model
        return
    run.role = STUDENT if model.get('distillation') else BASELINE
    problems = Problems()
    run.distillation = parse_distillation(
        model.get('student'),
        model.get('teacher'),
        model.get('distillation'),
        model.get('data_preprocessor'),
        problems,
    )
    if run.distillation.student is not None:
        run.model = run.distillation.student.model
    for error in problems.errors:
        run.add_gap('configuration', message_of(error))


def _find_checkpoint(run: Run) -> None:
    try:
        run.checkpoint = str(find_checkpoint(run.folder))
        meta = read_checkpoint(run.checkpoint).get('meta')
        run.meta = meta if isinstance(meta, dict) else {}
    except CheckpointError as error:
        run.add_gap(
            'measured', f'{message_of(error)} Train on, or put the checkpoint into the folder.'
        )


def _find_config(run: Run) -> None:
    """The config of the training: a file in the folder, or in a trusted checkpoint."""
    try:
        run.config_file = find_config(run.folder)
        run.config = _checked(read_config_file(str(run.config_file)), run.config_file)
        return
    except KDError as error:
        reason = message_of(error)
    kept = run.meta.get('cfg')
    if isinstance(kept, str) and kept.strip() and not checkpoints_are_trusted():
        reason += ' The one in the checkpoint is code: --trust-checkpoint reads it.'
    elif isinstance(kept, str) and kept.strip():
        try:
            config = Config.fromstring(kept, '.py')
            run.config = _checked(config, run.checkpoint)
        except Exception as error:  # a config is code: anything can be raised in it
            reason = f'{reason} The one in the checkpoint cannot be read: {error}'
        else:
            run.config_file = None
            run.add_gap('configuration', 'Read from the checkpoint: the folder has no config file.')
            return
    run.add_gap('configuration', reason)
    run.add_gap('measured', 'Without a config the network cannot be built.')


def _checked(config: Config, where: Any) -> Config:
    if not isinstance(config.get('model'), dict):
        raise ConfigError(f'{where}: there is no model in it.')
    return config


def _say_what_logs_lack(run: Run) -> None:
    if not run.log.starts:
        run.add_gap(
            'curves',
            'There is no log of a training (*/vis_data/scalars.json) in the folder: copy it there '
            'from where the training ran.',
        )
    elif not run.log.validations:
        run.add_gap(
            'curves',
            'No validation is in the log yet: the config says when (train_cfg.val_interval).',
        )
    end = run.max_iters
    if end and run.log.starts and run.log.last_iteration < end:
        run.add_gap(
            'summary',
            f'Logged up to iteration {run.log.last_iteration} of {end}: it still runs, or goes on '
            'with mmseg-kd train --resume.',
        )


def with_teachers(runs: list[Run]) -> list[Run]:
    """The runs with their roles and titles, and with the teachers that their configs name."""
    result = list(runs)
    for run in runs:
        if run.distillation is None:
            continue
        for name, spec in run.distillation.teachers.items():
            label = teacher_label(name, len(run.distillation.names))
            if spec.kind == 'frozen':
                _add_teacher(result, run, label, spec)
        for other in runs:
            if other.role == NETWORK and other.model == run.model:
                other.role = BASELINE
    _name(result)
    return sorted(result, key=lambda one: ROLES.index(one.role))


def _add_teacher(runs: list[Run], run: Run, name: str, spec: NetworkSpec) -> None:
    """Find a teacher among the runs, or put it there."""
    source = spec.checkpoint
    path = Path(source) if source and '://' not in source else None
    for other in runs:
        if path is not None and other.checkpoint is not None and _same(path, other.checkpoint):
            if _is_no_student_of_this(other, run):
                other.role = TEACHER
            return
        if not other.has_folder or path is None:
            continue
        moved = other.folder / path.name
        if path.parent.resolve() == other.folder.resolve() or _same_content(path, moved):
            if not _is_no_student_of_this(other, run):
                # A student that became a teacher: the page has it already.
                return
            other.role = TEACHER
            if moved.is_file():
                # What the student learnt from, which may not be the best one.
                other.checkpoint = str(moved)
            other.model = other.model or spec.model
            other.config = other.config or _alone(run, spec.model)
            return
    # Another student's, whose checkpoint is missing or is a URL too.
    named = [other for other in runs if not other.has_folder and other.model == spec.model]
    if any(other.checkpoint in (None, source) for other in named):
        return
    teacher = Run(name, run.folder, TEACHER, model=spec.model, has_folder=False)
    teacher.config = _alone(run, spec.model)
    teacher.scaling = spec.scaling
    if source is None:
        teacher.add_gap('measured', 'The config names no checkpoint of it.')
    elif path is not None and not path.is_file():
        teacher.add_gap(
            'measured',
            f'Its checkpoint {source} is not there (seen from {Path.cwd()}). Put it back, or run '
            'this command in the folder that the training ran in.',
        )
    else:
        teacher.checkpoint = source
    runs.append(teacher)


def _is_no_student_of_this(other: Run, run: Run) -> bool:
    """Whether it can only be a teacher: a training without terms, of another network."""
    return other.role in (NETWORK, TEACHER) or (other.role == BASELINE and other.model != run.model)


def _same(path: Path, other: str) -> bool:
    return path.is_file() and Path(other).is_file() and path.samefile(other)


def _same_content(path: Path, other: Path) -> bool:
    """Whether a file is a copy of another."""
    if not (path.is_file() and other.is_file()) or path.stat().st_size != other.stat().st_size:
        return False
    return sha256_of(path) == sha256_of(other)


def _alone(run: Run, model: ConfigDict) -> Config:
    """A run's data with another model."""
    config = Config(dict((run.config or Config()).items()))
    config.model = model
    return config


def _name(runs: list[Run]) -> None:
    """Titles where none was given: what is distilled, the role, or the folder where both are
    taken."""
    for run in runs:
        if not run.title:
            config = None if run.role == TEACHER else run.config
            own = title_of(config.model) if config is not None else None
            role = run.role if run.role in (TEACHER, BASELINE) else None
            run.title = own or role or run.folder.resolve().name
            taken = [other.title for other in runs if other is not run]
            if run.title in taken:
                run.title = run.folder.resolve().name
    for run in runs:
        same = [other for other in runs if other.title == run.title]
        for index, other in enumerate(same[1:], 2):
            other.title = f'{other.title} ({index})'
