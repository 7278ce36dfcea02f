"""Pieces that all loop nests share: headers, reductions, knobs."""

from __future__ import annotations

from math import prod

from kernelmill.propose.embedded.cpp_ops import COMPUTE, FLOATING
from kernelmill.propose.embedded.cpp_scope import Scope
from kernelmill.propose.embedded.plan import FusedKernel, KernelValue, LoopAxis
from kernelmill.schema import Parameter, Value

BIG = 2**63 - 1


def header(axis: LoopAxis) -> str:
    """A plain loop over a whole axis."""
    return f"for (int64_t {axis.name} = 0; {axis.name} < {axis.extent}; {axis.name}++)"


def region(scope: Scope) -> Scope:
    """A block that every thread of a team runs."""
    return scope.block(["#pragma omp parallel", ""])


def parallel(scope: Scope, axes: list[LoopAxis], *extra: str, inside: bool = False) -> Scope:
    """A parallel loop nest over some axes, plus the last loop headers that the caller wrote itself.

    With `inside`, it is shared by the team of the region that it is in.
    """
    headers = [*map(header, axes), *extra]
    if not headers:
        return scope
    collapse = f" collapse({len(headers)})" if len(headers) > 1 else ""
    pragma = f"#pragma omp {'' if inside else 'parallel '}for{collapse} schedule(static)"
    return scope.block([pragma, *headers], [a.name for a in axes])


def serial(scope: Scope, axes: list[LoopAxis]) -> Scope:
    """A serial loop nest, a block per axis, so that values find their level."""
    for axis in axes:
        scope = scope.block([header(axis)], [axis.name])
    return scope


def extent(axes: list[LoopAxis]) -> int:
    """Number of iterations of a loop nest."""
    return prod(a.extent for a in axes)


def reduced(kernel: FusedKernel) -> list[LoopAxis]:
    """The axes that reductions run over, outermost first."""
    return [a for a in kernel.axes if a.reduced]


def kept(kernel: FusedKernel) -> list[LoopAxis]:
    """The other axes, outermost first."""
    return [a for a in kernel.axes if not a.reduced]


def identity(value: KernelValue) -> str:
    """What a reduction starts from."""
    floating = value.dtype in FLOATING
    match value.op:
        case "sum":
            return "0"
        case "prod":
            return "1"
        case "amax":
            return "-INFINITY" if floating else f"std::numeric_limits<{COMPUTE[value.dtype]}>::lowest()"
        case "amin":
            return "INFINITY" if floating else f"std::numeric_limits<{COMPUTE[value.dtype]}>::max()"
    raise ValueError(f"C++ has no word for the reduction {value.op!r}")


def combine(scope: Scope, value: KernelValue, into: str, text: str) -> str:
    """The statement that takes one more element into a reduction."""
    match value.op:
        case "sum":
            return f"{into} += {text};"
        case "prod":
            return f"{into} *= {text};"
    if value.dtype not in FLOATING:
        return f"{into} = std::{'max' if value.op == 'amax' else 'min'}({into}, {text});"
    name = "max_nan" if value.op == "amax" else "min_nan"
    scope.body.use((name,))
    return f"{into} = {name}({into}, {text});"


def clause(value: KernelValue, name: str) -> str:
    """The OpenMP clause of a reduction; extremes of floats need our own, or a NaN would be lost between lanes."""
    floating = value.dtype in FLOATING
    operator = {
        "sum": "+",
        "prod": "*",
        "amax": "max_nan" if floating else "max",
        "amin": "min_nan" if floating else "min",
    }[value.op]
    return f"reduction({operator}:{name})"


def choices(name: str, values: tuple[Value, ...], *, default: Value, ordered: bool = False) -> Parameter:
    """A knob."""
    return Parameter(name=name, values=values, default=default, ordered=ordered)


def sizes(name: str, values: tuple[int, ...], default: int, limit: int) -> Parameter:
    """A knob of sizes. Of those that a loop of `limit` iterations could not tell apart only one is offered."""
    useful = tuple(v for v in values if v < limit) + tuple(v for v in values if v >= limit)[:1]
    return choices(name, useful, default=min(default, useful[-1]), ordered=True)


def total_type(value: KernelValue) -> str:
    """C type in which partial results of a reduction meet."""
    kind = COMPUTE[value.dtype]
    return "double" if kind == "float" and value.op in {"sum", "prod"} else kind
