"""Progress of a search on standard error: a live panel on a terminal, plain lines anywhere else."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from kernelmill.cli._verb import Face
from kernelmill.export.words import bounded, duration
from kernelmill.schema import (
    BudgetLimits,
    Candidate,
    Closed,
    Event,
    Failed,
    Inconclusive,
    Interval,
    Lost,
    Measured,
    Passed,
    Promoted,
    Proposed,
    Stopped,
)

FAILURE_LENGTH = 100
"""Characters of a failure that are shown."""


@dataclass
class Board:
    """What there is to see of a run: a fold of its events."""

    limits: BudgetLimits
    clock: Callable[[], float] = time.monotonic
    candidates: dict[str, Candidate] = field(default_factory=dict)
    measured: set[str] = field(default_factory=set)
    right: set[str] = field(default_factory=set)
    best: Interval | None = None
    best_note: str = ""
    time_us: float | None = None
    floor_us: float | None = None
    last_failure: str = ""
    lost: int = 0
    promoted: str = ""
    line: str = "starting: reading the task, timing the baselines"
    """The latest step."""

    def __post_init__(self) -> None:
        self.start = self.clock()

    def apply(self, event: Event) -> bool:
        """Fold one event; whether it is worth a line of its own."""
        match event:
            case Proposed(candidate=candidate):
                self.candidates[candidate.id] = candidate
                self.line = f"trying #{len(self.candidates)}: {candidate.note or candidate.id}"
                return False
            case Measured():
                return self._measured(event)
            case Lost(reason=reason):
                self.lost += 1
                self.line = f"the machine failed: {_short(reason)}"
            case Promoted(held=held):
                self.promoted = "held at promotion" if held else "did not hold at promotion"
                self.line = f"{self._name(event.candidate)} {self.promoted}"
            case Closed(error=error) if error:
                self.last_failure = self.line = _short(error)
            case Stopped(reason=reason):
                self.line = f"stopped: {reason}"
            case _:
                return False
        return True

    def _name(self, candidate: str) -> str:
        known = self.candidates.get(candidate)
        return f"#{list(self.candidates).index(candidate) + 1} {known.note}".strip() if known else candidate

    def _measured(self, event: Measured) -> bool:
        if not event.reused:
            self.measured.add(event.candidate)
        name = self._name(event.candidate)
        match event.evaluation:
            case Failed(stage=stage, message=message):
                self.last_failure = _short(f"{stage}: {message}")
                self.line = f"{name}: failed at {self.last_failure}"
            case Inconclusive(reason=reason):
                self.last_failure = _short(f"undecided: {reason}")
                self.line = f"{name}: {self.last_failure}"
            case Passed():
                self.right.add(event.candidate)
                self._passed(event.evaluation, name)
        return True

    def _passed(self, evaluation: Passed, name: str) -> None:
        interval = evaluation.speedup()
        self.line = f"{name}: {bounded(interval) if interval else 'right'} ({evaluation.level})"
        if interval is not None and (self.best is None or interval.ratio > self.best.ratio):
            self.best, self.best_note = interval, name
            first = evaluation.results[0]
            self.time_us, self.floor_us = first.time_us, first.floor_us
            self.line += ", the best so far"

    def summary(self) -> list[tuple[str, str]]:
        """Label and value of each row."""
        rows = [
            ("best", f"{bounded(self.best)} over the fastest baseline: {self.best_note}" if self.best else "none yet")
        ]
        if self.time_us:
            floor = f", floor {duration(self.floor_us)}" if self.floor_us else ""
            rows.append(("time", f"{duration(self.time_us)}{floor}"))
        lost = f", {self.lost} lost to the machine" if self.lost else ""
        rows.append(("candidates", f"{len(self.measured)} measured, {len(self.right)} right{lost}"))
        rows.append(("budget", self.budget()))
        if self.last_failure:
            rows.append(("last failure", self.last_failure))
        rows.append(("now", self.line))
        return rows

    def budget(self) -> str:
        """What is used of what there is."""
        passed = self.clock() - self.start
        parts = [f"{passed:.0f} s" + (f" of {self.limits.seconds:g} s" if self.limits.seconds else "")]
        if self.limits.trials:
            parts.append(f"{len(self.measured)} of {self.limits.trials} trials")
        return ", ".join(parts)

    def __rich__(self) -> Table:
        rows = self.summary()
        grid = Table.grid(padding=(0, 2))
        # Without a least width rich cuts the labels as well, where a value is longer than the line.
        grid.add_column(style="bold cyan", no_wrap=True, min_width=max(len(label) for label, _ in rows))
        grid.add_column(overflow="ellipsis", no_wrap=True)
        for label, value in rows:
            grid.add_row(label, Text(value, style="red" if label == "last failure" else ""))
        return grid


def _short(text: str) -> str:
    line = text.strip().splitlines()[0] if text.strip() else ""
    return line if len(line) <= FAILURE_LENGTH else f"{line[: FAILURE_LENGTH - 3]}..."


@contextmanager
def progress(
    face: Face, limits: BudgetLimits, console: Console | None = None, before: Sequence[Event] = ()
) -> Iterator[Callable[[Event], object] | None]:
    """What to call with each event; None with `--quiet`.

    `before` are the events of a resumed run.
    rich reads NO_COLOR, FORCE_COLOR and TERM; a terminal that cannot move its cursor gets plain lines.
    """
    if face.quiet:
        yield None
        return
    console = console or Console(stderr=True)
    board = Board(limits)
    for event in before:
        board.apply(event)
    if not console.is_terminal or console.is_dumb_terminal or face.verbose:
        yield _lines(face, board)
        return
    with Live(board, console=console, refresh_per_second=4, transient=True):
        yield board.apply


def _lines(face: Face, board: Board) -> Callable[[Event], None]:
    face.note(board.line)

    def show(event: Event) -> None:
        if board.apply(event) or face.verbose:
            face.note(f"[{board.budget()}] {board.line}")

    return show
