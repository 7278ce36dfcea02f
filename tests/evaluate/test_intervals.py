"""Intervals cover the truth as often as they say, on clean, dirty and drifting data."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest

from kernelmill.evaluate.intervals import Plan, estimate, interval, student_quantile, verdict
from kernelmill.schema import Interval

RUNS = 2000


def clean(rng: np.random.Generator, n: int) -> list[float]:
    return list(rng.normal(0, 0.02, n))


def with_outliers(rng: np.random.Generator, n: int) -> list[float]:
    """One pair in ten hit by an interrupt, on either side, by up to 60 %."""
    return list(rng.normal(0, 0.02, n) + (rng.random(n) < 0.1) * rng.uniform(-0.5, 0.5, n))


def drifting(rng: np.random.Generator, n: int) -> list[float]:
    """Neighbouring pairs alike: AR(1) with coefficient 0.5."""
    noise, x = rng.normal(0, 0.02, n), 0.0
    out = []
    for e in noise:
        x = 0.5 * x + e
        out.append(x)
    return out


@pytest.mark.parametrize("n", [6, 12, 30])
@pytest.mark.parametrize("make", [clean, with_outliers])
def test_the_interval_covers_the_truth_in_95_percent_of_runs(n: int, make: Callable[..., list[float]]) -> None:
    rng = np.random.default_rng(n)
    covered = np.mean([abs((e := estimate(make(rng, n))).centre) <= e.half_width for _ in range(RUNS)])
    assert 0.93 <= covered <= 0.99


def test_drift_costs_little_coverage_from_thirty_pairs_on() -> None:
    rng = np.random.default_rng(5)
    covered = np.mean([abs((e := estimate(drifting(rng, 30))).centre) <= e.half_width for _ in range(RUNS)])
    assert covered >= 0.87  # without the autocorrelation factor it is 0.76


def test_outliers_hardly_widen_the_interval() -> None:
    rng = np.random.default_rng(1)
    tidy = np.median([estimate(clean(rng, 30)).half_width for _ in range(300)])
    dirty = np.median([estimate(with_outliers(rng, 30)).half_width for _ in range(300)])
    assert dirty < 1.6 * tidy


def test_looking_several_times_does_not_inflate_the_error() -> None:
    plan = Plan((8, 12, 18, 26, 40), half_width=0.0, on_verdict=True)
    rng = np.random.default_rng(2)
    wrong = 0
    for _ in range(RUNS):
        data = clean(rng, 40)
        wrong += any(abs((e := estimate(data[:n], plan.level)).centre) > e.half_width for n in plan.looks)
    assert wrong / RUNS <= 0.05
    assert wrong / RUNS > 0.02, "far too wide"


def test_a_two_percent_difference_is_found_and_is_not_called_a_win() -> None:
    rng = np.random.default_rng(3)
    found = interval([math.log(1.02) + x for x in rng.normal(0, 0.01, 40)])
    assert found.low > 1.0
    assert found.high < 1.05
    assert verdict(found) == "same"


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (1.06, 1.2, "faster"),
        (0.5, 0.9, "slower"),
        (0.98, 1.03, "same"),
        (1.02, 1.2, "inconclusive"),
        (0.5, 2.0, "inconclusive"),
    ],
)
def test_verdicts_follow_the_interval(low: float, high: float, expected: str) -> None:
    assert verdict(Interval(ratio=(low * high) ** 0.5, low=low, high=high, pairs=9)) == expected


@pytest.mark.parametrize(
    ("p", "freedom", "value"),
    [(0.975, 1, 12.7062), (0.975, 2, 4.30265), (0.975, 3, 3.18245), (0.995, 10, 3.16927), (0.975, 30, 2.04227)],
)
def test_student_quantiles_match_the_tables(p: float, freedom: int, value: float) -> None:
    assert student_quantile(p, freedom) == pytest.approx(value, rel=1e-5)


def test_fewer_than_two_pairs_have_no_interval() -> None:
    with pytest.raises(ValueError, match="at least two pairs, got 1"):
        interval([0.1])
    assert estimate([]).half_width == math.inf


def test_a_plan_ends_only_at_its_looks_and_only_when_good_enough() -> None:
    plan = Plan((4, 6), half_width=0.01)
    assert not plan.enough([0.0] * 5)
    assert plan.enough([0.0] * 4)
    assert not plan.enough([0.0, 0.3, -0.3, 0.1])
    assert plan.enough([1.600, 1.601, 1.599, 1.6])


def test_a_clear_verdict_ends_a_screening() -> None:
    wide = [1.5, 1.62, 1.4, 1.55]
    assert not Plan((4, 6), half_width=0.01).enough(wide)
    assert Plan((4, 6), half_width=0.01, on_verdict=True).enough(wide)
