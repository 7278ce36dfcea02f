"""The embedded proposer's intermediate representation: a few node kinds, pure data, no torch.

A graph is in topological order. Everything that is not one of the fusible kinds is `extern`: a library
call, so that coverage is total and correctness never depends on coverage.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import Any, Literal

Kind = Literal["input", "constant", "pointwise", "reduce", "view", "iota", "extern", "item"]


@dataclass(frozen=True)
class Ref:
    """An argument that is another node's value."""

    node: int


@dataclass(frozen=True)
class Name:
    """An argument of an extern that is a name of the launch, e.g. the dtype `float32`."""

    text: str


Arg = Any
"""`Ref`, `Name`, a literal, or a (nested) list of these."""

_UNARY_NAMES = """
neg abs exp exp2 expm1 log log2 log10 log1p sqrt rsqrt reciprocal sin cos tan sinh cosh tanh asin acos atan
asinh acosh atanh erf erfc floor ceil round trunc sign relu sigmoid isnan isinf logical_not bitwise_not cast
"""
UNARY = frozenset(_UNARY_NAMES.split())
"""Pointwise ops of one argument. `cast` converts to the node's dtype; the others compute in their argument's."""

_BINARY_NAMES = """
add sub mul div pow maximum minimum fmod remainder atan2 gt ge lt le eq ne logical_and logical_or logical_xor
bitwise_and bitwise_or bitwise_xor
"""
BINARY = frozenset(_BINARY_NAMES.split())
"""Pointwise ops of two arguments of one dtype. maximum and minimum propagate NaN; remainder has the divisor's sign."""

_BOOLEAN_NAMES = """
gt ge lt le eq ne logical_and logical_or logical_xor logical_not isnan isinf
"""
BOOLEAN = frozenset(_BOOLEAN_NAMES.split())
"""Pointwise ops whose result is bool whatever the arguments are."""

COMPUTE_DTYPES = frozenset(["float32", "float64", "int64", "int32", "bool"])
"""dtypes a kernel may compute in."""

STORAGE_DTYPES = COMPUTE_DTYPES | {"float16", "bfloat16"}
"""dtypes a kernel may load and store; half precision only through `cast`."""


@dataclass(frozen=True)
class Node:
    """One value.

    - `input`: an argument or a state tensor; `op` is its name in the launch signature.
    - `constant`: a scalar broadcast to `shape`; `args[0]` is its value.
    - `pointwise`: `op` over broadcast `args`; ops are named as in core ATen (`add`, `exp`, `where`, `cast`).
    - `reduce`: `op` in sum, prod, amax, amin over `attrs["dims"]`, always keeping the dims with size 1.
    - `view`: `op` in permute (`attrs["dims"]`), expand, reshape; the target is `shape`.
    - `iota`: 0, 1, 2, ... along the only dim whose size is not 1 (`attrs["dim"]`).
    - `extern`: a library call; `op` is e.g. `aten.convolution.default`, `args` and `attrs["kwargs"]` its arguments.
    - `item`: output number `args[1]` of the multi-output extern `args[0]`.
    """

    id: int
    kind: Kind
    op: str
    args: tuple[Arg, ...]
    shape: tuple[int, ...]
    dtype: str
    stride: tuple[int, ...] | None = None
    """Strides in elements of an input or of what an extern returns; None where we choose the layout."""
    attrs: dict[str, Any] = field(default_factory=dict)

    @property
    def inputs(self) -> tuple[int, ...]:
        """Ids of the nodes this one reads, in order of appearance."""
        found: list[int] = []

        def walk(arg: Arg) -> None:
            if isinstance(arg, Ref):
                found.append(arg.node)
            elif isinstance(arg, list | tuple):
                for item in arg:
                    walk(item)

        for arg in (*self.args, *self.attrs.get("kwargs", {}).values()):
            walk(arg)
        return tuple(found)


@dataclass(frozen=True)
class Graph:
    """A traced reference."""

    nodes: tuple[Node, ...]
    """Topological order; `nodes[i].id` need not be i after rewrites."""
    outputs: tuple[int, ...]
    """Node ids of the flattened outputs."""
    inputs: tuple[str, ...]
    """Launch argument names: the positional arguments, then the state."""
    output_strides: tuple[tuple[int, ...], ...]
    """Strides eager gives to each output."""

    @cached_property
    def by_id(self) -> dict[int, Node]:
        """Node id -> node."""
        return {n.id: n for n in self.nodes}

    @cached_property
    def positions(self) -> dict[int, int]:
        """Node id -> place in the order."""
        return {n.id: i for i, n in enumerate(self.nodes)}

    def node(self, node_id: int) -> Node:
        """The node of that id; KeyError where there is none."""
        return self.by_id[node_id]

    def root(self, node_id: int) -> Node:
        """The node whose memory a chain of views shows."""
        node = self.by_id[node_id]
        while node.kind == "view":
            node = self.by_id[node.inputs[0]]
        return node

    def users(self) -> dict[int, list[int]]:
        """Node id -> ids of the nodes that read it."""
        found: dict[int, list[int]] = {n.id: [] for n in self.nodes}
        for node in self.nodes:
            for source in node.inputs:
                if node.id not in found[source]:
                    found[source].append(node.id)
        return found


def _encode(value: Any) -> Any:
    if isinstance(value, Ref):
        return {"ref": value.node}
    if isinstance(value, Name):
        return {"name": value.text}
    if isinstance(value, dict):
        return {k: _encode(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_encode(v) for v in value]
    if isinstance(value, float) and (value != value or value in (float("inf"), float("-inf"))):
        return {"float": repr(value)}
    return value


def _decode(value: Any) -> Any:
    if isinstance(value, dict):
        if set(value) == {"ref"}:
            return Ref(value["ref"])
        if set(value) == {"name"}:
            return Name(value["name"])
        if set(value) == {"float"}:
            return float(value["float"])
        return {k: _decode(v) for k, v in value.items()}
    if isinstance(value, list):
        return [_decode(v) for v in value]
    return value


def to_json(graph: Graph) -> str:
    """The graph as text; `from_json` is its inverse."""
    return json.dumps(
        {
            "nodes": [{**asdict(n), "args": _encode(n.args), "attrs": _encode(n.attrs)} for n in graph.nodes],
            "outputs": graph.outputs,
            "inputs": graph.inputs,
            "output_strides": graph.output_strides,
        }
    )


def from_json(text: str) -> Graph:
    """Inverse of `to_json`."""
    data = json.loads(text)
    nodes = tuple(
        Node(
            id=n["id"],
            kind=n["kind"],
            op=n["op"],
            args=tuple(_decode(n["args"])),
            shape=tuple(n["shape"]),
            dtype=n["dtype"],
            stride=None if n["stride"] is None else tuple(n["stride"]),
            attrs=_decode(n["attrs"]),
        )
        for n in data["nodes"]
    )
    return Graph(
        nodes,
        tuple(data["outputs"]),
        tuple(data["inputs"]),
        tuple(tuple(s) for s in data["output_strides"]),
    )
