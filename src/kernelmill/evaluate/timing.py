"""Paired, interleaved timing of a candidate against baselines, every call on fresh content and verified."""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import TYPE_CHECKING, Literal, Protocol

import numpy as np

from kernelmill.evaluate.arrays import HostTensor
from kernelmill.evaluate.intervals import Plan, interval
from kernelmill.evaluate.machine import Reading, Stolen, Usual, Watch
from kernelmill.evaluate.memory import split
from kernelmill.evaluate.roofline import Floor, implausible
from kernelmill.schema import Comparison, Failed, Inconclusive

if TYPE_CHECKING:
    from kernelmill.evaluate.cells import Call

CALIBRATION_ROUNDS = 5
CLOCK_GRACE_S = 400e-6
CLOCK_SHARE = 0.40
"""The child's clock decides nothing; only a gross lie is named, since a busy machine delays short calls by 0.3 ms."""
LEAST_TIME_S = 1e-7
OWN_WAIT_S = 300e-6
"""More than this in every call is a busy machine, not the threads of one process in each other's way."""
DROPPED_PER_PAIR = 3
"""A measurement ends when it has dropped this many times the pairs that were planned."""


class Side(Protocol):
    """One process that runs one implementation on one workload."""

    @property
    def pid(self) -> int:
        """For the machine's counters."""

    def load(self, tensors: Sequence[HostTensor]) -> None:
        """Write arguments, then state, in place at the same addresses. The process must not run before `call`."""

    def call(self) -> Call:
        """One call, timed by the parent around the handshake. Raises StageError where it does not return."""

    def null_call(self) -> float:
        """Seconds of the same handshake that runs nothing."""

    def outputs(self, part: int | None = None) -> list[HostTensor]:
        """What the last call returned, as it was on return, see `Side.outputs`. Raises StageError for damage."""


class Content(Protocol):
    """Where fresh content comes from: `content.ContentSource`."""

    def fresh(self, index: int) -> Sequence[HostTensor]:
        """Arguments, then state, of one round."""

    def part(self, index: int) -> int | None:
        """Which `arrays.pieces` of that round's tensors are looked at; None for all."""


Verify = Callable[[Sequence[HostTensor], list[HostTensor], list[HostTensor], int], "Failed | None"]
"""(content, the candidate's outputs, the first baseline's, index of the content) -> what is wrong, or None."""


@dataclass(frozen=True)
class Limits:
    """How long and how well to measure."""

    plan: Plan
    seconds: float
    """Wall time for the whole comparison; reached, what there is must do, from the first look on."""
    patience_s: float
    """Wall time for the pairs of the first look; without them there is no number."""
    llc: Literal["cold", "warm"] = "cold"
    floor: Floor | None = None
    """Faster than this device can be is a failure."""
    warmup: int = 1
    """Rounds that are verified but not counted."""
    first: int = 0
    """Index of the first content; a second comparison in the same processes starts where the first ended."""

    @classmethod
    def screening(cls, budget_s: float = math.inf) -> Limits:
        """At most 6 pairs: is it worth more? A 30th of a run's time."""
        return cls(Plan((4, 6), half_width=0.02, share=0.1, on_verdict=True), *_share(budget_s / 30, 10.0))

    @classmethod
    def full(cls, budget_s: float = math.inf) -> Limits:
        """Up to 26 pairs, until the speed-up is known to 2 %, a large one to a tenth of its logarithm."""
        return cls(Plan((8, 12, 18, 26), half_width=0.02, share=0.1), *_share(budget_s / 20, 10.0))

    @classmethod
    def promotion(cls, budget_s: float = math.inf) -> Limits:
        """10 to 80 pairs in a 6th of a run's time."""
        return cls(Plan((10, 20, 40, 80), share=0.03), *_share(budget_s / 6, 20.0), warmup=2)


def _share(seconds: float, most: float) -> tuple[float, float]:
    """Time of a comparison, and how long its first look is waited for."""
    seconds = min(seconds, most)
    return seconds, min(2 * most, max(6.0, 3 * seconds))


class Flusher:
    """Displaces the last-level cache by reading a static buffer of random data, twice its size."""

    def __init__(self, llc_bytes: int) -> None:
        count = max(1, 2 * llc_bytes // 8)
        # Random, since constant lines can be compressed or shared; twice, since no replacement policy is exact.
        self._buffer = np.random.Generator(np.random.SFC64()).integers(0, 2**63, count, dtype=np.int64)

    def __call__(self) -> None:
        split(lambda first, end: self._buffer[first // 8 : end // 8].max(), self._buffer.nbytes)


@dataclass(frozen=True)
class Instruments:
    """What a comparison measures with; tests inject their own.

    Make one per evaluation: the flush buffer takes 0.1 s to fill.
    """

    flush: Callable[[], None]
    watch: Watch = field(default_factory=Watch)
    clock: Callable[[], float] = time.monotonic

    @classmethod
    def for_cache(cls, llc_bytes: int) -> Instruments:
        """For a last-level cache of that size."""
        return cls(Flusher(llc_bytes))


@dataclass
class _Pairs:
    """What was measured against one baseline, kept pairs only."""

    candidate: list[Call] = field(default_factory=list)
    baseline: list[Call] = field(default_factory=list)
    dropped: Counter[str] = field(default_factory=Counter)
    done: bool = False

    def log_ratios(self, null_s: float) -> list[float]:
        """log(baseline / candidate) of each pair, handshake subtracted."""
        ours, theirs = _times(self.candidate, null_s), _times(self.baseline, null_s)
        return [float(np.log(b / a)) for a, b in zip(ours, theirs, strict=True)]


@dataclass(frozen=True)
class _Timed:
    call: Call
    disturbed: str | None


def _times(calls: Sequence[Call], null_s: float) -> list[float]:
    return [max(call.wall_s - null_s, LEAST_TIME_S) for call in calls]


def compare(
    candidate: Side,
    baselines: dict[str, Side],
    content: Content,
    verify: Verify,
    limits: Limits,
    instruments: Instruments,
) -> dict[str, Comparison] | Failed | Inconclusive:
    """Time a candidate against baselines.

    A round gives all sides the same fresh content, each in its own process: candidate first, then the
    baselines; the next round in reverse, so that what drifts linearly cancels (ABBA). Each call is preceded by
    a flush of the last-level cache (`cold`). Every round, warm-up included, is verified; rounds are counted
    unless the machine was disturbed. The handshake's cost is measured on the baselines only, since a
    candidate could slow its own down, and subtracted from all. A baseline is done when the plan says so.

    The clock is the parent's. What a child says of its own time is compared with it: a candidate whose two
    clocks differ more than the baseline's, by over 40 % and 400 us at every call, forges its clock or works outside.

    Args:
        candidate: Loaded and bound.
        baselines: By name; the first is the one whose outputs go to `verify`.
        content: Fresh arguments for each round.
        verify: Stops the comparison at the first difference.
        limits: When to stop, cache state, floor.
        instruments: Flush, machine counters, clock.

    Returns:
        One comparison per baseline; or why the candidate fails; or why no number was had.

    Raises:
        StageError: A side crashed, hung, or damaged memory.
        ValueError: No baseline.
    """
    if not baselines:
        raise ValueError("a comparison needs at least one baseline, got none")
    session = _Session(candidate, baselines, content, verify, limits, instruments)
    failed = session.run()
    return failed or session.result()


class _Session:
    """One comparison under way."""

    def __init__(
        self,
        candidate: Side,
        baselines: dict[str, Side],
        content: Content,
        verify: Verify,
        limits: Limits,
        instruments: Instruments,
    ) -> None:
        self.sides: dict[str, Side] = {"": candidate, **baselines}
        self.native = next(iter(baselines))
        self.content, self.verify, self.limits, self.instruments = content, verify, limits, instruments
        self.pairs = {name: _Pairs() for name in baselines}
        self.nulls: list[float] = []
        self.stolen = Stolen()
        self.waits: dict[str, list[float]] = {name: [] for name in self.sides}

    @property
    def null_s(self) -> float:
        """Cost of the handshake: the lower quartile, since disturbed ones are too long and are taken off both sides."""
        return sorted(self.nulls)[len(self.nulls) // 4]

    def run(self) -> Failed | None:
        """All rounds, until every baseline is done, time is up, or something is wrong."""
        start = self.instruments.clock()
        most = self.limits.plan.looks[-1] * (1 + DROPPED_PER_PAIR)
        for number in range(self.limits.warmup + most):
            counted = number >= self.limits.warmup
            failed = self._round(number, counted=counted)
            if failed:
                return failed
            if counted and self._over(self.instruments.clock() - start):
                break
        return None

    def _over(self, seconds: float) -> bool:
        """Done, or out of time; the first look is waited for longer."""
        if all(pairs.done for pairs in self.pairs.values()):
            return True
        enough = all(len(pairs.candidate) >= self.limits.plan.looks[0] for pairs in self.pairs.values())
        return seconds > (self.limits.seconds if enough else self.limits.patience_s)

    def _round(self, number: int, *, counted: bool) -> Failed | None:
        index = self.limits.first + number
        tensors = self.content.fresh(index)
        # The first baseline always runs: its outputs are what the candidate is verified against.
        names = [n for n in self.sides if n in ("", self.native) or not self.pairs[n].done]
        order = names if number % 2 == 0 else names[::-1]
        timed: dict[str, _Timed] = {}
        outputs: dict[str, list[HostTensor]] = {}
        for name in order:
            timed[name] = self._timed_call(name, tensors)
            if name in ("", self.native):
                outputs[name] = self.sides[name].outputs(self.content.part(index))
        if len(self.nulls) < CALIBRATION_ROUNDS or number % 4 == 0:
            self._calibrate(names[1:])
        failed = self.verify(tensors, outputs[""], outputs[self.native], index)
        if failed is None and counted:
            for name in names[1:]:
                self._count(self.pairs[name], timed[""], timed[name])
        return failed

    def _timed_call(self, name: str, tensors: Sequence[HostTensor]) -> _Timed:
        side = self.sides[name]
        others = [other.pid for key, other in self.sides.items() if key != name]
        side.load(tensors)
        self._make_cold()
        before: Reading = self.instruments.watch.read(others)
        call = side.call()
        after = self.instruments.watch.read(others)
        usual = Usual(self._own_wait(name), self.stolen.share)
        self.waits[name].append(call.contention_s)
        self.stolen.add(before.times, after.times)
        disturbed = self.instruments.watch.disturbance(before, after, call.wall_s, call.contention_s, usual)
        return _Timed(call, disturbed)

    def _own_wait(self, name: str) -> float:
        """What this side's threads wait in every call, for each other: its own doing, which counts."""
        waits = sorted(self.waits[name])
        return min(waits[len(waits) // 4], OWN_WAIT_S) if len(waits) >= CALIBRATION_ROUNDS else 0.0

    def _make_cold(self) -> None:
        if self.limits.llc == "cold":
            self.instruments.flush()

    def _calibrate(self, names: Sequence[str]) -> None:
        for name in names:
            self._make_cold()
            self.nulls.append(self.sides[name].null_call())

    def _count(self, pairs: _Pairs, ours: _Timed, theirs: _Timed) -> None:
        disturbed = ours.disturbed or theirs.disturbed
        if pairs.done:
            return
        if disturbed:
            pairs.dropped[disturbed] += 1
            return
        pairs.candidate.append(ours.call)
        pairs.baseline.append(theirs.call)
        count = len(pairs.candidate)
        looks = self.limits.plan.looks
        pairs.done = count >= looks[-1] or (count in looks and self.limits.plan.enough(pairs.log_ratios(self.null_s)))

    def result(self) -> dict[str, Comparison] | Failed | Inconclusive:
        """The numbers, once the rounds are over."""
        for name, pairs in self.pairs.items():
            if len(pairs.candidate) < self.limits.plan.looks[0]:
                return self._too_few(name, pairs)
        first = self.pairs[self.native]
        return self._forged(first) or self._too_fast(first) or {n: self._comparison(n) for n in self.pairs}

    def _too_few(self, name: str, pairs: _Pairs) -> Inconclusive:
        kept, dropped = len(pairs.candidate), sum(pairs.dropped.values())
        why = f"; last: {pairs.dropped.most_common(1)[0][0]}" if dropped else ""
        return Inconclusive(
            reason=f"{kept} undisturbed pairs against {name} in {self.limits.patience_s:g} s, {dropped} were dropped"
            f"{why}; at least {self.limits.plan.looks[0]} are needed"
        )

    def _forged(self, pairs: _Pairs) -> Failed | None:
        # The least, since a busy machine delays the handshake of some calls by milliseconds; a forger lies in all.
        ours, theirs = (min(c.wall_s - c.child_s for c in calls) for calls in (pairs.candidate, pairs.baseline))
        wall = median(call.wall_s for call in pairs.candidate)
        # The child's interval lies within ours. That of a slower handshake than the baseline's may be noise.
        if ours >= 0 and ours - theirs <= max(CLOCK_GRACE_S, CLOCK_SHARE * wall):
            return None
        return Failed(
            stage="integrity",
            clause="clock",
            message=f"the process's own clock and ours differ by {ours * 1e6:.0f} us a call of {wall * 1e6:.0f} us; "
            f"for the baseline they differ by {theirs * 1e6:.0f} us",
        )

    def _too_fast(self, pairs: _Pairs) -> Failed | None:
        if self.limits.floor is None:
            return None
        said = implausible(median(_times(pairs.candidate, self.null_s)) * 1e6, self.limits.floor)
        return Failed(stage="implausible", message=said) if said else None

    def _comparison(self, name: str) -> Comparison:
        pairs = self.pairs[name]
        return Comparison(
            baseline=name,
            interval=interval(pairs.log_ratios(self.null_s), sum(pairs.dropped.values()), self.limits.plan.level),
            candidate_us=tuple(t * 1e6 for t in _times(pairs.candidate, self.null_s)),
            baseline_us=tuple(t * 1e6 for t in _times(pairs.baseline, self.null_s)),
        )
