"""Whether a candidate is the result: judged once more on what search never saw. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from kernelmill.evaluate.intervals import MARGIN
from kernelmill.schema import Evaluation, Failed, Inconclusive, Passed

GAIN = 1.0 + MARGIN
"""Least lower bound of a speed-up that is called a gain."""


@dataclass(frozen=True)
class Verdict:
    """What promotion says."""

    held: bool
    why: str


def worth(evaluation: Evaluation | None) -> bool:
    """Whether a promotion could still find a gain: what search measured does not rule it out."""
    interval = evaluation.speedup() if isinstance(evaluation, Passed) else None
    return interval is not None and interval.high >= GAIN


def judge(evaluation: Evaluation) -> Verdict:
    """Read a promotion-level evaluation.

    It holds where everything passed, held-out workloads included, and where the candidate is faster than the
    best baseline by the practical margin even at the lower end of the interval.
    """
    match evaluation:
        case Failed(stage=stage, message=message):
            return Verdict(held=False, why=f"{stage}: {message}")
        case Inconclusive(reason=reason):
            return Verdict(held=False, why=f"the machine was too noisy to tell: {reason}")
        case Passed():
            return _timed(evaluation)


def _timed(evaluation: Passed) -> Verdict:
    interval = evaluation.speedup()
    if interval is None:
        return Verdict(held=False, why="it was not timed on every workload")
    text = f"{interval.ratio:.2f}x [{interval.low:.2f}, {interval.high:.2f}] against the best baseline"
    if interval.low >= GAIN:
        return Verdict(held=True, why=text)
    slower = [r.workload for r in evaluation.results if (c := r.best_baseline) and c.interval.ratio < 1.0]
    where = f"; slower on {', '.join(slower)}" if slower else ""
    return Verdict(held=False, why=f"{text}; a gain needs at least {GAIN:.2f} at the lower end{where}")
