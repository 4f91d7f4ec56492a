from __future__ import annotations

import pytest
from torch._utils import ExceptionWrapper

from mmseg_kd.errors import (
    CheckpointError,
    ConfigError,
    DatasetError,
    DeviceError,
    IterationError,
    KDError,
    LayerNotFoundError,
    ManyErrors,
    Problems,
    ShapeError,
    message_of,
    nearest,
)


@pytest.mark.parametrize(
    'kind',
    [
        ConfigError,
        LayerNotFoundError,
        ShapeError,
        CheckpointError,
        DatasetError,
        DeviceError,
        IterationError,
    ],
)
def test_all_are_errors_that_a_user_can_mend(kind: type[KDError]) -> None:
    assert issubclass(kind, KDError)


def test_config_errors_are_value_errors() -> None:
    assert issubclass(ConfigError, ValueError)
    assert not issubclass(CheckpointError, ValueError)


def test_nearest_choices_first() -> None:
    choices = ['LinearDecay', 'Jump', 'LinearWarmup', 'Exponential']
    assert nearest('LinearWarmUp', choices, n=2) == 'nearest: LinearWarmup, LinearDecay'
    assert nearest('jump', choices, n=1) == 'nearest: Jump'


def test_nearest_of_an_iterator_and_of_nothing() -> None:
    assert nearest('a', iter(['b'])) == 'nearest: b'
    assert nearest('a', []) == 'there is none'


def test_no_problem_raises_nothing() -> None:
    problems = Problems()
    with problems:
        pass
    problems.raise_if_any()


def test_one_problem_is_raised_as_it_is() -> None:
    problems = Problems()
    error = LayerNotFoundError('no layer')
    with problems:
        raise error
    with pytest.raises(LayerNotFoundError) as caught:
        problems.raise_if_any()
    assert caught.value is error


def test_many_problems_are_raised_at_once() -> None:
    problems = Problems()
    with problems:
        raise ConfigError('first')
    problems.add(CheckpointError('second'))
    problems.add('third')
    with pytest.raises(ManyErrors) as caught:
        problems.raise_if_any()
    assert str(caught.value) == '3 problems:\n  1. first\n  2. second\n  3. third'
    kinds = [type(error) for error in caught.value.errors]
    assert kinds == [ConfigError, CheckpointError, ConfigError]


def test_many_errors_inside_are_flattened() -> None:
    outer = Problems()
    for count in (1, 2, 3):
        with outer:
            inner = Problems()
            for i in range(count):
                inner.add(ConfigError(f'{count}.{i}'))
            inner.raise_if_any()
    with pytest.raises(ManyErrors) as caught:
        outer.raise_if_any()
    lines = str(caught.value).splitlines()
    assert lines[0] == '6 problems:'
    assert [line.split()[-1] for line in lines[1:]] == ['1.0', '2.0', '2.1', '3.0', '3.1', '3.2']


@pytest.mark.parametrize('error', [RuntimeError, KeyError, KeyboardInterrupt])
def test_errors_of_programs_are_not_collected(error: type[BaseException]) -> None:
    problems = Problems()
    with pytest.raises(error), problems:
        raise error
    assert problems.errors == []


def test_an_error_of_a_worker_is_told_without_its_traceback() -> None:
    text = 'train data: image x.jpg is empty.'
    try:
        raise DatasetError(text)
    except DatasetError:
        of_worker = ExceptionWrapper(where='in DataLoader worker process 0')
    with pytest.raises(DatasetError) as caught:
        of_worker.reraise()
    assert 'Traceback' in str(caught.value)
    assert message_of(caught.value) == message_of(DatasetError(text)) == text
