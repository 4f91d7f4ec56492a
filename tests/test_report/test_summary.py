"""What the summary says, whatever runs there are."""

from __future__ import annotations

from pathlib import Path

import pytest

from mmseg_kd.report.curves import colours_of, task_loss
from mmseg_kd.report.run import Run
from mmseg_kd.report.summary import headline, summarise


def run(title: str, role: str, miou: float | None) -> Run:
    one = Run(title, Path('nowhere'), role)
    if miou is not None:
        one.log.validations = {100: {'mIoU': 1.0}, 200: {'mIoU': miou}}
    return one


def test_gap_closed() -> None:
    runs = [run('a', 'student', 61.01), run('b', 'baseline', 54.68), run('t', 'teacher', 64.65)]
    student, baseline, teacher = summarise(runs)
    assert student.over_baseline == pytest.approx(6.33)
    assert student.to_teacher == pytest.approx(-3.64)
    assert student.gap_closed == pytest.approx(100 * 6.33 / 9.97)
    assert (baseline.over_baseline, baseline.gap_closed) == (None, None)
    assert baseline.to_teacher == pytest.approx(-9.97)
    assert (teacher.to_teacher, teacher.gap_closed) == (None, None)
    assert student.source == 'validation at iteration 200'
    positions = [line.position or -1 for line in (baseline, student, teacher)]
    assert positions == sorted(positions)
    assert 0 < positions[0] < positions[-1] < 100
    assert headline([student, baseline, teacher]) == (
        'a reaches 61.01 mIoU',
        'That is 6.33 points above its baseline (54.68) and 3.64 points below the teacher (64.65). '
        '63 % of the gap between them is closed.',
    )


def test_a_validation_without_a_score_is_not_that_of_the_score() -> None:
    """As where the last mIoU is NaN, which is left out of what is read."""
    one = run('a', 'student', 50.0)
    one.log.validations[300] = {'aAcc': 12.0}
    [line] = summarise([one])
    assert (line.miou, line.source) == (50.0, 'validation at iteration 200')


@pytest.mark.parametrize(
    ('runs', 'title', 'sentence'),
    [
        ([('a', 'student', None)], 'No result yet', 'No validation is in the logs, and'),
        ([('a', 'student', 50.0)], 'a reaches 50.00 mIoU', 'There is no baseline and no teacher'),
        (
            [('a', 'student', 50.0), ('b', 'student', 52.0), ('c', 'baseline', 52.0)],
            'b reaches 52.00 mIoU',
            'That is level with its baseline (52.00).',
        ),
        (
            [('a', 'student', 50.0), ('c', 'baseline', 53.0), ('t', 'teacher', 52.0)],
            'a reaches 50.00 mIoU',
            'That is 3.00 points below its baseline (53.00) and 2.00 points below the teacher '
            '(52.00).',
        ),
        ([('t', 'teacher', 52.0)], 't reaches 52.00 mIoU', 'There is no baseline and no teacher'),
    ],
)
def test_other_outcomes(
    runs: list[tuple[str, str, float | None]], title: str, sentence: str
) -> None:
    found = headline(summarise([run(*one) for one in runs]))
    assert found[0] == title
    assert found[1].startswith(sentence)
    assert 'gap' not in found[1]


def test_colours_stay_with_the_roles() -> None:
    runs = [run(name, role, None) for name, role in (
        ('a', 'student'), ('b', 'student'), ('c', 'baseline'), ('d', 'baseline'), ('t', 'teacher'),
    )]  # fmt: skip
    assert colours_of(runs) == {'a': 'c0', 'c': 'c1', 'b': 'c2', 'd': 'c3', 't': 'ct'}
    assert colours_of(runs[2:4]) == {'c': 'c0', 'd': 'c1'}


def test_task_loss_is_without_the_terms() -> None:
    names = ('loss', 'decode.loss_ce', 'aux.loss_ce', 'decode.acc_seg', 'kd.loss', 'kd_weight.loss')
    train = {name: [(50, 2.0**i), (100, 1.0)] for i, name in enumerate(names)}
    assert task_loss(train) == [(50, 2.0 + 4.0), (100, 2.0)]
    # A distillation logs the sum as well, which is not added to its parts.
    own = [(50, 6.0), (100, 2.0)]
    assert task_loss({**train, 'task_loss': own}) == own
