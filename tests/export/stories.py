"""Made-up runs for the report."""

from __future__ import annotations

from kernelmill.devices._base import Description, Peaks
from kernelmill.export.report import Report
from kernelmill.schema import (
    Asked,
    BudgetLimits,
    Candidate,
    Closed,
    Event,
    Failed,
    Interval,
    Lost,
    Measured,
    Passed,
    Promoted,
    Proposed,
    Request,
    RunInfo,
    Screened,
    Stopped,
)
from tests.export.winners import AFFINE_CPP, affine, passed

DESCRIPTION = Description(
    "AMD EPYC-Milan", (0, 1), ("avx2", "fma"), {"l1d": 32768, "l2": 524288, "l3": 33554432}, 24 * 2**30
)
PEAKS = Peaks(3.1e10, 2.9e10, 2.7e10, 1.9e10, 1.8e11, 9e10, 2e11)
NOTES = [
    "the default plan: two fused kernels",
    "fuse tanh into the scaling",
    "channels last",
    "one pass over the rows",
    "AVX2 width 256",
    "unroll by four",
    "mean(linear) becomes a matrix-vector product",
    "non-temporal stores",
]


def run_info() -> RunInfo:
    """The head of a run."""
    return RunInfo(
        id="2026-affine-7f3a",
        task="0123",
        task_name="affine",
        task_path="tasks/affine.py",
        language="cpp",
        searcher="portfolio",
        seed=7,
        limits=BudgetLimits(trials=40, seconds=120),
        created="2026-05-04T10:00:00Z",
        environment={"torch": "2.13.0", "python": "3.11.7"},
    )


def events(ratios: list[float | None], *, promoted: bool = True) -> list[Event]:
    """One candidate per ratio; None fails. The fastest is promoted."""
    log: list[Event] = []
    made: list[Candidate] = []
    for i, ratio in enumerate(ratios):
        note = NOTES[i % len(NOTES)]
        claims = ("algorithmic",) if "becomes" in note else ("reordered",)
        candidate = Candidate(language="cpp", source=f"// {i}\n{AFFINE_CPP}", note=note, claims=claims)
        parents = (made[(i - 1) // 2].id,) if made else ()
        log.append(Asked(request=Request(id=f"r{i}", operator="template", parents=parents, action=f"move {i}")))
        log.append(Proposed(request=f"r{i}", candidate=candidate))
        made.append(candidate)
        if i == 5:
            log.append(Screened(candidate=candidate.id, gate="dedup", verdict="reject", reason="same as #3"))
        elif i == 7:
            log.append(Lost(candidate=candidate.id, reason="the worker died"))
        else:
            log.append(Measured(candidate=candidate.id, level="full", evaluation=_evaluation(i, ratio)))
        log.append(Closed(request=f"r{i}", seconds=1.5))
    best = max((r or 0.0, i) for i, r in enumerate(ratios) if i not in (5, 7))
    if promoted and best[0] > 0:
        log.append(Promoted(candidate=made[best[1]].id, held=True))
    log.append(Stopped(reason="budget: 40 trials"))
    return log


def _evaluation(i: int, ratio: float | None) -> Passed | Failed:
    if ratio is None:
        stage = ("build", "numerics")[i % 2]
        return Failed(
            stage=stage, message="kernel.cpp:12:9: error: 'foo' was not declared in this scope\n   12 | foo();"
        )
    return passed(ratio=ratio).model_copy(update={"level": "full", "held_out": ()})


def gain(tmp: object) -> Report:
    """A good run."""
    log = events([1.2, 1.5, None, 2.1, 1.9, 2.0, 2.9, 2.5, None, 2.3, 2.4, 2.85, None, 2.2, 1.1, 2.6, 0.8, 2.7])
    winner = next(e.candidate for e in log if isinstance(e, Proposed) and "becomes" in e.candidate.note)
    return Report(
        task=affine(tmp).task,
        run=run_info(),
        events=log,
        winner=winner,
        promotion=passed(ratio=2.9),
        description=DESCRIPTION,
        peaks=PEAKS,
    )


def no_gain(tmp: object) -> Report:
    """Right, but not faster."""
    flat = passed(ratio=1.01)
    comparison = (
        flat.results[0]
        .comparisons[1]
        .model_copy(update={"interval": Interval(ratio=1.01, low=0.98, high=1.04, pairs=60)})
    )
    result = flat.results[0].model_copy(update={"comparisons": (comparison,)})
    log = events([0.9, 1.01, None, 0.7], promoted=False)
    winner = next(e.candidate for e in log if isinstance(e, Proposed))
    return Report(
        task=affine(tmp).task,
        run=run_info(),
        events=log,
        winner=winner,
        promotion=flat.model_copy(update={"results": (result,)}),
    )


def nothing(tmp: object) -> Report:
    """All failed."""
    return Report(task=affine(tmp).task, run=run_info(), events=events([None, None, None]))
