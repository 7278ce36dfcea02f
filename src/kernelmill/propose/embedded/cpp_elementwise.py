"""Kernels without reductions: parallel over chunks of the innermost axis."""

from __future__ import annotations

from collections.abc import Mapping

from kernelmill.propose.embedded.cpp_loops import choices, parallel, sizes
from kernelmill.propose.embedded.cpp_scope import Body, Scope, pointer, signature
from kernelmill.propose.embedded.plan import FusedKernel, Operand
from kernelmill.schema import Parameter, Value


def knobs(kernel: FusedKernel) -> tuple[Parameter, ...]:
    """chunk: elements per task; stream: write past the cache; reciprocal: multiply instead of divide."""
    found = [sizes("chunk", (1024, 4096, 16384, 65536), 4096, kernel.axes[-1].extent)] if kernel.axes else []
    if streamable(kernel):
        found.append(choices("stream", (False, True), default=False))
    if any(v.op == "div" for v in kernel.values):
        found.append(choices("reciprocal", (False, True), default=False))
    return tuple(found)


def streamable(kernel: FusedKernel) -> list[Operand]:
    """The outputs that non-temporal stores can write: float, contiguous along the innermost axis."""
    return [o for o in kernel.stores if kernel.axes and o.dtype == "float32" and o.strides[-1] == 1]


def write(body: Body, setting: Mapping[str, Value]) -> list[str]:
    """The text of the kernel."""
    kernel = body.kernel
    function = Scope(body)
    outer = function.block([signature(kernel)])
    if not kernel.axes:
        store(outer, list(kernel.stores))
        return function.text()
    *around, inner = kernel.axes
    chunk = int(setting["chunk"])
    name = inner.name
    if chunk < inner.extent:
        tasks = parallel(outer, around, f"for (int64_t begin = 0; begin < {inner.extent}; begin += {chunk})")
        tasks.line(f"const int64_t end = std::min<int64_t>(begin + {chunk}, {inner.extent});")
        bounds = ("begin", "end")
    else:
        tasks = parallel(outer, around)
        bounds = ("0", str(inner.extent))
    streamed = streamable(kernel) if setting.get("stream") and chunk < inner.extent else []
    for operand in streamed:
        tasks.line(f"alignas(64) float block{operand.node}[{chunk}];")
    body_of_loop = tasks.block(
        ["#pragma omp simd", f"for (int64_t {name} = {bounds[0]}; {name} < {bounds[1]}; {name}++)"], [name]
    )
    store(body_of_loop, [o for o in kernel.stores if o not in streamed])
    for operand in streamed:
        body_of_loop.line(f"block{operand.node}[{name} - begin] = {body_of_loop.get(operand.node)};")
    body_of_loop.close()
    for operand in streamed:
        body.use(("stream",))
        offset = body.index((*operand.strides[:-1], 0))
        tasks.line(f"stream_out({pointer(operand.buffer)} + {offset} + begin, block{operand.node}, end - begin);")
    return function.text()


def store(scope: Scope, operands: list[Operand]) -> None:
    """Compute and store some outputs."""
    for operand in operands:
        text = scope.get(operand.node)
        scope.line(scope.body.stored(operand, text))
