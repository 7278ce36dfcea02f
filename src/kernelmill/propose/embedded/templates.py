"""Library operators that a template of ours can replace: pools, scans, depthwise convolutions, the k largest."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from kernelmill.propose.embedded.ir import Graph, Node

_DTYPES = frozenset({"float32", "float64"})

MAX_TOP = 64
"""Values kept in a sorted list: above this, insertions cost more than a partial sort."""


def template_of(graph: Graph, node: Node) -> tuple[str, dict[str, Any]] | None:
    """(template, its `TemplateKernel.attrs`) where one computes the same as that extern, else None."""
    if node.kind != "extern" or not node.args or not node.inputs:
        return None
    source = graph.by_id[node.inputs[0]]
    if source.dtype not in _DTYPES or math.prod(source.shape) == 0:
        return None
    name = node.op.removeprefix("aten.").split(".")[0]
    if name in ("cumsum", "cumprod"):
        return _scan(node, source)
    if name == "convolution":
        return _depthwise(node, [graph.by_id[i] for i in node.inputs])
    if name == "topk":
        used = {n.args[1] for n in graph.nodes if n.kind == "item" and n.inputs[0] == node.id}
        return _top(node, source) if used == {0} else None
    if name in ("max_pool2d_with_indices", "max_pool3d_with_indices"):
        read = [n.args[1] for n in graph.nodes if n.kind == "item" and n.inputs[0] == node.id]
        return _max_pool(node, source) if set(read) == {0} else None
    if name in ("avg_pool2d", "avg_pool3d"):
        return _avg_pool(node, source)
    if name in ("_adaptive_avg_pool2d", "_adaptive_avg_pool3d"):
        return _adaptive(node, source)
    return None


def _scan(node: Node, source: Node) -> tuple[str, dict[str, Any]] | None:
    if not source.shape or node.dtype != source.dtype:
        return None
    dim = int(node.args[1]) % len(source.shape)
    before, after = math.prod(source.shape[:dim]), math.prod(source.shape[dim + 1 :])
    return "scan", {"rows": before, "length": source.shape[dim], "inner": after}


def _depthwise(node: Node, tensors: Sequence[Node]) -> tuple[str, dict[str, Any]] | None:
    """A convolution whose every output channel reads one input channel, in one or two dims."""
    x, weight = tensors[:2]
    stride, padding, dilation, transposed, _, groups = node.args[3:9]
    rank = len(x.shape) - 2
    plain = not transposed and groups == x.shape[1] and weight.shape[1] == 1 and rank in (1, 2)
    if not plain or groups == 1 or any(t.dtype != "float32" for t in tensors):
        return None
    lead = 2 - rank
    return "depthwise", {
        "op": "depthwise",
        "batch": x.shape[0],
        "channels": weight.shape[0],
        "multiplier": weight.shape[0] // groups,
        "size": [1] * lead + list(x.shape[2:]),
        "out_size": [1] * lead + list(node.shape[2:]),
        "kernel": [1] * lead + list(weight.shape[2:]),
        "stride": [1] * lead + list(stride),
        "padding": [0] * lead + list(padding),
        "dilation": [1] * lead + list(dilation),
    }


def _top(node: Node, source: Node) -> tuple[str, dict[str, Any]] | None:
    """The k largest or smallest values along the last dim, in order, for a k that fits a sorted list."""
    dim = int(_argument(node, 2, "dim", -1))
    k = int(node.args[1])
    if not source.shape or dim % len(source.shape) != len(source.shape) - 1 or not 1 <= k <= MAX_TOP:
        return None
    largest = _flag(node, 3, "largest", default=True)
    rows, length = math.prod(source.shape[:-1]), source.shape[-1]
    if length < 256:
        return None  # every part would hold a few elements
    return "topk", {"op": "largest" if largest else "smallest", "rows": rows, "length": length, "k": k}


def _spread(node: Node, position: int, name: str, default: Sequence[int] | int, rank: int) -> list[int]:
    """A pool's argument as one number per spatial dim."""
    value = node.args[position] if len(node.args) > position else node.attrs["kwargs"].get(name)
    if value is None or value == []:
        value = default
    value = [value] if isinstance(value, int) else list(value)
    return value * rank if len(value) == 1 else value


def _argument(node: Node, position: int, name: str, default: Any) -> Any:
    return node.args[position] if len(node.args) > position else node.attrs["kwargs"].get(name, default)


def _flag(node: Node, position: int, name: str, *, default: bool) -> bool:
    return bool(_argument(node, position, name, default))


def _window(source: Node, rank: int, geometry: dict[str, list[int]], *, ceil: bool) -> dict[str, Any] | None:
    """The attributes that all pools share; None where a window would hang over the end (`ceil_mode`)."""
    size = list(source.shape[-rank:])
    kernel, stride, padding, dilation = (geometry[k] for k in ("kernel", "stride", "padding", "dilation"))
    spans = [s + 2 * p - d * (k - 1) - 1 for s, p, d, k in zip(size, padding, dilation, kernel, strict=True)]
    if ceil and any(span % step for span, step in zip(spans, stride, strict=True)):
        return None
    out = [span // step + 1 for span, step in zip(spans, stride, strict=True)]
    lead = 3 - rank
    filled = {k: [0 if k == "padding" else 1] * lead + v for k, v in geometry.items()}
    return {
        **filled,
        "batch": math.prod(source.shape[:-rank]),
        "size": [1] * lead + size,
        "out_size": [1] * lead + out,
        "divisor": 1,
        "count_include_pad": True,
    }


def _max_pool(node: Node, source: Node) -> tuple[str, dict[str, Any]] | None:
    rank = 3 if "3d" in node.op else 2
    kernel = _spread(node, 1, "kernel_size", 1, rank)
    geometry = {
        "kernel": kernel,
        "stride": _spread(node, 2, "stride", kernel, rank),
        "padding": _spread(node, 3, "padding", 0, rank),
        "dilation": _spread(node, 4, "dilation", 1, rank),
    }
    attrs = _window(source, rank, geometry, ceil=_flag(node, 5, "ceil_mode", default=False))
    return None if attrs is None else ("window", {**attrs, "op": "max"})


def _avg_pool(node: Node, source: Node) -> tuple[str, dict[str, Any]] | None:
    rank = 3 if "3d" in node.op else 2
    kernel = _spread(node, 1, "kernel_size", 1, rank)
    geometry = {
        "kernel": kernel,
        "stride": _spread(node, 2, "stride", kernel, rank),
        "padding": _spread(node, 3, "padding", 0, rank),
        "dilation": [1] * rank,
    }
    attrs = _window(source, rank, geometry, ceil=_flag(node, 4, "ceil_mode", default=False))
    if attrs is None:
        return None
    override = _argument(node, 6, "divisor_override", None)
    whole = override is not None or _flag(node, 5, "count_include_pad", default=True) or not any(geometry["padding"])
    return "window", {**attrs, "op": "avg", "divisor": override or math.prod(kernel), "count_include_pad": whole}


def _adaptive(node: Node, source: Node) -> tuple[str, dict[str, Any]] | None:
    """Adaptive pooling is an ordinary pool where every size divides."""
    rank = 3 if "3d" in node.op else 2
    size, out = list(source.shape[-rank:]), list(node.shape[-rank:])
    if any(s % o for s, o in zip(size, out, strict=True)):
        return None
    kernel = [s // o for s, o in zip(size, out, strict=True)]
    geometry = {"kernel": kernel, "stride": kernel, "padding": [0] * rank, "dilation": [1] * rank}
    attrs = _window(source, rank, geometry, ceil=False)
    return None if attrs is None else ("window", {**attrs, "op": "avg", "divisor": math.prod(kernel)})
