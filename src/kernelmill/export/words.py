"""Numbers as people read them, and the one sentence that says what came out."""

from __future__ import annotations

import math
from collections.abc import Iterable

from kernelmill.schema import Interval, Passed

PRACTICAL = 1.05
"""Speed-ups whose lower bound is below this are not called a gain: nothing under 5 % is a win."""

_NAMES = {"eager": "eager", "compile": "torch.compile", "max-autotune": "torch.compile (max-autotune)"}


def baseline_name(name: str) -> str:
    """A baseline as its users call it."""
    return _NAMES.get(name, name)


def times(ratio: float) -> str:
    """A ratio with three figures at most: `2.9x`, `0.94x`, `12x`."""
    if ratio >= 99.5:
        return f"{ratio:.0f}x"
    return f"{ratio:.2f}x" if ratio < 1.095 else f"{ratio:.1f}x"


def bounded(interval: Interval) -> str:
    """A ratio with its 95 % interval: `2.9x [2.8, 3.0]`."""
    return f"{times(interval.ratio)} [{times(interval.low)[:-1]}, {times(interval.high)[:-1]}]"


def duration(microseconds: float) -> str:
    """A time in the unit that fits: `840 us`, `1.24 ms`, `2.1 s`."""
    for unit, size in (("us", 1.0), ("ms", 1e3)):
        if microseconds < 999.5 * size:
            return f"{microseconds / size:.3g} {unit}"
    return f"{microseconds / 1e6:.3g} s"


def baselines(evaluation: Passed) -> list[tuple[str, Interval]]:
    """Every baseline that was timed on all workloads, hardest to beat first."""
    names = dict.fromkeys(c.baseline for r in evaluation.results for c in r.comparisons)
    found = [(name, interval) for name in names if (interval := evaluation.speedup(name)) is not None]
    return sorted(found, key=lambda pair: pair[1].ratio)


OTHER_WORK = 1.25
"""Beyond this share of a limit a kernel does other work than the reference: measured peaks are good to some percent."""


def roofline(evaluation: Passed) -> tuple[float, str] | None:
    """Share of the device's limit that was reached (geometric mean), and which limit binds.

    None where the limit says nothing: not known, or that of the reference's arithmetic, which the kernel does not do.
    """
    pairs = [
        (r.floor_us / r.time_us, r.floor_bound or "memory") for r in evaluation.results if r.floor_us and r.time_us
    ]
    if not pairs or (share := geometric_mean(share for share, _ in pairs)) > OTHER_WORK:
        return None
    bounds = {bound for _, bound in pairs}
    return share, bounds.pop() if len(bounds) == 1 else "mixed"


def geometric_mean(values: Iterable[float]) -> float:
    """Of positive numbers; raises ZeroDivisionError where there are none."""
    logs = [math.log(v) for v in values]
    return math.exp(sum(logs) / len(logs))


def is_gain(evaluation: Passed | None) -> bool:
    """Whether the candidate is really faster than the best baseline."""
    overall = evaluation.speedup() if evaluation else None
    return overall is not None and overall.low >= PRACTICAL


def headline(evaluation: Passed | None) -> str:
    """The result in one sentence, against the hardest baseline first."""
    if evaluation is None:
        return "No candidate passed; the reference stays."
    found = baselines(evaluation)
    if not found:
        return "Verified, but not timed."
    name, interval = found[0]
    rest = "".join(f", {times(i.ratio)} than {baseline_name(n)}" for n, i in found[1:])
    if not is_gain(evaluation):
        text = f"No gain: {bounded(interval)} against {baseline_name(name)}"
        rest = "".join(f", {times(i.ratio)} against {baseline_name(n)}" for n, i in found[1:])
    else:
        text = f"{bounded(interval)} faster than {baseline_name(name)}"
    reached = roofline(evaluation)
    if reached is None:
        return text + rest
    share, bound = reached
    limit = "rooflines" if bound == "mixed" else f"{bound} roofline"
    return f"{text}{rest}; {share:.0%} of this machine's {limit}".replace("%", " %")
