"""Steps from one genome to its neighbours: changes of structure first, knobs after them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from kernelmill.propose.embedded.genome import Genome
from kernelmill.propose.embedded.ir import Graph
from kernelmill.propose.embedded.plan import FusedKernel, TemplateKernel
from kernelmill.propose.embedded.printer import Kernel, Printer, chosen, kernels
from kernelmill.propose.embedded.render import parts_of
from kernelmill.propose.embedded.rewrites import rewrite_of, rewritten, sites
from kernelmill.propose.embedded.templates import template_of
from kernelmill.schema import Parameter, Value

STRUCTURAL_KNOBS = ("onepass", "split", "direct", "keep", "stream")
"""Knobs that change the passes of a kernel rather than their sizes: worth trying one by one."""

MAX_CUTS = 16
"""Fusion edges tried per genome, those of the biggest kernels first."""


@dataclass(frozen=True)
class Move:
    """One change of structure."""

    name: str
    """What it does, e.g. `apply channels-last@4`; unique among the neighbours of a genome."""
    genome: Genome
    gain: float
    """How much is expected of it, on no particular scale: only the order counts."""


def neighbours(graphs: Sequence[Graph], genome: Genome, printer: Printer, *, algorithmic: bool = True) -> list[Move]:
    """All structural moves from a genome, the most promising first. Every one of them gives a legal program.

    A move changes the programs of all workloads for which it means something.

    Args:
        graphs: As traced, before any rewrite, one a workload.
        genome: Where to move from.
        printer: Which knobs there are.
        algorithmic: Whether rewrites that change the asymptotic work are welcome.
    """
    now = rewritten(graphs, genome.rewrites)
    found = {
        m.name: m
        for m in (
            *_rewrite_moves(now, genome, algorithmic=algorithmic),
            *_undo_moves(genome),
            *_kernel_moves(graphs, genome, printer),
            *_template_moves(now, genome),
        )
    }
    legal = [m for m in found.values() if _legal(graphs, now, genome.rewrites, m.genome.rewrites)]
    return sorted(legal, key=lambda m: (-m.gain, m.name))


def _legal(graphs: Sequence[Graph], now: Sequence[Graph], present: tuple[str, ...], wanted: tuple[str, ...]) -> bool:
    """Whether every wanted rewrite applies to some graph; `now` are the graphs after those present."""
    kept = wanted[: len(present)] == present
    try:
        rewritten(now if kept else graphs, wanted[len(present) :] if kept else wanted)
    except ValueError:
        return False  # a rewrite that built on the one undone
    return True


def _rewrite_moves(now: Sequence[Graph], genome: Genome, *, algorithmic: bool) -> Iterator[Move]:
    gains = {"exact": 6.0, "reordered": 7.0, "algorithmic": 9.0}
    for step in dict.fromkeys(step for graph in now for step in sites(graph)):
        claim = rewrite_of(step)[0].claim
        if algorithmic or claim != "algorithmic":
            yield Move(f"apply {step}", genome.model_copy(update={"rewrites": (*genome.rewrites, step)}), gains[claim])


def _undo_moves(genome: Genome) -> Iterator[Move]:
    for position, step in enumerate(genome.rewrites):
        rest = genome.rewrites[:position] + genome.rewrites[position + 1 :]
        yield Move(f"undo {step}", genome.model_copy(update={"rewrites": rest}), 1.0)
    for node in genome.cuts:
        others = tuple(c for c in genome.cuts if c != node)
        yield Move(f"join at {node}", genome.model_copy(update={"cuts": others}), 1.5)


def _kernel_moves(graphs: Sequence[Graph], genome: Genome, printer: Printer) -> Iterator[Move]:
    families: dict[str, dict[str, Kernel]] = {}
    for part in parts_of(graphs, genome):
        for kernel in kernels(part.program):
            families.setdefault(part.families[kernel.name], {})[kernel.name] = kernel
    cuts: dict[int, int] = {}
    for family, members in families.items():
        yield from _knob_moves(family, members, genome, printer)
        for kernel in members.values():
            if isinstance(kernel, FusedKernel):
                cuts |= {n: max(cuts.get(n, 0), len(kernel.values)) for n in cuttable(kernel)}
    for size, node in sorted(((size, node) for node, size in cuts.items()), reverse=True)[:MAX_CUTS]:
        changed = genome.model_copy(update={"cuts": tuple(sorted({*genome.cuts, node}))})
        yield Move(f"cut at {node}", changed, 2.0 + size / 1000)


def _knob_moves(family: str, members: Mapping[str, Kernel], genome: Genome, printer: Printer) -> Iterator[Move]:
    """A structural knob set in all kernels of a family that have the value and are not at it."""
    changed: dict[tuple[str, Value], Genome] = {}
    for name, kernel in members.items():
        space = printer.knobs(kernel)
        setting = chosen(space, genome.kernels.get(name, {}))
        wanted = [(k.name, v) for k in space if k.name in STRUCTURAL_KNOBS for v in k.values if v != setting[k.name]]
        for knob, value in wanted:
            changed[knob, value] = changed.get((knob, value), genome).turned(name, knob, value)
    for (knob, value), turned in changed.items():
        yield Move(f"set {family}.{knob}={value}", turned, 5.0)


def cuttable(kernel: FusedKernel) -> list[int]:
    """Values between two operations of a kernel where it may pay to go through memory.

    That is at reductions, and at values that several later sweeps would compute again; elsewhere a cut only adds
    traffic.
    """
    stored = {o.node for o in kernel.stores}
    stages: dict[int, set[int]] = {}
    for value in kernel.values:
        for arg in value.args:
            node = getattr(arg, "node", None)
            if node is not None:
                stages.setdefault(node, set()).add(value.stage)
    return [
        v.node
        for v in kernel.values
        if v.node not in stored
        and v.node in stages
        and (v.kind == "reduce" or (v.kind == "pointwise" and v.full and len(stages[v.node]) > 1))
    ]


def _template_moves(now: Sequence[Graph], genome: Genome) -> Iterator[Move]:
    for graph, node in [(g, n) for g in now for n in g.nodes]:
        if node.id in genome.library:
            rest = tuple(n for n in genome.library if n != node.id)
            yield Move(f"template for {node.id}", genome.model_copy(update={"library": rest}), 3.0)
        elif node.kind == "extern" and template_of(graph, node) is not None:
            kept = tuple(sorted({*genome.library, node.id}))
            yield Move(f"library for {node.id}", genome.model_copy(update={"library": kept}), 2.5)


def steps_from(space: tuple[Parameter, ...], setting: dict[str, Value]) -> list[dict[str, Value]]:
    """All settings one knob away: the next values of an ordered knob, any other value of an unordered one."""
    return [{**setting, knob.name: value} for knob in space for value in adjacent(knob, setting[knob.name])]


def adjacent(knob: Parameter, value: Value) -> list[Value]:
    """The values a knob may move to from a value."""
    if not knob.ordered:
        return [v for v in knob.values if v != value]
    steps = [(a, b) for pair in pairwise(knob.values) for a, b in (pair, pair[::-1])]
    return [b for a, b in steps if a == value]


def shape_of(kernel: Kernel) -> str:
    """What a kernel computes, whatever it is called: kernels of different candidates compare by this."""
    if isinstance(kernel, TemplateKernel):
        return f"{kernel.template} {kernel.op} {sorted(kernel.attrs.items())}"
    operands = [(o.node, o.dtype, o.strides) for o in (*kernel.loads, *kernel.stores)]
    return f"{kernel.skeleton} {kernel.axes} {operands} {kernel.values}"
