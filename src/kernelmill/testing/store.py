"""What every store must keep to. Subclass `StoreContract` and give it an `open_store` fixture."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from kernelmill.errors import UserError
from kernelmill.schema import (
    Asked,
    BudgetLimits,
    Closed,
    Event,
    Lost,
    Measured,
    Promoted,
    Proposed,
    Request,
    RunInfo,
    Screened,
    Stopped,
)
from kernelmill.stores import Store
from kernelmill.testing.toy import toy_candidate, toy_evaluate

Open = Callable[[], Store]
"""Opens the same storage anew: another process would see what this gives."""


def run_info(name: str = "run-1", created: str = "2026-01-01T00:00:00Z") -> RunInfo:
    """The head of a run."""
    return RunInfo(
        id=name,
        task="0" * 16,
        task_name="toy",
        task_path="toy.py",
        language="toy",
        searcher="puct",
        seed=0,
        limits=BudgetLimits(trials=10),
        created=created,
    )


def every_kind() -> list[Event]:
    """One event of each kind, with text that is awkward to store."""
    candidate = toy_candidate(1, note="quote ' \" \\ newline \n tab \t emoji \N{ROCKET} nul \0 end")
    return [
        Asked(request=Request(id="r0", operator="toy", point={"a": 1, "b": 0.1, "c": "x", "d": True})),
        Proposed(request="r0", candidate=candidate),
        Screened(candidate=candidate.id, gate="dedup", verdict="accept"),
        Lost(candidate=candidate.id, reason="the worker died"),
        Measured(candidate=candidate.id, level="full", evaluation=toy_evaluate(candidate)),
        Closed(request="r0", seconds=0.1 + 0.2, elapsed=1e-300),
        Promoted(candidate=candidate.id, held=True, evidence="0" * 64),
        Stopped(reason="budget"),
    ]


class StoreContract:
    """Obligations of every store."""

    def test_events_come_back_equal_and_in_order(self, open_store: Open) -> None:
        store = open_store()
        store.create(run_info())
        assert [store.append("run-1", e) for e in every_kind()] == list(range(8))
        assert list(store.events("run-1")) == every_kind()

    def test_events_can_be_read_from_a_number_on(self, open_store: Open) -> None:
        store = open_store()
        store.create(run_info())
        for event in every_kind():
            store.append("run-1", event)
        assert list(store.events("run-1", 6)) == every_kind()[6:]
        assert list(store.events("run-1", 99)) == []

    def test_a_second_reader_sees_what_was_appended(self, open_store: Open) -> None:
        store = open_store()
        store.create(run_info())
        reader = open_store()
        store.append("run-1", Stopped(reason="a"))
        assert list(reader.events("run-1")) == [Stopped(reason="a")]
        assert reader.runs() == [run_info()]

    def test_a_reader_follows_a_log_of_many_events(self, open_store: Open) -> None:
        store = open_store()
        store.create(run_info())
        for i in range(700):
            store.append("run-1", Lost(candidate="c", reason=str(i)))
        reasons = [e.reason for e in open_store().events("run-1", 3) if isinstance(e, Lost)]
        assert reasons == [str(i) for i in range(3, 700)]

    def test_runs_do_not_mix_and_come_oldest_first(self, open_store: Open) -> None:
        store = open_store()
        store.create(run_info("late", "2026-02-02T00:00:00Z"))
        store.create(run_info("early", "2026-01-01T00:00:00Z"))
        store.append("late", Stopped(reason="late"))
        store.append("early", Stopped(reason="early"))
        assert [r.id for r in store.runs()] == ["early", "late"]
        assert list(store.events("early")) == [Stopped(reason="early")]

    def test_a_run_is_created_once(self, open_store: Open) -> None:
        store = open_store()
        store.create(run_info())
        with pytest.raises(UserError, match="run-1"):
            store.create(run_info())

    def test_an_unknown_run_is_the_callers_mistake(self, open_store: Open) -> None:
        store = open_store()
        with pytest.raises(UserError, match="nowhere"):
            store.append("nowhere", Stopped(reason="x"))
        with pytest.raises(UserError, match="nowhere"):
            list(store.events("nowhere"))

    def test_a_run_has_one_writer(self, open_store: Open) -> None:
        first, second = open_store(), open_store()
        first.create(run_info())
        with pytest.raises(UserError, match="run-1"):
            second.append("run-1", Stopped(reason="x"))
        assert list(second.events("run-1")) == []

    def test_blobs_come_back_and_are_kept_once(self, open_store: Open) -> None:
        store = open_store()
        data = bytes(range(256)) * 999
        assert store.put(data) == store.put(data)
        assert open_store().get(store.put(data)) == data
        assert store.get(store.put(b"")) == b""

    def test_an_absent_blob_is_the_callers_mistake(self, open_store: Open) -> None:
        with pytest.raises(UserError, match="f" * 64):
            open_store().get("f" * 64)
        with pytest.raises(UserError, match="etc"):
            open_store().get("../../etc/passwd")
