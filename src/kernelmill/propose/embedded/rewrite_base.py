"""What a rewrite is: an algebraic identity that holds for every input of the given shapes."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar, Literal

from kernelmill.propose.embedded.build import Builder, finish
from kernelmill.propose.embedded.ir import Graph, Node, Ref

Claim = Literal["exact", "reordered", "algorithmic"]
"""`exact`: bit for bit on finite inputs; `reordered`: the same real number, rounded elsewhere; `algorithmic`: less work
than the reference asymptotically does, which says more about the reference than about kernels."""


class Rewrite(ABC):
    """One identity. Weights are read anew on every call; nothing is inferred from values seen."""

    name: ClassVar[str]
    claim: ClassVar[Claim]
    always: ClassVar[bool] = False
    """Whether it wins wherever it applies, so that it belongs in the first candidate."""

    @abstractmethod
    def find(self, graph: Graph) -> list[int]:
        """Ids of the nodes where it applies."""

    @abstractmethod
    def replacement(self, at: Match, build: Builder) -> Node | None:
        """The node that takes the place of `at.node`, or None where the rewrite does not apply there."""

    def apply(self, graph: Graph, site: int) -> Graph:
        """The graph with that one site rewritten; ids of all other nodes stay. ValueError where it does not apply."""
        build = Builder(graph.nodes)
        new = self.replacement(Match(graph, graph.node(site)), build) if site in graph.by_id else None
        if new is None:
            raise ValueError(f"{self.name} does not apply at node {site}; it applies at {self.find(graph)}")
        return finish(graph, build.nodes, {site: new.id})


class SimpleRewrite(Rewrite):
    """A rewrite whose `replacement` is cheap enough to try on every node of some kinds."""

    def find(self, graph: Graph) -> list[int]:
        """Every node with a replacement."""
        readers = graph.users()
        scratch = Builder(graph.nodes)
        found = []
        for node in graph.nodes:
            wanted = node.kind in ("pointwise", "reduce", "extern", "item")
            if wanted and self.replacement(Match(graph, node, readers), scratch) is not None:
                found.append(node.id)
        return found


@dataclass(frozen=True)
class Match:
    """One node with its surroundings."""

    graph: Graph
    node: Node
    known_users: dict[int, list[int]] | None = None

    @cached_property
    def users(self) -> dict[int, list[int]]:
        """Node id -> ids of the nodes that read it."""
        return self.graph.users() if self.known_users is None else self.known_users

    def value(self, arg: Any) -> Any:
        """The node that a `Ref` means; any other argument as it is."""
        return self.graph.by_id[arg.node] if isinstance(arg, Ref) else arg

    def args(self, node: Node) -> list[Any]:
        """A node's arguments with nodes for `Ref`s."""
        return [self.value(a) for a in node.args]

    def once(self, node: Node) -> bool:
        """Whether exactly one node reads it and it is no output."""
        return len(self.users[node.id]) == 1 and node.id not in self.graph.outputs

    def scaled(self, node: Any) -> tuple[Node, list[tuple[str, float]]]:
        """Below a chain of multiplications and divisions by literals that nobody else reads: (source, the chain).

        The chain's first item is the one applied last.
        """
        chain: list[tuple[str, float]] = []
        while node.kind == "pointwise" and node.op in ("mul", "div") and self.once(node):
            left, right = self.args(node)
            if node.op == "mul" and isinstance(right, Node) and not isinstance(left, Node):
                left, right = right, left
            if isinstance(right, Node) or not isinstance(left, Node):
                break
            chain.append((node.op, right))
            node = left
        return node, chain


def rescale(build: Builder, node: Node, chain: list[tuple[str, float]]) -> Node:
    """A chain from `Match.scaled` on top of another node."""
    for op, factor in reversed(chain):
        node = build.pointwise(op, node, factor)
    return node


def depends(build: Builder, node: Node, on: int) -> bool:
    """Whether the node's value needs that of node `on`."""
    seen: set[int] = set()
    todo = [node.id]
    while todo:
        current = todo.pop()
        if current == on:
            return True
        if current not in seen:
            seen.add(current)
            todo.extend(build.node(current).inputs)
    return False


def is_call(node: Any, *names: str) -> bool:
    """Whether it is the library call `aten.<name>`, whatever the overload."""
    return isinstance(node, Node) and node.kind == "extern" and node.op.split(".")[1] in names


def matmul_of(at: Match, node: Node) -> tuple[Node, Node, Node | None] | None:
    """(left, right, bias) of a matrix product, with or without a bias of plain weight 1."""
    if is_call(node, "mm"):
        left, right = at.args(node)
        return left, right, None
    if is_call(node, "addmm") and not node.attrs["kwargs"]:
        bias, left, right = at.args(node)[:3]
        return (left, right, bias) if bias.shape == node.shape[1:] and len(node.args) == 3 else None
    return None


@dataclass(frozen=True)
class Convolution:
    """The arguments of `aten.convolution.default`."""

    x: Node
    weight: Node
    bias: Node | None
    stride: list[int]
    padding: list[int]
    dilation: list[int]
    transposed: bool
    output_padding: list[int]
    groups: int

    def arguments(self) -> list[Any]:
        """In the order of the call."""
        return [
            self.x,
            self.weight,
            self.bias,
            self.stride,
            self.padding,
            self.dilation,
            self.transposed,
            self.output_padding,
            self.groups,
        ]


def convolution_of(at: Match, node: Any) -> Convolution | None:
    """The arguments of a convolution, or None for any other node."""
    return Convolution(*at.args(node)) if is_call(node, "convolution") else None
