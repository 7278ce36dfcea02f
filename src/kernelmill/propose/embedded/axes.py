"""Which dims of the values in a fusion group are the same loop axis.

Every dim is a list of atoms, outermost first. A pointwise operator makes the atoms of its arguments equal, a reshape
splits them, a permute reorders them, an expand adds new ones. So a group norm over a reshaped tensor and its weights
per channel come out as plain strides, without a division or a modulo.
"""

from __future__ import annotations

from collections.abc import Iterable

from kernelmill.propose.embedded.ir import Graph, Node, Ref


class Illegal(Exception):  # noqa: N818  (not an error: the answer "these do not fuse")
    """These values have no common loop nest."""


class Atom:
    """A loop axis, or, once split or found equal to others, the list of what it consists of."""

    __slots__ = ("parts", "size")

    def __init__(self, size: int) -> None:
        self.size = size
        self.parts: list[Atom] | None = None


Dims = list[list[Atom]]


def leaves(atoms: Iterable[Atom]) -> list[Atom]:
    """The atoms that stand for loops, outermost first."""
    found: list[Atom] = []
    for atom in atoms:
        if atom.parts is None:
            found.append(atom)
        else:
            found.extend(leaves(atom.parts))
    return found


def _fresh(shape: Iterable[int]) -> Dims:
    return [[] if size == 1 else [Atom(size)] for size in shape]


class Axes:
    """The dims of every value of one group. `mark` and `rollback` undo a try that turned out illegal."""

    def __init__(self, graph: Graph, boundary: Iterable[int] = ()) -> None:
        self.graph = graph
        self.boundary = set(boundary)
        """Views that are read from memory as they are, not followed to their source."""
        self.members: set[int] = set()
        self.dims: dict[int, Dims] = {}
        self._split: list[Atom] = []
        self._added: list[int] = []

    def mark(self) -> tuple[int, int]:
        """A point to roll back to."""
        return len(self._split), len(self._added)

    def rollback(self, mark: tuple[int, int]) -> None:
        """Forget everything since `mark`."""
        while len(self._split) > mark[0]:
            self._split.pop().parts = None
        while len(self._added) > mark[1]:
            gone = self._added.pop()
            del self.dims[gone]
            self.members.discard(gone)

    def add(self, node_id: int) -> None:
        """Take a pointwise operator or a reduction into the group; Illegal where sizes do not match up."""
        self.members.add(node_id)
        try:
            self._of(node_id)
        except Illegal:
            self.members.discard(node_id)
            raise

    def read(self, node_id: int) -> None:
        """Take a value into the dims without computing it here."""
        self._of(node_id)

    def _of(self, node_id: int) -> Dims:
        if node_id not in self.dims:
            node = self.graph.by_id[node_id]
            self.dims[node_id] = self._compute(node)
            self._added.append(node_id)
        return self.dims[node_id]

    def _compute(self, node: Node) -> Dims:
        if node.id in self.members:
            if node.kind == "reduce":
                dims = self._of(node.inputs[0])
                return [[] if i in node.attrs["dims"] else dim for i, dim in enumerate(dims)]
            return self._pointwise(node)
        if node.kind == "view" and node.id not in self.boundary:
            return self._view(node, self._of(node.inputs[0]))
        return _fresh(node.shape)

    def _pointwise(self, node: Node) -> Dims:
        result: list[list[Atom] | None] = [None] * len(node.shape)
        for arg in node.args:
            if not isinstance(arg, Ref):
                continue
            dims = self._of(arg.node)
            offset = len(result) - len(dims)
            for i, size in enumerate(self.graph.by_id[arg.node].shape):
                known = result[offset + i]
                if size == 1:
                    continue
                if known is None:
                    result[offset + i] = dims[i]
                else:
                    self.unify(known, dims[i])
        return [dim or [] for dim in result]

    def _view(self, node: Node, source: Dims) -> Dims:
        if node.op == "permute":
            return [source[d] for d in node.attrs["dims"]]
        if node.op == "expand":
            old = self.graph.by_id[node.inputs[0]].shape
            offset = len(node.shape) - len(old)
            dims = _fresh(node.shape)
            return [
                source[i - offset] if i >= offset and old[i - offset] == size else dims[i]
                for i, size in enumerate(node.shape)
            ]
        dims = _fresh(node.shape)
        self.unify([a for dim in source for a in dim], [a for dim in dims for a in dim])
        return dims

    def _set_parts(self, atom: Atom, parts: list[Atom]) -> None:
        atom.parts = parts
        self._split.append(atom)

    def unify(self, first: Iterable[Atom], second: Iterable[Atom]) -> None:
        """Make two lists of atoms the same loops; Illegal where one size does not divide the other."""
        left, right = leaves(first), leaves(second)
        while left and right:
            a, b = left[0], right[0]
            if a is b:
                left.pop(0), right.pop(0)
                continue
            if a.size == b.size:
                self._set_parts(b, [a])
            else:
                big, small = (a, b) if a.size > b.size else (b, a)
                if big.size % small.size:
                    raise Illegal(f"a loop of {big.size} does not split by {small.size}")
                self._set_parts(big, [small, Atom(big.size // small.size)])
            left, right = leaves(left), leaves(right)
        if left or right:
            raise Illegal("the sizes do not multiply up to the same")

    def loops(self, node_id: int) -> list[list[Atom]]:
        """Per dim of that value, its loops, outermost first."""
        return [leaves(dim) for dim in self.dims[node_id]]

    def strides(self, node_id: int, strides: Iterable[int]) -> dict[Atom, int]:
        """Element stride along each loop of a tensor with these strides per dim."""
        found: dict[Atom, int] = {}
        for dim, step in zip(self.loops(node_id), strides, strict=True):
            for atom in reversed(dim):
                found[atom] = step
                step *= atom.size
        return found
