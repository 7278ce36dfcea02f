"""All that the engine knows of a run: a fold of its events, the same live and at resume."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import TypeVar

from kernelmill.optimize.budget import Cost
from kernelmill.propose._base import View
from kernelmill.schema import (
    Asked,
    Candidate,
    Closed,
    Evaluation,
    Event,
    Interval,
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

T = TypeVar("T")


@dataclass
class Progress:
    """How far one open request has come."""

    request: Request
    proposed: list[str] = field(default_factory=list)
    screened: dict[str, Screened] = field(default_factory=dict)
    """What a gate said no to, or found a twin of."""
    levels: dict[str, set[Level]] = field(default_factory=dict)
    """Candidate id -> levels at which this request measured it."""
    reused: set[str] = field(default_factory=set)
    losses: Counter[str] = field(default_factory=Counter)

    @property
    def trials(self) -> int:
        """Candidates that were measured for this request."""
        return len(self.levels.keys() - self.reused)

    @property
    def listed(self) -> bool:
        """Whether all its candidates are in the log: what follows the last `Proposed` says so."""
        return len(self.proposed) >= self.request.n or bool(self.screened or self.levels or self.losses)


class Journal:
    """Folds events for the engine, and hands each on to the searcher."""

    def __init__(self, searcher: Searcher) -> None:
        self.searcher = searcher
        self.requests: dict[str, Request] = {}
        self.candidates: dict[str, Candidate] = {}
        self.origin: dict[str, str] = {}
        self.evaluations: dict[str, Evaluation] = {}
        self.open: dict[str, Progress] = {}
        self.spent = Cost()
        self.steps = 0
        """Events that steer the search; seeds the chance of the next plan."""
        self.closed = 0
        self.barren = 0
        """Requests closed in a row without a new candidate."""
        self.last_error = ""
        self.losses = 0
        """Infrastructure failures in a row."""
        self.held: set[str] = set()
        self.refuted: set[str] = set()
        self.intervals: dict[str, Interval] = {}
        """Latest speed-up of every candidate that passed and was not refuted."""
        self._leader: str | None = None
        self.stopped: str | None = None

    def apply(self, event: Event) -> None:
        """Fold one event."""
        self.stopped = None
        match event:
            case Asked(request=request):
                self.requests[request.id] = request
                self.open[request.id] = Progress(request)
            case Proposed():
                self._proposed(event)
            case Screened() | Measured() | Lost():
                self._tried(event)
            case Closed():
                self._closed(event)
            case Promoted(candidate=candidate, held=held):
                (self.held if held else self.refuted).add(candidate)
                if not held:
                    self._set_interval(candidate, None)
            case Stopped(reason=reason):
                self.stopped, self.barren, self.losses = reason, 0, 0
        self.steps += not isinstance(event, (Stopped, Promoted))
        self.searcher.apply(event)

    def _proposed(self, event: Proposed) -> None:
        identity = event.candidate.id
        if identity not in self.candidates:
            self.candidates[identity] = event.candidate
            self.origin[identity] = event.request
            self.barren = 0
        if event.request in self.open:
            self.open[event.request].proposed.append(identity)

    def _tried(self, event: Screened | Measured | Lost) -> None:
        for progress in self.open.values():
            if event.candidate not in progress.proposed:
                continue
            match event:
                case Screened():
                    progress.screened[event.candidate] = event
                case Lost():
                    progress.losses[event.candidate] += 1
                case Measured():
                    progress.levels.setdefault(event.candidate, set()).add(event.level)
                    progress.reused |= {event.candidate} if event.reused else set()
        if isinstance(event, Lost):
            self.losses += 1
        elif isinstance(event, Measured):
            self._measured(event)

    def _measured(self, event: Measured) -> None:
        self.losses = 0 if not event.reused else self.losses
        self.evaluations[event.candidate] = event.evaluation
        interval = event.evaluation.speedup() if isinstance(event.evaluation, Passed) else None
        self._set_interval(event.candidate, interval if event.candidate not in self.refuted else None)

    def _set_interval(self, candidate: str, interval: Interval | None) -> None:
        if interval is None:
            self.intervals.pop(candidate, None)
        else:
            self.intervals[candidate] = interval
        if candidate == self._leader:
            # It may have lost its place: the full measurement of a lucky screening, or a failed promotion.
            self._leader = max(self.intervals, key=lambda c: (self.intervals[c].ratio, c), default=None)
        elif interval and (self.leader is None or interval.ratio > self.leader.ratio):
            self._leader = candidate

    @property
    def leader(self) -> Interval | None:
        """The best speed-up measured so far, with its interval."""
        return self.intervals[self._leader] if self._leader is not None else None

    def _closed(self, event: Closed) -> None:
        progress = self.open.pop(event.request, None)
        self.closed += 1
        # A request that brings nothing new is not barren where it measured: a repeat narrows an interval.
        self.barren = 0 if progress and progress.trials else self.barren + 1
        self.last_error = event.error
        trials = progress.trials if progress else 0
        self.spent = Cost(
            self.spent.trials + trials,
            max(self.spent.seconds, event.elapsed),
            self.spent.dollars + event.dollars,
            self.spent.tokens + event.tokens,
        )

    def view(self, task: Task, device: dict[str, float], workdir: Path, request: str = "") -> View:
        """A snapshot for an operator, without what `request` itself has brought: a resumed one sees the same."""
        brought = self.open[request].proposed if request in self.open else []
        hidden = {c for c in brought if self.origin[c] == request}

        def shown(table: dict[str, T]) -> Mapping[str, T]:
            copy = dict(table)
            for identity in hidden:
                copy.pop(identity, None)
            return MappingProxyType(copy)

        return View(
            task=task,
            candidates=shown(self.candidates),
            evaluations=shown(self.evaluations),
            origin=shown(self.origin),
            requests=MappingProxyType(dict(self.requests)),
            device=MappingProxyType(device),
            workdir=workdir,
        )
