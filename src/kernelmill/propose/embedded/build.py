"""Making nodes: shapes, dtypes and small simplifications in one place, for the lowering and for the rewrites."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

from kernelmill.propose.embedded.ir import BOOLEAN, Graph, Node, Ref

Number = bool | int | float

SLICE = "aten.slice.Tensor"
"""The library call that only moves a pointer; kernels read its result where it lies."""

Value = Any
"""A `Node` or a Python scalar."""


def broadcast(shapes: Iterable[tuple[int, ...]]) -> tuple[int, ...]:
    """The shape that all of them broadcast to; ValueError where there is none."""
    result: list[int] = []
    for shape in shapes:
        result = [1] * (len(shape) - len(result)) + result
        offset = len(result) - len(shape)
        for i, size in enumerate(shape):
            if size != 1 and result[offset + i] not in (1, size):
                raise ValueError(f"shapes do not broadcast: {shape} against {tuple(result)}")
            result[offset + i] = max(size, result[offset + i])
    return tuple(result)


def convert(value: Number, dtype: str) -> Number:
    """A Python scalar as the dtype holds it."""
    if dtype == "bool":
        return bool(value)
    return float(value) if "float" in dtype else int(value)


_PURE = frozenset({"constant", "pointwise", "reduce", "view", "iota"})
"""Kinds of which two with the same arguments are the same value. Not library calls: they may be random."""


def is_slice(node: Node) -> bool:
    """Whether `Builder.slice` made it: its arguments are complete, and where it lies follows from its source."""
    return node.op == SLICE and node.stride is None


def _identity(node: Node) -> str:
    """Equal for nodes that compute the same; as text, because 1, 1.0 and True are equal but not the same literal."""
    return repr((node.kind, node.op, node.args, node.shape, node.dtype, sorted(node.attrs.items())))


class Builder:
    """Appends nodes; ids go on from the largest one taken. A computation that is there already is used again."""

    def __init__(self, nodes: Iterable[Node] = ()) -> None:
        self.nodes: list[Node] = list(nodes)
        self._same = {_identity(n): n for n in self.nodes if n.kind in _PURE or is_slice(n)}
        self._next = 1 + max((n.id for n in self.nodes), default=-1)
        self._by_id = {n.id: n for n in self.nodes}

    def node(self, node_id: int) -> Node:
        """The node of that id."""
        return self._by_id[node_id]

    def add(self, kind: Any, op: str, args: Sequence[Any], shape: Sequence[int], dtype: str, **attrs: Any) -> Node:
        """A node as given. `attrs["stride"]`, where given, becomes the node's stride."""
        stride = attrs.pop("stride", None)
        refs = tuple(Ref(a.id) if isinstance(a, Node) else a for a in args)
        node = Node(self._next, kind, op, refs, tuple(shape), dtype, None if stride is None else tuple(stride), attrs)
        if kind in _PURE or is_slice(node):
            known = self._same.setdefault(_identity(node), node)
            if known is not node:
                return known
        self._next += 1
        self.nodes.append(node)
        self._by_id[node.id] = node
        return node

    def constant(self, value: Number, shape: Sequence[int], dtype: str) -> Node:
        """A scalar broadcast to `shape`."""
        return self.add("constant", "full", (convert(value, dtype),), shape, dtype)

    def iota(self, shape: Sequence[int], dim: int, dtype: str = "int64") -> Node:
        """0, 1, 2, ... along `dim`, the only one whose size may differ from 1."""
        return self.add("iota", "iota", (), shape, dtype, dim=dim)

    def cast(self, x: Value, dtype: str) -> Value:
        """`x` in that dtype."""
        if not isinstance(x, Node):
            return convert(x, dtype)
        if x.dtype == dtype:
            return x
        if x.kind == "constant":
            return self.constant(x.args[0], x.shape, dtype)
        return self.add("pointwise", "cast", (x,), x.shape, dtype)

    def pointwise(self, op: str, *args: Value, dtype: str | None = None) -> Node:
        """`op` over the broadcast arguments, computed in `dtype` (default: that of the first tensor argument).

        The result has that dtype too, or bool for comparisons. The condition of `where` is read as bool.
        """
        tensors = [a for a in args if isinstance(a, Node)]
        shape = broadcast(t.shape for t in tensors)
        data = args[1:] if op == "where" else args
        found = dtype or next((a.dtype for a in data if isinstance(a, Node)), "float32")
        cast = [self.cast(a, found) for a in data]
        if op == "where":
            cast = [self.cast(args[0], "bool"), *cast]
        cast = self._inline_constants(cast, shape)
        return self.add("pointwise", op, cast, shape, "bool" if op in BOOLEAN else found)

    @staticmethod
    def _inline_constants(args: list[Value], shape: tuple[int, ...]) -> list[Value]:
        """Constants as literals, as long as a tensor of the full shape remains."""
        if any(isinstance(a, Node) and a.kind != "constant" and a.shape == shape for a in args):
            return [a.args[0] if isinstance(a, Node) and a.kind == "constant" else a for a in args]
        return args

    def reduce(self, op: str, x: Node, dims: Iterable[int] | None, *, keep: bool) -> Node:
        """`op` in sum, prod, amax, amin over `dims` (None or empty: all). Over dims of size 1 it is a view."""
        chosen = sorted({d % len(x.shape) for d in dims or range(len(x.shape))}) if x.shape else []
        kept = [1 if i in chosen else s for i, s in enumerate(x.shape)]
        left = kept if keep else [s for i, s in enumerate(x.shape) if i not in chosen]
        real = [d for d in chosen if x.shape[d] != 1]
        if real:
            x = self.add("reduce", op, (x,), kept, x.dtype, dims=real)
        return self.reshape(x, left)

    def reshape(self, x: Node, shape: Sequence[int]) -> Node:
        """The same elements in the same order; one reshape where several follow each other."""
        shape = tuple(shape)
        if math.prod(shape) != math.prod(x.shape):
            raise ValueError(f"a reshape keeps the number of elements, got {x.shape} -> {shape}")
        if x.kind == "view" and x.op == "reshape":
            x = self.node(x.args[0].node)
        if x.kind == "constant":
            return self.constant(x.args[0], shape, x.dtype)
        return x if x.shape == shape else self.add("view", "reshape", (x,), shape, x.dtype)

    def permute(self, x: Node, dims: Sequence[int]) -> Node:
        """The dims in another order; `dims[i]` is the old place of new dim i."""
        order = [d % len(x.shape) for d in dims] if x.shape else []
        if x.kind == "view" and x.op == "permute":
            order = [x.attrs["dims"][d] for d in order]
            x = self.node(x.args[0].node)
        if x.kind == "constant":
            return self.constant(x.args[0], [x.shape[d] for d in order], x.dtype)
        if order == sorted(order):
            return x
        return self.add("view", "permute", (x,), [x.shape[d] for d in order], x.dtype, dims=order)

    def expand(self, x: Node, shape: Sequence[int]) -> Node:
        """Broadcast to `shape`."""
        shape = tuple(shape)
        if x.kind == "constant":
            return self.constant(x.args[0], shape, x.dtype)
        return x if x.shape == shape else self.add("view", "expand", (x,), shape, x.dtype)

    def slice(self, x: Node, dim: int, start: int, length: int, step: int = 1) -> Node:
        """Elements `start`, `start + step`, ... along `dim`, `length` of them: a library call that copies nothing."""
        dim %= len(x.shape)
        shape = [length if i == dim else size for i, size in enumerate(x.shape)]
        if tuple(shape) == x.shape:
            return x
        if x.kind == "constant":
            return self.constant(x.args[0], shape, x.dtype)
        end = start + (length - 1) * step + 1
        return self.add("extern", SLICE, (x, dim, start, end, step), shape, x.dtype, kwargs={})

    def extern(self, op: str, args: Sequence[Any], shape: Sequence[int], dtype: str, **kwargs: Any) -> Node:
        """A library call `aten.<op>` with one contiguous result."""
        return self.add("extern", op, args, shape, dtype, stride=contiguous_strides(shape), kwargs=kwargs)


def contiguous_strides(shape: Sequence[int]) -> tuple[int, ...]:
    """Row-major strides in elements; a dim of size 0 counts as 1, as in PyTorch."""
    strides: list[int] = []
    step = 1
    for size in reversed(shape):
        strides.append(step)
        step *= max(size, 1)
    return tuple(reversed(strides))


def _substitute(arg: Any, table: dict[int, int]) -> Any:
    if isinstance(arg, Ref):
        return Ref(table.get(arg.node, arg.node))
    if isinstance(arg, list | tuple):
        return type(arg)(_substitute(a, table) for a in arg)
    return arg


def finish(graph: Graph, nodes: Iterable[Node], table: dict[int, int] | None = None) -> Graph:
    """The graph of `nodes` with every reading of an old id in `table` turned to the new one.

    Nodes nobody needs are dropped; the rest is in topological order, externs in the order they had.
    """
    table = table or {}
    pool: dict[int, Node] = {}
    for node in nodes:
        args = tuple(_substitute(a, table) for a in node.args)
        attrs = dict(node.attrs)
        if "kwargs" in attrs:
            attrs["kwargs"] = {k: _substitute(v, table) for k, v in attrs["kwargs"].items()}
        pool[node.id] = replace(node, args=args, attrs=attrs)
    outputs = tuple(table.get(o, o) for o in graph.outputs)
    live = _reachable(pool, outputs)
    order: list[Node] = []
    done: set[int] = set()
    for start in pool:
        if start in live:
            _visit(pool, start, done, order)
    return replace(graph, nodes=tuple(order), outputs=outputs)


def _reachable(pool: dict[int, Node], outputs: Iterable[int]) -> set[int]:
    live: set[int] = set()
    todo = [*outputs, *(n.id for n in pool.values() if n.kind == "input")]
    while todo:
        current = todo.pop()
        if current not in live:
            live.add(current)
            todo.extend(pool[current].inputs)
    return live


def _visit(pool: dict[int, Node], start: int, done: set[int], order: list[Node]) -> None:
    """Post-order without recursion: traced graphs can be thousands of nodes deep."""
    stack = [(start, False)]
    while stack:
        current, ready = stack.pop()
        if current in done:
            continue
        if ready:
            done.add(current)
            order.append(pool[current])
        else:
            stack.append((current, True))
            stack.extend((source, False) for source in reversed(pool[current].inputs) if source not in done)
