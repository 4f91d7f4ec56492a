"""Puts the page together: everything that the template shows, and nothing from elsewhere."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from importlib.resources import files

from jinja2 import Environment, FunctionLoader, StrictUndefined
from markupsafe import Markup

from mmseg_kd.errors import KDError, message_of
from mmseg_kd.report import text
from mmseg_kd.report.classes import MOST_CELLS, class_table, confused_pairs, confusions, css_colour
from mmseg_kd.report.comparison import Compared
from mmseg_kd.report.configuration import TERM_COLUMNS, differences, term_rows, whole_config
from mmseg_kd.report.curves import colours_of, curve_charts, schedule_charts
from mmseg_kd.report.environment import commands, costs, environments
from mmseg_kd.report.pictures import ScenePictures, choose, draw_scenes
from mmseg_kd.report.run import BASELINE, NETWORK, STUDENT, TEACHER, Run
from mmseg_kd.report.subject import Subject
from mmseg_kd.report.summary import description, headline, summarise


def asset(name: str) -> str:
    """A file of the page's own: template, style or script."""
    return files('mmseg_kd.report').joinpath(f'assets/{name}').read_text(encoding='utf-8')


def render(
    runs: Sequence[Run],
    subjects: Mapping[str, Subject],
    pictures: int,
    title: str | None = None,
    made: datetime | None = None,
    comparisons: Sequence[Compared] = (),
) -> str:
    """The page.

    Args:
        runs: With what was measured of them.
        subjects: Networks to draw pictures of, by the runs' titles.
        pictures: How many images to show.
        title: What it is called; None: what the best student reached.
        made: When; None: now.
        comparisons: That runs are of.
    """
    lines = summarise(runs)
    head, lead = comparisons[0].headline() if comparisons else headline(lines)
    classes = class_table(runs)
    confusion = confusions(runs)
    schedules = schedule_charts(runs)
    charts = curve_charts(runs)
    scenes = scenes_of(runs, subjects, pictures)
    compared, changed = differences(runs)
    environment_of, environment = environments(runs)
    measured = next((run.measured for run in runs if run.measured is not None), None)
    environment_of_page = Environment(
        loader=FunctionLoader(asset),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment_of_page.filters |= {
        'number': text.number,
        'signed': text.signed,
        'css': css_colour,
        'describe': description,
    }
    template = environment_of_page.get_template('report.html.jinja')
    page: str = template.render(
        title=title or head,
        headline=head,
        lead=lead,
        made=made or datetime.now(),
        runs=runs,
        comparisons=comparisons,
        lines=lines,
        colours=colours_of(runs),
        terms=term_rows(runs),
        term_columns=TERM_COLUMNS,
        compared=compared,
        changed=changed,
        configs=[(run.title, whole) for run in runs if (whole := whole_config(run))],
        charts=charts,
        schedules=schedules,
        classes=classes,
        confusion=confusion,
        pairs=confused_pairs(confusion),
        as_picture=bool(confusion) and len(confusion[0].shares) > MOST_CELLS,
        measured=measured,
        scenes=scenes,
        shown_classes=sorted({index for scene in scenes for index in scene.classes}),
        costs=costs(runs),
        environment_of=environment_of,
        environment=environment,
        commands=commands(runs),
        # Our own files, the only text that is not escaped.
        style=Markup(asset('report.css')),
        script=Markup(asset('report.js')),
    )
    return page


def scenes_of(
    runs: Sequence[Run], subjects: Mapping[str, Subject], count: int
) -> list[ScenePictures]:
    """Pictures of what the networks make of some images, the students first."""
    shown = [run for run in runs if run.title in subjects and run.measured is not None]
    if not shown or not count:
        return []
    lead = shown[0].measured
    assert lead is not None
    others = [r for r in shown if r.measured is not None and r.measured.images == lead.images]
    for run in [r for r in shown if r not in others]:
        run.add_gap('pictures', f'It was measured on other images than {shown[0].title}.')
    # The order of what the first network is compared with, here and in the outlines.
    order = (BASELINE, STUDENT, NETWORK, TEACHER)
    others[1:] = sorted(others[1:], key=lambda run: order.index(run.role))
    against = others[1] if len(others) > 1 else None
    try:
        chosen = choose(
            count, lead, against.measured if against else None, against.title if against else ''
        )
        return draw_scenes(chosen, {run.title: subjects[run.title] for run in others})
    except KDError as error:
        shown[0].add_gap('pictures', message_of(error))
        return []
