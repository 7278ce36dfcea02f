"""Factors and offsets per channel move into the weights of the library call before them, computed on every call."""

from __future__ import annotations

import operator
from dataclasses import dataclass, replace
from typing import Any

from kernelmill.propose.embedded.build import Builder
from kernelmill.propose.embedded.ir import Node
from kernelmill.propose.embedded.rewrite_base import Match, SimpleRewrite, convolution_of, depends, matmul_of
from kernelmill.propose.embedded.rewrite_conv import CONVOLUTION


@dataclass(frozen=True)
class _Step:
    """`op` with one operand per channel, a (channels,) node or a literal."""

    op: str
    operand: Any
    on_right: bool


class FoldAffine(SimpleRewrite):
    """conv(x, w, b) * s + t = conv(x, w * s, b * s + t), likewise for linear layers: eval batch norm, scales."""

    name = "fold-affine"
    claim = "reordered"

    def replacement(self, at: Match, build: Builder) -> Node | None:
        if at.node.kind != "pointwise" or len(at.node.shape) < 2 or self._goes_on(at):
            return None
        source, steps = self._chain(at, build)
        if not any(s.op in ("mul", "div") for s in steps):
            return None
        if any(isinstance(s.operand, Node) and depends(build, s.operand, source.id) for s in steps):
            return None  # squeeze-and-excitation: the factor is made from the result itself
        conv = convolution_of(at, source)
        if conv is not None:
            return self._convolution(at, build, source, steps)
        return self._product(at, build, source, steps)

    def _goes_on(self, at: Match) -> bool:
        """Whether the only reader is part of the same chain: then the site is further down."""
        if not at.once(at.node):
            return False
        user = at.graph.by_id[at.users[at.node.id][0]]
        return user.shape == at.node.shape and _step(at, user, at.node, None) is not None

    def _chain(self, at: Match, build: Builder) -> tuple[Node, list[_Step]]:
        """The node below all affine steps, and the steps, first applied first."""
        node, steps = at.node, []
        while node.kind == "pointwise" and node.shape == at.node.shape:
            inner = next((a for a in at.args(node) if isinstance(a, Node) and a.shape == node.shape), None)
            step = (
                None if inner is None or (node is not at.node and not at.once(node)) else _step(at, node, inner, build)
            )
            if inner is None or step is None:
                break
            steps.append(step)
            node = inner
        return node, (steps[::-1] if at.once(node) else [])

    def _convolution(self, at: Match, build: Builder, source: Node, steps: list[_Step]) -> Node | None:
        conv = convolution_of(at, source)
        if conv is None or (conv.transposed and conv.groups != 1):
            return None
        scale, offset = _combine(build, steps, source, conv.bias)
        place = 1 if conv.transposed else 0
        shape = [scale.shape[0] if i == place else 1 for i in range(len(conv.weight.shape))]
        weight = build.pointwise("mul", conv.weight, build.reshape(scale, shape))
        arguments = replace(conv, weight=weight, bias=offset).arguments()
        return build.add("extern", CONVOLUTION, arguments, source.shape, source.dtype, stride=source.stride, kwargs={})

    def _product(self, at: Match, build: Builder, source: Node, steps: list[_Step]) -> Node | None:
        parts = matmul_of(at, source)
        if parts is None:
            return None
        left, right, bias = parts
        scale, offset = _combine(build, steps, source, bias)
        weight = build.pointwise("mul", right, build.reshape(scale, (1, right.shape[1])))
        if offset is None:
            return build.extern("aten.mm.default", [left, weight], source.shape, source.dtype)
        return build.extern("aten.addmm.default", [offset, left, weight], source.shape, source.dtype)


def _step(at: Match, node: Node, inner: Node, build: Builder | None) -> _Step | None:
    """The node as an affine step on `inner`; without a builder only whether it is one (the operand is then None)."""
    if node.kind != "pointwise" or node.op not in ("add", "sub", "mul", "div") or "float" not in node.dtype:
        return None
    left, right = at.args(node)
    on_right = left == inner
    if not on_right and (right != inner or node.op == "div"):
        return None
    other = right if on_right else left
    if not isinstance(other, Node):
        return None if node.op == "div" and other == 0 else _Step(node.op, other, on_right)
    rank = len(node.shape)
    wide = (1,) * (rank - len(other.shape)) + other.shape
    if any(size != 1 for i, size in enumerate(wide) if i != 1) or wide[1] != node.shape[1] or wide[1] == 1:
        return None
    return _Step(node.op, None if build is None else build.reshape(other, (node.shape[1],)), on_right)


def _combine(build: Builder, steps: list[_Step], source: Node, bias: Node | None) -> tuple[Node, Node | None]:
    """All steps as one factor and one offset per channel of `source`."""
    scale: Any = 1.0
    offset: Any = bias
    for step in steps:
        value = step.operand
        if step.op in ("mul", "div"):
            scale = _apply(build, step.op, scale, value)
            offset = None if offset is None else _apply(build, step.op, offset, value)
        elif step.op == "sub" and not step.on_right:
            scale = _apply(build, "mul", scale, -1.0)
            offset = value if offset is None else _apply(build, "sub", value, offset)
        else:
            offset = _apply(build, step.op, 0.0 if offset is None else offset, value)
    return _vector(build, scale, source), None if offset is None else _vector(build, offset, source)


def _vector(build: Builder, value: Any, source: Node) -> Node:
    """A literal as a constant of one value per channel."""
    return value if isinstance(value, Node) else build.constant(value, (source.shape[1],), source.dtype)


def _apply(build: Builder, op: str, left: Any, right: Any) -> Any:
    """One operation on literals or on vectors."""
    if isinstance(left, Node) or isinstance(right, Node):
        return build.pointwise(op, left, right)
    operation = {"add": operator.add, "sub": operator.sub, "mul": operator.mul, "div": operator.truediv}[op]
    return operation(left, right)
