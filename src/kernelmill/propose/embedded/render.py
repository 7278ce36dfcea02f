"""From the graphs of a task's workloads and a genome to a candidate."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from kernelmill.propose.embedded.genome import Genome
from kernelmill.propose.embedded.ir import Graph
from kernelmill.propose.embedded.names import Names
from kernelmill.propose.embedded.plan import Allocate, Program
from kernelmill.propose.embedded.printer import FILE, Kernel, Printer, chosen, kernels
from kernelmill.propose.embedded.program import plan
from kernelmill.propose.embedded.rewrites import always, claims, rewritten
from kernelmill.schema import Candidate, Claim, Parameter

MAX_KERNELS = 48
"""Kernels of a file with several workloads: so many are 100 kB and compile in 3 s. The rest is not written for."""


@dataclass(frozen=True)
class Part:
    """What a candidate does for one workload."""

    program: Program
    """Its kernels' names are unique in the file; a kernel that another part has too has one name."""
    families: Mapping[str, str]
    """Kernel name -> its family: kernels at the same place of the programs of different workloads."""


def default_genome(graphs: Sequence[Graph], strides: Literal["same", "any"]) -> Genome:
    """Where a search starts: every rewrite that wins wherever it applies, maximal fusion, default knobs."""
    moves: list[str] = []
    for count in range(1, len(graphs) + 1):
        moves += always(rewritten(graphs[:count], moves)[-1])
    return Genome(rewrites=tuple(moves), strides=strides)


def parts_of(graphs: Sequence[Graph], genome: Genome) -> tuple[Part, ...]:
    """The programs of a genome, one a workload.

    What the genome names and a workload's graph does not have is left out for that workload. One that an earlier one's
    guards let in gets that one's program; one that there is no room for gets the first, whose guards refuse it.

    Raises:
        ValueError: A rewrite applies to no graph, or two workloads differ in no shape but in what they compute.
    """
    cuts, library = frozenset(genome.cuts), frozenset(genome.library)
    parts: list[Part] = []
    planned: list[Program] = []
    for graph in rewritten(graphs, genome.rewrites):
        program = plan(graph, cuts, strides=genome.strides, library=library)
        same = next((i for i, p in enumerate(planned) if set(p.guards) <= set(program.guards)), None)
        if same is not None and planned[same] != program:
            raise ValueError(
                f"workloads {same + 1} and {len(planned) + 1} have the same shapes but compute different things, and a "
                "launch looks at shapes only; make them tasks of their own"
            )
        parts.append(_fitting(_named(program, parts), parts) if same is None else parts[same])
        planned.append(program)
    return tuple(parts)


def _fitting(part: Part, before: Sequence[Part]) -> Part:
    """The part, or the first one where the file would have too many kernels."""
    names = {name for p in (*before, part) for name in p.families}
    return part if not before or len(names) <= MAX_KERNELS else before[0]


def _named(program: Program, before: Sequence[Part]) -> Part:
    """A program with names that fit beside those before it: `k0` becomes `k0_2`, or that of the same kernel there."""
    if not before:
        return Part(program, {k.name: k.name for k in kernels(program)})
    known = {_text(k, p.program): k.name for p in before for k in kernels(p.program)}
    families = {name: family for p in before for name, family in p.families.items()}
    names = Names({*program.arguments, *known.values()})
    renamed = {
        k.name: known.get(_text(k, program)) or names.fresh(f"{k.name}_{len(before) + 1}") for k in kernels(program)
    }
    steps = (replace(s, name=renamed[s.name]) if isinstance(s, Kernel) else s for s in program.steps)
    return Part(replace(program, steps=tuple(steps)), {new: families.get(new, old) for old, new in renamed.items()})


def _text(kernel: Kernel, program: Program) -> str:
    """Equal for two kernels that are printed alike, whatever they are called."""
    stored = {s.name: s.dtype for s in program.steps if isinstance(s, Allocate)}
    return repr((replace(kernel, name=""), stored.get(getattr(kernel, "output", ""))))


def programs_of(parts: Sequence[Part]) -> list[Program]:
    """The different programs, in order."""
    return [p.program for i, p in enumerate(parts) if not any(p is earlier for earlier in parts[:i])]


def spaces_of(parts: Sequence[Part], printer: Printer) -> dict[str, tuple[Parameter, ...]]:
    """Kernel name, or `file` -> what may be turned in it."""
    spaces = {k.name: printer.knobs(k) for part in parts for k in kernels(part.program)}
    return {**spaces, FILE: printer.file_knobs(programs_of(parts))}


def parameters_of(parts: Sequence[Part], genome: Genome, printer: Printer) -> tuple[Parameter, ...]:
    """All knobs as `kernel.knob`, each with its present value as the default."""
    found = []
    for name, space in spaces_of(parts, printer).items():
        setting = chosen(space, genome.kernels.get(name, {}))
        found += [
            p.model_copy(update={"name": f"{name}.{p.name}", "default": setting[p.name]})
            for p in space
            if len(p.values) > 1
        ]
    return tuple(found)


def render(graphs: Sequence[Graph], genome: Genome, printer: Printer, note: str = "") -> Candidate:
    """One self-contained candidate that writes for every workload.

    Args:
        graphs: As traced, one a workload, the first workload first.
        genome: The choices; one for all workloads.
        printer: The language.
        note: What is new, for people.

    Raises:
        ValueError: A rewrite applies to no graph, or the language has no words for an operation.
    """
    parts = parts_of(graphs, genome)
    claimed: set[Claim] = set(claims(genome.rewrites))
    if any(kernels(part.program) for part in parts):  # fused multiply-adds, sums in another order, own functions
        claimed.add("reordered")
    return Candidate(
        language=printer.language,
        source=printer.print(programs_of(parts), genome.kernels),
        claims=tuple(sorted(claimed)),
        genome=genome.model_dump_json(),
        parameters=parameters_of(parts, genome, printer),
        note=note,
    )
