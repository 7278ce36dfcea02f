"""What a writer of kernels needs to know about a task before the first line."""

from __future__ import annotations

from dataclasses import dataclass

from kernelmill.evaluate import roofline
from kernelmill.evaluate.pipeline import languages
from kernelmill.evaluate.roofline import Floor
from kernelmill.optimize.workbench import Workbench
from kernelmill.propose.embedded import TRACER
from kernelmill.propose.embedded.describe import describe
from kernelmill.propose.embedded.ir import from_json
from kernelmill.propose.embedded.program import plan
from kernelmill.schema import Task, Workload


@dataclass(frozen=True)
class WorkloadCard:
    """What is known of a workload before anything is optimized."""

    workload: Workload
    bytes_moved: int
    """Every element of inputs, state and outputs once."""
    flops: float
    """Matrix and convolution arithmetic of one call; 0 where it cannot be counted."""
    floor: Floor | None
    """None where the device's limits could not be measured."""


@dataclass(frozen=True)
class Card:
    """What a writer of kernels needs to know about a task."""

    task: Task
    workloads: tuple[WorkloadCard, ...]
    template: str
    """The skeleton to fill in, with exact types, for the first workload."""
    program: tuple[str, ...] = ()
    """What the embedded proposer would generate first, one line a step."""


def make_card(bench: Workbench, task: Task, *, program: bool = False) -> Card:
    """Work it out; the reference runs, confined.

    Args:
        program: Also trace it and plan the first program.

    Raises:
        TaskError: The reference fails; or with `program`, it cannot be traced.
    """
    rates = bench.rates()
    cards = []
    with bench.evaluator(task) as evaluator:
        for workload in task.workloads:
            flops = evaluator.bench(workload).flops
            floor = roofline.floor(workload.signature, flops, rates) if rates else None
            cards.append(WorkloadCard(workload, roofline.bytes_moved(workload.signature), flops, floor))
        graph = from_json(evaluator.trace(TRACER)) if program else None
    lines = describe(plan(graph, strides=task.contract.output_strides)) if graph else []
    language = languages.get(bench.config.language)()
    return Card(task, tuple(cards), language.template(task.workloads[0].signature), tuple(lines))
