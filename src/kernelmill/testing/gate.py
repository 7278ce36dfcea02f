"""What every gate must keep to. Subclass `GateContract` and give it a `gate` fixture."""

from __future__ import annotations

from kernelmill.gates import Gate
from kernelmill.schema import Screened
from kernelmill.testing.toy import toy_candidate, toy_evaluate


class GateContract:
    """Obligations of every gate."""

    def test_it_answers_for_the_candidate_it_was_asked_about(self, gate: Gate) -> None:
        candidate = toy_candidate(1)
        verdict = gate.screen(candidate, {}, {})
        assert isinstance(verdict, Screened)
        assert verdict.candidate == candidate.id
        assert verdict.gate == type(gate).__module__.rsplit(".", 1)[-1]

    def test_a_reuse_names_a_measured_candidate(self, gate: Gate) -> None:
        known = [toy_candidate(form) for form in (0, 1)]
        candidates = {c.id: c for c in known}
        evaluations = {known[0].id: toy_evaluate(known[0])}
        for candidate in (*known, toy_candidate(3)):
            verdict = gate.screen(candidate, candidates, evaluations)
            assert verdict.verdict != "reuse" or verdict.reason in evaluations

    def test_it_gives_the_same_answer_again(self, gate: Gate) -> None:
        candidate = toy_candidate(1)
        candidates = {candidate.id: candidate}
        assert gate.screen(candidate, candidates, {}) == gate.screen(candidate, candidates, {})

    def test_a_refusal_says_why(self, gate: Gate) -> None:
        for form in range(6):
            verdict = gate.screen(toy_candidate(form), {}, {})
            assert verdict.verdict == "accept" or verdict.reason
