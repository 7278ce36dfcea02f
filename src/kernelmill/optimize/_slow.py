"""The slow calls of a run, and what they give back where they fail. May run in other threads."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from kernelmill.errors import InfraError, StageError, stage
from kernelmill.propose._base import Operator, View
from kernelmill.schema import Candidate, Evaluation, Inconclusive, Level, Request

Evaluate = Callable[[Candidate, Level], Evaluation]
"""Measures; InfraError where the machine failed. Called from threads where there are several workers."""

Promote = Callable[[Candidate], tuple[bool, Evaluation]]
"""Held-out cases, fresh process, fresh seed: whether the candidate held, and the evidence."""


@dataclass(frozen=True)
class Failure:
    """What a slow call gives back in place of a result."""

    reason: str


def propose(operator: Operator, request: Request, view: View) -> list[Candidate] | Failure:
    """The operator's answer. What it raises is a failure of this request, except what ends the run."""
    try:
        with stage(StageError):
            return list(operator.propose(request, view))
    except (StageError, InfraError) as exc:
        return Failure(str(exc))


def decided(evaluate: Evaluate, candidate: Candidate, level: Level) -> Evaluation:
    """The verdict; where the machine was too busy to tell, that of a second attempt. Raises InfraError."""
    first = evaluate(candidate, level)
    return evaluate(candidate, level) if isinstance(first, Inconclusive) else first


def measure(evaluate: Evaluate, candidate: Candidate, level: Level) -> Evaluation | Failure:
    """What was decided."""
    try:
        return decided(evaluate, candidate, level)
    except InfraError as exc:
        return Failure(str(exc))


def promoted(promote: Promote, candidate: Candidate) -> tuple[bool, Evaluation] | Failure:
    """Whether it held, and the evidence."""
    try:
        return promote(candidate)
    except InfraError as exc:
        return Failure(str(exc))
