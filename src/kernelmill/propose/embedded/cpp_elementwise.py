"""Kernels without reductions: parallel over chunks of the innermost axis, block by block where that pays.

A block is what goes past the cache at once, and what is asked whether any of its lanes needs a costly function.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import prod

from kernelmill.propose.embedded import cpp_turned
from kernelmill.propose.embedded.cpp_loops import choices, parallel, sizes
from kernelmill.propose.embedded.cpp_scope import Body, Scope, pointer, signature
from kernelmill.propose.embedded.cpp_sides import Side, costly_count, needing, one_sided, spared, with_near
from kernelmill.propose.embedded.plan import FusedKernel, Operand
from kernelmill.schema import Parameter, Value

BLOCK = 64
"""Elements of a block: 256 bytes; the test of a block costs one comparison per eight lanes."""


def knobs(kernel: FusedKernel) -> tuple[Parameter, ...]:
    """chunk: elements per task; stream: write past the cache; skip: no costly function for a block whose lanes do not
    need it; reciprocal: multiply instead of divide."""
    turn = _turn(kernel)
    if turn:
        return cpp_turned.knobs(kernel, turn) + _reciprocal(kernel)
    found = [sizes("chunk", (1024, 4096, 16384, 65536), 4096, kernel.axes[-1].extent)] if kernel.axes else []
    sides = one_sided(kernel)
    if streamable(kernel):
        big = prod(a.extent for a in kernel.axes) >= cpp_turned.STREAM_FROM
        found.append(choices("stream", (False, True), default=big and not costly_count(spared(kernel, sides))))
    if sides:
        found.append(choices("skip", (False, True), default=any(s.of_sign for s in sides)))
    return tuple(found) + _reciprocal(kernel)


def _turn(kernel: FusedKernel) -> cpp_turned.Turn | None:
    """What lies across; None where functions have a cheap side for blocks, which tiles do not know."""
    return None if with_near(kernel)[1] else cpp_turned.turn_of(kernel, range(len(kernel.axes) - 1))


def _reciprocal(kernel: FusedKernel) -> tuple[Parameter, ...]:
    divides = any(v.op == "div" for v in kernel.values)
    return (choices("reciprocal", (False, True), default=False),) if divides else ()


def streamable(kernel: FusedKernel) -> list[Operand]:
    """The outputs that non-temporal stores can write: float, whole aligned blocks along the innermost axis."""
    if not kernel.axes or kernel.axes[-1].extent % BLOCK:
        return []
    return [
        o
        for o in kernel.stores
        if o.dtype == "float32" and o.strides[-1] == 1 and all(s % BLOCK == 0 for s in o.strides[:-1])
    ]


def write(body: Body, setting: Mapping[str, Value]) -> list[str]:
    """The text of the kernel."""
    turn = _turn(body.kernel)
    if turn:
        return cpp_turned.write(body, turn, setting)
    kernel, sides = with_near(body.kernel)
    body = Body(kernel, body.reciprocal, body.sections)
    function = Scope(body)
    outer = function.block([signature(kernel)])
    if not kernel.axes:
        store(outer, list(kernel.stores))
        return function.text()
    *around, inner = kernel.axes
    chunk = int(setting["chunk"])
    if chunk < inner.extent:
        tasks = parallel(outer, around, f"for (int64_t begin = 0; begin < {inner.extent}; begin += {chunk})")
        tasks.line(f"const int64_t end = std::min<int64_t>(begin + {chunk}, {inner.extent});")
        bounds = ("begin", "end")
    else:
        tasks = parallel(outer, around)
        bounds = ("0", str(inner.extent))
    streamed = streamable(kernel) if setting.get("stream") else []
    if setting.get("skip"):
        sides += one_sided(kernel)
    if streamed or sides:
        _blocks(tasks, bounds, streamed, sides)
    else:
        store(_lanes(tasks, *bounds), list(kernel.stores))
    return function.text()


def _lanes(scope: Scope, first: str, last: str, clause: str = "") -> Scope:
    """A loop along the innermost axis."""
    name = scope.body.kernel.axes[-1].name
    return scope.block(
        [f"#pragma omp simd{clause}", f"for (int64_t {name} = {first}; {name} < {last}; {name}++)"], [name]
    )


def _blocks(tasks: Scope, bounds: tuple[str, str], streamed: list[Operand], sides: list[Side]) -> None:
    """Loop over the blocks of a task."""
    first, last = bounds
    blocks = tasks.block([f"for (int64_t block = {first}; block < {last}; block += {BLOCK})"])
    stop = f"block + {BLOCK}"
    if tasks.body.kernel.axes[-1].extent % BLOCK:
        blocks.line(f"const int64_t stop = std::min<int64_t>({stop}, {last});")
        stop = "stop"
    if sides:
        _either(blocks, stop, streamed, sides)
    else:
        _fill(blocks, stop, streamed)
    blocks.close()
    if streamed:
        tasks.line("stream_done();")


def _start(body: Body, operand: Operand) -> str:
    """The address of an operand's first element of a block."""
    offset = body.index((*operand.strides[:-1], 0))
    return f"{pointer(operand.buffer)} + {'' if offset == '0' else offset + ' + '}block"


def _either(blocks: Scope, stop: str, streamed: list[Operand], sides: list[Side]) -> None:
    """One loop for blocks in which some lane needs a costly branch, one for the others.

    Only the others are streamed: SELU of normal data takes 1.15 times as long if its costly blocks are, too.
    """
    names = [f"some{s.where.node}" for s in sides]
    for name in names:
        blocks.line(f"int {name} = 0;")
    test = _lanes(blocks, "block", stop, f" reduction(|:{', '.join(names)})")
    for name, side in zip(names, sides, strict=True):
        condition = test.argument(side.where.args[0], "bool")
        test.line(f"{name} |= {condition} ? {'1 : 0' if side.costly == 1 else '0 : 1'};")
    test.close()
    kernel = blocks.body.kernel
    for header, variant, past in (
        (f"if ({' | '.join(names)})", needing(kernel, sides), []),
        ("else", spared(kernel, sides), streamed),
    ):
        inside = blocks.block([header])
        inside.body = Body(variant, blocks.body.reciprocal, blocks.body.sections)
        _fill(inside, stop, past)
        inside.close()


def _fill(scope: Scope, stop: str, streamed: list[Operand]) -> None:
    """Compute the outputs of a block."""
    body, name = scope.body, scope.body.kernel.axes[-1].name
    if streamed:
        body.use(("stream", "fetch"))
        ahead = [o for o in body.kernel.loads if o.dtype == "float32" and o.strides[-1] == 1]
        for start in dict.fromkeys(_start(body, o) for o in ahead):
            scope.line(f"fetch_ahead<{BLOCK}>({start});")
    for operand in streamed:
        scope.line(f"alignas(64) float block{operand.node}[{BLOCK}];")
    loop = _lanes(scope, "block", stop)
    store(loop, [o for o in body.kernel.stores if o not in streamed])
    for operand in streamed:
        loop.line(f"block{operand.node}[{name} - block] = {loop.get(operand.node)};")
    loop.close()
    for operand in streamed:
        scope.line(f"stream_out<{BLOCK}>({_start(body, operand)}, block{operand.node});")


def store(scope: Scope, operands: list[Operand]) -> None:
    """Compute and store some outputs."""
    for operand in operands:
        text = scope.get(operand.node)
        scope.line(scope.body.stored(operand, text))
