"""The loop with a toy operator and evaluator."""

from __future__ import annotations

import os
import signal
import threading
from pathlib import Path

import pytest

from kernelmill.errors import CredentialsError, InfraError, UserError
from kernelmill.optimize.budget import Cost
from kernelmill.schema import (
    Asked,
    BudgetLimits,
    Candidate,
    Closed,
    Evaluation,
    Failed,
    Inconclusive,
    Level,
    Lost,
    Measured,
    Passed,
    Promoted,
    Proposed,
    Request,
    Screened,
    Stopped,
)
from kernelmill.search import Searcher, make_searcher, searchers
from kernelmill.stores.sqlite import Sqlite
from kernelmill.testing.searcher import state_of
from kernelmill.testing.toy import passed, toy_candidate, toy_evaluate

from .helpers import Counting, Fixed, engine, kinds, measured


@pytest.fixture
def store(tmp_path: Path) -> Sqlite:
    return Sqlite(tmp_path)


@pytest.mark.parametrize("workers", [1, 3])
@pytest.mark.parametrize("searcher", searchers.names())
def test_every_searcher_runs_to_an_end_and_finds_something(store: Sqlite, searcher: str, workers: int) -> None:
    run = engine(store, searcher, workers=workers, budget=BudgetLimits(trials=25))
    events = list(run.run())
    assert isinstance(events[-1], Stopped)
    assert run.searcher.best() is not None
    assert events == list(store.events("run-1"))
    assert {e.request.id for e in events if isinstance(e, Asked)} == {
        e.request for e in events if isinstance(e, Closed)
    }


def test_the_searcher_sees_exactly_what_the_store_holds(store: Sqlite) -> None:
    run = engine(store, "portfolio")
    list(run.run())
    replayed = make_searcher("portfolio", "toy")
    for event in store.events("run-1"):
        replayed.apply(event)
    assert state_of(replayed) == state_of(run.searcher)


def test_an_event_is_stored_before_the_searcher_sees_it(store: Sqlite) -> None:
    run = engine(store)
    apply = run.searcher.apply
    seen: list[int] = []

    def watching(event: object) -> None:
        assert list(store.events("run-1"))[-1] == event
        seen.append(1)
        apply(event)  # type: ignore[arg-type]

    run.searcher.apply = watching  # type: ignore[method-assign]
    list(run.run())
    assert len(seen) > 20


def test_trials_are_never_more_than_the_budget(store: Sqlite) -> None:
    counting = Counting()
    groups = [
        [toy_candidate(1, {"tile": i, "vector": 4 * k + j}) for j in range(1, 5)] for k, i in enumerate((8, 16, 32))
    ]
    run = engine(
        store,
        options={"group": 4},
        operators={"toy": Fixed(*groups)},
        evaluate=counting,
        levels=("full",),
        budget=BudgetLimits(trials=10),
    )
    events = list(run.run())
    assert len(counting.calls) == len(set(counting.calls)) == 10
    assert "budget of 10 trials" in str(events[-1])
    assert any(isinstance(e, Screened) and e.gate == "budget" for e in events)


def test_seconds_end_a_run_after_the_request_that_crosses_the_limit(store: Sqlite) -> None:
    now = [0.0]

    def slow(candidate: Candidate, level: Level) -> Evaluation:
        now[0] += 10.0
        return toy_evaluate(candidate, level)

    run = engine(store, evaluate=slow, levels=("full",), budget=BudgetLimits(seconds=35), clock=lambda: now[0])
    events = list(run.run())
    assert now[0] == 40.0
    assert "budget of 35 seconds" in str(events[-1])
    assert max(e.elapsed for e in events if isinstance(e, Closed)) == 40.0


@pytest.mark.parametrize(("seconds", "levels"), [(100, ["screening", "full"]), (35, ["screening"])])
def test_a_closer_look_is_left_to_promotion_where_time_is_short(store: Sqlite, seconds: int, levels: list[str]) -> None:
    now = [0.0]

    def slow(candidate: Candidate, level: Level) -> Evaluation:
        now[0] += 10.0
        return passed(2.0, 0.01, level).model_copy(update={"seconds": 10.0})

    def promote(candidate: Candidate) -> tuple[bool, Evaluation]:
        return True, slow(candidate, "promotion")

    run = engine(
        store,
        "best_of_n",
        operators={"toy": Fixed([toy_candidate(1)])},
        evaluate=slow,
        promote=promote,
        budget=BudgetLimits(seconds=seconds),
        clock=lambda: now[0],
    )
    events = list(run.run())
    assert [level for _, level in measured(events)] == levels
    assert any(isinstance(e, Promoted) and e.held for e in events)


def test_dollars_and_tokens_are_charged_per_request(store: Sqlite) -> None:
    run = engine(store, charge=lambda request: Cost(dollars=0.4, tokens=100), budget=BudgetLimits(dollars=1.0))
    events = list(run.run())
    closed = [e for e in events if isinstance(e, Closed)]
    assert [e.dollars for e in closed] == [0.4] * 3
    assert sum(e.tokens for e in closed) == 300
    again = engine(store, charge=lambda request: Cost(dollars=0.4), budget=BudgetLimits(dollars=1.0))
    assert kinds(list(again.run())) == ["stopped"]


def test_a_twin_is_not_measured_again(store: Sqlite) -> None:
    twin = toy_candidate(1)
    counting = Counting()
    run = engine(store, "best_of_n", operators={"toy": Fixed([twin], [twin], [toy_candidate(3)])}, evaluate=counting)
    events = list(run.run())
    assert len(set(counting.calls)) == len(counting.calls)
    assert [e.reason for e in events if isinstance(e, Screened)] == [twin.id]
    assert [e.reused for e in events if isinstance(e, Measured) and e.candidate == twin.id][-1]


def test_what_an_operator_raises_closes_the_request_with_its_words(store: Sqlite) -> None:
    operator = Fixed(ZeroDivisionError("division by zero"), [toy_candidate(1)])
    events = list(engine(store, "best_of_n", operators={"toy": operator}).run())
    assert next(e for e in events if isinstance(e, Closed)).error == "ZeroDivisionError: division by zero"
    assert any(isinstance(e, Measured) for e in events)


def test_a_refused_key_ends_the_run_at_once_and_it_can_be_resumed(store: Sqlite) -> None:
    with pytest.raises(CredentialsError):
        list(engine(store, operators={"toy": Fixed(CredentialsError("no key"))}).run())
    assert kinds(list(store.events("run-1"))) == ["asked"]
    events = list(engine(store).run())
    assert sum(isinstance(e, Asked) and e.request.id == "r0" for e in store.events("run-1")) == 1
    assert any(isinstance(e, Proposed) and e.request == "r0" for e in events)


def test_an_operator_that_is_not_there_is_named(store: Sqlite) -> None:
    with pytest.raises(UserError, match="'toy'; this run has: other"):
        list(engine(store, operators={"other": Fixed()}).run())


def test_a_machine_that_fails_is_tried_again_twice_and_never_scored(store: Sqlite) -> None:
    counting = Counting(lambda call: InfraError("out of memory") if call < 4 else None)
    run = engine(store, "best_of_n", evaluate=counting, levels=("full",))
    events = list(run.run())
    lost = [e for e in events if isinstance(e, Lost)]
    assert len(lost) == 4
    assert counting.calls[0] == counting.calls[1] == counting.calls[2] != counting.calls[3]
    assert lost[0].candidate not in run.searcher.scores
    assert run.ledger.spent.trials == len(measured(events))


def test_what_the_machine_was_too_busy_to_judge_is_judged_once_more(store: Sqlite) -> None:
    calls: list[str] = []

    def busy(candidate: Candidate, level: Level) -> Evaluation:
        calls.append(candidate.id)
        odd = calls.count(candidate.id) % 2
        return Inconclusive(reason="others ran") if odd else toy_evaluate(candidate, level)

    run = engine(store, "best_of_n", evaluate=busy, levels=("full",), budget=BudgetLimits(trials=4))
    found = [e for e in run.run() if isinstance(e, Measured)]
    assert len(calls) == 2 * len(found) == 8
    assert all(isinstance(e.evaluation, Passed) for e in found)


def test_a_machine_that_always_fails_ends_the_run(store: Sqlite) -> None:
    counting = Counting(lambda call: InfraError("no space"))
    events = list(engine(store, evaluate=counting).run())
    assert "the machine failed 9 times in a row" in str(events[-1])
    assert len(counting.calls) == 9


def test_an_operator_that_gives_nothing_ends_the_run(store: Sqlite) -> None:
    events = list(engine(store, operators={"toy": Fixed(*[ValueError("bad reply")] * 99)}).run())
    assert "25 requests in a row brought no new candidate; the last error: ValueError: bad reply" in str(events[-1])


def test_an_operator_that_sees_nothing_to_gain_ends_the_run(store: Sqlite) -> None:
    operator = Fixed([toy_candidate(1)], over="98 % in aten.mm at 93 % of peak")
    events = list(engine(store, operators={"toy": operator}).run())
    assert str(events[-1]) == str(Stopped(reason="98 % in aten.mm at 93 % of peak"))


def test_only_what_may_be_the_fastest_is_measured_in_full(store: Sqlite) -> None:
    fast, slow, failing = toy_candidate(4), toy_candidate(1), toy_candidate(2)
    events = list(engine(store, "best_of_n", operators={"toy": Fixed([fast], [slow], [failing])}).run())
    levels = {c: [lv for i, lv in measured(events) if i == c] for c in (fast.id, slow.id, failing.id)}
    assert levels == {fast.id: ["screening", "full"], slow.id: ["screening"], failing.id: ["screening"]}


def test_what_can_be_no_gain_is_not_measured_in_full(store: Sqlite) -> None:
    def equal(candidate: Candidate, level: Level) -> Evaluation:
        return passed(1.0, 0.02, level)

    events = list(engine(store, "best_of_n", operators={"toy": Fixed([toy_candidate(1)])}, evaluate=equal).run())
    assert {level for _, level in measured(events)} == {"screening"}


def test_a_lucky_screening_does_not_keep_others_from_the_full_measurement(store: Sqlite) -> None:
    lucky, good = toy_candidate(1), toy_candidate(3)

    def noisy(candidate: Candidate, level: Level) -> Evaluation:
        if candidate == lucky:
            return passed(9.0 if level == "screening" else 1.1, 0.01, level)
        return passed(2.0, 0.01, level)

    run = engine(store, "best_of_n", operators={"toy": Fixed([lucky], [good])}, evaluate=noisy)
    assert (good.id, "full") in measured(list(run.run()))


def test_a_gate_may_reject(store: Sqlite) -> None:
    class Never(type(engine(store).gates[0])):  # type: ignore[misc]
        def screen(self, candidate: Candidate, candidates: object, evaluations: object) -> Screened:
            return Screened(candidate=candidate.id, gate="never", verdict="reject", reason="no")

    events = list(engine(store, gates=[Never()]).run())
    assert not measured(events)
    assert {e.verdict for e in events if isinstance(e, Screened)} == {"reject"}


def test_the_best_is_promoted_at_the_end_and_the_next_one_where_it_does_not_hold(store: Sqlite) -> None:
    best, second = toy_candidate(4), toy_candidate(3)

    def promote(candidate: Candidate) -> tuple[bool, Evaluation]:
        return candidate == second, Failed(stage="held_out", message="wrong at 1023")

    run = engine(store, "best_of_n", operators={"toy": Fixed([best], [second])}, promote=promote)
    events = list(run.run())
    promoted = [e for e in events if isinstance(e, Promoted)]
    assert [(e.candidate, e.held) for e in promoted] == [(best.id, False), (second.id, True)]
    assert run.winner == run.searcher.best() == second.id
    assert b"held_out" in store.get(promoted[0].evidence)
    assert kinds(events)[-1] == "stopped"


def test_no_promotion_result_reaches_an_operator(store: Sqlite) -> None:
    def promote(candidate: Candidate) -> tuple[bool, Evaluation]:
        return True, passed(777.125)

    run = engine(store, promote=promote)
    list(run.run())
    assert "777.125" not in str(run._view())
    assert "777.125" not in str(list(store.events("run-1")))


def test_a_promotion_may_be_asked_for_in_between(store: Sqlite) -> None:
    run = engine(store, promote=lambda candidate: (True, passed(2.0)))
    for event in run.run():
        if isinstance(event, Closed) and event.request == "r3":
            assert run.promote_best()
    stored = kinds(list(store.events("run-1")))
    assert stored.index("promoted") < len(stored) - 2
    assert run.winner == run.searcher.best()


def test_a_resumed_run_goes_on_and_does_not_promote_twice(store: Sqlite) -> None:
    promotions: list[str] = []

    def promote(candidate: Candidate) -> tuple[bool, Evaluation]:
        promotions.append(candidate.id)
        return True, passed(2.0)

    list(engine(store, promote=promote, budget=BudgetLimits(trials=8)).run())
    more = list(engine(store, promote=promote, budget=BudgetLimits(trials=16)).run())
    assert more
    everything = measured(list(store.events("run-1")))
    assert len(everything) == len(set(everything))
    assert len({c for c, _ in everything}) == 16
    assert len(promotions) == len(set(promotions))


class Again(Searcher):
    """Asks for one candidate, then to measure it again, twice."""

    def plan(self, room: int, rng: object) -> list[Request]:
        if self.open or len(self.requests) > 2:
            return []
        best = tuple(self.scores)[:1]
        return [Request(id=self.next_id(), operator="toy", parents=best, remeasure=bool(best))]


def test_a_candidate_is_measured_again_when_the_searcher_asks(store: Sqlite) -> None:
    counting = Counting()
    candidate = toy_candidate(1)
    run = engine(store, searcher="puct", evaluate=counting, operators={"toy": Fixed([candidate])})
    run = type(run)(**{f: getattr(run, f) for f in run.__dataclass_fields__} | {"searcher": Again("toy")})
    list(run.run())
    assert [level for _, level in counting.calls] == ["screening", "full", "full", "full"]
    assert run.ledger.spent.trials == 3


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("workers", [1, 2])
def test_a_signal_during_a_measurement_stops_the_run_safely(store: Sqlite, number: int, workers: int) -> None:
    undisturbed = Counting()

    def interrupted(candidate: Candidate, level: Level) -> Evaluation:
        if len(undisturbed.calls) == 5:
            os.kill(os.getpid(), number)
            threading.Event().wait(0.2)
        return undisturbed(candidate, level)

    before, budget = signal.getsignal(number), BudgetLimits(trials=16)
    events = list(engine(store, evaluate=interrupted, workers=workers, budget=budget).run())
    assert events[-1] == Stopped(reason="interrupted")
    assert signal.getsignal(number) is before
    list(engine(store, budget=budget).run())
    stored = list(store.events("run-1"))
    everything = measured(stored)
    assert len(everything) == len(set(everything))
    assert len({c for c, _ in everything}) == 16
    assert {e.request.id for e in stored if isinstance(e, Asked)} == {
        e.request for e in stored if isinstance(e, Closed)
    }


def test_a_signal_between_two_steps_stops_the_run_at_the_next(store: Sqlite) -> None:
    seen = []
    for event in engine(store).run():
        seen.append(event)
        if len(seen) == 6:
            os.kill(os.getpid(), signal.SIGINT)
    assert seen[-1] == Stopped(reason="interrupted")
    assert len(seen) < 12


def test_a_consumer_may_stop_the_run_or_just_leave(store: Sqlite) -> None:
    run = engine(store)
    for event in run.run():
        if event.kind == "closed":
            run.stop()
    assert event == Stopped(reason="interrupted")
    next(engine(store).run())
    assert list(store.events("run-1"))[-1] == Stopped(reason="interrupted")


def test_a_run_needs_a_worker_and_a_level(store: Sqlite) -> None:
    with pytest.raises(UserError, match="workers=0"):
        engine(store, workers=0)
    with pytest.raises(UserError, match="levels=\\(\\)"):
        engine(store, levels=())


def test_a_bug_in_the_evaluator_is_not_swallowed(store: Sqlite) -> None:
    for workers in (1, 2):
        counting = Counting(lambda call: ZeroDivisionError("a bug"))
        with pytest.raises(ZeroDivisionError):
            list(engine(store, evaluate=counting, workers=workers).run())
