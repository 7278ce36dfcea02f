"""One server for all, one evaluator a task, and the tally of false verdicts at the end."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from kernelmill.evaluate.cells import CellSettings, Server
from kernelmill.evaluate.machine import QUIET, Reading, Usual, Watch
from kernelmill.evaluate.pipeline import Evaluator
from kernelmill.evaluate.reference import ReferencePolicy, load_task
from kernelmill.evaluate.settings import Settings
from kernelmill.evaluate.timing import Instruments
from kernelmill.languages.cpp import Cpp

from .catalogue import TASKS

Judge = Callable[[str], Evaluator]


class Calm(Watch):
    """Calls no pair disturbed: what is asked here is whether a kernel is honest, not how fast it is."""

    def disturbance(
        self, before: Reading, after: Reading, wall_s: float, delay: float, usual: Usual = QUIET
    ) -> str | None:
        return None


class Tally:
    """Verdicts by kind of source and tier."""

    def __init__(self) -> None:
        self.judged: Counter[tuple[str, str]] = Counter()
        self.false: Counter[tuple[str, str]] = Counter()

    def add(self, kind: str, tier: str, *, right: bool) -> None:
        """Note one verdict on an `exploit` or a `twin`."""
        self.judged[kind, tier] += 1
        self.false[kind, tier] += not right

    def lines(self) -> Iterator[str]:
        """One a kind and tier."""
        words = {"exploit": "false accepts", "twin": "false rejects"}
        for (kind, tier), count in sorted(self.judged.items()):
            yield f"{tier}: {self.false[kind, tier]} {words[kind]} of {count} {kind}s"


TALLY = pytest.StashKey[Tally]()


def pytest_configure(config: pytest.Config) -> None:
    config.stash[TALLY] = Tally()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    lines = list(config.stash[TALLY].lines())
    if lines:
        terminalreporter.section("adversarial verdicts")
        for line in lines:
            terminalreporter.write_line(line)


@pytest.fixture(scope="session")
def tally(pytestconfig: pytest.Config) -> Tally:
    return pytestconfig.stash[TALLY]


@pytest.fixture(scope="session")
def cells() -> CellSettings:
    cores = tuple(sorted(os.sched_getaffinity(0))[:2])
    return CellSettings(threads=1, cores=cores, memory_bytes=2 * 2**30)


@pytest.fixture(scope="session")
def settings(cells: CellSettings) -> Settings:
    return Settings(
        cells=cells,
        reference=ReferencePolicy(readable=(), memory_bytes=3 * 2**30),
        baselines=("eager",),
        llc="warm",
        llc_bytes=2**20,
        call_limit_s=4.0,
        load_limit_s=8.0,
    )


@pytest.fixture(scope="session")
def server(cells: CellSettings) -> Iterator[Server]:
    server = Server(cells)
    yield server
    server.close()


@pytest.fixture(scope="session")
def judge(server: Server, settings: Settings) -> Iterator[Judge]:
    """Stem of a task -> its evaluator, made when it is first asked for."""
    if reason := Cpp.missing():
        pytest.skip(reason)
    made: dict[str, Evaluator] = {}

    def evaluator(name: str) -> Evaluator:
        if name not in made:
            task = load_task(server, Path(TASKS / f"{name}.py"), settings.reference)
            calm = Instruments(lambda: None, Calm())
            made[name] = Evaluator(task, server, settings, _instruments=calm)
        return made[name]

    yield evaluator
    for one in made.values():
        one.close()
