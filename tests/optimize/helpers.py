"""Parts of an engine in the toy world."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from kernelmill.gates.dedup import Dedup
from kernelmill.optimize.engine import Engine
from kernelmill.propose._base import Operator, View
from kernelmill.schema import (
    Asked,
    BudgetLimits,
    Candidate,
    Closed,
    Evaluation,
    Event,
    Level,
    Measured,
    Proposed,
    Request,
    Stopped,
)
from kernelmill.search import make_searcher
from kernelmill.stores.sqlite import Sqlite
from kernelmill.testing.store import run_info
from kernelmill.testing.toy import ToyOperator, toy_evaluate, toy_task


def engine(store: Sqlite, searcher: str = "puct", options: dict[str, Any] | None = None, **parts: Any) -> Engine:
    """An engine on `run-1`, which is made where it is missing."""
    if not store.runs():
        store.create(run_info())
    defaults: dict[str, Any] = {
        "task": toy_task(),
        "run_id": "run-1",
        "searcher": make_searcher(searcher, "toy", **(options or {})),
        "operators": {"toy": ToyOperator()},
        "gates": [Dedup(suffix=lambda language: "")],
        "evaluate": toy_evaluate,
        "store": store,
        "budget": BudgetLimits(trials=20),
    }
    return Engine(**(defaults | parts))


def timeless(events: list[Event]) -> list[Event]:
    """The events without what a clock said and without notes of having stopped."""
    still = [e.model_copy(update={"seconds": 0.0, "elapsed": 0.0}) if isinstance(e, Closed) else e for e in events]
    return [e for e in still if not isinstance(e, Stopped)]


def measured(events: list[Event]) -> list[tuple[str, Level]]:
    """What was really measured, in order."""
    return [(e.candidate, e.level) for e in events if isinstance(e, Measured) and not e.reused]


class Counting:
    """An evaluator that remembers its calls and fails as told."""

    def __init__(self, fail: Callable[[int], Exception | None] = lambda call: None) -> None:
        self.calls: list[tuple[str, Level]] = []
        self.fail = fail

    def __call__(self, candidate: Candidate, level: Level) -> Evaluation:
        self.calls.append((candidate.id, level))
        error = self.fail(len(self.calls) - 1)
        if error is not None:
            raise error
        return toy_evaluate(candidate, level)


class Fixed(Operator):
    """Gives the candidates it was made with, one group a request; or raises them."""

    def __init__(self, *answers: list[Candidate] | Exception, over: str | None = None) -> None:
        self.answers = itertools.chain(answers, itertools.repeat([]))
        self.over = over

    def propose(self, request: Request, view: View) -> Iterator[Candidate]:
        answer = next(self.answers)
        if isinstance(answer, Exception):
            raise answer
        yield from answer

    def finished(self, view: View) -> str | None:
        return self.over


def path_of(store: Sqlite) -> Path:
    """Where a store is, to open it again."""
    return store.folder


def kinds(events: list[Event]) -> list[str]:
    """The kinds of events in order."""
    return [e.kind for e in events]


def first(events: list[Event], kind: type[Asked] | type[Proposed]) -> Event:
    """The first event of a kind."""
    return next(e for e in events if isinstance(e, kind))
