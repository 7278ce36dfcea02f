"""Identities of convolutions, and the layout they run in."""

from __future__ import annotations

import math
from dataclasses import replace

from kernelmill.propose.embedded.build import Builder
from kernelmill.propose.embedded.ir import Name, Node
from kernelmill.propose.embedded.layout import is_contiguous, strides_in_order
from kernelmill.propose.embedded.rewrite_base import Match, SimpleRewrite, convolution_of, rescale

CONVOLUTION = "aten.convolution.default"


class MeanOfTransposed(SimpleRewrite):
    """The sum over space of an unpadded transposed convolution is (sum of x) (sum of w) + positions * b.

    Without padding every input element meets every weight exactly once, whatever stride and dilation are.
    """

    name = "mean-of-transposed-convolution"
    claim = "algorithmic"

    def replacement(self, at: Match, build: Builder) -> Node | None:
        node = at.node
        if node.kind != "reduce" or node.op != "sum":
            return None
        source, chain = at.scaled(at.value(node.args[0]))
        conv = convolution_of(at, source)
        space = list(range(2, len(node.shape)))
        if conv is None or node.attrs["dims"] != space or not at.once(source):
            return None
        if not conv.transposed or conv.groups != 1 or any(conv.padding) or any(conv.output_padding):
            return None
        inputs = build.reduce("sum", conv.x, space, keep=False)
        weights = build.reduce("sum", conv.weight, space, keep=False)
        result = build.extern("aten.mm.default", [inputs, weights], node.shape[:2], node.dtype)
        if conv.bias is not None:
            positions = math.prod(source.shape[2:])
            row = build.reshape(conv.bias, (1, conv.bias.shape[0]))
            result = build.pointwise("add", result, build.pointwise("mul", row, positions))
        return build.reshape(rescale(build, result, chain), node.shape)


class TransposedToPlain(SimpleRewrite):
    """A transposed convolution of stride 1 is a convolution with flipped and transposed weights."""

    name = "transposed-to-plain-convolution"
    claim = "reordered"

    def replacement(self, at: Match, build: Builder) -> Node | None:
        conv = convolution_of(at, at.node)
        if conv is None or not conv.transposed or conv.groups != 1 or any(s != 1 for s in conv.stride):
            return None
        sizes = conv.weight.shape[2:]
        padding = [d * (k - 1) - p for d, k, p in zip(conv.dilation, sizes, conv.padding, strict=True)]
        if any(conv.output_padding) or any(p < 0 for p in padding):
            return None
        swapped = build.permute(conv.weight, [1, 0, *range(2, len(sizes) + 2)])
        dims = list(range(2, len(sizes) + 2))
        flipped = build.extern("aten.flip.default", [swapped, dims], swapped.shape, swapped.dtype)
        plain = replace(conv, weight=flipped, padding=padding, transposed=False, output_padding=[0] * len(sizes))
        return build.extern(CONVOLUTION, plain.arguments(), at.node.shape, at.node.dtype)


class ChannelsLast(SimpleRewrite):
    """Runs one convolution with channels innermost and keeps its result that way; kernels after it read it so."""

    name = "channels-last"
    claim = "reordered"

    def replacement(self, at: Match, build: Builder) -> Node | None:
        node = at.node
        conv = convolution_of(at, node)
        if conv is None or len(node.shape) not in (4, 5) or node.stride is None:
            return None
        if not is_contiguous(node.shape, node.stride) or node.shape[1] == 1 or math.prod(node.shape[2:]) == 1:
            return None
        rank = len(node.shape)
        order = [0, *range(2, rank), 1]
        form = Name("channels_last" if rank == 4 else "channels_last_3d")
        x = build.add(
            "extern",
            "aten.contiguous.default",
            [conv.x],
            conv.x.shape,
            conv.x.dtype,
            stride=strides_in_order(conv.x.shape, order),
            kwargs={"memory_format": form},
        )
        arguments = replace(conv, x=x).arguments()
        stride = strides_in_order(node.shape, order)
        return build.add("extern", CONVOLUTION, arguments, node.shape, node.dtype, stride=stride, kwargs={})


class DeadBias(SimpleRewrite):
    """A bias per channel before a normalisation over space alone cancels: x + b - mean(x + b) = x - mean(x)."""

    name = "dead-bias"
    claim = "reordered"
    always = True

    def replacement(self, at: Match, build: Builder) -> Node | None:
        conv = convolution_of(at, at.node)
        if conv is None or conv.bias is None or at.node.id in at.graph.outputs:
            return None
        seen, space = _seen_by_norm(at)
        if seen is None or not _only_centred(at, seen, space):
            return None
        arguments = replace(conv, bias=None).arguments()
        return build.add(
            "extern", CONVOLUTION, arguments, at.node.shape, at.node.dtype, stride=at.node.stride, kwargs={}
        )


def _seen_by_norm(at: Match) -> tuple[Node | None, list[int]]:
    """What the normalisation reads, and the dims along which the bias is constant there."""
    node = at.node
    if at.once(node):
        user = at.graph.by_id[at.users[node.id][0]]
        flat = (1, node.shape[0] * node.shape[1], *node.shape[2:])
        if user.kind == "view" and user.op == "reshape" and user.shape == flat and user.id not in at.graph.outputs:
            return user, list(range(2, len(flat)))
    return node, [0, *range(2, len(node.shape))]


def _only_centred(at: Match, seen: Node, space: list[int]) -> bool:
    """Whether it is read only by its mean over some of `space` and by the subtraction of that mean."""
    users = [at.graph.by_id[u] for u in at.users[seen.id]]
    sums = [u for u in users if u.kind == "reduce" and u.op == "sum" and set(u.attrs["dims"]) <= set(space)]
    differences = [u for u in users if u.kind == "pointwise" and u.op == "sub" and at.value(u.args[0]) == seen]
    if len(sums) != 1 or len(differences) != 1 or len(users) != 2 or not at.once(sums[0]):
        return False
    mean = at.graph.by_id[at.users[sums[0].id][0]]
    count = math.prod(seen.shape[d] for d in sums[0].attrs["dims"])
    divided = mean.kind == "pointwise" and mean.op == "div" and mean.args[1] == count
    return divided and at.users[mean.id] == [differences[0].id] and at.value(differences[0].args[1]) == mean
