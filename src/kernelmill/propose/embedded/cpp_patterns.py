"""Reductions that a row kernel can do better than by one more plain sweep."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from kernelmill.propose.embedded.cpp_lanes import Part, Sweep
from kernelmill.propose.embedded.cpp_loops import reduced
from kernelmill.propose.embedded.cpp_ops import COMPUTE
from kernelmill.propose.embedded.cpp_scope import Body, Scope
from kernelmill.propose.embedded.ir import Arg, Ref
from kernelmill.propose.embedded.plan import KernelValue, LoopAxis


@dataclass(frozen=True)
class Selection:
    """`sum(where(iota == index, x, 0))`: one element of the row, as in `gather` and cross-entropy."""

    index: int
    """Node of the index, one per row."""
    value: Arg
    axis: LoopAxis


@dataclass(frozen=True)
class Search:
    """`amin(where(condition, iota, big))`: the first place where something holds, as in `argmax`."""

    condition: Ref
    missing: int
    """The result where it holds nowhere."""
    axis: LoopAxis


@dataclass(frozen=True)
class Pair:
    """A reduction that needs the result of another one, merged into the sweep of the other."""

    kind: Literal["moments", "exponentials"]
    first: int
    """moments: the sum; exponentials: the maximum."""
    second: KernelValue
    """moments: the sum of squared deviations from the mean; exponentials: the sum of exp(x - maximum)."""
    value: Arg
    """What is reduced by the first one."""

    @property
    def total(self) -> str:
        """Name of the running second result."""
        return f"total{self.second.node}"

    def open(self, scope: Scope) -> None:
        """Declare what lives for a row."""
        scope.line(f"double {self.total} = 0;")
        if self.kind == "moments":
            scope.line(f"double count{self.second.node} = 0;")

    def merge(self, nest: Scope, part: Part) -> None:
        """Go over the part of the row again, now that it is in the nearest cache, and merge it into the row."""
        node, (first, last) = self.second.node, part.bounds
        if self.kind == "moments":
            nest.line(f"const float mean{node} = part{self.first} / (float)({last} - {first});")
        else:
            nest.body.use(("max_nan", "exp"))
            nest.line(f"const float top{node} = max_nan(total{self.first}, part{self.first});")
            nest.line(f"const float shift{node} = top{node} == -INFINITY ? 0.0f : top{node};")
        sweep = Sweep(nest, Part(part.bounds, [self.second], lanes=part.lanes))
        text = sweep.loop.argument(self.value, "float32")
        if self.kind == "moments":
            sweep.take(self.second, f"({text} - mean{node}) * ({text} - mean{node})")
        else:
            sweep.take(self.second, f"vec_exp({text} - shift{node})")
        sweep.finish()
        for line in self._merging(part.bounds):
            nest.line(line)

    def _merging(self, bounds: tuple[str, str]) -> list[str]:
        node, total = self.second.node, self.total
        if self.kind == "exponentials":
            return [f"{total} = {total} * vec_exp(total{self.first} - shift{node}) + part{node};"]
        return [
            "// Chan, Golub & LeVeque 1979: merge sums of squared deviations of two sets",
            f"const double size{node} = {bounds[1]} - {bounds[0]};",
            f"const double before{node} = count{node} > 0 ? total{self.first} / count{node} : mean{node};",
            f"const double delta{node} = mean{node} - before{node};",
            f"{total} += part{node};",
            f"{total} += delta{node} * delta{node} * count{node} * size{node} / (count{node} + size{node});",
            f"count{node} += size{node};",
        ]

    def finish(self, scope: Scope) -> None:
        """Name the result."""
        node, result = self.second.node, f"(float){self.total}"
        if self.kind == "exponentials":  # infinity minus infinity, as when the sweeps are apart
            result = f"v{self.first} == -INFINITY ? NAN : {result}"
        scope.line(f"const float v{node} = {result};")
        scope.known[node] = f"v{node}"


def selection(body: Body, value: KernelValue) -> Selection | None:
    """The selection that a sum is, if it is one."""
    axes = reduced(body.kernel)
    where = _operation(body, value.args[0], "where")
    if value.op != "sum" or len(axes) != 1 or where is None or _number(body, where.args[2]) != 0:
        return None
    equal = _operation(body, where.args[0], "eq")
    if equal is None:
        return None
    for place, index in (equal.args, equal.args[::-1]):
        whole = isinstance(index, Ref) and body.values[index.node].dtype in {"int64", "int32"}
        if _counts(body, place, axes[0]) and whole and axes[0].name not in body.varies(index.node):
            return Selection(index.node, where.args[1], axes[0])
    return None


def write_selection(scope: Scope, value: KernelValue, found: Selection) -> None:
    """Read the one element instead of sweeping over the row."""
    kind, name = COMPUTE[value.dtype], f"v{value.node}"
    index = scope.get(found.index)
    scope.line(f"{kind} {name} = 0;")
    inside = scope.block([f"if ({index} >= 0 && {index} < {found.axis.extent})"], [found.axis.name])
    inside.line(f"const int64_t {found.axis.name} = {index};")
    inside.line(f"{name} = {inside.argument(found.value, value.dtype)};")
    inside.close()
    scope.known[value.node] = name


def first_index(body: Body, value: KernelValue) -> Search | None:
    """The search that a minimum over indices is, if it is one."""
    axes = reduced(body.kernel)
    where = _operation(body, value.args[0], "where")
    if value.op != "amin" or len(axes) != 1 or axes[0].extent >= 2**31 - 1 or where is None:
        return None
    missing = _number(body, where.args[2])
    condition = where.args[0]
    if not isinstance(missing, int) or missing < axes[0].extent or not isinstance(condition, Ref):
        return None
    if not _counts(body, where.args[1], axes[0]) or value.dtype != "int64":
        return None
    return Search(condition, missing, axes[0])


SEARCHED = 512
"""Elements looked at before the first hit may end the search."""


def write_first(scope: Scope, value: KernelValue, found: Search) -> None:
    """Look block by block and stop at the first hit; 32-bit indices fill the lanes as floats do."""
    name, axis = f"v{value.node}", found.axis
    part = f"part{value.node}"
    scope.line(f"int64_t {name} = INT64_C({found.missing});")
    extent = axis.extent
    search = scope.block(
        [f"for (int64_t begin = 0; begin < {extent} && {name} == INT64_C({found.missing}); begin += {SEARCHED})"]
    )
    search.line(f"const int64_t end = std::min<int64_t>(begin + {SEARCHED}, {extent});")
    search.line(f"int32_t {part} = INT32_MAX;")
    loop = search.block(
        [
            f"#pragma omp simd reduction(min:{part})",
            f"for (int64_t {axis.name} = begin; {axis.name} < end; {axis.name}++)",
        ],
        [axis.name],
    )
    condition = loop.argument(found.condition, "bool")
    loop.line(f"{part} = std::min({part}, {condition} ? (int32_t){axis.name} : INT32_MAX);")
    loop.close()
    search.line(f"if ({part} != INT32_MAX) {name} = {part};")
    search.close()
    scope.known[value.node] = name


def pairs(body: Body) -> dict[int, Pair]:
    """Reductions that can share the sweep of the one they depend on, by node."""
    found: dict[int, Pair] = {}
    for value in body.kernel.values:
        if value.kind == "reduce" and value.op == "sum" and value.dtype == "float32":
            pair = _exponentials(body, value) or _moments(body, value)
            if pair is not None and value.stage == body.values[pair.first].stage + 1:
                found[value.node] = pair
    return found


def _exponentials(body: Body, value: KernelValue) -> Pair | None:
    power = _operation(body, value.args[0], "exp")
    difference = _operation(body, power.args[0], "sub") if power else None
    if difference is None:
        return None
    top = _reduction(body, difference.args[1], "amax")
    if top is None or top.args[0] != difference.args[0] or top.dtype != "float32":
        return None
    return Pair("exponentials", top.node, value, difference.args[0])


def _moments(body: Body, value: KernelValue) -> Pair | None:
    square = _operation(body, value.args[0], "mul") or _operation(body, value.args[0], "pow")
    if square is None or square.args[1] != (square.args[0] if square.op == "mul" else 2):
        return None
    difference = _operation(body, square.args[0], "sub")
    mean = difference and (_operation(body, difference.args[1], "mul") or _operation(body, difference.args[1], "div"))
    if not difference or not mean:
        return None
    total = _reduction(body, mean.args[0], "sum")
    if total is None or total.args[0] != difference.args[0] or total.dtype != "float32":
        return None
    size = 1
    for axis in reduced(body.kernel):
        size *= axis.extent
    number = _number(body, mean.args[1])
    exact = number is not None and abs(number * size - 1 if mean.op == "mul" else number / size - 1) < 1e-9
    return Pair("moments", total.node, value, difference.args[0]) if exact else None


def _operation(body: Body, arg: Arg, op: str) -> KernelValue | None:
    value = body.values[arg.node] if isinstance(arg, Ref) else None
    return value if value is not None and value.kind == "pointwise" and value.op == op else None


def _reduction(body: Body, arg: Arg, op: str) -> KernelValue | None:
    value = body.values[arg.node] if isinstance(arg, Ref) else None
    return value if value is not None and value.kind == "reduce" and value.op == op else None


def _number(body: Body, arg: Arg) -> bool | int | float | None:
    """The value of a literal or constant, None for anything else."""
    if isinstance(arg, Ref):
        value = body.values[arg.node]
        arg = value.args[0] if value.kind == "constant" else None
    return arg if isinstance(arg, bool | int | float) else None


def _counts(body: Body, arg: Arg, axis: LoopAxis) -> bool:
    """Whether a value is the position along the axis."""
    if not isinstance(arg, Ref):
        return False
    value = body.values[arg.node]
    strides = dict(zip((a.name for a in body.kernel.axes), value.strides, strict=False))
    return value.kind == "iota" and strides.pop(axis.name, 0) == 1 and not any(strides.values())
