"""The embedded proposer: candidates printed from the traced graphs, without a model and without a network."""

from __future__ import annotations

import platform
from collections.abc import Iterator, Sequence
from itertools import zip_longest
from pathlib import Path
from random import Random

from kernelmill.errors import UserError
from kernelmill.propose._base import Operator, View
from kernelmill.propose.embedded import graph_file
from kernelmill.propose.embedded.cpp_printer import CppPrinter
from kernelmill.propose.embedded.genome import Genome
from kernelmill.propose.embedded.ir import Graph, from_json
from kernelmill.propose.embedded.moves import neighbours
from kernelmill.propose.embedded.printer import Printer
from kernelmill.propose.embedded.render import default_genome, render
from kernelmill.propose.embedded.tuning import Tuning
from kernelmill.schema import Candidate, Passed, Request, WorkloadResult

WORTHWHILE = 2.4
"""Structural moves with at least this gain are all tried before any knob; the rest takes turns with the knobs."""

ROOFLINE_SHARE = 0.92
"""From this share of the machine's limit on there is less to gain than a comparison can tell apart."""

LIBRARY_SHARE = 0.95
"""Where this much of the time is in library calls, kernels around them cannot bring 1.06x."""


class TemplateOperator(Operator):
    """Answers a request by, in this order: what it names (a move or a point), the first candidate, the
    promising structural moves of the parent that nobody has tried, then in turns new knobs for all kernels at once and
    the other moves."""

    def __init__(self, printer: Printer | None = None) -> None:
        self.printer = printer or CppPrinter(widths=vector_widths())

    def propose(self, request: Request, view: View) -> Iterator[Candidate]:
        """Candidates printed from the graphs that the engine has put into the work directory, for all workloads each.

        Raises:
            UserError: A graph is missing, or the request names a move that the parent does not have.
        """
        graphs = load_graphs(view.workdir, len(view.task.workloads))
        parent = self._parent(request, view, graphs)
        given = 0
        seen = set(view.candidates)
        for genome, note in self._proposals(request, view, graphs, parent):
            if given >= request.n:
                return
            candidate = render(graphs, genome, self.printer, note)
            if candidate.id not in seen:
                seen.add(candidate.id)
                given += 1
                yield candidate

    def finished(self, view: View) -> str | None:
        """Why a printed kernel has nothing more to gain here."""
        best = _best(view)
        if best is None:
            return None
        name, evaluation = best
        wanted = Request(id="finished", operator="template", parents=(name,))
        following = next(self.propose(wanted, view), None)
        call = min(evaluation.results, key=_library_share)
        if _library_share(call) > LIBRARY_SHARE and (following is None or not following.note.startswith("apply")):
            library = _library(call)
            worst = max(library, key=lambda step: library[step]).split(":", 1)[1]
            reached = _reached(call)
            limit = f" at {reached:.0%} of this machine's {call.floor_bound} limit" if reached else ""
            where = f"{_library_share(call):.0%} of the time is in library calls, most of it in {worst}{limit}"
            return f"{where}: nothing to gain around them"
        if following is None:
            return "every structural move and every knob of the best candidate has been tried"
        furthest = min(evaluation.results, key=_reached)
        if _reached(furthest) > ROOFLINE_SHARE:
            limit = f"{_reached(furthest):.0%} of this machine's {furthest.floor_bound} limit"
            return f"the best candidate reaches {limit}"
        return None

    def _parent(self, request: Request, view: View, graphs: Sequence[Graph]) -> Genome | None:
        for name in reversed(request.parents):
            if name in view.candidates:
                return self._genome(view.candidates[name], view, graphs)
        return None

    def _genome(self, candidate: Candidate, view: View, graphs: Sequence[Graph]) -> Genome:
        """The genome of a candidate; that of the first one for a candidate that somebody else wrote."""
        if candidate.genome is None:
            return default_genome(graphs, view.task.contract.output_strides)
        return Genome.model_validate_json(candidate.genome)

    def _proposals(
        self, request: Request, view: View, graphs: Sequence[Graph], parent: Genome | None
    ) -> Iterator[tuple[Genome, str]]:
        start = default_genome(graphs, view.task.contract.output_strides)
        if request.point is not None:
            yield (parent or start).at(request.point), "knobs as asked"
            return
        moves = neighbours(graphs, parent or start, self.printer, algorithmic=view.task.contract.algorithmic)
        if request.action is not None:
            named = {m.name: m for m in moves}
            if request.action not in named:
                known = "; ".join(named) or "none"
                raise UserError(f"the parent has no move named {request.action!r}; its moves are: {known}")
            yield named[request.action].genome, request.action
            return
        if parent is None:
            yield start, "all kernels fused, default knobs"
        rng = Random(request.id)
        first = [(m.genome, m.name) for m in moves if m.gain >= WORTHWHILE]
        later = iter([(m.genome, m.name) for m in moves if m.gain < WORTHWHILE])
        yield from first
        knobs = Tuning(graphs, self.printer, view).proposals(parent or start, rng)
        turns = [knobs, later] if rng.random() < 0.5 else [later, knobs]
        for pair in zip_longest(*turns):
            yield from (proposal for proposal in pair if proposal is not None)


def load_graphs(workdir: Path, count: int) -> tuple[Graph, ...]:
    """The traced graphs of so many workloads, in their order. UserError where the engine has not put them there."""
    return tuple(_load(workdir / graph_file(number)) for number in range(1, count + 1))


def _load(path: Path) -> Graph:
    if not path.is_file():
        raise UserError(
            f"there is no {path.name} in {path.parent}; the engine traces every workload of the task before it asks "
            "for candidates"
        )
    return from_json(path.read_text())


def vector_widths() -> tuple[int, ...]:
    """Vector widths in bits worth choosing between on this machine; none where there is no choice."""
    try:
        flags = Path("/proc/cpuinfo").read_text()
    except OSError:
        return ()
    return (256, 512) if platform.machine() == "x86_64" and "avx512f" in flags else ()


def _best(view: View) -> tuple[str, Passed] | None:
    """Id of the fastest candidate that passed, and its verdict."""
    passed = {n: e for n, e in view.evaluations.items() if isinstance(e, Passed) and n in view.candidates}
    speedups = {name: evaluation.speedup() for name, evaluation in passed.items()}
    scores = {name: interval.ratio if interval else 0.0 for name, interval in speedups.items()}
    best = max(scores, key=lambda name: (scores[name], name), default=None)
    return None if best is None else (best, passed[best])


def _library(result: WorkloadResult) -> dict[str, float]:
    """Microseconds of the steps that are library calls."""
    return {step: us for step, us in result.profile.items() if ":aten." in step}


def _library_share(result: WorkloadResult) -> float:
    return sum(_library(result).values()) / (sum(result.profile.values()) or 1.0)


def _reached(result: WorkloadResult) -> float:
    """Share of the machine's limit; 0 where it is not known, or where the reference answers."""
    return result.floor_us / result.time_us if result.floor_us and result.time_us else 0.0
