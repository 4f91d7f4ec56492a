"""The keys that a config's networks and terms may have: default, what is expected, what they mean.

The parsers know no other key and read these with `read_fields`; the config reference is made from
the docstrings.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, dataclass, field, fields
from typing import Any, Literal, TypeVar

from mmseg_kd.checks import is_integer, is_name, is_number
from mmseg_kd.errors import Problems, nearest, short_repr

T = TypeVar('T')

# Teachers that are the student: types that stand for no network of their own.
Kind = Literal['frozen', 'EMATeacher', 'SelfTeacher']
OWN_TEACHERS: tuple[Kind, ...] = ('EMATeacher', 'SelfTeacher')

REDUCTIONS = ('sum', 'mean', 'random')
CONFLICTS = ('keep', 'project', 'drop')


def key(
    expected: str,
    check: Callable[[Any], bool],
    default: Any = MISSING,
    choices: Sequence[str] = (),
) -> Any:
    """A key of a config as a dataclass field.

    Args:
        expected: What messages say that the value must be.
        check: Whether a value is that.
        default: The value where the config has none; without one the key is needed.
        choices: Where the value is one of a few words: these, for the nearest in messages.
    """
    metadata = dict(expected=expected, check=check, choices=choices)
    return field(default=default, hash=False, metadata=metadata)


def read_fields(kind: type[T], cfg: Mapping[str, Any], where: str, problems: Problems) -> T:
    """The keys of `kind` in a config's dict.

    Args:
        kind: A dataclass of keys.
        cfg: The dict. Other keys in it are skipped.
        where: Its place in the user's config, for messages.
        problems: Gets every key that is missing or has another value than expected; in the result
            it has its default, or None where there is none.
    """
    values = {}
    for one in fields(kind):  # type: ignore[arg-type]
        default = None if one.default is MISSING else one.default
        value = cfg.get(one.name, default)
        if one.name not in cfg:
            if one.default is MISSING:
                problems.add(f'{where}: {one.name} is missing.')
        elif not one.metadata['check'](value):
            choices = one.metadata['choices']
            hint = f'; {nearest(value, choices)}' if choices else ''
            problems.add(
                f'{where}.{one.name}: expected {one.metadata["expected"]}, got '
                f'{short_repr(value)}{hint}.'
            )
            value = default
        values[one.name] = value
    return kind(**values)


def keys_of(kind: type) -> tuple[str, ...]:
    """The keys that one of these classes describes."""
    return tuple(one.name for one in fields(kind))


def is_weight(value: Any) -> bool:
    """Whether a value is a finite number >= 0."""
    return is_number(value) and value >= 0


def weight_text(value: Any) -> str:
    """A term's weight as a config has it, in a word: '3', 'auto', 'share=0.5'."""
    if isinstance(value, Mapping):
        return ', '.join(f'{key}={one}' for key, one in value.items())
    return f'{value:g}' if is_number(value) else str(value)


def is_bool(value: Any) -> bool:
    """Whether a value is True or False."""
    return isinstance(value, bool)


def _or_none(check: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: value is None or check(value)


def _any(value: Any) -> bool:
    """For keys whose values are checked where it is known what else the config says."""
    return True


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_dict(value: Any) -> bool:
    return isinstance(value, Mapping)


def _is_size(value: Any) -> bool:
    is_pair = isinstance(value, (tuple, list)) and len(value) == 2
    return is_pair and all(is_integer(side) and side >= 1 for side in value)


def _is_factor(value: Any) -> bool:
    return is_number(value) and value > 0


def _is_count(value: Any) -> bool:
    return is_integer(value) and value >= 1


def _is_classes(value: Any) -> bool:
    """Whether a value names a data set, or is a list of names, all different."""
    is_list = isinstance(value, (list, tuple)) and len(value) > 0 and all(map(_is_text, value))
    return _is_text(value) or (is_list and len(set(value)) == len(value))


def _is_layer(value: Any) -> bool:
    """Whether a value is a layer's name, or a list of names."""
    names = [value] if isinstance(value, str) else value
    is_list = isinstance(names, (list, tuple)) and len(names) > 0
    return is_list and all(isinstance(name, str) for name in names)


def _is_layer_of_each(value: Any) -> bool:
    return all(map(_is_layer, value.values())) if _is_dict(value) else _is_layer(value)


@dataclass(frozen=True)
class NetworkFields:
    """Keys of `student=dict(...)` and `teacher=dict(...)`.

    The network itself may stand there instead of `config`: `type='EncoderDecoder', backbone=...`.

    Attributes:
        config: An mmseg config: a path seen from where the command runs, `mmseg::...` for one of
            the installed mmseg, or `mmseg_kd::...` for one that is shipped. Of the config of a
            distillation it is the student.
        cfg_options: Changes to that config: `{'model.decode_head.num_classes': 19}`.
        checkpoint: The weights, .pth or .safetensors: a file, or an https URL with a checksum in
            its name (`NAME-962b98d2.pth`) or behind it (`URL#sha256=` and 64 digits). Names in
            mmseg's zoo are no sums of their files, and the log has what to put behind them. A
            teacher needs one; a student without starts from the weights that its own config
            names.
        strict: True: a tensor that is missing or of another shape is an error (for a teacher: in
            the part that runs). False: go on with what fits; the log lists the rest.
        run: The work dir of a finished run, in the place of `config`: the network that it trained,
            with its best checkpoint where `checkpoint` names no other.
        classes: Names of the classes, for a `class_map`: a list, or a data set as mmseg calls it
            (`'cityscapes'`). None: for a teacher those in its checkpoint, for the student those
            of the training data.
    """

    config: str | None = key('a path or mmseg::...', _is_text, None)
    cfg_options: Mapping[str, Any] | None = key('a dict by dotted names', _or_none(_is_dict), None)
    checkpoint: str | None = key('a path or URL', _or_none(_is_text), None)
    strict: bool = key('True or False', is_bool, True)
    run: str | None = key('the work dir of a run', _or_none(_is_text), None)
    classes: str | Sequence[str] | None = key(
        "a list of different names, or a data set such as 'cityscapes'",
        _or_none(_is_classes),
        None,
    )


@dataclass(frozen=True)
class TeacherFields:
    """Keys that `teacher=dict(...)` has besides.

    Attributes:
        name: In a list of teachers: what terms call it. None: `teacher0`, `teacher1` and so on.
        input_size: Height and width that its images are scaled to. None: as they come.
        input_scale: A factor of the student's image size, instead.
        size_divisor: Its images are scaled up to a multiple of this, such as its patch size.
        class_map: The teacher's classes, one or a list, by the student's, each by number or by
            name: `{'road': ['road', 'lane marking'], 'car': 'car'}`. Probabilities of several are
            added. In terms between class scores classes of either side that are not in it take no
            part. None: the classes are the same.
        stored: Its class scores come with the images, from `PackStoredScores`, and it is not run,
            whatever else is said of how; one teacher can be stored.
    """

    name: str | None = key("letters, digits, '_' and '-'", _or_none(is_name), None)
    input_size: tuple[int, int] | None = key(
        '(height, width), two whole numbers >= 1', _or_none(_is_size), None
    )
    input_scale: float | None = key('a finite number > 0', _or_none(_is_factor), None)
    size_divisor: int = key('a whole number >= 1', _is_count, 1)
    class_map: Mapping[Any, Any] | None = key(
        "a dict of the teacher's classes by the student's",
        _or_none(lambda value: _is_dict(value) and len(value) > 0),
        None,
    )
    stored: bool = key('True or False', is_bool, False)


@dataclass(frozen=True)
class EMATeacherFields:
    """Keys of `teacher=dict(type='EMATeacher')`, a teacher that is the average of the student.

    Before each iteration it moves towards the student by `momentum`, as mmengine's
    `ExponentialMovingAverage` does; at the beginning by more, so that it is the mean of what the
    student has been. It has the sizes of other teachers too, and the options of how it is run but
    for `fold_bn`. It is saved and resumed with the student.

    Reference: Tarvainen and Valpola, Mean Teachers Are Better Role Models, NeurIPS 2017, arXiv
    1703.01780.

    Attributes:
        momentum: The share of the student in each update.
    """

    momentum: float = key(
        'a number > 0 and <= 1', lambda value: _is_factor(value) and value <= 1, 0.001
    )


@dataclass(frozen=True)
class WeightFields:
    """Keys of `weight=dict(...)`, a weight that sets itself; `weight='auto'` has the defaults.

    Attributes:
        share: How long the weighted term's gradient is beside the task's, where the term taps the
            student: a finite number >= 0.
        conflict: What becomes of the term's gradient there in an iteration in which it points
            against the task's: `'keep'` leaves it, `'project'` takes out the part against the
            task, `'drop'` all of it. The last two take a backward pass through the layers behind
            in every iteration.
    """

    share: float = key('a finite number >= 0', is_weight, 1.0)
    conflict: str = key(f'one of {CONFLICTS}', lambda v: v in CONFLICTS, 'keep', CONFLICTS)


@dataclass(frozen=True)
class TermFields:
    """Keys of an entry of `distillation=[dict(...), ...]`.

    Attributes:
        student_layer: A name as in `named_modules()`; `mmseg-kd layers` prints those that
            fit. Or what the layer is for, which any mmseg network has: `'@scores'` of the classes,
            the `'@features'` that these are made of, the last `'@stage'` of the backbone. A list
            where the loss takes several layers.
        teacher_layer: The same for the teacher; a dict by teacher where the layers of several
            differ.
        loss: A dict with the loss's name as `type`, and its arguments.
        weight: A finite number >= 0. `'auto'`, or a dict with the keys below: the weight sets
            itself.
        schedule: A schedule's dict, or a list of them: factors of the weight by iteration,
            multiplied. While all weights of a teacher's terms are 0 it is not run.
        connector: `'auto'`: a trained 1x1 convolution where the channels differ. A dict: that
            connector. None: the layer as it is.
        name: In the log: `kd.<name>` and `kd_weight.<name>`. None: made from the loss's name.
        teacher: With several teachers: the name or index of one, or a list of them.
        reduction: Over several teachers: `'sum'` of the losses, one loss against the `'mean'` of
            their distributions, or one teacher at `'random'` in each iteration. None: `'sum'`.
        teacher_weights: With `'sum'`: a factor for each teacher. None: 1 each.
        recipe: The name of a published distillation, whose terms the entry then stands for; other
            keys take the place of the recipe's. None: the entry is a term itself.
    """

    student_layer: str | Sequence[str] = key("a layer's name", _is_layer)
    teacher_layer: str | Sequence[str] | Mapping[str, Any] = key(
        "a layer's name", _is_layer_of_each
    )
    loss: Mapping[str, Any] = key("dict(type='...', ...)", _is_dict)
    weight: float | str | Mapping[str, Any] = key(
        "a finite number >= 0, 'auto' or dict(share=...)",
        lambda value: is_weight(value) or value == 'auto' or _is_dict(value),
        1.0,
    )
    schedule: Mapping[str, Any] | Sequence[Mapping[str, Any]] | None = key(
        'a dict or a list of dicts', _or_none(lambda v: isinstance(v, (Mapping, list, tuple))), None
    )
    connector: Mapping[str, Any] | str | None = key(
        "'auto', None or dict(type='ConvConnector', ...)",
        lambda value: value is None or value == 'auto' or _is_dict(value),
        'auto',
    )
    name: str | None = key("letters, digits, '_' and '-'", _or_none(is_name), None)
    teacher: str | int | Sequence[str | int] | None = key(
        'a name, an index or a list of these', _any, None
    )
    reduction: str | None = key(
        f'one of {REDUCTIONS}', lambda value: value in (None, *REDUCTIONS), None, REDUCTIONS
    )
    teacher_weights: Sequence[float] | None = key('numbers >= 0', _any, None)
    recipe: str | None = key('the name of a recipe', _any, None)
