"""Row kernels: the innermost axis is reduced. One task per row; one sweep over the row per stage."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from kernelmill.propose.embedded.cpp_elementwise import store
from kernelmill.propose.embedded.cpp_loops import (
    choices,
    clause,
    combine,
    extent,
    header,
    identity,
    kept,
    parallel,
    reduced,
    serial,
    sizes,
)
from kernelmill.propose.embedded.cpp_ops import COMPUTE, HEAVY
from kernelmill.propose.embedded.cpp_patterns import Pair, first_index, pairs, selection, write_first, write_selection
from kernelmill.propose.embedded.cpp_scope import Body, Scope, refs, signature
from kernelmill.propose.embedded.plan import FusedKernel, KernelValue, LoopAxis, Operand
from kernelmill.schema import Parameter, Value

STACK_ELEMENTS = 8192
"""Longest row kept in a buffer on the stack: 32 KiB of floats, the size of a first-level cache."""


def knobs(kernel: FusedKernel) -> tuple[Parameter, ...]:
    """chunk: elements summed in single precision before they meet in double; keep: store costly values of one sweep
    for the next; onepass: mean and variance, or maximum and sum of exponentials, in one sweep; split: how a long row
    is shared by the threads; reciprocal: multiply instead of divide."""
    body = Body(kernel)
    length = reduced(kernel)[-1].extent
    found = [sizes("chunk", (256, 1024, 4096, 16384), 1024, length)]
    if heavy(body):
        found.append(choices("keep", (True, False), default=True))
    if pairs(body):
        # Twice the exponentials cost more than a sweep saves: softmax over 393216, 16.0 ms in three sweeps, 21 in two.
        moments = any(p.kind == "moments" for p in pairs(body).values())
        found.append(choices("onepass", (False, True), default=moments and extent(reduced(kernel)) > 65536))
    if any(v.op == "div" for v in kernel.values):
        found.append(choices("reciprocal", (True, False), default=True))
    if length >= 4096:
        few = extent(kept(kernel)) < 32 and extent(reduced(kernel)) >= 65536
        found.append(choices("split", (False, True), default=few))
    return tuple(found)


def heavy(body: Body) -> dict[int, int]:
    """Costly values that several sweeps need -> the first of these sweeps."""
    found: dict[int, int] = {}
    for value in body.values.values():
        if value.kind == "pointwise" and value.op in HEAVY and value.full and COMPUTE[value.dtype] == "float":
            sweeps = _sweeps_using(body.kernel, value)
            if len(sweeps) > 1:
                found[value.node] = min(sweeps)
    return found


def _sweeps_using(kernel: FusedKernel, wanted: KernelValue) -> set[int]:
    reached, sweeps = {wanted.node}, set()
    for value in kernel.values:
        if any(r.node in reached for r in refs(value)):
            if value.kind == "reduce":
                sweeps.add(value.stage)
            elif value.full:
                reached.add(value.node)
    sweeps |= {kernel_sweep(kernel, o) for o in kernel.stores if o.node in reached}
    return sweeps


def kernel_sweep(kernel: FusedKernel, operand: Operand) -> int:
    """The sweep that stores a full output: the first in which all it needs is known."""
    return {v.node: v.stage for v in kernel.values}[operand.node] + 1


@dataclass
class _Row:
    """What is being written for one row."""

    body: Body
    scope: Scope
    setting: Mapping[str, Value]
    kept_in: dict[int, str] = field(default_factory=dict)
    """Costly value -> the lvalue where a sweep left it."""
    left: set[int] = field(default_factory=set)
    """Values of `kept_in` that some sweep leaves."""
    written: set[int] = field(default_factory=set)
    """Those that a finished sweep has left."""
    merged: dict[int, Pair] = field(default_factory=dict)
    """Reductions that share the sweep of their partner."""

    @property
    def split(self) -> bool:
        return bool(self.setting.get("split"))

    @property
    def chunk(self) -> int:
        return int(self.setting["chunk"])


def write(body: Body, setting: Mapping[str, Value]) -> list[str]:
    """The text of the kernel."""
    kernel = body.kernel
    function = Scope(body)
    outer = function.block([signature(kernel)])
    split = bool(setting.get("split"))
    scope = serial(outer, kept(kernel)) if split else parallel(outer, kept(kernel))
    row = _Row(body, scope, setting)
    if setting.get("keep") and not split:
        _place_kept(row)
    if setting.get("onepass") and not split:
        row.merged = pairs(body)
    for sweep in range(1, kernel.stages + 2):
        _sweep(row, sweep)
    store(scope, [o for o in kernel.stores if not o.full])
    return function.text()


def _place_kept(row: _Row) -> None:
    """Give every costly value a place: the row of an output that is written later, else the stack."""
    kernel = row.body.kernel
    axes = reduced(kernel)
    free = [o for o in kernel.stores if o.full and o.dtype == "float32" and o.strides[-1] == 1]
    for node, first in heavy(row.body).items():
        home = next((o for o in free if kernel_sweep(kernel, o) > first), None)
        if home is not None:
            free.remove(home)
            row.kept_in[node] = row.body.element(home)
        elif extent(axes) <= STACK_ELEMENTS:
            row.scope.line(f"alignas(64) float row{node}[{extent(axes)}];")
            row.kept_in[node] = f"row{node}[{_flat(axes)}]"


def _flat(axes: list[LoopAxis]) -> str:
    terms = []
    for position, axis in enumerate(axes):
        step = extent(axes[position + 1 :])
        terms.append(axis.name if step == 1 else f"{axis.name} * {step}")
    return " + ".join(terms)


def _sweep(row: _Row, sweep: int) -> None:
    kernel = row.body.kernel
    reductions = [v for v in kernel.values if v.kind == "reduce" and v.stage == sweep]
    reductions = [v for v in reductions if v.node not in row.merged and not _special(row, v)]
    stores = [o for o in kernel.stores if o.full and kernel_sweep(kernel, o) == sweep]
    if reductions:
        _reduce(row, reductions, stores)
    elif stores:
        _store_only(row, stores)
    row.written |= row.left


def _special(row: _Row, value: KernelValue) -> bool:
    """Write a reduction that needs no sweep of its own kind; False where it does."""
    selected = selection(row.body, value)
    if selected is not None:
        write_selection(row.scope, value, selected)
        return True
    search = first_index(row.body, value)
    if search is not None and not row.split:
        write_first(row.scope, value, search, row.chunk)
        return True
    return False


def _store_only(row: _Row, stores: list[Operand]) -> None:
    *around, inner = reduced(row.body.kernel)
    if row.split:
        pragma = f"#pragma omp parallel for simd collapse({len(around) + 1}) schedule(static)".replace(
            " collapse(1)", ""
        )
        loop = row.scope.block([pragma, *(header(a) for a in [*around, inner])], [a.name for a in [*around, inner]])
    else:
        loop = serial(row.scope, around).block(["#pragma omp simd", header(inner)], [inner.name])
    _enter_kept(row, loop)
    store(loop, stores)
    _close(row.scope)


def _enter_kept(row: _Row, loop: Scope) -> None:
    """Read what an earlier sweep has left, rather than computing it again."""
    for node in row.written:
        loop.known[node] = row.kept_in[node]


def _leave_kept(row: _Row, loop: Scope) -> None:
    """Leave the costly values of this sweep for the next."""
    for node, place in row.kept_in.items():
        if node not in row.written and node in loop.known:
            loop.line(f"{place} = {loop.known[node]};")
            row.left.add(node)


def _close(scope: Scope) -> None:
    last = scope.items[-1]
    if isinstance(last, Scope):
        last.close()


def _reduce(row: _Row, reductions: list[KernelValue], stores: list[Operand]) -> None:
    """One sweep over the row: lanes of float inside a chunk, double between chunks."""
    if row.split:
        _reduce_split(row, reductions, stores)
        return
    *around, inner = reduced(row.body.kernel)
    scope, chunk = row.scope, row.chunk
    second = [p for p in row.merged.values() if p.first in {v.node for v in reductions}]
    single = not around and chunk >= inner.extent and not second
    for value in reductions if not single else []:
        scope.line(f"{total_type(value)} total{value.node} = {identity(value)};")
    for pair in second:
        pair.open(scope)
    nest = serial(scope, around)
    bounds = ("0", str(inner.extent))
    if chunk < inner.extent:
        nest = nest.block([f"for (int64_t begin = 0; begin < {inner.extent}; begin += {chunk})"])
        nest.line(f"const int64_t end = std::min<int64_t>(begin + {chunk}, {inner.extent});")
        bounds = ("begin", "end")
    _simd_part(row, nest, bounds, reductions, stores)
    for pair in second:
        pair.merge(nest, inner, bounds)
    if single:
        scope.known |= {v.node: f"part{v.node}" for v in reductions}
    else:
        _meet(scope, nest, reductions)
    for pair in second:
        pair.finish(scope)


def _meet(scope: Scope, nest: Scope, reductions: list[KernelValue]) -> None:
    """Add the partial results of a chunk to those of the row; behind the loops, name the results."""
    for value in reductions:
        nest.line(combine(nest, value, f"total{value.node}", f"part{value.node}"))
    _close(scope)
    for value in reductions:
        kind = COMPUTE[value.dtype]
        scope.line(f"const {kind} v{value.node} = ({kind})total{value.node};")
        scope.known[value.node] = f"v{value.node}"


def _simd_part(
    row: _Row, nest: Scope, bounds: tuple[str, str], reductions: list[KernelValue], stores: list[Operand]
) -> None:
    inner = reduced(row.body.kernel)[-1]
    for value in reductions:
        nest.line(f"{COMPUTE[value.dtype]} part{value.node} = {identity(value)};")
    pragma = "#pragma omp simd " + " ".join(clause(v, f"part{v.node}") for v in reductions)
    name = inner.name
    loop = nest.block([pragma, f"for (int64_t {name} = {bounds[0]}; {name} < {bounds[1]}; {name}++)"], [name])
    _enter_kept(row, loop)
    for value in reductions:
        text = loop.argument(value.args[0], value.dtype)
        loop.line(combine(loop, value, f"part{value.node}", text))
    store(loop, stores)
    _leave_kept(row, loop)
    loop.close()


def _reduce_split(row: _Row, reductions: list[KernelValue], stores: list[Operand]) -> None:
    """The threads share one row; partial results meet in a fixed order, so that the sum never varies."""
    axes = reduced(row.body.kernel)
    *around, inner = axes
    chunks = -(-inner.extent // row.chunk)
    count = chunks * extent(around)
    for value in reductions:
        row.scope.line(f"std::vector<{total_type(value)}> parts{value.node}({count});")
    headers = [header(a) for a in around] + [f"for (int64_t block = 0; block < {chunks}; block++)"]
    collapse = f" collapse({len(headers)})" if around else ""
    pragma = f"#pragma omp parallel for{collapse} schedule(static)"
    nest = row.scope.block([pragma, *headers], [a.name for a in around])
    nest.line(f"const int64_t begin = block * {row.chunk};")
    nest.line(f"const int64_t end = std::min<int64_t>(begin + {row.chunk}, {inner.extent});")
    _simd_part(row, nest, ("begin", "end"), reductions, stores)
    slot = f"({_flat(around)}) * {chunks} + block" if around else "block"
    for value in reductions:
        nest.line(f"parts{value.node}[{slot}] = part{value.node};")
    nest.close()
    for value in reductions:
        kind, total = COMPUTE[value.dtype], f"total{value.node}"
        row.scope.line(f"{total_type(value)} {total} = {identity(value)};")
        step = combine(row.scope, value, total, "part")
        row.scope.line(f"for ({total_type(value)} part : parts{value.node}) {step}")
        row.scope.line(f"const {kind} v{value.node} = ({kind}){total};")
        row.scope.known[value.node] = f"v{value.node}"


def total_type(value: KernelValue) -> str:
    """C type in which partial results of a reduction meet."""
    kind = COMPUTE[value.dtype]
    return "double" if kind == "float" and value.op in {"sum", "prod"} else kind
