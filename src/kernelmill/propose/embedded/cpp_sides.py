"""Values of which a block of lanes needs one side only: costly functions that the data do not ask for, and functions
that vectorise for near arguments while the library takes the far ones."""

from __future__ import annotations

from dataclasses import dataclass, replace

from kernelmill.propose.embedded.cpp_ops import COMPARE, HEAVY
from kernelmill.propose.embedded.cpp_scope import Body, refs
from kernelmill.propose.embedded.ir import Ref
from kernelmill.propose.embedded.plan import FusedKernel, KernelValue


@dataclass(frozen=True)
class Side:
    """A `where` one of whose branches is costly."""

    where: KernelValue
    costly: int
    """Position of the costly branch among the arguments."""
    of_sign: bool
    """Whether the condition compares with zero: then data of one sign never needs the costly branch."""
    general: bool = False
    """Whether the costly branch is right for every lane."""

    def only(self, position: int) -> KernelValue:
        """The value with one branch for all lanes."""
        return replace(self.where, op="alias", args=(self.where.args[position],))


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
            without = spared(now, [side])
            if costly_count(without) < costly_count(now) and not _ancestors(kernel, [value.args[0].node]) & _costly(
                kernel
            ):
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


def spared(kernel: FusedKernel, sides: list[Side]) -> FusedKernel:
    """The kernel for a block in which no lane needs a costly branch."""
    return _replaced(kernel, [s.only(3 - s.costly) for s in sides])


def needing(kernel: FusedKernel, sides: list[Side]) -> FusedKernel:
    """The kernel for the other blocks."""
    return _replaced(kernel, [s.only(s.costly) for s in sides if s.general])


def _replaced(kernel: FusedKernel, values: list[KernelValue]) -> FusedKernel:
    by_node = {v.node: v for v in values}
    return replace(kernel, values=tuple(by_node.get(v.node, v) for v in kernel.values))


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


def costly_count(kernel: FusedKernel) -> int:
    """How many costly functions the outputs need."""
    return len(_ancestors(kernel, [o.node for o in kernel.stores]) & _costly(kernel))


FAR = {"sin": 65536.0, "cos": 65536.0, "tan": 65536.0, "fmod": 2097152.0, "remainder": 2097152.0}
"""Largest argument, of `fmod` and `remainder` largest quotient, for which `NAME_near` is right."""


def with_near(kernel: FusedKernel) -> tuple[FusedKernel, list[Side]]:
    """The kernel with a choice between near and far in place of each of these functions, and the choices.

    Only of values that vary along the innermost axis; what is computed outside of its loop costs nothing.
    """
    if not kernel.axes:
        return kernel, []
    body, inner = Body(kernel), kernel.axes[-1].name
    fresh = max((v.node for v in kernel.values), default=0) + 1
    values: list[KernelValue] = []
    sides: list[Side] = []
    for value in kernel.values:
        if value.op not in FAR or value.dtype != "float32" or inner not in body.varies(value.node):
            values.append(value)
            continue
        choice = _near_or_far(value, fresh)
        values += choice
        sides.append(Side(choice[-1], 2, of_sign=False, general=True))
        fresh += len(choice)
    return replace(kernel, values=tuple(values)), sides


def _near_or_far(value: KernelValue, fresh: int) -> list[KernelValue]:
    """The values that make up `is near ? near : far`; the last one takes the place of the given one."""
    found: list[KernelValue] = []

    def add(op: str, args: tuple[object, ...], dtype: str = "float32") -> Ref:
        found.append(replace(value, node=fresh + len(found), op=op, args=args, dtype=dtype))
        return Ref(found[-1].node)

    measure = value.args[0] if len(value.args) == 1 else add("div", value.args)
    near = add("le", (add("abs", (measure,)), FAR[value.op]), "bool")
    sides = (add(f"{value.op}_near", value.args), add(value.op, value.args))
    return [*found, replace(value, op="where", args=(near, *sides))]
