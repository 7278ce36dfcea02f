"""From a graph and a genome to a candidate."""

from __future__ import annotations

from typing import Literal

from kernelmill.propose.embedded.genome import Genome
from kernelmill.propose.embedded.ir import Graph
from kernelmill.propose.embedded.plan import Program
from kernelmill.propose.embedded.printer import FILE, Printer, chosen, kernels
from kernelmill.propose.embedded.program import plan
from kernelmill.propose.embedded.rewrites import always, apply_rewrites, claims
from kernelmill.schema import Candidate, Claim, Parameter


def default_genome(graph: Graph, strides: Literal["same", "any"]) -> Genome:
    """Where a search starts: every rewrite that wins wherever it applies, maximal fusion, default knobs."""
    return Genome(rewrites=tuple(always(graph)), strides=strides)


def program_of(graph: Graph, genome: Genome) -> Program:
    """The program of a genome. ValueError where a rewrite does not apply."""
    graph = apply_rewrites(graph, genome.rewrites)
    return plan(graph, frozenset(genome.cuts), strides=genome.strides, library=frozenset(genome.library))


def parameters_of(program: Program, genome: Genome, printer: Printer) -> tuple[Parameter, ...]:
    """All knobs as `kernel.knob`, each with its present value as the default."""
    spaces = {k.name: printer.knobs(k) for k in kernels(program)}
    spaces[FILE] = printer.file_knobs(program)
    found = []
    for name, space in spaces.items():
        setting = chosen(space, genome.kernels.get(name, {}))
        found += [
            p.model_copy(update={"name": f"{name}.{p.name}", "default": setting[p.name]})
            for p in space
            if len(p.values) > 1
        ]
    return tuple(found)


def render(graph: Graph, genome: Genome, printer: Printer, note: str = "") -> Candidate:
    """One self-contained candidate.

    Raises:
        ValueError: A rewrite does not apply, or the language has no words for an operation.
    """
    program = program_of(graph, genome)
    claimed: set[Claim] = set(claims(genome.rewrites))
    if kernels(program):  # fused multiply-adds, sums in another order, functions of our own
        claimed.add("reordered")
    return Candidate(
        language=printer.language,
        source=printer.print(program, genome.kernels),
        claims=tuple(sorted(claimed)),
        genome=genome.model_dump_json(),
        parameters=parameters_of(program, genome, printer),
        note=note,
    )
