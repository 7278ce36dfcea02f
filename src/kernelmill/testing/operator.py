"""What every operator must keep to. Subclass `OperatorContract`; give it `operator` and `view` fixtures."""

from __future__ import annotations

from kernelmill.propose._base import Operator, View
from kernelmill.schema import Candidate, Request


class OperatorContract:
    """Obligations of every operator. `view` shows a task that it can write for."""

    def test_it_gives_no_more_than_was_asked_for(self, operator: Operator, view: View) -> None:
        for count in (1, 3):
            given = list(operator.propose(Request(id=f"r{count}", operator="any", n=count), view))
            assert len(given) <= count
            assert all(isinstance(candidate, Candidate) for candidate in given)

    def test_the_same_request_has_the_same_answer(self, operator: Operator, view: View) -> None:
        request = Request(id="r0", operator="any", n=3)
        assert list(operator.propose(request, view)) == list(operator.propose(request, view))

    def test_what_it_gives_at_once_are_different_candidates(self, operator: Operator, view: View) -> None:
        given = [c.id for c in operator.propose(Request(id="r0", operator="any", n=4), view)]
        assert len(set(given)) == len(given)

    def test_it_does_not_stop_before_anything_was_measured(self, operator: Operator, view: View) -> None:
        assert operator.finished(view) is None
