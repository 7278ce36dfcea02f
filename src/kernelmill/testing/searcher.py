"""What every searcher must keep to. Subclass `SearcherContract` and give it a `make` fixture."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from random import Random
from typing import Any, ClassVar

from kernelmill.propose._base import View
from kernelmill.schema import (
    Asked,
    Candidate,
    Closed,
    Evaluation,
    Event,
    Failed,
    Inconclusive,
    Lost,
    Measured,
    Promoted,
    Proposed,
    Request,
    Spec,
)
from kernelmill.search import Searcher
from kernelmill.testing.toy import ToyOperator, passed, toy_evaluate, toy_task

Make = Callable[[], Searcher]
Judge = Callable[[Candidate, Random], Evaluation | None]
"""Verdict on a candidate; None: the infrastructure failed."""


def state_of(value: Any) -> Any:
    """All of an object's state as plain comparable values, keys that a read has created included."""
    if isinstance(value, Spec):
        return value.model_dump_json()
    if isinstance(value, Random):
        return value.getstate()
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: state_of(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return [(state_of(k), state_of(v)) for k, v in value.items()]
    if isinstance(value, (set, frozenset)):
        return sorted(map(repr, value))
    if isinstance(value, (str, bytes, int, float, type(None))):
        return value
    if isinstance(value, Searcher):
        return {name: state_of(v) for name, v in vars(value).items()}
    return [state_of(v) for v in value] if hasattr(value, "__iter__") else repr(value)


def fair(candidate: Candidate, _rng: Random) -> Evaluation:
    """The toy's own verdict."""
    return toy_evaluate(candidate)


def hostile(candidate: Candidate, rng: Random) -> Evaluation | None:
    """Failures, no verdicts and lost machines most of the time."""
    fate = rng.random()
    if fate < 0.3:
        return Failed(stage="launch", message="segmentation fault")
    if fate < 0.5:
        return Inconclusive(reason="the machine was busy")
    return None if fate < 0.7 else toy_evaluate(candidate)


def flat(_candidate: Candidate, _rng: Random) -> Evaluation:
    """Nothing is faster than anything else."""
    return passed(1.0)


@dataclass
class Trace:
    """What one run of a searcher in the toy world left."""

    searcher: Searcher
    events: list[Event] = field(default_factory=list)
    ended: str = ""

    @property
    def requests(self) -> list[Request]:
        """All requests in order."""
        return [e.request for e in self.events if isinstance(e, Asked)]


class World:
    """Drives a searcher with several requests in flight, which end in any order; checks each plan."""

    def __init__(self, searcher: Searcher, judge: Judge = fair, seed: int = 0, *, mute: bool = False) -> None:
        self.trace = Trace(searcher)
        self.seed = seed
        self._rng = Random(f"world {seed}")
        self._judge = judge
        self._mute = mute
        self._flying: list[Request] = []
        self._candidates: dict[str, Candidate] = {}

    def run(self, workers: int = 1, requests: int = 60, check_every: int = 5) -> Trace:
        """Go on until so many requests are closed, the searcher is done, or has nothing to ask."""
        searcher = self.trace.searcher
        closed = 0
        while closed < requests:
            stop = searcher.done()
            room = workers - len(self._flying)
            if stop is None and room:
                self._plan(room, check=closed % check_every == 0)
            if not self._flying:
                self.trace.ended = stop.reason if stop else "nothing to ask"
                break
            self._answer(self._flying.pop(self._rng.randrange(len(self._flying))))
            closed += 1
        return self.trace

    def _plan(self, room: int, *, check: bool) -> None:
        searcher, rng = self.trace.searcher, Random(f"{self.seed}:{len(self.trace.events)}")
        before = state_of(searcher) if check else None
        planned = list(searcher.plan(room, rng))
        if check:
            assert state_of(searcher) == before, "plan changed the searcher's state; only apply may"
            again = list(searcher.plan(room, Random(f"{self.seed}:{len(self.trace.events)}")))
            assert planned == again, "two plans from one state and seed differ"
        assert len(planned) <= room, f"{len(planned)} requests planned where there is room for {room}"
        known = {r.id for r in self.trace.requests}
        for request in planned:
            assert request.id not in known, f"request id {request.id!r} is used twice"
            unknown = set(request.parents) - self._candidates.keys()
            assert not unknown, f"request {request.id} has parents that nobody proposed: {sorted(unknown)}"
            assert request.n >= 1, f"request {request.id} wants {request.n} candidates"
            known.add(request.id)
            self._emit(Asked(request=request))
            self._flying.append(request)

    def _answer(self, request: Request) -> None:
        for candidate in self._proposals(request):
            self._candidates[candidate.id] = candidate
            self._emit(Proposed(request=request.id, candidate=candidate))
        for candidate in self._proposals(request)[: request.keep]:
            verdict = self._judge(candidate, self._rng)
            if verdict is None:
                self._emit(Lost(candidate=candidate.id, reason="the worker died"))
            else:
                self._emit(Measured(candidate=candidate.id, level="full", evaluation=verdict))
        self._emit(Closed(request=request.id, error="no answer" if self._mute else ""))

    def _proposals(self, request: Request) -> list[Candidate]:
        if self._mute:
            return []
        if request.remeasure:
            return [self._candidates[request.parents[0]]]
        view = View(task=toy_task(), candidates=self._candidates)
        return list(ToyOperator().propose(request, view))

    def _emit(self, event: Event) -> None:
        self.trace.events.append(event)
        self.trace.searcher.apply(event)


class SearcherContract:
    """Obligations of every searcher; `make` gives a new one with the options under test."""

    patience: ClassVar[int] = 600
    """Closed requests without any gain after which it must have ended by itself."""

    def test_plan_mutates_nothing_and_fits_the_room(self, make: Make) -> None:
        for workers in (1, 4):
            World(make()).run(workers, requests=60, check_every=1)

    def test_replay_of_the_log_rebuilds_the_same_state(self, make: Make) -> None:
        for workers in (1, 4):
            trace = World(make(), hostile, seed=3).run(workers)
            replayed = make()
            for event in trace.events:
                replayed.apply(event)
            assert state_of(replayed) == state_of(trace.searcher)
            assert list(replayed.plan(workers, Random(5))) == list(trace.searcher.plan(workers, Random(5)))

    def test_the_same_seed_makes_the_same_choices(self, make: Make) -> None:
        assert World(make(), seed=7).run(4).requests == World(make(), seed=7).run(4).requests

    def test_requests_may_end_in_any_order(self, make: Make) -> None:
        for seed in range(4):
            trace = World(make(), seed=seed).run(4, requests=40)
            assert trace.requests
            assert trace.searcher.best() in trace.searcher.scores

    def test_the_best_is_the_fastest_that_passed(self, make: Make) -> None:
        trace = World(make()).run(requests=40)
        ratios = [
            e.evaluation.results[0].comparisons[0].interval.ratio
            for e in trace.events
            if isinstance(e, Measured) and e.evaluation.status == "passed"
        ]
        best = trace.searcher.best()
        assert best is not None
        assert abs(trace.searcher.scores[best] - max(ratios)) < 1e-6

    def test_failures_and_lost_candidates_do_not_end_it(self, make: Make) -> None:
        for seed in range(4):
            trace = World(make(), hostile, seed=seed).run(2, requests=30)
            assert len(trace.requests) > 1

    def test_it_lives_with_an_operator_that_never_answers(self, make: Make) -> None:
        trace = World(make(), mute=True).run(2, requests=self.patience + 1, check_every=50)
        assert trace.ended
        assert trace.searcher.best() is None

    def test_it_ends_by_itself_when_nothing_gets_faster(self, make: Make) -> None:
        trace = World(make(), flat).run(2, requests=self.patience + 1, check_every=50)
        assert trace.ended, f"still asking after {self.patience} requests without a gain"

    def test_it_is_not_done_before_it_began(self, make: Make) -> None:
        searcher = make()
        assert searcher.done() is None
        assert searcher.best() is None
        assert searcher.plan(1, Random(0)), "a new searcher asks for something"

    def test_a_candidate_that_did_not_hold_is_not_best(self, make: Make) -> None:
        searcher = World(make()).run(requests=20).searcher
        best = searcher.best()
        assert best is not None
        searcher.apply(Promoted(candidate=best, held=False))
        assert searcher.best() != best

    def test_it_needs_no_torch(self, make: Make) -> None:
        module = type(make()).__module__
        code = f"import sys, {module}; sys.exit('torch' in sys.modules)"
        if subprocess.run([sys.executable, "-c", code], check=False, timeout=60).returncode:
            raise AssertionError(f"importing {module} imports torch (or does not work)")
