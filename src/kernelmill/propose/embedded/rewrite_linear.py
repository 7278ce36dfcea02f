"""Identities of matrix products."""

from __future__ import annotations

from typing import Any

from kernelmill.propose.embedded.build import Builder
from kernelmill.propose.embedded.ir import Node
from kernelmill.propose.embedded.rewrite_base import Match, SimpleRewrite, is_call, matmul_of, rescale


class SumOfLinear(SimpleRewrite):
    """sum_j (x W + b) = x (sum_j W) + sum_j b, and sum_i (x W + b) = (sum_i x) W + rows * b.

    A matrix product becomes a matrix-vector product. Scalar factors in between commute with the sum.
    """

    name = "sum-of-linear"
    claim = "algorithmic"

    def replacement(self, at: Match, build: Builder) -> Node | None:
        node = at.node
        if node.kind != "reduce" or node.op != "sum" or len(node.shape) != 2 or len(node.attrs["dims"]) != 1:
            return None
        source, chain = at.scaled(at.value(node.args[0]))
        parts = matmul_of(at, source)
        if parts is None or not at.once(source):
            return None
        left, right, bias = parts
        columns = node.attrs["dims"] == [1]
        if columns:
            right = build.reduce("sum", right, [1], keep=True)
        else:
            left = build.reduce("sum", left, [0], keep=True)
        result = build.extern("aten.mm.default", [left, right], node.shape, node.dtype)
        if bias is not None:
            row = build.reshape(bias, (1, bias.shape[0]))
            more = build.reduce("sum", row, [1], keep=True) if columns else build.pointwise("mul", row, source.shape[0])
            result = build.pointwise("add", result, more)
        return rescale(build, result, chain)


class DiagonalProduct(SimpleRewrite):
    """diag(a) B scales the rows of B by a. (Exact on finite B: the product also adds zeros times B.)"""

    name = "diagonal-product"
    claim = "exact"
    always = True

    def replacement(self, at: Match, build: Builder) -> Node | None:
        if not is_call(at.node, "mm"):
            return None
        left, right = at.args(at.node)
        diagonal = _diagonal(at, left)
        if diagonal is None:
            return None
        return build.pointwise("mul", build.reshape(diagonal, (left.shape[0], 1)), right)


def _diagonal(at: Match, node: Any) -> Node | None:
    """`a` where the node is `where(row == column, a, 0)`."""
    if node.kind != "pointwise" or node.op != "where" or node.shape[0] != node.shape[1]:
        return None
    condition, value, other = at.args(node)
    if other != 0 or condition.kind != "pointwise" or condition.op != "eq" or not isinstance(value, Node):
        return None
    sides = at.args(condition)
    shapes = sorted(s.shape[-2:] for s in sides if isinstance(s, Node) and at.graph.root(s.id).kind == "iota")
    size = node.shape[0]
    whole = shapes in ([(1, size), (size, 1)], [(size,), (size, 1)])
    return value if whole and sorted(value.shape) in ([size], [1, size]) else None


class Associate(SimpleRewrite):
    """(A B) C = A (B C), in whichever order takes fewer multiplications."""

    name = "associate-products"
    claim = "algorithmic"

    def replacement(self, at: Match, build: Builder) -> Node | None:
        if not is_call(at.node, "mm"):
            return None
        left, right = at.args(at.node)
        if is_call(left, "mm") and at.once(left):
            a, b = at.args(left)
            c = right
            now, then = _cost(a, b) + _cost(left, c), _cost(b, c) + a.shape[0] * a.shape[1] * c.shape[1]
            if then < now:
                inner = build.extern("aten.mm.default", [b, c], (b.shape[0], c.shape[1]), at.node.dtype)
                return build.extern("aten.mm.default", [a, inner], at.node.shape, at.node.dtype)
        if is_call(right, "mm") and at.once(right):
            a = left
            b, c = at.args(right)
            now, then = _cost(b, c) + _cost(a, right), _cost(a, b) + a.shape[0] * b.shape[1] * c.shape[1]
            if then < now:
                inner = build.extern("aten.mm.default", [a, b], (a.shape[0], b.shape[1]), at.node.dtype)
                return build.extern("aten.mm.default", [inner, c], at.node.shape, at.node.dtype)
        return None


def _cost(left: Node, right: Node) -> int:
    """Multiplications of a matrix product."""
    return left.shape[0] * left.shape[1] * right.shape[1]
