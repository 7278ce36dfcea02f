"""Outputs that lie across a kernel's loops: results are turned over in tiles of a first-level cache.

A store with a stride touches a line for every element; 64 times 64 floats are 16 KiB, and leave as whole lines. From
channels-last to row-major, 8 MiB on two Zen 3 cores: 5.9 ms with strided stores, 1.1 ms in tiles, 0.8 ms streamed.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from math import prod

from kernelmill.propose.embedded.cpp_loops import choices, parallel
from kernelmill.propose.embedded.cpp_ops import STORAGE
from kernelmill.propose.embedded.cpp_scope import Body, Scope, convert, pointer, signature
from kernelmill.propose.embedded.plan import FusedKernel, LoopAxis, Operand
from kernelmill.schema import Parameter, Value

TILE = 64
"""Elements of a tile along either axis."""

LEAST = 4
"""A shorter axis is not worth a tile."""

STREAM_FROM = 1 << 21
"""Elements from which an output is streamed by default: 8 MiB, more than a cache keeps for a consumer. ReLU
over 32 MiB takes 0.75 of the time, over 8 MiB 0.7; below 4 MiB there is nothing to win."""


@dataclass(frozen=True)
class Turn:
    """What lies across the innermost loop."""

    axis: int
    """Position of the axis along which the outputs are dense."""
    operands: tuple[Operand, ...]


def turn_of(kernel: FusedKernel, positions: Iterable[int]) -> Turn | None:
    """The outputs that are dense along an axis at one of these positions; None where there are none."""
    found: list[Turn] = []
    for position in positions:
        across = tuple(o for o in kernel.stores if o.strides[-1] > 1 and o.strides[position] == 1)
        if across and min(kernel.axes[position].extent, kernel.axes[-1].extent) >= LEAST:
            found.append(Turn(position, across))
    return max(found, key=lambda t: len(t.operands), default=None)


def knobs(kernel: FusedKernel, turn: Turn) -> tuple[Parameter, ...]:
    """stream: write past the cache; offered where tiles leave in whole rows."""
    whole = kernel.axes[turn.axis].extent % TILE == 0
    if not whole or any(o.dtype != "float32" for o in turn.operands):
        return ()
    return (choices("stream", (False, True), default=prod(a.extent for a in kernel.axes) >= STREAM_FROM),)


@dataclass(frozen=True)
class Tiles:
    """The loops around a tile and inside it."""

    body: Body
    turn: Turn
    bounds: tuple[str, str]
    """First and one past the last index along the innermost axis."""
    stream: bool

    @property
    def along(self) -> LoopAxis:
        """The axis along which the outputs are dense."""
        return self.body.kernel.axes[self.turn.axis]

    @property
    def inner(self) -> LoopAxis:
        """The axis along which the kernel computes."""
        return self.body.kernel.axes[-1]

    def write(self, scope: Scope, rows: int, others: Iterable[Operand]) -> None:
        """A tile of so many rows: compute it, write it out. `others` are stored as they come."""
        end = end_of(scope, "tile", self.along)
        for operand in self.turn.operands:
            shape = f"[{rows}][{min(TILE, self.along.extent)}]"
            scope.line(f"alignas(64) {STORAGE[operand.dtype]} turned{operand.node}{shape};")
        self._fill(scope, end, others)
        self._empty(scope, end)

    def _fill(self, scope: Scope, end: str, others: Iterable[Operand]) -> None:
        j, i, (first, last) = self.along.name, self.inner.name, self.bounds
        rows = scope.block([f"for (int64_t {j} = tile; {j} < {end}; {j}++)"], [j])
        loop = rows.block(["#pragma omp simd", f"for (int64_t {i} = {first}; {i} < {last}; {i}++)"], [i])
        for operand in self.turn.operands:
            text = convert(loop.get(operand.node), self.body.values[operand.node].dtype, operand.dtype)
            loop.line(f"turned{operand.node}[{i} - {first}][{j} - tile] = {text};")
        for operand in others:
            loop.line(self.body.stored(operand, loop.get(operand.node)))
        loop.close()
        rows.close()

    def _empty(self, scope: Scope, end: str) -> None:
        i, (first, last) = self.inner.name, self.bounds
        out = scope.block([f"for (int64_t {i} = {first}; {i} < {last}; {i}++)"])
        for operand in self.turn.operands:
            strides = [0 if position == self.turn.axis else s for position, s in enumerate(operand.strides)]
            place = f"{pointer(operand.buffer)} + {self.body.index(strides)} + tile"
            row = f"turned{operand.node}[{i} - {first}]"
            if self.stream:
                self.body.use(("stream",))
                out.line(f"stream_out<{TILE}>({place}, {row});")
            else:
                out.line(f"std::memcpy({place}, {row}, ({end} - tile) * sizeof({STORAGE[operand.dtype]}));")
        out.close()
        if self.stream:
            scope.line("stream_done();")


def header(along: LoopAxis) -> str:
    """The loop over tiles."""
    return f"for (int64_t tile = 0; tile < {along.extent}; tile += {TILE})"


def end_of(scope: Scope, name: str, axis: LoopAxis) -> str:
    """Where a tile ends along an axis."""
    if axis.extent <= TILE:
        return str(axis.extent)
    if axis.extent % TILE == 0:
        return f"{name} + {TILE}"
    scope.line(f"const int64_t {name}_end = std::min<int64_t>({name} + {TILE}, {axis.extent});")
    return f"{name}_end"


def write(body: Body, turn: Turn, setting: Mapping[str, Value]) -> list[str]:
    """The text of an elementwise kernel."""
    kernel = body.kernel
    *around, inner = kernel.axes
    along = around.pop(turn.axis)
    function = Scope(body)
    outer = function.block([signature(kernel)])
    blocks = f"for (int64_t block = 0; block < {inner.extent}; block += {TILE})"
    tasks = parallel(outer, around, header(along), blocks)
    tiles = Tiles(body, turn, ("block", end_of(tasks, "block", inner)), stream=bool(setting.get("stream")))
    tiles.write(tasks, min(TILE, inner.extent), [o for o in kernel.stores if o not in turn.operands])
    return function.text()
