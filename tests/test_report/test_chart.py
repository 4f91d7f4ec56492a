"""Charts: where things are drawn, and what their table says."""

from __future__ import annotations

import math
import re
from itertools import pairwise

import pytest

from mmseg_kd.report.chart import Reference, Series, line_chart, nice_step, thinned
from mmseg_kd.report.text import brief, number, signed


def test_a_band_is_around_its_curve() -> None:
    band = [(0, 1.0, 3.0), (10, 2.0, 4.0)]
    series = [Series('a', 'c0', [(0, 2.0), (10, 3.0)], band=band)]
    chart = line_chart('x', 'X', series, x_name='minute')
    assert chart is not None
    # The axis, from 1 to 4, has room for it; along its upper edge and back along the lower one.
    assert [text for _, text in chart.y_ticks] == ['1', '2', '3', '4']
    points = [tuple(map(float, one.split())) for one in chart.curves[0]['band'].split('L')]
    expected = [(0, 100 / 3), (100, 0), (100, 200 / 3), (0, 100)]
    assert points == [pytest.approx(point, abs=0.01) for point in expected]
    assert (chart.head[0], chart.data['x_name']) == ('minute', 'minute')
    assert chart.summary == 'X. a: 2 at minute 0, 3 at 10.'


def test_points_are_where_they_belong() -> None:
    series = [Series('a', 'c0', [(0, 0.0), (50, 5.0), (100, 10.0)], markers=True)]
    chart = line_chart('x', 'X', series, references=[Reference('t', 'ct', 7.5)], from_zero=True)
    assert chart is not None
    assert chart.curves[0]['path'] == 'M0 100L50 50L100 0'
    assert chart.curves[0]['markers'] == [(0, 100), (50, 50), (100, 0)]
    assert chart.references[0]['y'] == 25
    assert chart.rows == [['0', '0'], ['50', '5'], ['100', '10']]
    assert [text for _, text in chart.x_ticks] == ['0', '20', '40', '60', '80', '100']
    assert chart.y_ticks[0] == (100, '0')
    assert 'a: 0 at iteration 0, 10 at 100' in chart.summary


def test_wide_ranges_are_logarithmic() -> None:
    chart = line_chart('x', 'X', [Series('a', 'c0', [(1, 1.0), (2, 10.0), (3, 100.0)])])
    assert chart is not None
    assert chart.logarithmic
    heights = [float(y) for y in re.findall(r' ([\d.]+)', chart.curves[0]['path'])]
    assert heights == [100, 50, 0]
    linear = line_chart('x', 'X', [Series('a', 'c0', [(1, 0.0), (2, 10.0), (3, 100.0)])])
    assert linear is not None
    assert not linear.logarithmic


def test_a_logarithm_that_is_rounded_to_a_power_of_ten() -> None:
    # Just below 1e-5, and the logarithm of both is -5.
    chart = line_chart('x', 'X', [Series('a', 'c0', [(1, 9.999999999999999e-06), (2, 1.0)])])
    assert chart is not None
    assert chart.logarithmic


def test_labels_do_not_lie_on_each_other() -> None:
    series = [Series(f's{i}', 'c0', [(0, 0.0), (10, 0.1 * i)]) for i in range(8)]
    series.append(Series('high', 'c1', [(0, 0.0), (10, 100.0)]))
    chart = line_chart('x', 'X', series)
    assert chart is not None
    heights = [label['y'] for label in chart.labels]
    assert heights == sorted(heights)
    assert all(b - a >= 7.4 for a, b in pairwise(heights))
    assert heights[-1] <= 100


def test_equal_curves_become_one() -> None:
    points = [(0, 1.0), (5, 2.0)]
    two = line_chart('x', 'X', [Series('a', 'c0', points), Series('b', 'c1', list(points))])
    assert two is not None
    assert two.head == ['iteration', 'a, b']
    three = line_chart('x', 'X', [Series(name, 'c0', points) for name in 'abc'])
    assert three is not None
    assert three.head == ['iteration', 'all 3']


def test_long_curves_are_means_of_stretches() -> None:
    points = [(i, float(i % 2)) for i in range(1, 1001)]
    found = thinned(points, 100)
    assert len(found) == 100
    assert found[0] == (10, 0.5)
    assert found[-1] == (1000, 0.5)
    chart = line_chart('x', 'X', [Series('a', 'c0', points)])
    assert chart is not None
    assert chart.mean_of == 4
    assert len(chart.rows) <= 41


@pytest.mark.parametrize(
    'values',
    [
        [1.0],
        [0.0],
        [3.0, 3.0],
        [-2.0, -2.0],
        [1e-12, 1e12],
        [-5, 5],
        [0.001999999999999999, 0.002],
        [6e-5, 6.000000000000001e-05],
        [-3.0000000000000004, -3.0],
        [1e-13, 2e-13],
        [0.0, 3e-20],
    ],
)
def test_any_values_have_axes(values: list[float]) -> None:
    chart = line_chart('x', 'X', [Series('a', 'c0', list(enumerate(values)))])
    assert chart is not None
    positions = [at for at, _ in chart.y_ticks] + [label['y'] for label in chart.labels]
    assert all(math.isfinite(at) and -0.01 <= at <= 100.01 for at in positions)
    assert len(chart.y_ticks) >= 2


def test_nothing_to_draw() -> None:
    assert (
        line_chart('x', 'X', [Series('a', 'c0', [])], references=[Reference('t', 'ct', 1)]) is None
    )


def test_numbers() -> None:
    assert [nice_step(v) for v in (1, 1.1, 2.2, 3, 60, 0.03)] == [1, 2, 2.5, 5, 100, 0.05]
    assert [signed(v) for v in (6.334, -0.001, 0.0, -3.64, None)] == [
        '+6.33', '0.00', '0.00', '−3.64', '–',  # noqa: RUF001
    ]  # fmt: skip
    assert [number(v) for v in (1234.5, -1.0, float('nan'))] == ['1,234.50', '−1.00', '–']  # noqa: RUF001
    assert [brief(v) for v in (0, 0.5, 6e-5, 123456.0, 2.71828)] == [
        '0', '0.5', '6e−5', '1.2e5', '2.718',  # noqa: RUF001
    ]  # fmt: skip
