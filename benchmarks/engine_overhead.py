"""What the engine itself costs per event, with an operator and an evaluator that take no time.

    python benchmarks/engine_overhead.py --events 10000

Prints a table; ends with 1 where an event of the last tenth took more than `--limit-ms`.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer
from rich.console import Console
from rich.table import Table

from kernelmill.gates.dedup import Dedup
from kernelmill.optimize.engine import Engine
from kernelmill.propose._base import Operator, View
from kernelmill.schema import BudgetLimits, Candidate, Evaluation, Level, Parameter, Request
from kernelmill.search import make_searcher
from kernelmill.stores.sqlite import Sqlite
from kernelmill.testing.store import run_info
from kernelmill.testing.toy import passed, toy_task

KNOBS = tuple(Parameter(name=f"k{i}", values=tuple(range(8)), default=0, ordered=True) for i in range(5))
SOURCE = "float x = 1.0f;  // a line of a kernel\n" * 100
"""4 kB, the size of a typical kernel."""

SEARCHERS: dict[str, dict[str, Any]] = {
    "best_of_n": {"n": 10**6},
    "one_plus_one": {"patience": 10**6},
    "puct": {"patience": 10**6},
    "tune": {"patience": 10**6},
    "portfolio": {"patience": 10**6, "options": {"puct": {"patience": 10**6}, "tune": {"patience": 10**6}}},
}


class Instant(Operator):
    """A new candidate for every request."""

    def propose(self, request: Request, view: View) -> Iterator[Candidate]:
        """One candidate, without looking at anything."""
        point = request.point or {}
        yield Candidate(language="none", source=f"{SOURCE}// {request.id}", parameters=KNOBS, point=point)


def instant(candidate: Candidate, level: Level) -> Evaluation:
    """A speed-up that slowly rises, so that there is always something to be found."""
    return passed(1.0 + int(candidate.id[:6], 16) / 2**24, 0.001, level)


def measure(searcher: str, events: int, folder: Path) -> list[float]:
    """CPU seconds of this process at which each event came: unlike wall time, not a matter of who else works here."""
    store = Sqlite(folder)
    store.create(run_info())
    engine = Engine(
        task=toy_task(),
        run_id="run-1",
        searcher=make_searcher(searcher, "instant", **SEARCHERS[searcher]),
        operators={"instant": Instant()},
        gates=[Dedup()],
        evaluate=instant,
        store=store,
        budget=BudgetLimits(trials=events),
        levels=("full",),
    )
    times = []
    for _ in engine.run():
        times.append(time.process_time())
        if len(times) >= events:
            break
    return times


def main(events: int = 10_000, limit_ms: float = 20.0, searcher: str = "") -> None:
    """Measure every searcher, or one."""
    table = Table("searcher", "events", "first tenth, CPU ms/event", "last tenth, CPU ms/event", "replay, CPU s")
    worst = 0.0
    for name in [searcher] if searcher else SEARCHERS:
        with tempfile.TemporaryDirectory() as folder:
            times = measure(name, events, Path(folder))
            tenth = len(times) // 10
            early = (times[tenth] - times[0]) / tenth * 1e3
            late = (times[-1] - times[-1 - tenth]) / tenth * 1e3
            start = time.process_time()
            replayed = make_searcher(name, "instant", **SEARCHERS[name])
            with Sqlite(folder) as store:
                for event in store.events("run-1"):
                    replayed.apply(event)
            replay = time.process_time() - start
            table.add_row(name, str(len(times)), f"{early:.2f}", f"{late:.2f}", f"{replay:.2f}")
            worst = max(worst, late)
    Console().print(table)
    raise typer.Exit(int(worst > limit_ms))


if __name__ == "__main__":
    typer.run(main)
