"""Workloads that search never sees, drawn when a candidate is promoted."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from random import Random
from typing import TYPE_CHECKING

from kernelmill.errors import TaskError
from kernelmill.evaluate.bench import WorkloadBench
from kernelmill.schema import Axis, Family, Workload

if TYPE_CHECKING:
    from kernelmill.evaluate.pipeline import Evaluator

SHAPES = 4
"""Held-out shapes of a task with a domain."""

GROWTH = 2
"""A held-out workload has at most this many times the elements of the largest public one."""


@dataclass(frozen=True)
class HeldOut:
    """One held-out case."""

    name: str
    bench: WorkloadBench
    offset: int
    """Elements by which inputs are off their natural alignment."""
    cases: tuple[tuple[Family, int], ...]


def held_out_workloads(evaluator: Evaluator, rng: Random) -> Iterator[HeldOut]:
    """Each public workload off its alignment and with distributions it was not screened on; then new shapes."""
    families: tuple[tuple[Family, int], ...] = tuple((f, 7) for f in evaluator.task.contract.families)
    for workload in evaluator.task.workloads:
        name = f"{workload.name}, inputs one element off alignment"
        yield HeldOut(name, evaluator.bench(workload), 1, (("given", 8), *families[1:3]))
    for number in range(SHAPES if evaluator.task.axes else 0):
        axes = draw_axes(evaluator.task.axes, evaluator.task.workloads[0].axes, number, rng)
        shape = " ".join(f"{n}={size}" for n, size in axes.items())
        try:
            bench = evaluator.bench(_workload(evaluator, f"held-out {shape}", axes))
        except TaskError:
            continue  # the reference itself does not take this corner of its declared domain
        yield HeldOut(shape, bench, 0, (("given", 0), families[1 % len(families)]))


def draw_axes(domain: dict[str, Axis], public: dict[str, int], number: int, rng: Random) -> dict[str, int]:
    """Sizes from the domain: first the smallest, then odd and unaligned ones around the public sizes."""
    sizes = {}
    for name, size in public.items():
        axis = domain.get(name)
        if axis is None:
            sizes[name] = size
        elif number == 0:
            sizes[name] = _fit(axis.low, axis)
        else:
            drawn = int(size * 2 ** rng.uniform(-4, GROWTH - 1)) | 1
            sizes[name] = _fit(drawn, axis)
    return sizes


def _fit(size: int, axis: Axis) -> int:
    multiple = axis.multiple
    low = -(-axis.low // multiple) * multiple
    return max(low, min(size, axis.high) // multiple * multiple)


def _workload(evaluator: Evaluator, name: str, axes: dict[str, int]) -> Workload:
    first = evaluator.bench(evaluator.task.workloads[0])
    signature = first.describe(axes)
    return Workload(name=name, axes=axes, signature=signature)
