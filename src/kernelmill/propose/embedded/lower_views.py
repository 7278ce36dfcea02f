"""Handlers for ATen operators that make constants or only move indices."""

from __future__ import annotations

from kernelmill.propose.embedded.build import Builder
from kernelmill.propose.embedded.ir import COMPUTE_DTYPES, Node
from kernelmill.propose.embedded.lower_call import Call, Handler, Result


def _full(build: Builder, call: Call) -> Result:
    name = call.node.target.__name__.split(".")[0]  # type: ignore[union-attr]
    fixed = {"zeros": 0, "ones": 1, "zeros_like": 0, "ones_like": 1}
    value = fixed[name] if name in fixed else call.args[0 if name == "scalar_tensor" else 1]
    if isinstance(value, Node | complex) or call.dtype not in COMPUTE_DTYPES:
        return None
    return build.constant(value, tuple(call.value.shape), call.dtype)


def _arange(build: Builder, call: Call) -> Result:
    length = call.value.shape[0]
    name = str(call.node.target)
    if "iota" in name:
        start, step = call.kwargs.get("start", 0), call.kwargs.get("step", 1)
    else:
        start = call.args[0] if len(call.args) > 1 else 0
        step = call.get(2, "step", 1)
    if not all(isinstance(v, int) for v in (start, step)) or call.dtype not in COMPUTE_DTYPES:
        return None
    if length == 1:
        return build.constant(start, (1,), call.dtype)
    index = build.iota((length,), 0)
    if step != 1:
        index = build.pointwise("mul", index, step)
    if start != 0:
        index = build.pointwise("add", index, start)
    return build.cast(index, call.dtype)


def _same(build: Builder, call: Call) -> Result:
    return build.cast(call.args[0], call.dtype)


def _reshape(build: Builder, call: Call) -> Result:
    return build.reshape(call.args[0], tuple(call.value.shape))


def _permute(build: Builder, call: Call) -> Result:
    x = call.args[0]
    name = call.node.target.__name__.split(".")[0]  # type: ignore[union-attr]
    if name == "permute":
        return build.permute(x, call.args[1])
    order = list(range(len(x.shape)))
    if len(order) > 1:
        first, second = (0, 1) if name == "t" else (call.args[1], call.args[2])
        order[first], order[second] = order[second], order[first]
    return build.permute(x, order)


def _slice(build: Builder, call: Call) -> Result:
    x, dim = call.args[0], call.get(1, "dim", 0)
    size = x.shape[dim]
    start, step = call.get(2, "start", None) or 0, call.get(4, "step", 1)
    start = min(max(start + size if start < 0 else start, 0), size)
    return build.slice(x, dim, start, call.value.shape[dim], step)


def _select(build: Builder, call: Call) -> Result:
    x, dim, index = call.args[0], call.args[1], call.args[2]
    return build.reshape(build.slice(x, dim, index % x.shape[dim], 1), tuple(call.value.shape))


def _pieces(build: Builder, call: Call) -> Result:
    """`split` and its kin: consecutive slices; None for a piece that nobody reads."""
    x, dim = call.args[0], call.get(2, "dim", 0)
    read = {user.args[1] for user in call.node.users}
    found, start = [], 0
    for i, piece in enumerate(call.value):
        size = piece.shape[dim]
        found.append(build.slice(x, dim, start, size) if i in read else None)
        start += size
    return tuple(found)


def _unbind(build: Builder, call: Call) -> Result:
    x, dim = call.args[0], call.get(1, "dim", 0)
    read = {user.args[1] for user in call.node.users}
    return tuple(
        build.reshape(build.slice(x, dim, i, 1), tuple(piece.shape)) if i in read else None
        for i, piece in enumerate(call.value)
    )


def _expand(build: Builder, call: Call) -> Result:
    return build.expand(call.args[0], tuple(call.value.shape))


def _copy(build: Builder, call: Call) -> Result:
    """`copy(x, source)`: the source in the shape and dtype of x."""
    return build.expand(build.cast(call.args[1], call.dtype), tuple(call.value.shape))


VIEWS: dict[str, Handler] = {
    **dict.fromkeys(("clone", "alias", "detach", "lift_fresh_copy", "lift_fresh", "positive"), _same),
    **dict.fromkeys(("view", "_unsafe_view", "reshape", "unsqueeze", "squeeze", "_reshape_alias"), _reshape),
    **dict.fromkeys(("permute", "t", "transpose"), _permute),
    **dict.fromkeys(("full", "scalar_tensor", "zeros", "ones", "full_like", "zeros_like", "ones_like"), _full),
    "arange": _arange,
    "iota": _arange,
    "expand": _expand,
    "copy": _copy,
    "slice": _slice,
    "select": _select,
    **dict.fromkeys(("split", "split_with_sizes"), _pieces),
    "unbind": _unbind,
}
