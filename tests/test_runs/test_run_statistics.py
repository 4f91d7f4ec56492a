"""Intervals against SciPy's own test and numbers worked out by hand."""

from __future__ import annotations

import math

import pytest
from scipy import stats

from mmseg_kd.runs.statistics import Estimate, estimate, paired_gain, share_of_gap


def test_an_interval_by_hand() -> None:
    # Deviation sqrt(3), its error half of that; Student's quantile for three degrees of freedom.
    found = estimate([10.0, 10.0, 13.0, 13.0])
    assert found.mean == 11.5
    error = math.sqrt(3.0) / 2
    assert found.low == pytest.approx(11.5 - 3.182446 * error, abs=1e-5)
    assert found.high == pytest.approx(11.5 + 3.182446 * error, abs=1e-5)


@pytest.mark.parametrize('count', [2, 3, 5, 30])
def test_a_paired_gain_is_the_paired_t_test(count: int) -> None:
    method = {seed: 50 + math.sin(seed) for seed in range(count)}
    baseline = {seed: 49.8 + math.cos(3 * seed) for seed in range(count)}
    found = paired_gain(method, baseline)
    assert found is not None
    theirs = stats.ttest_rel([*method.values()], [*baseline.values()])
    low, high = theirs.confidence_interval(0.95)
    assert (found.low, found.high) == pytest.approx((low, high))
    assert found.is_distinguishable == (theirs.pvalue < 0.05)


def test_only_pairs_count() -> None:
    found = paired_gain({1: 5.0, 2: 7.0, 3: 100.0}, {0: 50.0, 2: 4.0, 1: 4.0})
    assert found is not None and found.mean == 2.0
    assert paired_gain({1: 5.0}, {2: 5.0}) is None


def test_a_single_seed_has_no_interval() -> None:
    found = paired_gain({0: 5.0}, {0: 4.0})
    assert found == Estimate(1.0, None, None)
    assert not found.is_distinguishable
    assert found.scaled(2.0) == Estimate(2.0, None, None)


@pytest.mark.parametrize(
    ('low', 'high', 'distinguishable'),
    [(0.1, 1.0, True), (-1.0, -0.1, True), (-0.1, 1.0, False), (0.0, 1.0, False)],
)
def test_what_an_interval_allows_to_say(low: float, high: float, distinguishable: bool) -> None:
    assert Estimate(0.5, low, high).is_distinguishable == distinguishable


def test_a_share_of_the_gap() -> None:
    found = share_of_gap(Estimate(2.0, 1.0, 3.0), baseline=50.0, teacher=54.0)
    assert found == Estimate(0.5, 0.25, 0.75)
    assert share_of_gap(Estimate(2.0, 1.0, 3.0), baseline=50.0, teacher=50.0) is None
    assert share_of_gap(Estimate(2.0, 1.0, 3.0), baseline=50.0, teacher=48.0) is None
