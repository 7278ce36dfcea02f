"""What row kernels offer to a search, and what of a kernel that depends on."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection

from kernelmill.propose.embedded.cpp_loops import choices, extent, kept, reduced, sizes
from kernelmill.propose.embedded.cpp_ops import COMPUTE, HEAVY
from kernelmill.propose.embedded.cpp_patterns import pairs
from kernelmill.propose.embedded.cpp_scope import Body, refs
from kernelmill.propose.embedded.plan import FusedKernel, KernelValue, Operand
from kernelmill.schema import Parameter

STREAM_ELEMENTS = 1 << 18
"""Smallest iteration space whose outputs are written past the cache."""

AHEAD_ELEMENTS = 1 << 17
"""Longest row that is fetched ahead of time: half a MiB, a second-level cache. Layer norm over 65536: 5.5 ms of one
CPU, 6.5 without."""


def knobs(kernel: FusedKernel) -> tuple[Parameter, ...]:
    """chunk: elements summed in single precision before they meet in double; lanes: sums side by side; keep: store
    costly values of one sweep for the next; stream: write outputs past the cache; ahead: fetch the next row while one
    is in work; onepass: mean and variance, or maximum and sum of exponentials, in one sweep; split: how a long row is
    shared by the threads; reciprocal: multiply instead of divide."""
    body = Body(kernel)
    length = reduced(kernel)[-1].extent
    usual = _usual_lanes(kernel)
    found = [sizes("chunk", (256, 1024, 4096, 16384), 4096, length - length % max(1, usual))]
    if usual:
        found.append(sizes("lanes", (0, 16, 32, 64), usual, length // 2))
        if streamable(kernel):
            found.append(choices("stream", (False, True), default=extent(list(kernel.axes)) >= STREAM_ELEMENTS))
        if fetchable(kernel):
            found.append(choices("ahead", (False, True), default=length <= AHEAD_ELEMENTS))
    if heavy(body):
        found.append(choices("keep", (True, False), default=True))
    if pairs(body):
        found.append(choices("onepass", (False, True), default=_merged(body)))
    if any(v.op == "div" for v in kernel.values):
        found.append(choices("reciprocal", (True, False), default=True))
    if length >= 4096:
        few = extent(kept(kernel)) < 32 and extent(reduced(kernel)) >= 65536
        found.append(choices("split", (False, True), default=few))
    return tuple(found)


def _usual_lanes(kernel: FusedKernel) -> int:
    """Eight vectors of 8 floats in all, as half of the registers of AVX2 hold; fewer where a row is short."""
    length = reduced(kernel)[-1].extent
    together = Counter(v.stage for v in kernel.values if v.kind == "reduce")
    usual = 64 if max(together.values(), default=1) == 1 else 32
    return 0 if length < 32 else 16 if length < 256 else usual


def _merged(body: Body) -> bool:
    """Whether one sweep for two reductions is the better start: mean and variance of long rows.

    Twice the exponentials cost more than a sweep saves: softmax over 393216, 16.0 ms in three sweeps, 21 in two.
    Where they are needed once, the next row is fetched meanwhile: cross-entropy over 8192, 12.0 ms, 16.6 in one.
    """
    return extent(reduced(body.kernel)) > 16384 and all(p.kind == "moments" for p in pairs(body).values())


def streamable(kernel: FusedKernel) -> list[Operand]:
    """The outputs that can be written past the cache: float, and every row starts where a vector may."""
    full = [o for o in kernel.stores if o.full and o.dtype == "float32" and o.strides[-1] == 1]
    return [o for o in full if all(s % 8 == 0 for s in o.strides[:-1])]


def fetchable(kernel: FusedKernel) -> list[Operand]:
    """The inputs whose next row can be fetched ahead of time."""
    if not kept(kernel):
        return []
    last = kernel.axes.index(kept(kernel)[-1])
    full = [o for o in kernel.loads if o.full and o.dtype == "float32" and o.strides[-1] == 1]
    return [o for o in full if o.strides[last]]


def heavy(body: Body, merged: Collection[int] = ()) -> dict[int, int]:
    """Costly values that several sweeps need -> the first of these; `merged` reductions have no sweep of their own."""
    found: dict[int, int] = {}
    for value in body.values.values():
        if value.kind == "pointwise" and value.op in HEAVY and value.full and COMPUTE[value.dtype] == "float":
            sweeps = _sweeps_using(body.kernel, value, merged)
            if len(sweeps) > 1:
                found[value.node] = min(sweeps)
    return found


def _sweeps_using(kernel: FusedKernel, wanted: KernelValue, merged: Collection[int]) -> set[int]:
    reached, sweeps = {wanted.node}, set()
    for value in kernel.values:
        if any(r.node in reached for r in refs(value)):
            if value.kind == "reduce":
                sweeps |= set() if value.node in merged else {value.stage}
            elif value.full:
                reached.add(value.node)
    sweeps |= {kernel_sweep(kernel, o) for o in kernel.stores if o.node in reached}
    return sweeps


def kernel_sweep(kernel: FusedKernel, operand: Operand) -> int:
    """The sweep that stores a full output: the first in which all it needs is known."""
    return {v.node: v.stage for v in kernel.values}[operand.node] + 1
