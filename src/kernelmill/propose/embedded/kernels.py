"""From a fusion group to a `FusedKernel`: loops in the order of memory, strides of every operand, stages."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

from kernelmill.propose.embedded.axes import Atom, Axes
from kernelmill.propose.embedded.build import contiguous_strides
from kernelmill.propose.embedded.ir import Graph, Node, Ref
from kernelmill.propose.embedded.layout import strides_in_order
from kernelmill.propose.embedded.plan import FusedKernel, KernelValue, LoopAxis, Operand, Skeleton

Strides = dict[Atom, int]


@dataclass(frozen=True)
class Buffer:
    """A tensor of the launch whose strides are known."""

    name: str
    strides: tuple[int, ...]


class KernelMaker:
    """One group on its way to a kernel."""

    def __init__(self, graph: Graph, axes: Axes, members: Iterable[int], reduced: frozenset[Atom]) -> None:
        self.graph = graph
        self.axes = axes
        self.members = tuple(members)
        self.reduced = reduced
        order = sorted(axes.dims, key=graph.positions.__getitem__)
        self.leaves = [k for k in order if self._is_leaf(graph.by_id[k])]
        """Tensors read from memory."""
        self.iotas = [k for k in order if graph.by_id[k].kind == "iota" and k not in axes.boundary]

    def _is_leaf(self, node: Node) -> bool:
        if node.id in self.members or node.kind in ("constant", "iota"):
            return False
        return node.kind != "view" or node.id in self.axes.boundary

    def walked(self, node_id: int, strides: Iterable[int]) -> Strides:
        """Stride per loop of a tensor with these strides per dim."""
        return self.axes.strides(node_id, strides)

    def natural_strides(self, node_id: int, loads: Mapping[int, Buffer]) -> tuple[int, ...]:
        """Strides for a result: dims in the order in which the biggest operand has them in memory."""
        node = self.graph.by_id[node_id]
        loops = self.axes.loops(node_id)
        biggest: Strides = {}
        for leaf in self.leaves:
            walk = {a: s for a, s in self.walked(leaf, loads[leaf].strides).items() if s}
            if _extent(walk) > _extent(biggest):
                biggest = walk
        if any(atom not in biggest for dim in loops for atom in dim):
            return contiguous_strides(node.shape)
        order = sorted((d for d in range(len(loops)) if loops[d]), key=lambda d: -max(biggest[a] for a in loops[d]))
        return strides_in_order(node.shape, [d for d in range(len(loops)) if not loops[d]] + order)

    def make(self, name: str, loads: Mapping[int, Buffer], stores: Mapping[int, Buffer]) -> FusedKernel:
        """The kernel that reads `loads` and writes `stores` (node id -> buffer)."""
        walks = {("load", k): self.walked(k, loads[k].strides) for k in self.leaves}
        walks |= {("store", k): self.walked(k, b.strides) for k, b in stores.items()}
        walks |= {("iota", k): self.walked(k, contiguous_strides(self.graph.by_id[k].shape)) for k in self.iotas}
        axes = self._merged(self._order(walks.values()), list(walks.values()))
        names = [
            LoopAxis(f"i{i}", math.prod(a.size for a in run), run[0] in self.reduced) for i, run in enumerate(axes)
        ]
        steps = {key: tuple(walk.get(run[-1], 0) for run in axes) for key, walk in walks.items()}
        values = self._values({k: steps["iota", k] for k in self.iotas})
        skeleton: Skeleton = "elementwise" if not self.reduced else "row" if names[-1].reduced else "column"
        if not names:
            names = [LoopAxis("i0", 1, reduced=False)]
            steps = dict.fromkeys(steps, (0,))
        return FusedKernel(
            name,
            skeleton,
            tuple(names),
            tuple(self._operand(k, loads[k], steps["load", k]) for k in self.leaves),
            tuple(self._operand(k, stores[k], steps["store", k]) for k in stores),
            values,
            max((v.stage for v in values), default=0),
        )

    def _operand(self, node_id: int, buffer: Buffer, steps: tuple[int, ...]) -> Operand:
        return Operand(node_id, buffer.name, self.graph.by_id[node_id].dtype, steps, self._full(node_id))

    def _full(self, node_id: int) -> bool:
        return any(a in self.reduced for dim in self.axes.loops(node_id) for a in dim)

    def _order(self, walks: Iterable[Strides]) -> list[Atom]:
        """All loops, outermost first: as in the biggest operand; what it does not walk goes outside."""
        moving = [{a: s for a, s in walk.items() if s} for walk in walks]
        order: list[Atom] = []
        for walk in sorted(moving, key=lambda w: -_extent(w)):
            order = sorted((a for a in walk if a not in order), key=lambda a: -walk[a]) + order
        rest = {a for k in self.axes.dims for dim in self.axes.loops(k) for a in dim} - set(order)
        return sorted(rest, key=lambda a: a.size) + order

    def _merged(self, order: list[Atom], walks: list[Strides]) -> list[list[Atom]]:
        """Runs of loops that every operand walks as if they were one."""
        runs: list[list[Atom]] = []
        for atom in order:
            outer = runs[-1][-1] if runs else None
            alike = outer is not None and (outer in self.reduced) == (atom in self.reduced)
            if outer is not None and alike and all(w.get(outer, 0) == w.get(atom, 0) * atom.size for w in walks):
                runs[-1].append(atom)
            else:
                runs.append([atom])
        return runs

    def _resolve(self, node_id: int) -> int:
        """The value of the kernel that a reading of that node means: views inside the kernel are only index maps."""
        node = self.graph.by_id[node_id]
        while node.kind == "view" and node.id not in self.axes.boundary:
            node = self.graph.by_id[node.inputs[0]]
        return node.id

    def _values(self, iota_steps: Mapping[int, tuple[int, ...]]) -> tuple[KernelValue, ...]:
        stage: dict[int, int] = {}
        found: list[KernelValue] = []
        for key in sorted(self.axes.dims, key=self.graph.positions.__getitem__):
            node = self.graph.by_id[key]
            if self._resolve(key) != key:
                continue
            args = tuple(Ref(self._resolve(a.node)) if isinstance(a, Ref) else a for a in node.args)
            full = self._full(key)
            if key in self.members:
                before = max((stage[a.node] for a in args if isinstance(a, Ref)), default=0)
                stage[key] = before + (node.kind == "reduce")
                kind: Literal["reduce", "pointwise"] = "reduce" if node.kind == "reduce" else "pointwise"
                found.append(KernelValue(key, kind, node.op, args, node.dtype, stage[key], full))
                continue
            stage[key] = 0
            if node.kind == "iota":
                found.append(KernelValue(key, "iota", "iota", (), node.dtype, 0, full, iota_steps[key]))
            elif node.kind == "constant":
                found.append(KernelValue(key, "constant", "full", args, node.dtype, 0, full=False))
            else:
                found.append(KernelValue(key, "load", "load", (), node.dtype, 0, full))
        return tuple(found)


def _extent(walk: Strides) -> int:
    return math.prod(a.size for a in walk) if walk else 0
