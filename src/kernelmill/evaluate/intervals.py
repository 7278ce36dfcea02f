"""Confidence intervals of a speed-up, looks at fixed counts, and the verdict."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

from kernelmill.schema import Interval

Verdict = Literal["faster", "slower", "same", "inconclusive"]

TRIM = 0.2
"""Share cut off at each end: a pair in five may be disturbed without moving the estimate."""

MARGIN = 0.05
"""Nothing under 5 % is a win: A/A pairs of the same library call ranged over 0.98 to 1.06."""


@dataclass(frozen=True)
class Estimate:
    """Location of some log-ratios and its confidence interval."""

    centre: float
    half_width: float
    """Infinite where there are fewer than two pairs."""


def estimate(log_ratios: Sequence[float], level: float = 0.05) -> Estimate:
    """Trimmed mean with Student's t interval on the winsorised variance.

    Timing errors are heavy-tailed and one-sided, so neither the mean (one interrupt moves it) nor the bare
    median (36 % wider on clean data) serves; trimming a fifth at each end is within 5 % of the mean on clean
    data. Where consecutive pairs are alike (drift), the interval is widened by the lag-one autocorrelation r:
    sqrt((1 + r) / (1 - r)), from 12 pairs on.

    Args:
        log_ratios: log(time(baseline) / time(candidate)) of each pair, in the order of measurement.
        level: Share of runs in which the interval may miss.

    Source: Yuen, "The two-sample trimmed t for unequal population variances", Biometrika 61(1), 1974.
    """
    count = len(log_ratios)
    if count == 0:
        return Estimate(0.0, math.inf)
    ordered = sorted(log_ratios)
    cut = int(TRIM * count)
    kept = ordered[cut : count - cut]
    centre = sum(kept) / len(kept)
    if count < 2:
        return Estimate(centre, math.inf)
    winsorised = [min(max(x, kept[0]), kept[-1]) for x in log_ratios]
    mean = sum(winsorised) / count
    squares = sum((x - mean) ** 2 for x in winsorised)
    error = math.sqrt(squares / (len(kept) * (len(kept) - 1))) * _drift_factor(winsorised, mean, squares)
    return Estimate(centre, student_quantile(1 - level / 2, len(kept) - 1) * error)


def _drift_factor(values: Sequence[float], mean: float, squares: float) -> float:
    if len(values) < 12 or squares == 0:
        return 1.0
    lagged = sum((a - mean) * (b - mean) for a, b in pairwise(values)) / squares
    # The estimate of r is biased by about -1/n and has a deviation of 1/sqrt(n); less than that is chance.
    likeness = min(0.9, lagged + 1 / len(values))
    return math.sqrt((1 + likeness) / (1 - likeness)) if likeness > 1 / math.sqrt(len(values)) else 1.0


def interval(log_ratios: Sequence[float], dropped: int = 0, level: float = 0.05) -> Interval:
    """The speed-up as a ratio with its interval.

    Raises:
        ValueError: Fewer than two pairs.
    """
    found = estimate(log_ratios, level)
    if not math.isfinite(found.half_width):
        raise ValueError(f"an interval needs at least two pairs, got {len(log_ratios)}")
    return Interval(
        ratio=math.exp(found.centre),
        low=math.exp(found.centre - found.half_width),
        high=math.exp(found.centre + found.half_width),
        pairs=len(log_ratios),
        dropped=dropped,
    )


def verdict(found: Interval, margin: float = MARGIN) -> Verdict:
    """What the interval says once differences below the margin do not count.

    `faster`: all of it is above 1 + margin; `slower`: all below 1 / (1 + margin); `same`: all between.
    """
    if found.low >= 1 + margin:
        return "faster"
    if found.high <= 1 / (1 + margin):
        return "slower"
    if found.low > 1 / (1 + margin) and found.high < 1 + margin:
        return "same"
    return "inconclusive"


@dataclass(frozen=True)
class Plan:
    """When to look, and what is good enough.

    Looks are fixed before the measurement, and each may miss in 5 % / their number (Bonferroni), so that the
    interval that is finally reported covers the truth in 95 % of runs whichever look ended the measurement.
    Pocock's milder levels assume equal steps: with these growing ones they erred in 6.2 % of 2000 runs.
    """

    looks: tuple[int, ...]
    """Kept pairs at which the interval is computed, ascending."""
    half_width: float = 0.005
    """Good enough: half-width of the log-ratio's interval."""
    share: float = 0.02
    """Good enough too: a half-width of this share of the log-ratio. A speed-up of 5 need not be known to 0.5 %."""
    on_verdict: bool = False
    """Whether a clear verdict is good enough, however wide the interval."""

    @property
    def level(self) -> float:
        """Share of runs in which one look may miss."""
        return 0.05 / len(self.looks)

    def enough(self, log_ratios: Sequence[float]) -> bool:
        """Whether a look at these pairs may end the measurement."""
        if len(log_ratios) not in self.looks:
            return False
        found = estimate(log_ratios, self.level)
        if found.half_width <= max(self.half_width, self.share * abs(found.centre)):
            return True
        return self.on_verdict and verdict(interval(log_ratios, level=self.level)) != "inconclusive"


def student_quantile(p: float, freedom: int) -> float:
    """Quantile of Student's t for an integer number of degrees of freedom, to 1e-9; p in (0.5, 1).

    Source of the distribution function: Abramowitz & Stegun 26.7.3 and 26.7.4.
    """
    low, high = 0.0, 1.0
    while _student_within(high, freedom) < 2 * p - 1:
        high *= 2
    while high - low > 1e-9 * high:
        middle = (low + high) / 2
        if _student_within(middle, freedom) < 2 * p - 1:
            low = middle
        else:
            high = middle
    return high


def _student_within(t: float, freedom: int) -> float:
    """Probability that |T| <= t."""
    angle = math.atan(t / math.sqrt(freedom))
    sine, cosine = math.sin(angle), math.cos(angle)
    if freedom == 1:
        return 2 * angle / math.pi
    odd = freedom % 2
    term = cosine if odd else 1.0
    total = term
    for k in range(3 if odd else 2, freedom - 1, 2):
        term *= cosine * cosine * (k - 1) / k
        total += term
    return 2 / math.pi * (angle + sine * total) if odd else sine * total
