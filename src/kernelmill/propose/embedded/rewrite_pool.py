"""Maxima of growing functions: f(max x) = max f(x), so f is computed on the few that remain."""

from __future__ import annotations

from typing import Any, ClassVar

from kernelmill.propose.embedded.build import Builder
from kernelmill.propose.embedded.ir import Node, Ref
from kernelmill.propose.embedded.rewrite_base import Match, SimpleRewrite, is_call


class _MaximumOfGrowing(SimpleRewrite):
    """Moves one growing function from below a maximum to above it."""

    always = True
    functions: ClassVar[frozenset[str]]

    def replacement(self, at: Match, build: Builder) -> Node | None:
        source = _maximised(at)
        if source is None or not at.once(source):
            return None
        inner = self._argument(at, source)
        if inner is None:
            return None
        if at.node.kind == "reduce":
            best = build.reduce("amax", inner, at.node.attrs["dims"], keep=True)
        else:
            best = _pool_of(at, build, inner)
        args = [best if isinstance(a, Ref) else a for a in source.args]
        return build.pointwise(source.op, *args, dtype=source.dtype)

    def _argument(self, at: Match, source: Node) -> Node | None:
        """`x` where the node is a growing f(x) of the same shape and dtype."""
        if source.kind != "pointwise" or source.op not in self.functions:
            return None
        nodes = [a for a in at.args(source) if isinstance(a, Node)]
        if len(nodes) != 1 or nodes[0].shape != source.shape or nodes[0].dtype != source.dtype:
            return None
        return nodes[0] if _grows(source) else None


def _grows(node: Node) -> bool:
    """Whether f is non-decreasing, given that exactly one argument is a node and the others are literals."""
    if len(node.args) == 1:
        return True
    on_right = isinstance(node.args[0], Ref)
    factor: Any = node.args[1] if on_right else node.args[0]
    if node.op == "mul":
        return bool(factor > 0)
    if node.op in ("div", "sub"):
        return on_right and (node.op == "sub" or factor > 0)
    return bool(factor == factor)


def _maximised(at: Match) -> Node | None:
    """What a maximum over dims, or a max pool, reads directly."""
    node = at.node
    if node.kind == "reduce" and node.op == "amax":
        found: Node = at.value(node.args[0])
        return found
    if node.kind == "item" and node.args[1] == 0:
        pool = at.value(node.args[0])
        if is_call(pool, "max_pool2d_with_indices", "max_pool3d_with_indices") and at.users[pool.id] == [node.id]:
            return _first_node(at, pool)
    return None


def _first_node(at: Match, pool: Node) -> Node:
    found: Node = at.value(pool.args[0])
    return found


def _pool_of(at: Match, build: Builder, x: Node) -> Node:
    """The same max pool of another tensor."""
    item = at.node
    pool = at.value(item.args[0])
    again = build.add("extern", pool.op, [x, *pool.args[1:]], (), "tuple", kwargs=pool.attrs["kwargs"])
    return build.add("item", "item", [again, 0], item.shape, item.dtype, stride=item.stride)


class MaximumOfStep(_MaximumOfGrowing):
    """ReLU, bounds, and literals added or multiplied: growing also after rounding, so nothing changes at all."""

    name = "maximum-before-activation"
    claim = "exact"
    functions = frozenset({"relu", "maximum", "minimum", "add", "sub", "mul", "div"})


class MaximumOfSmooth(_MaximumOfGrowing):
    """Smooth growing functions, whose rounding need not grow everywhere."""

    name = "maximum-before-smooth-activation"
    claim = "reordered"
    functions = frozenset({"sigmoid", "tanh", "exp", "expm1", "erf", "atan", "sinh", "asinh"})
