"""Kernels without reductions: parallel over chunks of the innermost axis, block by block where that pays.

A block is what goes past the cache at once, and what is asked whether any of its lanes needs a costly function.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import prod

from kernelmill.propose.embedded.cpp_loops import choices, parallel, sizes
from kernelmill.propose.embedded.cpp_ops import COMPARE, HEAVY
from kernelmill.propose.embedded.cpp_scope import Body, Scope, pointer, refs, signature
from kernelmill.propose.embedded.ir import Ref
from kernelmill.propose.embedded.plan import FusedKernel, KernelValue, Operand
from kernelmill.schema import Parameter, Value

BLOCK = 64
"""Elements of a block: 256 bytes; the test of a block costs one comparison per eight lanes."""

STREAM_FROM = 1 << 21
"""Elements from which an output is streamed by default: 8 MiB, more than a cache keeps for a consumer. ReLU
over 32 MiB takes 0.75 of the time, over 8 MiB 0.7; below 4 MiB there is nothing to win."""


def knobs(kernel: FusedKernel) -> tuple[Parameter, ...]:
    """chunk: elements per task; stream: write past the cache; skip: no costly function for a block whose lanes do not
    need it; reciprocal: multiply instead of divide."""
    found = [sizes("chunk", (1024, 4096, 16384, 65536), 4096, kernel.axes[-1].extent)] if kernel.axes else []
    sides = one_sided(kernel)
    if streamable(kernel):
        big = prod(a.extent for a in kernel.axes) >= STREAM_FROM
        found.append(choices("stream", (False, True), default=big and not _heavy(_with(kernel, sides))))
    if sides:
        found.append(choices("skip", (False, True), default=any(s.of_sign for s in sides)))
    if any(v.op == "div" for v in kernel.values):
        found.append(choices("reciprocal", (False, True), default=False))
    return tuple(found)


def streamable(kernel: FusedKernel) -> list[Operand]:
    """The outputs that non-temporal stores can write: float, whole aligned blocks along the innermost axis."""
    if not kernel.axes or kernel.axes[-1].extent % BLOCK:
        return []
    return [
        o
        for o in kernel.stores
        if o.dtype == "float32" and o.strides[-1] == 1 and all(s % BLOCK == 0 for s in o.strides[:-1])
    ]


@dataclass(frozen=True)
class Side:
    """A `where` one of whose branches is costly."""

    where: KernelValue
    costly: int
    """Position of the costly branch among the arguments."""
    of_sign: bool
    """Whether the condition compares with zero: then data of one sign never needs the costly branch."""

    @property
    def cheap(self) -> KernelValue:
        """The value where no lane needs the costly branch."""
        return replace(self.where, op="alias", args=(self.where.args[3 - self.costly],))


def one_sided(kernel: FusedKernel) -> list[Side]:
    """Choices between values that both vary along the innermost axis, of which only one needs a costly function."""
    found: list[Side] = []
    if not kernel.axes:
        return found
    inner, body = kernel.axes[-1].name, Body(kernel)
    now = kernel
    for value in kernel.values:
        if value.op != "where" or not all(isinstance(a, Ref) and inner in body.varies(a.node) for a in value.args):
            continue
        for costly in (1, 2):
            side = Side(value, costly, _of_sign(body, value.args[0]))
            without = _with(now, [side])
            if _heavy(without) < _heavy(now) and not _ancestors(kernel, [value.args[0].node]) & _costly(kernel):
                found.append(side)
                now = without
                break
    return found


def _of_sign(body: Body, condition: Ref) -> bool:
    test = body.values[condition.node]
    bounds = [body.values[a.node].args[0] if _is_constant(body, a) else a for a in test.args]
    return test.op in COMPARE and any(not isinstance(b, Ref) and b == 0 for b in bounds)


def _is_constant(body: Body, arg: object) -> bool:
    return isinstance(arg, Ref) and body.values[arg.node].kind == "constant"


def _with(kernel: FusedKernel, sides: list[Side]) -> FusedKernel:
    """The kernel for a block in which no lane needs a costly branch."""
    cheap = {s.where.node: s.cheap for s in sides}
    return replace(kernel, values=tuple(cheap.get(v.node, v) for v in kernel.values))


def _ancestors(kernel: FusedKernel, nodes: list[int]) -> set[int]:
    values, found = {v.node: v for v in kernel.values}, set[int]()
    while nodes:
        node = nodes.pop()
        if node not in found:
            found.add(node)
            nodes.extend(r.node for r in refs(values[node]))
    return found


def _costly(kernel: FusedKernel) -> set[int]:
    return {v.node for v in kernel.values if v.op in HEAVY}


def _heavy(kernel: FusedKernel) -> int:
    """How many costly functions the outputs need."""
    return len(_ancestors(kernel, [o.node for o in kernel.stores]) & _costly(kernel))


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
    if chunk < inner.extent:
        tasks = parallel(outer, around, f"for (int64_t begin = 0; begin < {inner.extent}; begin += {chunk})")
        tasks.line(f"const int64_t end = std::min<int64_t>(begin + {chunk}, {inner.extent});")
        bounds = ("begin", "end")
    else:
        tasks = parallel(outer, around)
        bounds = ("0", str(inner.extent))
    streamed = streamable(kernel) if setting.get("stream") else []
    sides = one_sided(kernel) if setting.get("skip") else []
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
    needed = blocks.block([f"if ({' | '.join(names)})"])
    _fill(needed, stop, [])
    needed.close()
    spared = blocks.block(["else"])
    quick = Body(_with(blocks.body.kernel, sides), blocks.body.reciprocal, blocks.body.sections)
    spared.body = quick
    _fill(spared, stop, streamed)
    spared.close()


def _fill(scope: Scope, stop: str, streamed: list[Operand]) -> None:
    """Compute the outputs of a block."""
    body, name = scope.body, scope.body.kernel.axes[-1].name
    if streamed:
        body.use(("stream",))
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
