"""What a watcher sees of a search."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from kernelmill.cli._live import Board, progress
from kernelmill.cli._verb import Face
from kernelmill.schema import (
    BudgetLimits,
    Candidate,
    Closed,
    Event,
    Failed,
    Lost,
    Measured,
    Promoted,
    Proposed,
    Stopped,
)
from tests.cli.stories import passed

FIRST = Candidate(language="cpp", source="// 1", note="all fused")
SECOND = Candidate(language="cpp", source="// 2", note="cut in two")


def events() -> list[Event]:
    return [
        Proposed(request="r0", candidate=FIRST),
        Measured(candidate=FIRST.id, level="screening", evaluation=passed(1.2)),
        Proposed(request="r1", candidate=SECOND),
        Measured(
            candidate=SECOND.id, level="screening", evaluation=Failed(stage="build", message="line 3: no ;\nmore")
        ),
        Lost(candidate=SECOND.id, reason="the server is gone"),
        Promoted(candidate=FIRST.id, held=True),
        Stopped(reason="interrupted"),
    ]


def board() -> Board:
    ticks = iter(range(0, 1000, 5))
    return Board(BudgetLimits(seconds=60, trials=9), clock=lambda: float(next(ticks)))


def test_the_board_shows_best_interval_floor_budget_and_last_failure() -> None:
    shown = board()
    for event in events():
        shown.apply(event)
    rows = dict(shown.summary())
    assert rows["best"] == "1.2x [1.2, 1.2] over the fastest baseline: #1 all fused"
    assert "floor 60 us" in rows["time"]
    assert rows["candidates"] == "2 measured, 1 right, 1 lost to the machine"
    assert rows["budget"] == "5 s of 60 s, 2 of 9 trials"
    assert rows["last failure"] == "build: line 3: no ;"
    assert rows["now"] == "stopped: interrupted"


def test_a_slower_candidate_does_not_replace_the_best() -> None:
    shown = board()
    for ratio, candidate in ((2.0, FIRST), (1.5, SECOND)):
        shown.apply(Proposed(request="r0", candidate=candidate))
        shown.apply(Measured(candidate=candidate.id, level="full", evaluation=passed(ratio)))
    assert shown.best is not None
    assert shown.best.ratio == pytest.approx(2.0)


def test_an_operator_that_gives_nothing_says_why() -> None:
    shown = board()
    assert shown.apply(Closed(request="r0", error="no move is left"))
    assert shown.last_failure == "no move is left"
    assert not shown.apply(Closed(request="r1"))


@pytest.mark.parametrize(("term", "moves"), [("xterm", True), ("dumb", False)])
def test_only_a_terminal_that_can_move_its_cursor_gets_the_panel(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], term: str, moves: bool
) -> None:
    monkeypatch.setenv("TERM", term)
    drawn = io.StringIO()
    console = Console(file=drawn, force_terminal=True, width=100)
    with progress(Face(), BudgetLimits(seconds=60), console) as on_event:
        assert on_event is not None
        for event in events():
            on_event(event)
    assert ("\x1b[" in drawn.getvalue()) is moves
    assert ("the best so far" in capsys.readouterr().err) is not moves


def test_no_color_is_honoured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm")
    drawn = io.StringIO()
    with progress(Face(), BudgetLimits(seconds=60), Console(file=drawn, force_terminal=True, width=100)) as on_event:
        assert on_event is not None
        on_event(events()[0])
    assert "\x1b[36m" not in drawn.getvalue()
    assert "\x1b[1;36m" not in drawn.getvalue()


def test_a_long_value_is_cut_and_its_label_is_not() -> None:
    shown = board()
    shown.apply(Closed(request="r0", error="no move is left " * 20))
    drawn = io.StringIO()
    Console(file=drawn, width=80).print(shown)
    lines = drawn.getvalue().splitlines()
    assert [line[:14].strip() for line in lines] == [label for label, _ in shown.summary()]
    assert max(map(len, lines)) <= 80


def test_quiet_shows_nothing() -> None:
    with progress(Face(quiet=True), BudgetLimits(seconds=60)) as on_event:
        assert on_event is None
