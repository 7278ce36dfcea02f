"""kill -9 at many points of a run; what is resumed ends like what was never disturbed."""

from __future__ import annotations

import signal
from collections import Counter
from pathlib import Path

import pytest

from kernelmill.schema import Event
from kernelmill.stores.sqlite import Sqlite

from .crashing import start
from .helpers import measured, timeless


def log_of(folder: Path) -> list[Event]:
    with Sqlite(folder) as store:
        assert store.faults() == []
        return list(store.events("run-1"))


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Event]]:
    logs = {}
    for searcher in ("puct", "portfolio"):
        folder = tmp_path_factory.mktemp(searcher)
        assert start(folder, searcher) == 0
        logs[searcher] = timeless(log_of(folder))
        assert len(logs[searcher]) > 50
    return logs


@pytest.mark.parametrize("searcher", ["puct", "portfolio"])
@pytest.mark.parametrize("when", ["after", "before"])
@pytest.mark.parametrize("step", [1, 3, 7, 17])
def test_a_run_killed_again_and_again_ends_with_the_log_of_an_undisturbed_one(
    tmp_path: Path, undisturbed: dict[str, list[Event]], searcher: str, when: str, step: int
) -> None:
    # Killing every few appends gives another point of the request's life each time.
    kills = 0
    for _ in range(6):
        code = start(tmp_path, searcher, when, step + kills)
        assert code in (0, signal.SIGKILL)
        kills += code != 0
        if code == 0:
            break
    assert kills
    assert start(tmp_path, searcher) == 0
    log = timeless(log_of(tmp_path))
    assert log == undisturbed[searcher]
    twice = [item for item, n in Counter(measured(log)).items() if n > 1]
    again = [e for e in log if e.kind == "asked" and e.request.remeasure]
    assert len(twice) <= len(again)


def test_what_was_recorded_is_never_evaluated_again(tmp_path: Path, undisturbed: dict[str, list[Event]]) -> None:
    for at in (9, 2, 5):
        assert start(tmp_path, "puct", "after", at) == signal.SIGKILL
    assert start(tmp_path, "puct") == 0
    calls = [line.split() for line in (tmp_path / "calls.txt").read_text().splitlines()]
    assert [(c, lv) for c, lv in calls] == measured(undisturbed["puct"])


def test_a_kill_during_a_measurement_repeats_only_that_one(tmp_path: Path, undisturbed: dict[str, list[Event]]) -> None:
    for at in (3, 6):
        assert start(tmp_path, "puct", "during", at) == signal.SIGKILL
    assert start(tmp_path, "puct") == 0
    assert timeless(log_of(tmp_path)) == undisturbed["puct"]
    calls = (tmp_path / "calls.txt").read_text().splitlines()
    assert len(calls) == len(measured(undisturbed["puct"])) + 2
    assert len(set(calls)) == len(calls) - 2
