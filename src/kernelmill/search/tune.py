"""Turns the typed knobs of the best candidate."""

from __future__ import annotations

from collections.abc import Sequence
from heapq import nsmallest
from random import Random
from typing import Literal

from kernelmill.errors import UserError
from kernelmill.schema import Asked, Event, Proposed, Request
from kernelmill.search._base import Stop
from kernelmill.search._patient import Estimate, Patient
from kernelmill.search._space import Point, Seen, Space, by_neighbours, by_optuna, has_optuna

Method = Literal["auto", "optuna", "neighbours"]


class Tune(Patient):
    """Searches the parameter space of the fastest candidate that has one.

    Spaces below `exhaustive_below` points are tried completely, nearest to the present point first. Larger
    ones go to Optuna's TPE, whose study is built anew from the log in each plan, so that replay plans the
    same; without Optuna to random points and steps away from the fastest. The request's `tag` says which.
    Points whose intervals overlap that of the fastest count as equal to it, and are measured again, the
    least measured one first, until they separate or `repeats` is reached.

    Args:
        method: `auto` takes Optuna where it is installed.
        exhaustive_below: 64 (ours, after reference implementations that enumerate small spaces).
        repeats: Measurements of one promising point at most. 3 (ours).
        patience: Requests in a row without a better point before it stops. 60 (ours).
    """

    def __init__(
        self,
        operator: str = "template",
        *,
        method: Method = "auto",
        exhaustive_below: int = 64,
        repeats: int = 3,
        patience: int = 60,
    ) -> None:
        super().__init__(operator, patience)
        if method not in ("auto", "optuna", "neighbours"):
            raise ValueError(f"method must be auto, optuna or neighbours, got {method!r}")
        if method == "optuna" and not has_optuna():
            raise UserError("method 'optuna' needs the package optuna: pip install 'kernelmill[tune]'")
        self.method: Literal["optuna", "neighbours"] = (
            "neighbours" if method == "neighbours" or not has_optuna() else "optuna"
        )
        self.exhaustive_below = exhaustive_below
        self.repeats = repeats
        self.tunable: set[str] = set()
        """Candidates with a space of more than one point."""
        self.tried: dict[str, dict[Point, str | None]] = {}
        """Candidate id -> points of its space that were asked for, with the candidate that came, if any."""
        self.repeated: dict[str, int] = {}
        """Candidate id -> times it was asked to be measured again."""

    def apply(self, event: Event) -> None:
        """Fold one event; see `Searcher.apply`."""
        super().apply(event)
        match event:
            case Asked(request=request) if request.remeasure and request.parents:
                self.repeated[request.parents[0]] = self.repeated.get(request.parents[0], 0) + 1
            case Asked(request=request):
                self._note(request, None)
            case Proposed(request=request_id, candidate=candidate):
                if any(len(p.values) > 1 for p in candidate.parameters):
                    self.tunable.add(candidate.id)
                if request_id in self.requests:
                    self._note(self.requests[request_id], candidate.id)

    def _note(self, request: Request, answer: str | None) -> None:
        subject = self.candidates.get(request.parents[0]) if request.parents else None
        point = Space.of(subject).index(request.point) if subject and request.point is not None else None
        if point is not None:
            points = self.tried.setdefault(request.parents[0], {})
            points[point] = points.get(point) or answer

    def subject(self) -> str | None:
        """The candidate whose knobs are turned: where the fastest one with knobs came from by tuning alone."""
        passed = self.tunable & self.scores.keys()
        candidate = max(passed, key=lambda c: (self.scores[c], c), default=None)
        while candidate is not None:
            request = self.requests.get(self.origin.get(candidate, ""))
            if request is None or request.point is None or not request.parents:
                break
            candidate = request.parents[0]
        return candidate

    def _seen(self, subject: str) -> Seen:
        space = Space.of(self.candidates[subject])
        points = {space.origin: subject} | self.tried.get(subject, {})
        waiting = {
            space.index(self.requests[r].point or {}) for r in self.open if self.requests[r].parents[:1] == (subject,)
        }
        results: dict[Point, float | None] = {}
        levels = self._levels([c for c in points.values() if c in self.estimates])
        for point, candidate in points.items():
            if point not in waiting:
                results[point] = levels.get(candidate or "")
        return Seen(space, results, frozenset(p for p in waiting if p is not None))

    def _levels(self, candidates: Sequence[str | None]) -> dict[str, float]:
        """Log speed-up of each, where all that overlap with the head of their level share its value."""
        order = sorted((c for c in candidates if c), key=lambda c: (-self.estimates[c].log_ratio, c))
        levels: dict[str, float] = {}
        head: Estimate | None = None
        for candidate in order:
            estimate = self.estimates[candidate]
            if head is None or not head.overlaps(estimate):
                head = estimate
            levels[candidate] = head.log_ratio
        return levels

    def _undecided(self) -> str | None:
        """The least measured of the candidates that may be the fastest; None where one leads clearly."""
        passed = (c for c in self.scores if c in self.estimates)
        ranked = nsmallest(8, passed, key=lambda c: (-self.estimates[c].log_ratio, c))
        if len(ranked) < 2:
            return None
        leader = self.estimates[ranked[0]]
        tied = [c for c in ranked if self.estimates[c].overlaps(leader)][:4]
        under_way = {p for r in self.open for p in self.requests[r].parents if self.requests[r].remeasure}
        again = [c for c in tied if self._tries(c) < self.repeats and c not in under_way]
        return min(again, key=lambda c: (self._tries(c), ranked.index(c))) if len(tied) > 1 and again else None

    def _tries(self, candidate: str) -> int:
        """Times the candidate was measured or asked to be measured again."""
        return max(1 + self.repeated.get(candidate, 0), self.estimates[candidate].measurements)

    def plan(self, room: int, rng: Random) -> Sequence[Request]:
        """New points of the subject; every fourth request settles who is fastest among the undecided."""
        if room < 1 or self.done():
            return []
        subject = self.subject()
        if subject is None:
            return [] if self.open else [self.draft()]
        seen = self._seen(subject)
        planned: list[Request] = []
        for offset in range(room):
            request = self._next(subject, seen, offset, rng)
            if request is None:
                break
            planned.append(request)
            point = seen.space.index(request.point or {})
            seen = Seen(seen.space, seen.results, seen.pending | ({point} if point is not None else set()))
            if request.remeasure:
                break  # the next plan knows that it is under way
        return planned

    def _next(self, subject: str, seen: Seen, offset: int, rng: Random) -> Request | None:
        again = self._undecided() if offset == 0 else None
        point, tag = self._pick(seen, rng)
        request_id = self.next_id(offset)
        if again is not None and (point is None or len(self.requests) % 4 == 3):
            return Request(id=request_id, operator=self.operator, parents=(again,), remeasure=True, tag="tune:again")
        if point is None:
            return None
        values = seen.space.values(point)
        return Request(id=request_id, operator=self.operator, parents=(subject,), point=values, tag=tag)

    def _pick(self, seen: Seen, rng: Random) -> tuple[Point | None, str]:
        if seen.space.size < self.exhaustive_below:
            left = (p for p in seen.space.everything() if p not in seen.asked)
            return next(left, None), "tune:exhaustive"
        if self.method == "optuna":
            return by_optuna(seen, rng), "tune:optuna"
        return by_neighbours(seen, rng), "tune:neighbours"

    def done(self) -> Stop | None:
        """When the space is used up, there is none, or patience has run out."""
        subject = self.subject()
        if subject is None and self.scores and not self.open:
            return Stop("no candidate that passed has parameters to tune")
        if subject is not None and not self.open and self._undecided() is None:
            space = Space.of(self.candidates[subject])
            if len({space.origin} | self.tried.get(subject, {}).keys()) >= space.size:
                return Stop(f"all {space.size} points of the fastest candidate are measured")
        return super().done()
