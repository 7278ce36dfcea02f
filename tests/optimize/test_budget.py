"""Arithmetic of a budget, with a clock of our own."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kernelmill.errors import UserError
from kernelmill.optimize.budget import Cost, Ledger
from kernelmill.schema import BudgetLimits


@given(st.integers(1, 30), st.lists(st.tuples(st.integers(1, 9), st.integers(0, 9), st.booleans()), max_size=40))
def test_trials_reserved_and_spent_never_exceed_the_limit(limit: int, steps: list[tuple[int, int, bool]]) -> None:
    ledger = Ledger(BudgetLimits(trials=limit), clock=lambda: 0.0)
    for i, (wanted, used, close) in enumerate(steps):
        granted = ledger.reserve(f"r{i}", wanted)
        assert granted <= wanted
        if granted and close:
            ledger.commit(f"r{i}", Cost(trials=min(used, granted)))
        assert ledger.spent.trials + ledger.reserved.trials <= limit


@given(st.lists(st.floats(0.01, 2.0), max_size=30))
def test_dollars_exceed_the_limit_by_less_than_one_request(costs: list[float]) -> None:
    ledger = Ledger(BudgetLimits(dollars=3.0), clock=lambda: 0.0)
    for i, cost in enumerate(costs):
        if ledger.reserve(f"r{i}", 1):
            ledger.commit(f"r{i}", Cost(trials=1, dollars=cost))
    assert ledger.spent.dollars < 3.0 + 2.0


def test_what_is_promised_to_open_requests_counts_as_spent() -> None:
    ledger = Ledger(BudgetLimits(dollars=1.0), clock=lambda: 0.0)
    ledger.reserve("r0", 1)
    ledger.commit("r0", Cost(dollars=0.4))
    assert [ledger.reserve(f"open {i}", 1) for i in range(3)] == [1, 1, 0]
    assert ledger.exhausted() is None
    ledger.release("open 0")
    assert ledger.reserve("r3", 1) == 1


def test_time_is_the_clocks_and_goes_on_where_an_earlier_session_ended() -> None:
    now = [100.0]
    ledger = Ledger(BudgetLimits(seconds=60), spent=Cost(seconds=50), clock=lambda: now[0])
    assert ledger.reserve("r0", 1) == 1
    now[0] = 111.0
    assert ledger.spent.seconds == 61.0
    assert ledger.exhausted() == "the budget of 60 seconds is spent (61)"
    assert ledger.reserve("r1", 1) == 0


def test_the_search_ends_early_enough_for_what_follows_but_has_half_of_the_time() -> None:
    now = [0.0]
    ledger = Ledger(BudgetLimits(seconds=60), clock=lambda: now[0])
    ledger.keep_back(20.0)
    now[0] = 39.0
    assert ledger.exhausted() is None
    now[0] = 41.0
    assert ledger.exhausted() == "of the budget of 60 seconds 41 are spent, promotion needs the rest"
    ledger.keep_back(500.0)
    now[0] = 29.0
    assert ledger.exhausted() is None


@pytest.mark.parametrize("limits", [BudgetLimits(), BudgetLimits(trials=0), BudgetLimits(seconds=-1.0)])
def test_a_budget_without_a_positive_limit_is_refused(limits: BudgetLimits) -> None:
    with pytest.raises(UserError, match="budget"):
        Ledger(limits)
