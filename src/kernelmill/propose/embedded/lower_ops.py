"""One handler per ATen operator that kernels can fuse; everything else stays a library call."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import fx

from kernelmill.propose.embedded.build import Builder
from kernelmill.propose.embedded.ir import BINARY, BOOLEAN, COMPUTE_DTYPES, UNARY, Node
from kernelmill.propose.embedded.lower_call import Call, Handler, Result, computable
from kernelmill.propose.embedded.lower_views import VIEWS

BIG = 1 << 62
"""An index no tensor has: the neutral element of a minimum over indices."""


_INTEGER_OPS_NAMES = """
add sub mul neg abs maximum minimum relu sign where bitwise_and bitwise_or bitwise_xor
"""
_INTEGER_OPS = frozenset(_INTEGER_OPS_NAMES.split())
"""What kernels do on integers. Not division and its kin: by zero the library raises, a kernel would crash."""

_BOOL_OPS = frozenset(["where", "bitwise_and", "bitwise_or", "bitwise_xor"])


def _defined(op: str, dtype: str) -> bool:
    """Whether kernels have `op` with a result of `dtype`."""
    if dtype == "bool":
        return op in BOOLEAN or op in _BOOL_OPS
    return "float" in dtype or op in _INTEGER_OPS


def _pointwise(op: str) -> Handler:
    def handle(build: Builder, call: Call) -> Result:
        if not computable(*call.args) or call.dtype not in COMPUTE_DTYPES or not _defined(op, call.dtype):
            return None
        dtype = _argument_dtype(call) if op in BOOLEAN else call.dtype
        if dtype not in COMPUTE_DTYPES:
            return None
        return build.pointwise(op, *call.args, dtype=dtype)

    return handle


def _argument_dtype(call: Call) -> str:
    """The dtype a comparison is made in."""
    meta: list[Any] = [a.meta["val"] if isinstance(a, fx.Node) else a for a in call.node.args]
    found = torch.result_type(meta[0], meta[1]) if len(meta) > 1 else meta[0].dtype
    return str(found).removeprefix("torch.")


def _logical(op: str) -> Handler:
    def handle(build: Builder, call: Call) -> Result:
        return build.pointwise(op, *call.args, dtype="bool") if computable(*call.args) else None

    return handle


def _bitwise_not(build: Builder, call: Call) -> Result:
    op = "logical_not" if call.dtype == "bool" else "bitwise_not"
    return build.pointwise(op, call.args[0]) if computable(*call.args) else None


def _scaled(op: str) -> Handler:
    """`add` and `sub` with their factor `alpha`."""

    def handle(build: Builder, call: Call) -> Result:
        if not computable(*call.args) or call.dtype not in COMPUTE_DTYPES or not _defined(op, call.dtype):
            return None
        left, right = call.args[:2]
        alpha = call.get(2, "alpha", 1)
        if alpha != 1:
            right = build.pointwise("mul", right, alpha, dtype=call.dtype) if isinstance(right, Node) else right * alpha
        return build.pointwise(op, left, right, dtype=call.dtype)

    return handle


def _div(build: Builder, call: Call) -> Result:
    mode = call.kwargs.get("rounding_mode")
    if not computable(*call.args) or call.dtype not in COMPUTE_DTYPES:
        return None
    if mode is not None and "float" not in call.dtype:
        return None  # integer division by zero must go on raising
    quotient = build.pointwise("div", *call.args[:2], dtype=call.dtype)
    return quotient if mode is None else build.pointwise(mode, quotient)


_POWERS: dict[float, tuple[str, ...]] = {0.5: ("sqrt",), -0.5: ("rsqrt",), -1.0: ("reciprocal",)}


def _pow(build: Builder, call: Call) -> Result:
    if not computable(*call.args) or "float" not in call.dtype:
        return None
    x, exponent = call.args[:2]
    if isinstance(exponent, Node) or not isinstance(x, Node):
        return build.pointwise("pow", x, exponent, dtype=call.dtype)
    x = build.cast(x, call.dtype)
    if exponent == 1:
        return x
    if exponent in (2, 3):
        square = build.pointwise("mul", x, x)
        return square if exponent == 2 else build.pointwise("mul", square, x)
    for op in _POWERS.get(float(exponent), ()):
        return build.pointwise(op, x)
    return build.pointwise("pow", x, exponent)


def _clamp(build: Builder, call: Call) -> Result:
    x, low, high = call.args[0], call.get(1, "min"), call.get(2, "max")
    if not computable(x, low, high) or call.dtype not in COMPUTE_DTYPES:
        return None
    for op, bound in (("maximum", low), ("minimum", high)):
        if bound is not None:
            x = build.pointwise(op, x, bound, dtype=call.dtype)
    return build.cast(x, call.dtype)


def _one_sided(op: str) -> Handler:
    def handle(build: Builder, call: Call) -> Result:
        if not computable(*call.args) or call.dtype not in COMPUTE_DTYPES:
            return None
        return build.pointwise(op, *call.args[:2], dtype=call.dtype)

    return handle


def _cast(build: Builder, call: Call) -> Result:
    """Half precision may only become float and float may only become half: what kernels load and store."""
    x = call.args[0]
    if isinstance(x, Node) and x.dtype == call.dtype:
        return x
    return build.cast(x, call.dtype) if computable(x) or call.dtype in COMPUTE_DTYPES else None


def _reduce(op: str) -> Handler:
    def handle(build: Builder, call: Call) -> Result:
        x, dims = call.args[0], call.get(1, "dim", None)
        if not computable(x) or call.dtype not in COMPUTE_DTYPES:
            return None
        if isinstance(dims, int):
            dims = [dims]
        x = build.cast(x, call.dtype)
        if x.dtype == "bool" and op in ("sum", "prod"):
            return None
        return build.reduce(op, x, dims, keep=bool(call.get(2, "keepdim", False)))

    return handle


def _count(x: Node, dims: list[int] | None) -> int:
    chosen = {d % len(x.shape) for d in dims or range(len(x.shape))} if x.shape else set()
    return math.prod(x.shape[d] for d in chosen)


def _mean(build: Builder, call: Call) -> Result:
    x, dims = call.args[0], call.get(1, "dim", None)
    if not computable(x) or call.dtype not in COMPUTE_DTYPES:
        return None
    total = build.reduce("sum", build.cast(x, call.dtype), dims, keep=bool(call.get(2, "keepdim", False)))
    return build.pointwise("div", total, _count(x, dims))


def _variance(build: Builder, call: Call) -> tuple[Node, Node] | None:
    """Variance and mean by two sums: the sum, then the sum of squared distances from the mean."""
    x, dims = call.args[0], call.get(1, "dim", None)
    if not computable(x) or "float" not in x.dtype:
        return None
    keep, correction = bool(call.kwargs.get("keepdim", False)), call.kwargs.get("correction", 1)
    count = _count(x, dims)
    mean = build.pointwise("div", build.reduce("sum", x, dims, keep=True), count)
    distance = build.pointwise("sub", x, mean)
    squares = build.reduce("sum", build.pointwise("mul", distance, distance), dims, keep=True)
    freedom = max(count - (1 if correction is None else correction), 0)
    var = build.pointwise("div", squares, freedom)
    if keep:
        return var, mean
    shape = tuple((call.value[0] if isinstance(call.value, list | tuple) else call.value).shape)
    return build.reshape(var, shape), build.reshape(mean, shape)


def _var(build: Builder, call: Call) -> Result:
    found = _variance(build, call)
    return None if found is None else found[0]


def _position(build: Builder, x: Node, dim: int, extreme: Node) -> Node:
    """Index of the first element that is the extreme one along `dim`; NaN counts as extreme, as in PyTorch."""
    same = build.pointwise("eq", x, extreme)
    if "float" in x.dtype:
        same = build.pointwise("logical_or", same, build.pointwise("isnan", x))
    shape = [size if i == dim else 1 for i, size in enumerate(x.shape)]
    index = build.pointwise("where", same, build.iota(shape, dim), BIG, dtype="int64")
    return build.reduce("amin", index, [dim], keep=True)


def _arg_extreme(op: str) -> Handler:
    def handle(build: Builder, call: Call) -> Result:
        x, dim = call.args[0], call.get(1, "dim")
        if not computable(x) or x.dtype == "bool":
            return None
        if dim is None:
            x, dim = build.reshape(x, (math.prod(x.shape),)), 0
        if not x.shape or x.shape[dim] == 1:
            return build.constant(0, tuple(call.value.shape), "int64")
        dim %= len(x.shape)
        return build.reshape(_position(build, x, dim, build.reduce(op, x, [dim], keep=True)), tuple(call.value.shape))

    return handle


def _extreme_with_index(op: str) -> Handler:
    """`max.dim` and `min.dim`; the index costs a second stage, so only where somebody reads it."""

    def handle(build: Builder, call: Call) -> Result:
        x = call.args[0]
        if not computable(x) or x.dtype == "bool":
            return None
        if len(call.args) < 2:
            return build.reduce(op, x, None, keep=False)
        if isinstance(call.args[1], Node):
            return build.pointwise("maximum" if op == "amax" else "minimum", x, call.args[1], dtype=call.dtype)
        if not x.shape or not isinstance(call.value, list | tuple):
            return None
        dim, shape = call.args[1] % len(x.shape), tuple(call.value[0].shape)
        extreme = build.reduce(op, x, [dim], keep=True)
        index = None
        if any(user.args[1] == 1 for user in call.node.users):
            one = x.shape[dim] == 1
            index = build.constant(0, shape, "int64") if one else _position(build, x, dim, extreme)
            index = build.reshape(index, shape)
        return build.reshape(extreme, shape), index

    return handle


def _any_all(op: str) -> Handler:
    def handle(build: Builder, call: Call) -> Result:
        x, dims = call.args[0], call.get(1, "dim", None)
        if not computable(x) or call.dtype != "bool":
            return None
        flag = build.cast(build.pointwise("ne", x, 0) if x.dtype != "bool" else x, "int32")
        dims = [dims] if isinstance(dims, int) else dims
        found = build.reduce(op, flag, dims, keep=bool(call.get(2, "keepdim", False)))
        return build.cast(found, "bool")

    return handle


def _norm(build: Builder, call: Call) -> Result:
    x, order, dims = call.args[0], call.get(1, "ord", 2), call.get(2, "dim", None)
    if not computable(x) or "float" not in call.dtype or order not in (1, 2):
        return None
    x = build.cast(x, call.dtype)
    keep = bool(call.get(3, "keepdim", False))
    term = build.pointwise("mul", x, x) if order == 2 else build.pointwise("abs", x)
    total = build.reduce("sum", term, dims, keep=keep)
    return build.pointwise("sqrt", total) if order == 2 else total


def _gather(build: Builder, call: Call) -> Result:
    """One element per row as a masked sum, so that the row need not be stored; only where a kernel makes the row.

    Legal as the index is in range (the library call would raise where it is not).
    """
    x, dim, index = call.args[0], call.args[1], call.args[2]
    if not x.shape or not computable(x, index) or call.kwargs.get("sparse_grad"):
        return None
    dim %= len(x.shape)
    source = x
    while source.kind == "view":
        source = build.node(source.args[0].node)
    rows = [s for i, s in enumerate(x.shape) if i != dim]
    asked = [s for i, s in enumerate(index.shape) if i != dim]
    if (
        source.kind not in ("pointwise", "reduce")
        or x.dtype == "bool"
        or index.shape[dim] != 1
        or rows != asked
        or x.shape[dim] == 1
    ):
        return None
    place = build.iota([size if i == dim else 1 for i, size in enumerate(x.shape)], dim)
    picked = build.pointwise("where", build.pointwise("eq", place, index, dtype="int64"), x, 0, dtype=x.dtype)
    return build.reduce("sum", picked, [dim], keep=True)


HANDLERS: dict[str, Handler] = {
    **VIEWS,
    **{op: _pointwise(op) for op in (UNARY | BINARY) - {"cast"}},
    **{op: _logical(op) for op in ("logical_and", "logical_or", "logical_xor", "logical_not")},
    "bitwise_not": _bitwise_not,
    **dict.fromkeys(("_to_copy", "convert_element_type"), _cast),
    **{op: _reduce(op) for op in ("sum", "prod", "amax", "amin")},
    "add": _scaled("add"),
    "sub": _scaled("sub"),
    "div": _div,
    "pow": _pow,
    "where": _pointwise("where"),
    "clamp": _clamp,
    "clamp_min": _one_sided("maximum"),
    "clamp_max": _one_sided("minimum"),
    "mean": _mean,
    "var": _var,
    "var_mean": _variance,
    "argmax": _arg_extreme("amax"),
    "argmin": _arg_extreme("amin"),
    "max": _extreme_with_index("amax"),
    "min": _extreme_with_index("amin"),
    "any": _any_all("amax"),
    "all": _any_all("amin"),
    "linalg_vector_norm": _norm,
    "gather": _gather,
}
