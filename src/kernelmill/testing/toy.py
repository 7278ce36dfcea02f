"""A small world without devices: candidates with knobs, an operator that changes them, a noiseless clock.

For contracts of searchers, stores and engines; its speed-ups mean nothing.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from random import Random

from kernelmill.propose._base import Operator, View
from kernelmill.schema import (
    Accuracy,
    Candidate,
    Comparison,
    Evaluation,
    Failed,
    Inconclusive,
    Interval,
    Level,
    Parameter,
    Passed,
    Request,
    Signature,
    Task,
    TensorSpec,
    Value,
    Workload,
    WorkloadResult,
)

KNOBS = (
    Parameter(name="tile", values=(8, 16, 32, 64, 128), default=8, ordered=True),
    Parameter(name="vector", values=(1, 2, 4, 8), default=1, ordered=True),
    Parameter(name="order", values=("row", "column"), default="row"),
)
"""40 points, small enough to be enumerated."""

FORMS = 6
"""Structures a candidate may have; each is faster than the one before, every third does not build."""


def toy_task() -> Task:
    """A task that nothing here reads."""
    spec = TensorSpec(name="x", shape=(4,), dtype="float32", stride=(1,))
    signature = Signature(arguments=(spec,), outputs=(spec,))
    return Task(
        name="toy", path="toy.py", source="", suite="toy", workloads=(Workload(name="given", signature=signature),)
    )


def toy_candidate(form: int = 0, point: dict[str, Value] | None = None, note: str = "") -> Candidate:
    """A candidate of that structure at that point."""
    values = {p.name: p.default for p in KNOBS} | (point or {})
    source = json.dumps({"form": form, **values}, sort_keys=True)
    return Candidate(language="toy", source=source, parameters=KNOBS, point=values, note=note)


def passed(ratio: float, half_width: float = 0.01, level: Level = "full") -> Passed:
    """A verdict with this speed-up and interval."""
    interval = Interval(ratio=ratio, low=ratio * math.exp(-half_width), high=ratio * math.exp(half_width), pairs=9)
    comparison = Comparison(baseline="eager", interval=interval, candidate_us=(1.0,), baseline_us=(ratio,))
    accuracy = Accuracy(error=0.0, native_error=0.0, budget=1e-6, precision="fp32", cases=1)
    result = WorkloadResult(workload="given", accuracy=accuracy, comparisons=(comparison,), time_us=1.0)
    return Passed(level=level, tier="T0", results=(result,))


class ToyOperator(Operator):
    """Sets the knobs that are asked for, else changes the structure or one knob; deterministic."""

    def propose(self, request: Request, view: View) -> Iterator[Candidate]:
        """`request.n` candidates, repeats not excluded."""
        rng = Random(request.id)
        parent = view.candidates.get(request.parents[0]) if request.parents else None
        genes = json.loads(parent.source) if parent else {"form": 0}
        for _ in range(request.n):
            form = min(FORMS - 1, max(0, genes["form"] + rng.choice((0, 1, 1, 2)))) if parent else rng.choice((0, 1))
            point = {p.name: genes.get(p.name, p.default) for p in KNOBS}
            if request.point is not None:
                form, point = genes["form"], point | request.point
            elif rng.random() < 0.5:
                knob = rng.choice(KNOBS)
                point[knob.name] = rng.choice(knob.values)
            yield toy_candidate(form, point)


def toy_evaluate(candidate: Candidate, level: Level = "full") -> Evaluation:
    """Deterministic; some forms fail, one corner is inconclusive, one point is fastest."""
    genes = json.loads(candidate.source)
    if genes["form"] % 3 == 2:
        return Failed(stage="build", message=f"form {genes['form']} does not build")
    if genes["tile"] == 128 and genes["vector"] == 8:
        return Inconclusive(reason="the machine was busy")
    ratio = 1 + 0.4 * genes["form"] + 0.1 * math.log2(genes["tile"]) * math.log2(2 * genes["vector"])
    ratio *= 1.1 if genes["order"] == "column" else 1.0
    return passed(ratio, 0.02 if level == "screening" else 0.005, level)
