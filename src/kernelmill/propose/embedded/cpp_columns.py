"""Column kernels: the innermost axis is kept, the reductions run across it. One task per tile of lanes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from kernelmill.propose.embedded import cpp_turned
from kernelmill.propose.embedded.cpp_elementwise import store
from kernelmill.propose.embedded.cpp_loops import (
    choices,
    combine,
    extent,
    identity,
    kept,
    parallel,
    reduced,
    sizes,
)
from kernelmill.propose.embedded.cpp_ops import COMPUTE
from kernelmill.propose.embedded.cpp_row_knobs import kernel_sweep
from kernelmill.propose.embedded.cpp_rows import total_type
from kernelmill.propose.embedded.cpp_scope import Body, Scope, refs, signature
from kernelmill.propose.embedded.cpp_turned import TILE, Tiles, Turn
from kernelmill.propose.embedded.plan import FusedKernel, KernelValue, LoopAxis, Operand
from kernelmill.schema import Parameter, Value

RUN = 64
"""Additions in single precision before a lane is added to its double-precision total."""

SLICES = 64
"""Parts into which a split kernel divides the outermost reduced axis: fixed, so that the sum never varies."""


def knobs(kernel: FusedKernel) -> tuple[Parameter, ...]:
    """lanes: width of a tile; split: whether threads share the reduced axis too; stream: write past the cache;
    reciprocal: multiply, not divide."""
    width, turn = kept(kernel)[-1].extent, _turn(kernel)
    found = [sizes("lanes", (16, TILE) if turn else (16, 64, 256, 1024), 256, width)]
    found += cpp_turned.knobs(kernel, turn) if turn else ()
    if _splittable(kernel):
        few = extent(kept(kernel)) < 2048 and extent(reduced(kernel)) >= 4096
        found.append(choices("split", (False, True), default=few))
    if any(v.op == "div" for v in kernel.values):
        found.append(choices("reciprocal", (True, False), default=True))
    return tuple(found)


def _turn(kernel: FusedKernel) -> Turn | None:
    """Outputs that are dense along the innermost reduced axis, and ready when all reductions are done."""
    turn = cpp_turned.turn_of(kernel, [kernel.axes.index(reduced(kernel)[-1])])
    last = kernel.stages + 1
    return turn if turn and all(kernel_sweep(kernel, o) == last for o in turn.operands) else None


def _splittable(kernel: FusedKernel) -> bool:
    return reduced(kernel)[0].extent >= 2 and extent(kept(kernel)) <= 65536


@dataclass
class _Tile:
    """What is being written for one tile of lanes."""

    body: Body
    scope: Scope
    lanes: int
    split: bool
    turn: Turn | None
    stream: bool

    @property
    def inner(self) -> LoopAxis:
        return kept(self.body.kernel)[-1]

    @property
    def at(self) -> str:
        """Position of the present lane in its tile."""
        return f"{self.inner.name} - begin"

    def tasks(self, scope: Scope, extra: list[LoopAxis]) -> Scope:
        """A parallel loop over tiles, and over `extra` axes ahead of them."""
        width = self.inner.extent
        tasks = parallel(
            scope,
            [*extra, *kept(self.body.kernel)[:-1]],
            f"for (int64_t begin = 0; begin < {width}; begin += {self.lanes})",
        )
        tasks.line(f"const int64_t end = std::min<int64_t>(begin + {self.lanes}, {width});")
        return tasks

    def lanes_of(self, scope: Scope) -> Scope:
        """A loop over the lanes of a tile."""
        name = self.inner.name
        return scope.block(["#pragma omp simd", f"for (int64_t {name} = begin; {name} < end; {name}++)"], [name])

    def bounds(self, axis: LoopAxis) -> tuple[str, str]:
        """First and one past the last index of a reduced axis, for the present task."""
        if self.split and axis.name == reduced(self.body.kernel)[0].name:
            return "first", "last"
        return "0", str(axis.extent)

    def close_last(self) -> None:
        """Later statements of the tile go behind its last block."""
        last = self.scope.items[-1]
        if isinstance(last, Scope):
            last.close()

    def place(self, node: int) -> str:
        """Where the value of a lane lives between stages."""
        if not self.split:
            return f"lane{node}[{self.at}]"
        return f"lane{node}[{self.flat}]"

    @property
    def flat(self) -> str:
        """Position of the present lane among all kept positions."""
        terms, axes = [], kept(self.body.kernel)
        for position, axis in enumerate(axes):
            step = extent(axes[position + 1 :])
            terms.append(axis.name if step == 1 else f"{axis.name} * {step}")
        return " + ".join(terms)

    def array(self, scope: Scope, kind: str, name: str) -> None:
        """Declare storage for a value per lane."""
        if self.split:
            scope.line(f"std::vector<{kind}> {name}({extent(kept(self.body.kernel))});")
        else:
            scope.line(f"alignas(64) {kind} {name}[{self.lanes}];")


def write(body: Body, setting: Mapping[str, Value]) -> list[str]:
    """The text of the kernel."""
    kernel = body.kernel
    function = Scope(body)
    outer = function.block([signature(kernel)])
    lanes, split = min(int(setting["lanes"]), kept(kernel)[-1].extent), bool(setting.get("split"))
    tile = _Tile(body, outer, lanes, split, None if split else _turn(kernel), bool(setting.get("stream")))
    if not tile.split:
        tile.scope = tile.tasks(outer, [])
    for sweep in range(1, kernel.stages + 2):
        reductions = [v for v in kernel.values if v.kind == "reduce" and v.stage == sweep]
        stores = [o for o in kernel.stores if o.full and kernel_sweep(kernel, o) == sweep]
        if reductions or stores:
            (_split_sweep if tile.split else _sweep)(tile, reductions, stores)
        if reductions:
            _between(tile, reductions, sweep)
    final = [o for o in kernel.stores if not o.full]
    if final:
        inside = tile.tasks(tile.scope, []) if tile.split else tile.scope
        store(tile.lanes_of(inside), final)
    return function.text()


def _sweep(tile: _Tile, reductions: list[KernelValue], stores: list[Operand]) -> None:
    """All reductions of one stage, and the outputs that are ready, in one pass over the reduced axes."""
    _totals(tile, tile.scope, reductions)
    _pass(tile, tile.scope, reductions, stores)
    tile.close_last()


def _totals(tile: _Tile, scope: Scope, reductions: list[KernelValue]) -> None:
    for value in reductions:
        name = f"total{value.node}"
        scope.line(f"alignas(64) {total_type(value)} {name}[{tile.lanes}];")
        scope.line(f"std::fill_n({name}, {tile.lanes}, {identity(value)});")


def _pass(tile: _Tile, scope: Scope, reductions: list[KernelValue], stores: list[Operand]) -> None:
    """Go over the reduced axes; float sums collect about `RUN` terms before they are added to the double total."""
    axes = reduced(tile.body.kernel)
    if tile.turn and stores and not reductions:
        _turned(tile, scope, tile.turn, stores)
        return
    long = [v for v in reductions if total_type(v) != COMPUTE[v.dtype]]
    nest = scope
    if long:
        nest, axes = _blocked(tile, scope, axes)
    for value in long:
        nest.line(f"alignas(64) float part{value.node}[{tile.lanes}];")
        nest.line(f"std::fill_n(part{value.node}, {tile.lanes}, {identity(value)});")
    for position, axis in enumerate(axes):
        bounds = ("block", "stop") if long and position == 0 else tile.bounds(axis)
        scope = (nest if position == 0 else scope).block([_loop(axis, bounds)], [axis.name])
    loop = tile.lanes_of(scope)
    for value in reductions:
        into = f"{'part' if value in long else 'total'}{value.node}[{tile.at}]"
        loop.line(combine(loop, value, into, loop.argument(value.args[0], value.dtype)))
    store(loop, stores)
    if long:
        flush = tile.lanes_of(nest)
        for value in long:
            flush.line(combine(flush, value, f"total{value.node}[{tile.at}]", f"part{value.node}[{tile.at}]"))


def _turned(tile: _Tile, scope: Scope, turn: Turn, stores: list[Operand]) -> None:
    """The last pass, where outputs lie across the lanes."""
    *outer, along = reduced(tile.body.kernel)
    for axis in outer:
        scope = scope.block([_loop(axis, tile.bounds(axis))], [axis.name])
    tiles = Tiles(tile.body, turn, ("begin", "end"), stream=tile.stream)
    inside = scope.block([cpp_turned.header(along)])
    tiles.write(inside, tile.lanes, [o for o in stores if o not in turn.operands])


def _loop(axis: LoopAxis, bounds: tuple[str, str]) -> str:
    return f"for (int64_t {axis.name} = {bounds[0]}; {axis.name} < {bounds[1]}; {axis.name}++)"


def _blocked(tile: _Tile, scope: Scope, axes: list[LoopAxis]) -> tuple[Scope, list[LoopAxis]]:
    """Open the loops outside of a run; gives the block of a run and the axes still to be looped over in it."""
    cut = len(axes) - 1
    while cut > 0 and extent(axes[cut:]) < RUN // 4:
        cut -= 1
    for axis in axes[:cut]:
        scope = scope.block([_loop(axis, tile.bounds(axis))], [axis.name])
    steps = max(1, RUN // extent(axes[cut + 1 :]))
    first, last = tile.bounds(axes[cut])
    scope = scope.block([f"for (int64_t block = {first}; block < {last}; block += {steps})"])
    scope.line(f"const int64_t stop = std::min<int64_t>(block + {steps}, {last});")
    return scope, axes[cut:]


def _between(tile: _Tile, reductions: list[KernelValue], sweep: int) -> None:
    """Turn totals into values per lane, and compute what depends only on them once per lane."""
    kernel = tile.body.kernel
    used = {r.node for v in kernel.values if v.full for r in refs(v)}
    derived = [v for v in kernel.values if v.kind == "pointwise" and not v.full and v.stage == sweep]
    derived = [v for v in derived if v.node in used]
    for value in (*reductions, *derived):
        tile.array(tile.scope, COMPUTE[value.dtype], f"lane{value.node}")
    scope = tile.tasks(tile.scope, []) if tile.split else tile.scope
    loop = tile.lanes_of(scope)
    for value in reductions:
        total = f"total{value.node}[{tile.at}]"
        if tile.split:
            total = _over_slices(tile, loop, value)
        loop.line(f"{tile.place(value.node)} = ({COMPUTE[value.dtype]}){total};")
        loop.known[value.node] = tile.place(value.node)
    for value in derived:
        loop.line(f"{tile.place(value.node)} = {loop.get(value.node)};")
    loop.close()
    if tile.split:
        scope.close()
    for value in (*reductions, *derived):
        tile.scope.known[value.node] = tile.place(value.node)


def _slices(tile: _Tile) -> int:
    return min(SLICES, reduced(tile.body.kernel)[0].extent)


def _split_sweep(tile: _Tile, reductions: list[KernelValue], stores: list[Operand]) -> None:
    """As `_sweep`, with a total per slice of the outermost reduced axis; they meet in a fixed order."""
    axes = reduced(tile.body.kernel)
    slices, lanes = _slices(tile), extent(kept(tile.body.kernel))
    for value in reductions:
        tile.scope.line(f"std::vector<{total_type(value)}> parts{value.node}({slices * lanes});")
    tasks = tile.tasks(tile.scope, [LoopAxis("slice", slices, reduced=True)])
    tasks.line(f"const int64_t first = slice * {axes[0].extent} / {slices};")
    tasks.line(f"const int64_t last = (slice + 1) * {axes[0].extent} / {slices};")
    _totals(tile, tasks, reductions)
    _pass(tile, tasks, reductions, stores)
    keep = tile.lanes_of(tasks)
    for value in reductions:
        keep.line(f"parts{value.node}[slice * {lanes} + {tile.flat}] = total{value.node}[{tile.at}];")
    keep.close()
    tasks.close()


def _over_slices(tile: _Tile, loop: Scope, value: KernelValue) -> str:
    name, lanes = f"total{value.node}", extent(kept(tile.body.kernel))
    loop.line(f"{total_type(value)} {name} = {identity(value)};")
    step = combine(loop, value, name, f"parts{value.node}[slice * {lanes} + {tile.flat}]")
    loop.line(f"for (int64_t slice = 0; slice < {_slices(tile)}; slice++) {step}")
    return name
