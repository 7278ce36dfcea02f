"""What most searchers share: patience, and estimates that get better when a candidate is measured again."""

from __future__ import annotations

import math
from dataclasses import dataclass

from kernelmill.schema import Closed, Event, Interval, Measured, Passed, Proposed, Request
from kernelmill.search._base import Searcher, Stop

NARROWEST = 1e-4
"""Least half-width of an interval in log units; a fake or simulated clock may report none at all."""


@dataclass(frozen=True)
class Estimate:
    """A speed-up pooled over all its measurements: centre and 95 % half-width of its logarithm."""

    log_ratio: float
    half_width: float
    measurements: int = 1

    @classmethod
    def of(cls, interval: Interval) -> Estimate:
        """The estimate that one measurement gives."""
        half = (math.log(interval.high) - math.log(interval.low)) / 2
        return cls(math.log(interval.ratio), max(half, NARROWEST))

    def pooled(self, other: Estimate) -> Estimate:
        """Both together, weighted by inverse variance (fixed-effect meta-analysis)."""
        a, b = self.half_width**-2, other.half_width**-2
        centre = (a * self.log_ratio + b * other.log_ratio) / (a + b)
        return Estimate(centre, (a + b) ** -0.5, self.measurements + other.measurements)

    def overlaps(self, other: Estimate) -> bool:
        """Whether the intervals meet, so that nobody can say which is faster."""
        return abs(self.log_ratio - other.log_ratio) <= self.half_width + other.half_width


class Patient(Searcher):
    """Stops after `patience` requests in a row without a better candidate; pools repeated measurements."""

    def __init__(self, operator: str = "template", patience: int = 100) -> None:
        super().__init__(operator)
        if patience < 1:
            raise ValueError(f"patience must be at least 1, got {patience}")
        self.patience = patience
        self.stale = 0
        """Requests closed since the best score last rose."""
        self.record = 0.0
        """The best score ever."""
        self.answers: dict[str, list[str]] = {}
        """Request id -> ids of what it brought, repeats of known candidates included."""
        self.estimates: dict[str, Estimate] = {}
        self.made_from: dict[str, tuple[str, ...]] = {}
        """Candidate id -> parents of the request that first brought it."""

    def apply(self, event: Event) -> None:
        """Fold one event; see `Searcher.apply`."""
        super().apply(event)
        match event:
            case Proposed(request=request_id, candidate=candidate):
                self._proposed(request_id, candidate.id)
            case Measured():
                self._pool(event)
                if self.scores.get(event.candidate, 0.0) > self.record:
                    self.record = self.scores[event.candidate]
                    self.stale = -1  # the request that brought it is still to be closed
            case Closed():
                self.stale += 1

    def _proposed(self, request_id: str, candidate: str) -> None:
        self.answers.setdefault(request_id, []).append(candidate)
        request = self.requests.get(request_id)
        if request and candidate not in self.made_from:
            self.made_from[candidate] = tuple(p for p in request.parents if p in self.candidates and p != candidate)

    def _pool(self, event: Measured) -> None:
        interval = event.evaluation.speedup() if isinstance(event.evaluation, Passed) else None
        known = self.estimates.get(event.candidate)
        if interval is None:
            # Passing once and failing later is failing: drop what was believed.
            self.estimates.pop(event.candidate, None)
            self.scores.pop(event.candidate, None)
            return
        fresh = Estimate.of(interval)
        if known is not None:
            fresh = known if event.reused else known.pooled(fresh)
        self.estimates[event.candidate] = fresh
        if event.candidate in self.scores:
            self.scores[event.candidate] = math.exp(fresh.log_ratio)

    def done(self) -> Stop | None:
        """When patience has run out."""
        if self.stale >= self.patience:
            return Stop(f"{self.stale} requests in a row brought nothing faster")
        return None

    def parents(self, candidate: str) -> tuple[str, ...]:
        """What the candidate was made from."""
        return self.made_from.get(candidate, ())

    def draft(self, offset: int = 0) -> Request:
        """A request for a first candidate, or for a repair of the latest where nothing has passed yet."""
        latest = tuple(self.candidates)[-1:]
        return Request(id=self.next_id(offset), operator=self.operator, parents=latest)
