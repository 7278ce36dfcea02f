"""Fusion: which pointwise operators and reductions share one kernel.

A group is legal when every reduction in it reduces exactly the group's reduced loops R, every value that leaves it
covers all parallel loops P, or P and R, and no value names a loop twice (that is `x + x.T`).
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable
from dataclasses import dataclass, field

from kernelmill.propose.embedded.axes import Atom, Axes, Illegal
from kernelmill.propose.embedded.ir import Graph, Node

FUSIBLE = frozenset({"pointwise", "reduce"})
INLINE = frozenset({"view", "constant", "iota"})

MAX_MEMBERS = 256
"""Operators in one kernel: beyond this, compilers slow down and spill registers."""


@dataclass
class Unit:
    """A kernel-to-be (`axes` given) or one library call."""

    index: int
    members: list[int]
    axes: Axes | None
    ancestors: int = 0
    """Bit i: needs the result of unit i, directly or not."""


@dataclass(frozen=True)
class Loops:
    """The loops of a legal group."""

    parallel: frozenset[Atom]
    reduced: frozenset[Atom]


@dataclass
class Grouping:
    """Greedy maximal fusion of one graph."""

    graph: Graph
    cuts: frozenset[int] = frozenset()
    """Nodes whose result goes through memory: nothing that reads one is fused with it."""
    alive: dict[int, Unit] = field(default_factory=dict)
    unit_of: dict[int, int] = field(default_factory=dict)
    readers: dict[int, set[int]] = field(default_factory=dict)
    """Root id -> the non-view nodes that read it, through views or not."""
    roots_of: dict[int, list[int]] = field(default_factory=dict)
    """Non-view node -> the roots that it reads, without constants and iotas."""
    outputs: set[int] = field(default_factory=set)

    def run(self) -> list[Unit]:
        """All units in an order that can be launched."""
        self._connect()
        for node in self.graph.nodes:
            if node.kind in FUSIBLE:
                self._place(node)
            elif node.kind in ("extern", "item"):
                self._open(node, None)
        return self._ordered()

    def _connect(self) -> None:
        graph = self.graph
        self.outputs = {graph.root(o).id for o in graph.outputs}
        self.readers = {n.id: set() for n in graph.nodes}
        for node in graph.nodes:
            if node.kind == "view":
                continue
            roots = dict.fromkeys(graph.root(i).id for i in node.inputs)
            self.roots_of[node.id] = [r for r in roots if graph.by_id[r].kind not in INLINE]
            for root in roots:
                self.readers[root].add(node.id)

    # -- placing one node ------------------------------------------------------------------------

    def _place(self, node: Node) -> None:
        for wanted in self._candidates(node):
            if self._join(node, wanted):
                return
        axes = Axes(self.graph)
        try:
            axes.add(node.id)
            self.check(axes)
        except Illegal:
            axes = Axes(self.graph, self._views_below(node))
            axes.add(node.id)
            self.check(axes)
        self._open(node, axes)

    def _views_below(self, node: Node) -> list[int]:
        return [i for i in node.inputs if self.graph.by_id[i].kind == "view"]

    def _candidates(self, node: Node) -> list[list[int]]:
        """Sets of kernels to join, best first: all that make an input, each of these, then those that read the same."""
        sources = self.roots_of[node.id]
        makers = [self.unit_of[s] for s in sources if s in self.unit_of]
        makers = list(dict.fromkeys(u for u in makers if self.alive[u].axes is not None))
        cut = {self.unit_of[s] for s in sources if s in self.cuts and s in self.unit_of}
        makers = sorted((u for u in makers if u not in cut), reverse=True)
        siblings = {self.unit_of[r] for s in sources for r in self.readers[s] if r in self.unit_of}
        others = sorted((u for u in siblings - set(makers) - cut if self.alive[u].axes is not None), reverse=True)
        sets = [makers] if len(makers) > 1 else []
        return sets + [[u] for u in makers] + [[u] for u in others]

    def _join(self, node: Node, wanted: list[int]) -> bool:
        if sum(len(self.alive[u].members) for u in wanted) >= MAX_MEMBERS or self._cyclic(node, wanted):
            return False
        axes = self._extended(node, wanted)
        if axes is None:
            return False
        keep, *others = sorted(wanted)
        unit = self.alive[keep]
        for other in others:
            unit.members += self.alive[other].members
            unit.ancestors |= self.alive[other].ancestors
            del self.alive[other]
        unit.axes = axes
        unit.members = sorted({*unit.members, node.id}, key=self._position.__getitem__)
        for member in unit.members:
            self.unit_of[member] = keep
        self._update_ancestors(unit, node, set(wanted))
        return True

    def _extended(self, node: Node, wanted: list[int]) -> Axes | None:
        """Axes of these groups and the node together, or None where they do not go together."""
        first = self.alive[wanted[0]].axes
        if first is None:
            return None
        if len(wanted) == 1:
            mark = first.mark()
            try:
                first.add(node.id)
                self.check(first)
            except Illegal:
                first.rollback(mark)
                return None
            return first
        units = [self.alive[u] for u in wanted]
        axes = Axes(self.graph, {b for u in units if u.axes for b in u.axes.boundary})
        members = sorted({m for u in units for m in u.members}, key=self._position.__getitem__)
        try:
            for member in members:
                axes.add(member)
            self._same_reduced_loops(axes, members)
            axes.add(node.id)
            self.check(axes)
        except Illegal:
            return None
        return axes

    def _same_reduced_loops(self, axes: Axes, members: Iterable[int]) -> None:
        """Let full reductions over tensors of one size share their loops, although nothing else connects them.

        So the numerator and the denominator of a weighted mean become one kernel.
        """
        reduces = [self.graph.by_id[m] for m in members if self.graph.by_id[m].kind == "reduce"]
        if any(max(node.shape, default=1) > 1 for node in reduces):
            return
        for other in reduces[1:]:
            first = [a for dim in axes.loops(reduces[0].inputs[0]) for a in dim]
            axes.unify(first, [a for dim in axes.loops(other.inputs[0]) for a in dim])

    @property
    def _position(self) -> dict[int, int]:
        return self.graph.positions

    # -- order -----------------------------------------------------------------------------------

    def _needs(self, node: Node) -> int:
        """Bits of the units whose results the node reads, and of their ancestors."""
        bits = 0
        for source in self.roots_of[node.id]:
            if source in self.unit_of:
                unit = self.unit_of[source]
                bits |= (1 << unit) | self.alive[unit].ancestors
        return bits

    def _cyclic(self, node: Node, wanted: list[int]) -> bool:
        """Whether some unit outside would have to run both after and before the joined kernel."""
        inside = sum(1 << u for u in wanted)
        before = self._needs(node)
        for unit in wanted:
            before |= self.alive[unit].ancestors
        outside = before & ~inside
        return any(outside >> u & 1 and self.alive[u].ancestors & inside for u in self.alive)

    def _update_ancestors(self, unit: Unit, node: Node, merged: set[int]) -> None:
        gone = sum(1 << u for u in merged if u != unit.index)
        own = 1 << unit.index
        unit.ancestors = (unit.ancestors | self._needs(node)) & ~(own | gone)
        for other in self.alive.values():
            if other.ancestors & (own | gone):
                other.ancestors = (other.ancestors & ~gone) | own | unit.ancestors

    def _open(self, node: Node, axes: Axes | None) -> None:
        index = self.graph.positions[node.id]
        self.alive[index] = Unit(index, [node.id], axes, self._needs(node))
        self.unit_of[node.id] = index

    def _ordered(self) -> list[Unit]:
        """Every unit after its ancestors; among those ready, the one whose first member comes first."""
        waiting = {u: unit.ancestors for u, unit in self.alive.items()}
        order: list[Unit] = []
        ready = [u for u, bits in waiting.items() if not bits]
        heapq.heapify(ready)
        for u in ready:
            del waiting[u]
        while ready:
            current = heapq.heappop(ready)
            order.append(self.alive[current])
            for u in list(waiting):
                waiting[u] &= ~(1 << current)
                if not waiting[u]:
                    del waiting[u]
                    heapq.heappush(ready, u)
        return order

    # -- legality --------------------------------------------------------------------------------

    def check(self, axes: Axes) -> Loops:
        """The loops of the group; Illegal where it is none."""
        covers = {}
        for key in axes.dims:
            loops = [a for dim in axes.loops(key) for a in dim]
            covers[key] = frozenset(loops)
            if len(covers[key]) != len(loops):
                raise Illegal("a value would walk one loop along two of its dims")
        return self._check_cover(axes, covers)

    def _check_cover(self, axes: Axes, covers: dict[int, frozenset[Atom]]) -> Loops:
        everything: set[Atom] = set()
        reduced: dict[int, frozenset[Atom]] = {}
        for member in axes.members:
            node = self.graph.by_id[member]
            everything |= covers[member]
            if node.kind == "reduce":
                source = node.inputs[0]
                everything |= covers[source]
                reduced[member] = covers[source] - covers[member]
        over = frozenset().union(*reduced.values())
        parallel = frozenset(everything) - over
        for member, atoms in reduced.items():
            if atoms != over or covers[self.graph.by_id[member].inputs[0]] != parallel | over:
                raise Illegal("a reduction would not run over all reduced loops")
        for member in axes.members:
            whole = covers[member] == parallel | over or (over and covers[member] == parallel)
            if not whole and self.leaves_group(member, axes.members):
                raise Illegal("a value that leaves the kernel does not cover its loops")
            if member in self.cuts and self.readers[member] & axes.members:
                raise Illegal("a cut runs through the kernel")
        return Loops(parallel, over)

    def leaves_group(self, member: int, members: Iterable[int]) -> bool:
        """Whether that value must be stored: an output, or read outside."""
        return member in self.outputs or not self.readers[member] <= set(members)


def cuttable(graph: Graph, units: Iterable[Unit]) -> tuple[int, ...]:
    """Node ids at which a cut would change the kernels: values that are read inside their own kernel."""
    found = []
    for unit in units:
        if unit.axes is not None:
            inside = set(unit.members)
            read = {graph.root(i).id for m in unit.members for i in graph.by_id[m].inputs}
            found += [m for m in unit.members if m in read & inside]
    return tuple(found)
