"""One sweep over a part of a row: the loop along the innermost axis that the compiler vectorises.

A plain `omp simd reduction` keeps one vector of partial results, in which every addition waits 3 or 4 cycles for the
one before it. So a long row is swept in blocks of `lanes` elements with a partial result each: several vectors, whose
chains run side by side. A block is also what is written past the cache, and what the next row is fetched by.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from kernelmill.propose.embedded.cpp_elementwise import store
from kernelmill.propose.embedded.cpp_loops import clause, combine, identity, reduced, total_type
from kernelmill.propose.embedded.cpp_ops import COMPUTE
from kernelmill.propose.embedded.cpp_scope import Scope, pointer
from kernelmill.propose.embedded.plan import KernelValue, LoopAxis, Operand

_KINDS = frozenset({"float", "double", "int32_t", "int64_t"})
"""Types that are worth lanes."""


@dataclass(frozen=True)
class Part:
    """What one loop along the innermost axis does."""

    bounds: tuple[str, str]
    """First index, and one past the last; with lanes, a whole number of blocks apart."""
    reductions: Sequence[KernelValue] = ()
    stores: Sequence[Operand] = ()
    streamed: Sequence[Operand] = ()
    """Those of `stores` that go past the cache, where there are lanes."""
    fetched: Sequence[str] = ()
    """Statements ahead of every block, which starts at element `at`."""
    lanes: int = 0
    """Elements of a block; 0: one plain loop."""


def fitting(lanes: int, inner: LoopAxis, reductions: Sequence[KernelValue]) -> int:
    """Elements of a block for these reductions: `lanes`, or 0 where a plain loop must do."""
    fits = lanes and inner.extent >= 2 * lanes and all(COMPUTE[v.dtype] in _KINDS for v in reductions)
    return lanes if fits else 0


class Sweep:
    """A loop while it is written: fill `loop`, then `finish`. Results of reductions are then in `part<node>`."""

    def __init__(self, nest: Scope, part: Part) -> None:
        self.nest, self.part, self.outer = nest, part, nest
        inner = reduced(nest.body.kernel)[-1].name
        first, last = part.bounds
        if part.lanes:
            for value in part.reductions:
                self._open_lanes(value)
            self.outer = nest.block([f"for (int64_t at = {first}; at < {last}; at += {part.lanes})"])
            for line in part.fetched:
                self.outer.line(line)
            for operand in part.streamed:
                self.outer.line(f"alignas(64) float block{operand.node}[{part.lanes}];")
            self.loop = self.outer.block(["#pragma omp simd", f"for (int64_t j = 0; j < {part.lanes}; j++)"], [inner])
            self.loop.line(f"const int64_t {inner} = at + j;")
        else:
            for value in part.reductions:
                nest.line(f"{COMPUTE[value.dtype]} part{value.node} = {identity(value)};")
            clauses = [clause(v, f"part{v.node}") for v in part.reductions]
            header = f"for (int64_t {inner} = {first}; {inner} < {last}; {inner}++)"
            self.loop = nest.block([" ".join(["#pragma omp simd", *clauses]), header], [inner])

    def _open_lanes(self, value: KernelValue) -> None:
        name, start = f"lane{value.node}", identity(value)
        self.nest.line(
            f"alignas(64) {COMPUTE[value.dtype]} {name}[{self.part.lanes}]{' = {}' if start == '0' else ''};"
        )
        if start != "0":
            self.nest.line(f"std::fill_n({name}, {self.part.lanes}, {start});")

    def take(self, value: KernelValue, text: str) -> None:
        """Take one more element into a reduction."""
        into = f"lane{value.node}[j]" if self.part.lanes else f"part{value.node}"
        self.loop.line(combine(self.loop, value, into, text))

    def store(self) -> None:
        """Compute and store the outputs."""
        streamed = self.part.streamed if self.part.lanes else ()
        store(self.loop, [o for o in self.part.stores if o not in streamed])
        for operand in streamed:
            self.loop.line(f"block{operand.node}[j] = {self.loop.get(operand.node)};")

    def finish(self) -> None:
        """Close the loop; write blocks out, and let lanes meet."""
        self.loop.close()
        if not self.part.lanes:
            return
        body = self.nest.body
        for operand in self.part.streamed:
            body.use(("stream",))
            row = body.index((*operand.strides[:-1], 0))
            to = pointer(operand.buffer) + ("" if row == "0" else f" + {row}")
            self.outer.line(f"stream_out<{self.part.lanes}>({to} + at, block{operand.node});")
        self.outer.close()
        for value in self.part.reductions:
            part = f"part{value.node}"
            self.nest.line(f"{total_type(value)} {part} = {identity(value)};")
            header = f"for (int64_t j = 0; j < {self.part.lanes}; j++)"
            loop = self.nest.block([f"#pragma omp simd {clause(value, part)}", header])
            loop.line(combine(loop, value, part, f"lane{value.node}[j]"))
            loop.close()
