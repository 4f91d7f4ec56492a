"""The charts of a report: what was logged over the iterations, and the weights as planned."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from mmseg_kd.analysis.schedule import mean_weights
from mmseg_kd.host.log_names import GRAD_NORM, TASK_LOSS, TERM_PREFIX, WEIGHT_PREFIX
from mmseg_kd.report.chart import Chart, Reference, Series, line_chart
from mmseg_kd.report.logs import Points
from mmseg_kd.report.run import STUDENT, TEACHER, Run

# Points of a planned weight: schedules bend at few iterations.
PLANNED = 250
COLOURS = 7


def colours_of(runs: Sequence[Run]) -> dict[str, str]:
    """The page's class of each run's colour: students first, teachers in grey."""
    result = {run.title: 'ct' for run in runs if run.role == TEACHER}
    students = [run for run in runs if run.role == STUDENT]
    others = [run for run in runs if run.role not in (STUDENT, TEACHER)]
    # The accent is a student's, the second colour the first baseline's, whoever else is there.
    order = students[:1] + others[:1] + students[1:] + others[1:]
    return result | {run.title: f'c{index % COLOURS}' for index, run in enumerate(order)}


def task_loss(train: Mapping[str, Points]) -> Points:
    """The student's own losses, without the terms: (iteration, sum)."""
    if TASK_LOSS in train:
        return train[TASK_LOSS]
    # A network that was trained on its own logs no such sum.
    prefixes = (TERM_PREFIX, WEIGHT_PREFIX)
    names = [n for n in train if n != 'loss' and 'loss' in n and not n.startswith(prefixes)]
    sums: dict[float, float] = {}
    for name in names:
        for step, value in train[name]:
            sums[step] = sums.get(step, 0.0) + value
    return sorted(sums.items())


def curve_charts(runs: Sequence[Run]) -> list[Chart]:
    """mIoU, losses, terms, learning rate and gradient norms, as far as they were logged."""
    colours = colours_of(runs)
    end = max([run.log.last_iteration for run in runs], default=0)
    logged = [run for run in runs if run.has_folder and run.log.starts]
    scores = [
        Series(
            run.title,
            colours[run.title],
            [(i, m['mIoU']) for i, m in sorted(run.log.validations.items()) if 'mIoU' in m],
            markers=True,
        )
        for run in logged
    ]
    drawn = {one.label for one in scores if one.points}
    references = [
        Reference(run.title, colours[run.title], run.measured.mean())
        for run in runs
        if run.measured is not None and run.title not in drawn
    ]
    charts = [
        line_chart(
            'miou', 'mIoU at each validation', scores, 'percent, as logged', references, end
        ),
        line_chart(
            'task-loss',
            'Task loss',
            [Series(r.title, colours[r.title], task_loss(r.log.train)) for r in logged],
            'without the terms',
        ),
        *(
            line_chart(
                f'terms-{i}', f'Terms of {run.title}', _terms(run), 'weighted, as in the loss'
            )
            for i, run in enumerate(logged)
        ),
        line_chart(
            'learning-rate',
            'Learning rate',
            [Series(r.title, colours[r.title], r.log.train.get('lr', [])) for r in logged],
        ),
        line_chart('gradients', 'Gradient norm', _gradients(logged, colours)),
    ]
    return [chart for chart in charts if chart is not None]


def _terms(run: Run) -> list[Series]:
    """Every term of a run; beyond the colours there are, dashes tell them apart."""
    names = [name for name in run.log.train if name.startswith(TERM_PREFIX)]
    return [
        Series(name.removeprefix(TERM_PREFIX), f'c{i % COLOURS}', run.log.train[name], i // COLOURS)
        for i, name in enumerate(names)
    ]


def _gradients(runs: Sequence[Run], colours: Mapping[str, str]) -> list[Series]:
    result = []
    for run in runs:
        names = [name for name in run.log.train if name.startswith(GRAD_NORM)]
        for index, name in enumerate(names):
            label = run.title if len(names) == 1 else f'{run.title}: {name}'
            result.append(Series(label, colours[run.title], run.log.train[name], index))
    return result


def schedule_charts(runs: Sequence[Run]) -> list[Chart]:
    """A chart for every run with terms: their weights, as planned or, without a plan, as logged."""
    charts = []
    for index, run in enumerate(runs):
        if run.role != STUDENT:
            continue
        series = _weights(run)
        chart = line_chart(
            f'weights-{index}',
            f'Weights of {run.title}',
            series,
            'by term',
            end=run.max_iters or 0,
            from_zero=True,
        )
        if chart is not None:
            charts.append(chart)
        else:
            run.add_gap('schedule', 'No weight is in the log, and the config says none.')
    return charts


def _weights(run: Run) -> list[Series]:
    terms = run.distillation.terms if run.distillation is not None else ()
    end = run.max_iters or run.log.last_iteration
    steps = sorted({end * i // PLANNED for i in range(PLANNED)} | {max(end - 1, 0)})
    logged = {n: points for n, points in run.log.train.items() if n.startswith(WEIGHT_PREFIX)}
    series = []
    for i, term in enumerate(terms):
        # What sets itself has no plan.
        points = logged.get(WEIGHT_PREFIX + term.name, []) if term.is_auto else None
        if points is None:
            points = list(zip(steps, mean_weights(term, steps), strict=True))
        series.append(Series(term.name, f'c{i % COLOURS}', points))
    if series:
        return series
    return [
        Series(name.removeprefix(WEIGHT_PREFIX), f'c{i % COLOURS}', points, markers=True)
        for i, (name, points) in enumerate(logged.items())
    ]
