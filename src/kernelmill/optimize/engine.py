"""The loop: plan, propose, screen, measure, close; every step in the log before anybody acts on it."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

from kernelmill.errors import KernelMillError, UserError
from kernelmill.gates import Gate
from kernelmill.optimize._journal import Journal, Progress
from kernelmill.optimize._pool import Interrupt, Pool
from kernelmill.optimize._slow import Evaluate, Failure, Promote, measure, promoted, propose
from kernelmill.optimize.budget import Cost, Ledger
from kernelmill.optimize.promotion import GAIN
from kernelmill.propose._base import Operator, View
from kernelmill.schema import (
    Asked,
    BudgetLimits,
    Candidate,
    Closed,
    Evaluation,
    Event,
    Level,
    Lost,
    Measured,
    Passed,
    Promoted,
    Proposed,
    Request,
    Screened,
    Stopped,
    Task,
)
from kernelmill.search import Searcher
from kernelmill.stores import Store

ATTEMPTS = 3
"""Of one measurement on a machine that fails: the first and two more."""

LOST_IN_A_ROW = 9
"""Infrastructure failures in a row that end a run: three candidates with all their attempts."""

BARREN_IN_A_ROW = 25
"""Requests in a row without a new candidate that end a run, since no budget would."""

PROMOTION_COST = 3.0
"""Of the slowest measurement of the search: fresh baselines, all cases, at least 10 pairs, held-out cases."""

PROMOTIONS = 5
"""Candidates tried at one promotion before the run ends without a winner."""

Job = Generator[Callable[[], Any], Any, None]
"""Answers one request: yields slow calls, is sent their results, appends events in between."""


def free(request: Request) -> Cost:  # noqa: ARG001
    """What operators that call no paid service cost."""
    return Cost()


@dataclass(kw_only=True)
class Engine:
    """One run, new or resumed.

    The run must exist in the store. Where it has events already, they are folded first and the run
    goes on from there: open requests are finished, nothing that was measured is measured again.
    """

    task: Task
    run_id: str
    searcher: Searcher
    operators: Mapping[str, Operator]
    """By the name that requests call them."""
    gates: Sequence[Gate]
    evaluate: Evaluate
    store: Store
    budget: BudgetLimits
    promote: Promote | None = None
    seed: int = 0
    workers: int = 1
    levels: tuple[Level, ...] = ("screening", "full")
    """Each candidate is measured at the first; at the next ones while it may still be the fastest."""
    device: Mapping[str, float] = field(default_factory=dict)
    workdir: Path = field(default_factory=Path)
    charge: Callable[[Request], Cost] = free
    """Dollars and tokens of the answer to a request, asked for when it is closed."""
    clock: Callable[[], float] = time.monotonic

    def __post_init__(self) -> None:
        if self.workers < 1 or not self.levels:
            raise UserError(f"a run needs a worker and a level, got workers={self.workers}, levels={self.levels}")
        self.journal = Journal(self.searcher)
        self._gates = sorted(self.gates, key=lambda gate: gate.cost_rank)
        self._interrupt = Interrupt()
        self._fresh: deque[Event] = deque()
        for event in self.store.events(self.run_id):
            self.journal.apply(event)
        self.ledger = Ledger(self.budget, self.journal.spent, self.clock)
        self._granted: dict[str, int] = {}
        self._asked_at: dict[str, float] = {}
        self._finished_after = -1

    @property
    def winner(self) -> str | None:
        """The fastest candidate that held at promotion."""
        scores = self.searcher.scores
        return max(self.journal.held, key=lambda c: (scores.get(c, 0.0), c), default=None)

    def stop(self) -> None:
        """End the run at the next step, as Ctrl-C does; may be called from another thread or a consumer."""
        self._interrupt.asked = True

    def run(self) -> Iterator[Event]:
        """Search until something says stop; each event, once it is safe in the store.

        The last one is `Stopped`; its reason is `interrupted` after Ctrl-C, SIGTERM or `stop()`.

        Raises:
            KernelMillError: What no further attempt would mend: a key, a compiler, the store. The log
                is whole and the run can be resumed.
        """
        with self._interrupt.listening():
            pool = Pool(self.workers, self._interrupt)
            try:
                reason = yield from self._search(pool)
                if self.promote is not None:
                    yield from self._promotions()
                self._emit(Stopped(reason=reason))
            except KeyboardInterrupt:
                self._emit(Stopped(reason="interrupted"))
            except GeneratorExit:
                with suppress(KernelMillError):
                    self._emit(Stopped(reason="interrupted"))
                raise
            finally:
                pool.close()
        yield from self._drain()

    def promote_best(self) -> bool:
        """Promote the best candidate now, unless it held before; whether it holds. For consumers of `run`."""
        best = self.searcher.best()
        if best is None or self.promote is None or best in self.journal.refuted:
            return False
        if best not in self.journal.held:
            self._promote(best, self.promote)
        return best in self.journal.held

    def _emit(self, event: Event) -> None:
        self.store.append(self.run_id, event)
        self.journal.apply(event)
        self._fresh.append(event)

    def _drain(self) -> Iterator[Event]:
        while self._fresh:
            yield self._fresh.popleft()

    def _search(self, pool: Pool) -> Generator[Event, None, str]:
        """The loop itself; gives back why it ended."""
        jobs: dict[str, Job] = {}
        ready: list[tuple[str, Any]] = []
        for request_id, progress in self.journal.open.items():
            # Asked in an earlier session: its place in the budget was granted then.
            self._granted[request_id] = max(self.ledger.reserve(request_id, _wanted(progress.request)), 1)
            ready.append((request_id, None))
            jobs[request_id] = self._answer(progress)
        reason: str | None = None
        while True:
            reason = reason or self._reason_to_stop()
            if reason is None:
                asked, reason = self._ask(max(0, self.workers - len(jobs)))
                jobs |= {r: self._answer(self.journal.open[r]) for r in asked}
                ready += [(r, None) for r in asked]
            yield from self._drain()
            if not jobs:
                return reason or "the searcher has nothing to ask"
            for request_id, result in ready:
                self._step(pool, jobs, request_id, result)
            yield from self._drain()
            ready = pool.finished() if jobs else []

    def _step(self, pool: Pool, jobs: dict[str, Job], request_id: str, result: Any) -> None:
        """Run a job to its next slow call."""
        try:
            call = jobs[request_id].send(result)
        except StopIteration:
            del jobs[request_id]
        else:
            pool.submit(request_id, call)

    def _reason_to_stop(self) -> str | None:
        if self._interrupt.asked:
            raise KeyboardInterrupt
        if self.journal.losses >= LOST_IN_A_ROW:
            return f"the machine failed {self.journal.losses} times in a row"
        if self.journal.barren >= BARREN_IN_A_ROW:
            error = f"; the last error: {self.journal.last_error}" if self.journal.last_error else ""
            return f"{self.journal.barren} requests in a row brought no new candidate{error}"
        stop = self.searcher.done()
        self.ledger.keep_back(self._promotion_s())
        return self.ledger.exhausted() or (stop.reason if stop else None) or self._operators_finished()

    def _promotion_s(self) -> float:
        """What promotion will take, from what the slowest measurement took; 0 where nothing is to be promoted."""
        if self.promote is None or self.journal.leader is None:
            return 0.0
        return PROMOTION_COST * max(e.seconds for e in self.journal.evaluations.values())

    def _operators_finished(self) -> str | None:
        """What the operators say when all of them see nothing more to gain; asked once per closed request."""
        if not self.journal.evaluations or self._finished_after == self.journal.closed:
            return None
        self._finished_after = self.journal.closed
        view = self._view()
        reasons = [operator.finished(view) for operator in self.operators.values()]
        return "; ".join(r for r in reasons if r) if reasons and all(reasons) else None

    def _view(self, request: str = "") -> View:
        return self.journal.view(self.task, dict(self.device), self.workdir, request)

    def _ask(self, room: int) -> tuple[list[str], str | None]:
        """Issue what the searcher wants and the budget allows; why nothing more, where the budget says so."""
        asked: list[str] = []
        rng = Random(f"{self.seed}:{self.journal.steps}")
        for request in self.searcher.plan(room, rng)[:room] if room else []:
            granted = self.ledger.reserve(request.id, _wanted(request))
            if not granted:
                # Open requests may give back what they reserved; the end comes when none is left.
                return asked, None if asked or self.journal.open else "the budget has no place for another request"
            self._granted[request.id] = granted
            self._emit(Asked(request=request))
            self._asked_at[request.id] = self.clock()
            asked.append(request.id)
        return asked, None

    def _answer(self, progress: Progress) -> Job:
        """Everything that happens to one request. What the log has already is skipped."""
        request, error = progress.request, ""
        start = self._asked_at.pop(request.id, self.clock())
        if not progress.listed:
            if request.remeasure:
                answer: list[Candidate] | Failure = self._parent(request)
            else:
                answer = yield partial(propose, self._operator(request), request, self._view(request.id))
            if isinstance(answer, Failure):
                error, answer = answer.reason, []
            for candidate in answer[: request.n]:
                if candidate.id not in progress.proposed:
                    self._emit(Proposed(request=request.id, candidate=candidate))
        for identity in progress.proposed:
            yield from self._try(progress, self.journal.candidates[identity])
        self._close(progress, error, self.clock() - start)

    def _close(self, progress: Progress, error: str, seconds: float) -> None:
        request = progress.request
        cost = self.charge(request)
        self._granted.pop(request.id, None)
        self.ledger.commit(request.id, Cost(progress.trials, 0.0, cost.dollars, cost.tokens))
        closed = Closed(
            request=request.id,
            seconds=seconds,
            elapsed=self.ledger.spent.seconds,
            dollars=cost.dollars,
            tokens=cost.tokens,
            error=error,
        )
        self._emit(closed)

    def _operator(self, request: Request) -> Operator:
        if request.operator not in self.operators:
            known = ", ".join(sorted(self.operators)) or "none"
            raise UserError(f"the searcher asks for operator {request.operator!r}; this run has: {known}")
        return self.operators[request.operator]

    def _parent(self, request: Request) -> list[Candidate] | Failure:
        known = [self.journal.candidates[p] for p in request.parents if p in self.journal.candidates]
        return known[:1] or Failure(f"nothing to measure again: the run has no candidate {request.parents}")

    def _try(self, progress: Progress, candidate: Candidate) -> Job:
        """Screen and measure one candidate."""
        identity = candidate.id
        if identity not in progress.levels and not self._accepted(progress, candidate):
            return
        levels = self.levels[-1:] if progress.request.remeasure else self.levels
        for level in levels if identity not in progress.reused else ():
            if level not in progress.levels.get(identity, ()):
                evaluation = yield from self._measure(progress, candidate, level)
                if evaluation is None:
                    return
                self._emit(Measured(candidate=identity, level=level, evaluation=evaluation))
            if not (self._may_lead(identity) and self._affordable(identity)):
                return

    def _accepted(self, progress: Progress, candidate: Candidate) -> bool:
        """Whether it is to be measured; the word of the first gate that does not accept goes into the log."""
        if progress.request.remeasure:
            return True
        verdict = progress.screened.get(candidate.id) or self._screen(progress, candidate)
        if verdict.verdict != "accept" and candidate.id not in progress.screened:
            self._emit(verdict)
        if verdict.verdict == "reuse":
            evaluation = self.journal.evaluations[verdict.reason]
            level = evaluation.level if isinstance(evaluation, Passed) else self.levels[0]
            self._emit(Measured(candidate=candidate.id, level=level, evaluation=evaluation, reused=True))
        return verdict.verdict == "accept"

    def _screen(self, progress: Progress, candidate: Candidate) -> Screened:
        for gate in self._gates:
            verdict = gate.screen(candidate, self.journal.candidates, self.journal.evaluations)
            if verdict.verdict != "accept":
                return verdict
        granted = self._granted[progress.request.id]
        if progress.trials >= granted:
            why = f"{granted} of this request are measured already"
            return Screened(candidate=candidate.id, gate="budget", verdict="reject", reason=why)
        return Screened(candidate=candidate.id, gate="budget", verdict="accept")

    def _measure(
        self, progress: Progress, candidate: Candidate, level: Level
    ) -> Generator[Callable[[], Any], Any, Evaluation | None]:
        """The evaluation, or None where the machine failed every time."""
        while progress.losses[candidate.id] < ATTEMPTS:
            outcome = yield partial(measure, self.evaluate, candidate, level)
            if not isinstance(outcome, Failure):
                evaluation: Evaluation = outcome
                return evaluation
            self._emit(Lost(candidate=candidate.id, reason=outcome.reason))
        return None

    def _may_lead(self, candidate: str) -> bool:
        """Whether its interval reaches that of the fastest so far, and a gain at all."""
        evaluation = self.journal.evaluations.get(candidate)
        interval = evaluation.speedup() if isinstance(evaluation, Passed) else None
        leader = self.journal.leader
        return interval is not None and interval.high >= max(GAIN, leader.low if leader else 0.0)

    def _affordable(self, candidate: str) -> bool:
        """Whether there is time for a closer look, about as long as the first; promotion takes one in any case."""
        self.ledger.keep_back(self._promotion_s())
        return self.journal.evaluations[candidate].seconds <= self.ledger.spare_s

    def _promotions(self) -> Iterator[Event]:
        """Promote the best; where it does not hold, the next best, a few times and while there is time."""
        for _ in range(PROMOTIONS):
            before = len(self.journal.refuted)
            held = self.promote_best()
            yield from self._drain()
            if held or len(self.journal.refuted) == before or self.ledger.left("seconds") <= 0:
                return

    def _promote(self, identity: str, promote: Promote) -> None:
        for _ in range(ATTEMPTS):
            with self._interrupt.during():
                outcome = promoted(promote, self.journal.candidates[identity])
            if not isinstance(outcome, Failure):
                held, evaluation = outcome
                evidence = self.store.put(evaluation.model_dump_json().encode())
                self._emit(Promoted(candidate=identity, held=held, evidence=evidence))
                return
            self._emit(Lost(candidate=identity, reason=f"promotion: {outcome.reason}"))


def _wanted(request: Request) -> int:
    return 1 if request.remeasure else min(request.n, request.keep or request.n)
