"""The embedded proposer: candidates printed from the traced graph, without a model and without a network."""

from __future__ import annotations

import platform
from collections.abc import Iterator
from itertools import zip_longest
from pathlib import Path
from random import Random

from kernelmill.errors import UserError
from kernelmill.propose._base import Operator, View
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
        """Candidates printed from the graph that the engine has put into the work directory.

        Raises:
            UserError: There is no graph, or the request names a move that the parent does not have.
        """
        graph = load_graph(view.workdir)
        parent = self._parent(request, view, graph)
        given = 0
        seen = set(view.candidates)
        for genome, note in self._proposals(request, view, graph, parent):
            if given >= request.n:
                return
            candidate = render(graph, genome, self.printer, note)
            if candidate.id not in seen:
                seen.add(candidate.id)
                given += 1
                yield candidate

    def finished(self, view: View) -> str | None:
        """Why a printed kernel has nothing more to gain here."""
        best = _best(view)
        if best is None:
            return None
        name, result = best
        wanted = Request(id="finished", operator="template", parents=(name,))
        following = next(self.propose(wanted, view), None)
        reached = result.floor_us / result.time_us if result.floor_us and result.time_us else 0.0
        library = {step: us for step, us in result.profile.items() if ":aten." in step}
        share = sum(library.values()) / (sum(result.profile.values()) or 1.0)
        if share > LIBRARY_SHARE and (following is None or not following.note.startswith("apply")):
            worst = max(library, key=lambda step: library[step]).split(":", 1)[1]
            limit = f" at {reached:.0%} of this machine's {result.floor_bound} limit" if reached else ""
            where = f"{share:.0%} of the time is in library calls, most of it in {worst}{limit}"
            return f"{where}: nothing to gain around them"
        if following is None:
            return "every structural move and every knob of the best candidate has been tried"
        if reached > ROOFLINE_SHARE:
            return f"the best candidate reaches {reached:.0%} of this machine's {result.floor_bound} limit"
        return None

    def _parent(self, request: Request, view: View, graph: Graph) -> Genome | None:
        for name in reversed(request.parents):
            if name in view.candidates:
                return self._genome(view.candidates[name], view, graph)
        return None

    def _genome(self, candidate: Candidate, view: View, graph: Graph) -> Genome:
        """The genome of a candidate; that of the first one for a candidate that somebody else wrote."""
        if candidate.genome is None:
            return default_genome(graph, view.task.contract.output_strides)
        return Genome.model_validate_json(candidate.genome)

    def _proposals(
        self, request: Request, view: View, graph: Graph, parent: Genome | None
    ) -> Iterator[tuple[Genome, str]]:
        start = default_genome(graph, view.task.contract.output_strides)
        if request.point is not None:
            yield (parent or start).at(request.point), "knobs as asked"
            return
        moves = neighbours(graph, parent or start, self.printer, algorithmic=view.task.contract.algorithmic)
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
        knobs = Tuning(graph, self.printer, view).proposals(parent or start, rng)
        turns = [knobs, later] if rng.random() < 0.5 else [later, knobs]
        for pair in zip_longest(*turns):
            yield from (proposal for proposal in pair if proposal is not None)


def load_graph(workdir: Path) -> Graph:
    """The traced graph of the first workload. UserError where the engine has not put it there."""
    found = [workdir / "graph.json", *sorted(workdir.glob("graph-*.json"))]
    path = next((p for p in found if p.is_file()), None)
    if path is None:
        raise UserError(
            f"there is no graph.json in {workdir}; the engine traces the task before it asks for candidates"
        )
    return from_json(path.read_text())


def vector_widths() -> tuple[int, ...]:
    """Vector widths in bits worth choosing between on this machine; none where there is no choice."""
    try:
        flags = Path("/proc/cpuinfo").read_text()
    except OSError:
        return ()
    return (256, 512) if platform.machine() == "x86_64" and "avx512f" in flags else ()


def _best(view: View) -> tuple[str, WorkloadResult] | None:
    """Id of the fastest candidate that passed, and what was found on its first workload."""
    scores: dict[str, tuple[float, WorkloadResult]] = {}
    for name, evaluation in view.evaluations.items():
        if isinstance(evaluation, Passed) and name in view.candidates:
            interval = evaluation.speedup()
            scores[name] = (interval.ratio if interval else 0.0, evaluation.results[0])
    best = max(scores, key=lambda name: (scores[name][0], name), default=None)
    return None if best is None else (best, scores[best][1])
