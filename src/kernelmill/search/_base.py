"""Decides what to try next. Pure: no clock, no I/O, no model; all chance from the `rng` it is given."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from random import Random

from kernelmill.schema import (
    Asked,
    Candidate,
    Closed,
    Evaluation,
    Event,
    Measured,
    Passed,
    Promoted,
    Proposed,
    Request,
)


@dataclass(frozen=True)
class Stop:
    """Why a searcher has nothing more to try."""

    reason: str


def speedup(evaluation: Evaluation) -> float | None:
    """The default objective: geometric-mean speed-up over the best baseline; None where it did not pass."""
    if not isinstance(evaluation, Passed):
        return None
    interval = evaluation.speedup()
    return interval.ratio if interval else None


class Searcher(ABC):
    """One strategy.

    `plan` mutates nothing and may be called any number of times between events; `apply` is a fold and
    the only mutation, so that replaying a log rebuilds the same state. Several requests may be open,
    and events may arrive in any order that respects asked < proposed < measured < closed.
    """

    def __init__(self, operator: str = "template") -> None:
        self.operator = operator
        self.requests: dict[str, Request] = {}
        self.open: set[str] = set()
        self.candidates: dict[str, Candidate] = {}
        self.origin: dict[str, str] = {}
        """Candidate id -> id of the request that first proposed it."""
        self.evaluations: dict[str, Evaluation] = {}
        self.scores: dict[str, float] = {}
        """Objective of every candidate that passed."""
        self.refuted: set[str] = set()
        """Candidates that did not hold at promotion; they are never best again."""

    @abstractmethod
    def plan(self, room: int, rng: Random) -> Sequence[Request]:
        """At most `room` requests to issue now; empty while it must wait."""

    def apply(self, event: Event) -> None:
        """Fold one event into the state."""
        match event:
            case Asked(request=request):
                self.requests[request.id] = request
                self.open.add(request.id)
            case Proposed(request=request_id, candidate=candidate):
                self.candidates.setdefault(candidate.id, candidate)
                self.origin.setdefault(candidate.id, request_id)
            case Measured(candidate=candidate_id, evaluation=evaluation):
                self.evaluations[candidate_id] = evaluation
                score = speedup(evaluation)
                if score is not None and candidate_id not in self.refuted:
                    self.scores[candidate_id] = score
            case Closed(request=request_id):
                self.open.discard(request_id)
            case Promoted(candidate=candidate_id, held=False):
                self.refuted.add(candidate_id)
                self.scores.pop(candidate_id, None)

    def done(self) -> Stop | None:
        """Its own rule for giving up; budgets live outside."""
        return None

    def best(self) -> str | None:
        """Id of the best candidate so far."""
        return max(self.scores, key=lambda c: (self.scores[c], c), default=None)

    def next_id(self, offset: int = 0) -> str:
        """A request id that replay reproduces."""
        return f"r{len(self.requests) + offset}"
