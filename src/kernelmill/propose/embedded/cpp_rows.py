"""Row kernels: the innermost axis is reduced. One task per row; one sweep over the row per stage."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from kernelmill.propose.embedded.cpp_elementwise import store
from kernelmill.propose.embedded.cpp_lanes import Part, Sweep, fitting
from kernelmill.propose.embedded.cpp_loops import (
    combine,
    extent,
    header,
    identity,
    kept,
    parallel,
    reduced,
    region,
    serial,
    total_type,
)
from kernelmill.propose.embedded.cpp_ops import COMPUTE
from kernelmill.propose.embedded.cpp_patterns import Pair, first_index, pairs, selection, write_first, write_selection
from kernelmill.propose.embedded.cpp_row_knobs import fetchable, heavy, kernel_sweep, knobs, streamable
from kernelmill.propose.embedded.cpp_scope import Body, Scope, pointer, signature
from kernelmill.propose.embedded.plan import KernelValue, LoopAxis, Operand
from kernelmill.schema import Value

__all__ = ["knobs", "total_type", "write"]

STACK_ELEMENTS = 8192
"""Longest row kept in a buffer on the stack: 32 KiB of floats, the size of a first-level cache."""

LINE = 16
"""Floats in a cache line."""


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
    streamed: list[Operand] = field(default_factory=list)
    """Outputs that are written past the cache."""

    @property
    def split(self) -> bool:
        return bool(self.setting.get("split"))

    @property
    def chunk(self) -> int:
        return int(self.setting["chunk"])

    @property
    def lanes(self) -> int:
        return int(self.setting.get("lanes", 0))


def write(body: Body, setting: Mapping[str, Value]) -> list[str]:
    """The text of the kernel."""
    kernel = body.kernel
    function = Scope(body)
    outer = function.block([signature(kernel)])
    split = bool(setting.get("split"))
    row = _Row(body, outer, setting)
    inner = reduced(kernel)[-1]
    if setting.get("stream") and not split and fitting(row.lanes, inner, ()):
        row.streamed = streamable(kernel)
    team = region(outer) if row.streamed else outer
    row.scope = serial(outer, kept(kernel)) if split else parallel(team, kept(kernel), inside=bool(row.streamed))
    if setting.get("onepass") and not split:
        row.merged = pairs(body)
    if setting.get("keep") and not split:
        _place_kept(row)
    for sweep in range(1, kernel.stages + 2):
        _sweep(row, sweep)
    store(row.scope, [o for o in kernel.stores if not o.full])
    if row.streamed:
        row.scope.close()
        team.line("stream_done();")
    return function.text()


def _place_kept(row: _Row) -> None:
    """Give every costly value a place: the stack where it goes with streaming, the row of an output that is written
    later, else the stack."""
    kernel = row.body.kernel
    axes = reduced(kernel)
    short = extent(axes) <= STACK_ELEMENTS
    free = [o for o in kernel.stores if o.full and o.dtype == "float32" and o.strides[-1] == 1]
    free = [o for o in free if not (short and o in row.streamed)]
    for node, first in heavy(row.body, row.merged).items():
        home = next((o for o in free if kernel_sweep(kernel, o) > first), None)
        if home is not None:
            free.remove(home)
            row.kept_in[node] = row.body.element(home)
            row.streamed = [o for o in row.streamed if o is not home]
        elif short:
            row.scope.line(f"alignas(64) float row{node}[{extent(axes)}];")
            row.kept_in[node] = f"row{node}[{_flat(axes)}]"


def _flat(axes: list[LoopAxis]) -> str:
    terms = []
    for position, axis in enumerate(axes):
        step = extent(axes[position + 1 :])
        terms.append(axis.name if step == 1 else f"{axis.name} * {step}")
    return " + ".join(terms)


def _of_sweep(row: _Row, sweep: int) -> tuple[list[KernelValue], list[Operand]]:
    """The reductions and the outputs that are looped for in a sweep."""
    kernel = row.body.kernel
    reductions = [v for v in kernel.values if v.kind == "reduce" and v.stage == sweep and v.node not in row.merged]
    return reductions, [o for o in kernel.stores if o.full and kernel_sweep(kernel, o) == sweep]


def _sweep(row: _Row, sweep: int) -> None:
    reductions, stores = _of_sweep(row, sweep)
    reductions = [v for v in reductions if not _special(row, v)]
    if reductions:
        _reduce(row, reductions, stores, _fetched(row, sweep))
    elif stores:
        _store_only(row, stores, _fetched(row, sweep))
    row.written |= row.left


def _fetched(row: _Row, sweep: int) -> list[str]:
    """Statements that fetch the next row, block by block; all sweeps but the first, which reads memory itself, share
    its cache lines."""
    kernel = row.body.kernel
    sweeps = [s for s in range(1, kernel.stages + 2) if any(_of_sweep(row, s))]
    lines = max(1, row.lanes // LINE)
    if not row.setting.get("ahead") or sweep == sweeps[0]:
        return []
    before, turns = sweeps.index(sweep) - 1, len(sweeps) - 1
    found = []
    for operand in fetchable(kernel):
        start = row.body.index((*operand.strides[:-1], 0))
        step = operand.strides[kernel.axes.index(kept(kernel)[-1])]
        mine = range(lines * before // turns, lines * (before + 1) // turns)
        place = f"{pointer(operand.buffer)} + {start} + at"
        found += [f"__builtin_prefetch({place} + {step + line * LINE});" for line in mine]
    return found


def _special(row: _Row, value: KernelValue) -> bool:
    """Write a reduction that needs no sweep of its own kind; False where it does."""
    selected = selection(row.body, value)
    if selected is not None:
        write_selection(row.scope, value, selected)
        return True
    search = first_index(row.body, value)
    if search is not None and not row.split:
        write_first(row.scope, value, search)
        return True
    return False


def _store_only(row: _Row, stores: list[Operand], fetched: list[str]) -> None:
    *around, inner = reduced(row.body.kernel)
    if not row.split:
        nest = serial(row.scope, around)
        lanes = fitting(row.lanes, inner, ())
        whole = inner.extent - (inner.extent % lanes if lanes else 0)
        streamed = [o for o in stores if o in row.streamed]
        _part(row, nest, Part(("0", str(whole)), (), stores, streamed, fetched, lanes))
        if whole < inner.extent:
            _part(row, nest, Part((str(whole), str(inner.extent)), (), stores))
    else:
        collapse = f" collapse({len(around) + 1})" if around else ""
        pragma = f"#pragma omp parallel for simd{collapse} schedule(static)"
        loop = row.scope.block([pragma, *(header(a) for a in [*around, inner])], [a.name for a in [*around, inner]])
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


def _reduce(row: _Row, reductions: list[KernelValue], stores: list[Operand], fetched: list[str]) -> None:
    """One sweep over the row: float inside a chunk, double between chunks."""
    if row.split:
        _reduce_split(row, reductions, stores)
        return
    *around, inner = reduced(row.body.kernel)
    scope, chunk = row.scope, row.chunk
    second = [p for p in row.merged.values() if p.first in {v.node for v in reductions}]
    lanes = fitting(row.lanes, inner, reductions)
    whole = inner.extent - (inner.extent % lanes if lanes else 0)
    single = not around and chunk >= inner.extent == whole and not second
    for value in reductions if not single else []:
        scope.line(f"{total_type(value)} total{value.node} = {identity(value)};")
    for pair in second:
        pair.open(scope)
    nest = serial(scope, around)
    streamed = [o for o in stores if o in row.streamed]
    part = Part(("0", str(whole)), reductions, stores, streamed, fetched, lanes)
    inside = nest
    if chunk < whole:
        inside = nest.block([f"for (int64_t begin = 0; begin < {whole}; begin += {chunk})"])
        inside.line(f"const int64_t end = std::min<int64_t>(begin + {chunk}, {whole});")
        part = replace(part, bounds=("begin", "end"))
    elif not single:
        inside = nest.block([""])
    _part(row, inside, part)
    if single:
        _name_results(scope, reductions, "part")
        return
    _merge(inside, part, second)
    if whole < inner.extent:
        rest = nest.block([""])
        last = Part((str(whole), str(inner.extent)), reductions, stores)
        _part(row, rest, last)
        _merge(rest, last, second)
    _close(scope)
    _name_results(scope, reductions, "total")
    for pair in second:
        pair.finish(scope)


def _merge(inside: Scope, part: Part, second: list[Pair]) -> None:
    """Add the partial results of a part of the row to those of the row."""
    for pair in second:
        pair.merge(inside, part)
    for value in part.reductions:
        inside.line(combine(inside, value, f"total{value.node}", f"part{value.node}"))
    inside.close()


def _name_results(scope: Scope, reductions: list[KernelValue], where: str) -> None:
    for value in reductions:
        kind = COMPUTE[value.dtype]
        scope.line(f"const {kind} v{value.node} = ({kind}){where}{value.node};")
        scope.known[value.node] = f"v{value.node}"


def _part(row: _Row, nest: Scope, part: Part) -> None:
    """Loop over a part of the row."""
    sweep = Sweep(nest, part)
    _enter_kept(row, sweep.loop)
    for value in part.reductions:
        sweep.take(value, sweep.loop.argument(value.args[0], value.dtype))
    sweep.store()
    if part.reductions:
        _leave_kept(row, sweep.loop)
    sweep.finish()


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
    lanes = fitting(row.lanes, inner, reductions)
    _part(row, nest, Part(("begin", "end"), reductions, stores, lanes=0 if inner.extent % max(1, lanes) else lanes))
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
