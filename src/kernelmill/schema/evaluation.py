"""Is it right, is it honest, how fast: the outcome that cannot lie."""

from __future__ import annotations

import math
from typing import Annotated, Literal

from pydantic import Field

from kernelmill.schema._spec import Spec
from kernelmill.schema.candidate import Tier

Stage = Literal[
    "build",
    "load",
    "structure",
    "launch",
    "timeout",
    "memory",
    "numerics",
    "precision",
    "integrity",
    "held_out",
    "implausible",
]
"""In cost order; the first stage that says no names the failure."""

Level = Literal["smoke", "screening", "full", "promotion"]

Precision = Literal["exact", "fp64", "fp32", "tf32", "bf16", "fp16", "fp8", "none"]


class Accuracy(Spec):
    """How far the outputs of one workload are from the fp64 oracle, worst over outputs and families."""

    error: float
    """max |candidate - fp64| / scale, scale = rms of the fp64 output."""
    native_error: float
    """The same figure for the reference in its own precision."""
    budget: float
    """What was allowed: k * max(native_error, n * u(dtype))."""
    precision: Precision
    """Effective precision that the error level corresponds to."""
    cases: int = Field(ge=1)
    """Input sets compared."""
    skipped: tuple[str, ...] = ()
    """Families on which the reference itself has no meaning here."""


class Interval(Spec):
    """A speed-up with its 95 % confidence interval."""

    ratio: float
    """time(baseline) / time(candidate); above 1 the candidate is faster."""
    low: float
    high: float
    pairs: int
    dropped: int = 0
    """Pairs thrown away because the machine was contaminated."""


class Comparison(Spec):
    """Paired timing of a candidate against one baseline on one workload."""

    baseline: str
    """`eager`, `compile`, ..."""
    interval: Interval
    candidate_us: tuple[float, ...]
    """Every kept call of the candidate in microseconds, on the parent's clock."""
    baseline_us: tuple[float, ...]


class Conditions(Spec):
    """The machine while it measured."""

    threads: int
    cores: tuple[int, ...]
    llc: Literal["cold", "warm"] = "cold"
    """State of the last-level cache before each timed call."""
    load: float = 0.0
    """Load average over the last minute."""
    steal: float = 0.0
    """Share of CPU time that the hypervisor took."""
    allocator: Literal["neutral", "default"] = "neutral"
    sandbox: str = ""
    """Which sandbox held, and what it could not enforce."""


class WorkloadResult(Spec):
    """What was found on one workload."""

    workload: str
    accuracy: Accuracy
    comparisons: tuple[Comparison, ...] = ()
    time_us: float | None = None
    """Median time of the candidate over all kept calls."""
    floor_us: float | None = None
    """Least time this device can take: max(bytes / bandwidth, flops / rate)."""
    floor_bound: Literal["memory", "compute"] | None = None
    profile: dict[str, float] = {}
    """Median microseconds of each step of a declared launch, on the child's clock: a hint, not a verdict."""
    specialised: bool = False
    """The candidate does not take this shape; the export falls back to the reference here."""

    @property
    def best_baseline(self) -> Comparison | None:
        """The comparison against the fastest baseline: the one with the least speed-up."""
        return min(self.comparisons, key=lambda c: c.interval.ratio, default=None)


class Passed(Spec):
    """Right, honest, and this fast."""

    status: Literal["passed"] = "passed"
    level: Level
    tier: Tier
    results: tuple[WorkloadResult, ...] = Field(min_length=1)
    held_out: tuple[WorkloadResult, ...] = ()
    conditions: Conditions | None = None
    labels: tuple[str, ...] = ()
    """Static or dynamic observations that are not verdicts, e.g. `calls:aten.convolution`."""
    seconds: float = 0.0
    """Wall time the evaluation took."""

    def speedup(self, baseline: str | None = None) -> Interval | None:
        """Geometric mean over the workloads against one baseline, or against the best of each.

        A workload that the candidate does not take counts as 1: the reference answers there.
        """
        picked = [
            (r.best_baseline if baseline is None else next((c for c in r.comparisons if c.baseline == baseline), None))
            for r in self.results
            if not r.specialised
        ]
        intervals = [c.interval for c in picked if c is not None]
        if not intervals or len(intervals) != len(picked):
            return None

        def mean(values: list[float]) -> float:
            return math.exp(sum(math.log(v) for v in values) / len(self.results))

        return Interval(
            ratio=mean([i.ratio for i in intervals]),
            low=mean([i.low for i in intervals]),
            high=mean([i.high for i in intervals]),
            pairs=sum(i.pairs for i in intervals),
            dropped=sum(i.dropped for i in intervals),
        )


class Failed(Spec):
    """Some stage said no."""

    status: Literal["failed"] = "failed"
    stage: Stage
    """First stage that said no."""
    message: str
    """What the proposer reads next: the compiler's words, or expected vs got."""
    clause: str | None = None
    """The clause of the contract that was broken, e.g. `may_alias`."""
    workload: str | None = None
    replay: str | None = None
    """What reproduces the failure: family and seed of the case."""
    seconds: float = 0.0


class Inconclusive(Spec):
    """Right as far as seen, but the machine did not let us say how fast."""

    status: Literal["inconclusive"] = "inconclusive"
    reason: str
    results: tuple[WorkloadResult, ...] = ()
    seconds: float = 0.0


Evaluation = Annotated[Passed | Failed | Inconclusive, Field(discriminator="status")]
