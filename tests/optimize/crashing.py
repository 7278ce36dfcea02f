"""A run that may be told to kill itself; test_crashes starts it in processes of its own."""

from __future__ import annotations

import os
import signal
from pathlib import Path

from kernelmill.gates.dedup import Dedup
from kernelmill.optimize.engine import Engine
from kernelmill.schema import BudgetLimits, Candidate, Evaluation, Event, Level
from kernelmill.search import make_searcher
from kernelmill.stores.sqlite import Sqlite
from kernelmill.testing.store import run_info
from kernelmill.testing.toy import ToyOperator, passed, toy_evaluate, toy_task


def die() -> None:
    """What a power cut does to a process."""
    os.kill(os.getpid(), signal.SIGKILL)


class Mortal(Sqlite):
    """Dies before or after its n-th append."""

    def __init__(self, folder: Path, when: str, at: int) -> None:
        super().__init__(folder)
        self.when, self.left = when, at

    def append(self, run: str, event: Event) -> int:
        self.left -= 1
        if self.when == "before" and self.left == 0:
            die()
        seq = super().append(run, event)
        if self.when == "after" and self.left == 0:
            die()
        return seq


def main(folder: Path, searcher: str, when: str, at: int) -> None:
    store = Mortal(folder, when, at)
    if not store.runs():
        store.create(run_info())
    calls = folder / "calls.txt"

    def evaluate(candidate: Candidate, level: Level) -> Evaluation:
        with calls.open("a") as file:
            file.write(f"{candidate.id} {level}\n")
        if when == "during" and len(calls.read_text().splitlines()) == at:
            die()
        return toy_evaluate(candidate, level)

    def promote(candidate: Candidate) -> tuple[bool, Evaluation]:
        return True, passed(1.5)

    options = {"group": 3} if searcher == "puct" else {}
    engine = Engine(
        task=toy_task(),
        run_id="run-1",
        searcher=make_searcher(searcher, "toy", **options),
        operators={"toy": ToyOperator()},
        gates=[Dedup(suffix=lambda language: "")],
        evaluate=evaluate,
        promote=promote,
        store=store,
        budget=BudgetLimits(trials=18),
    )
    for _ in engine.run():
        pass


def start(folder: Path, searcher: str, when: str = "never", at: int = 0) -> int:
    """Run `main` in a forked process (0.05 s, a fresh interpreter takes 0.6 s); 0, or the signal that ended it."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            main(folder, searcher, when, at)
            code = 0
        finally:
            os._exit(code)
    _, status = os.waitpid(child, 0)
    code = os.waitstatus_to_exitcode(status)
    assert code <= 0, "the run failed"
    return -code
