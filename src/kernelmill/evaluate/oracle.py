"""The oracle's side of a cell: runs the task file. Standard library and torch only.

The same handlers serve the fp64 oracle, the baselines (each in a cell of its own) and the tracer.
"""

from __future__ import annotations

import copy
import importlib
import sys
import types
from collections.abc import Callable
from typing import Any

from kernelmill.evaluate.child import Cell
from kernelmill.evaluate.heap import kept_by
from kernelmill.registry import Registry
from kernelmill.suites._base import Suite


def handlers(cell: Cell) -> dict[str, Callable[..., dict[str, Any]]]:
    """Commands of a reference cell."""
    reference = ReferenceRole(cell)
    return {
        "reference": reference.read,
        "construct": reference.construct,
        "generate": reference.generate,
        "probe": reference.probe,
        "leak": reference.leak,
        "draw": reference.draw,
        "attach": reference.attach,
        "double": reference.double,
        "trace": reference.trace,
        "cost": reference.cost,
    }


class ReferenceRole:
    """Holds the task's module in a cell."""

    def __init__(self, cell: Cell) -> None:
        self.cell = cell
        self.torch = cell.torch
        self.keep: list[Any] = []

    def read(self, source: str, suite: str, name: str) -> dict[str, Any]:
        """Execute the task file in a namespace of its own; what it declares."""
        self.suite = Registry("kernelmill.suites", Suite).get(suite)()
        self.file = types.ModuleType("kernelmill_task")
        self.file.__file__ = f"<{name}>"
        sys.modules[self.file.__name__] = self.file  # torch.compile looks the globals of a function up there
        # In brackets, or torch.compile would look for a file of that name in the present folder, and may not.
        exec(compile(source, f"<{name}>", "exec"), vars(self.file))
        declared = self.suite.reference(self.file)
        return {
            "name": declared.name,
            "arguments": list(declared.argument_names),
            "workloads": declared.workloads,
            "axes": declared.axes,
            "contract": declared.contract,
            "doc": declared.doc,
        }

    def construct(self, axes: dict[str, int], seed: int, training: bool) -> dict[str, Any]:  # noqa: FBT001
        """Build the module of one workload."""
        self.axes, self.seed = axes, seed
        self.torch.manual_seed(seed)
        self.module = self.suite.build(self.file, axes).train(training)
        self.names = list(self.suite.reference(self.file).argument_names)
        self.init = self.suite.init(self.file)
        return {}

    def generate(self) -> dict[str, Any]:
        """Draw its inputs."""
        self.arguments = self._inputs(self.seed)
        return {}

    def probe(self, mode: str) -> dict[str, Any]:
        """Run it twice; the signature of this workload."""
        torch, arguments = self.torch, self.arguments
        torch.manual_seed(self.seed)
        first = self._called_on_copies()
        before = [a.clone() for a in arguments if isinstance(a, torch.Tensor)]
        self.cell.result = second = self.module(*arguments)
        after = [a for a in arguments if isinstance(a, torch.Tensor)]
        changed = [i for i, (x, y) in enumerate(zip(before, after, strict=True)) if not _same(torch, x, y)]
        described = self.cell.outputs()
        comparable = all("type" not in output for output in described["outputs"])
        self.runner = torch.compile(self.module) if mode == "compile" else self.module
        return {
            "arguments": [self._specify(n, a) for n, a in zip(self._argument_names(arguments), arguments, strict=True)],
            "state": self._state_specs(),
            "init": [i if isinstance(i, bool | int | float | str | None) else repr(i) for i in self.init],
            "init_literal": all(_literal(i) for i in self.init),
            "changed": changed,
            "deterministic": not comparable or self._equal_results(first, second),
            **described,
        }

    def leak(self) -> dict[str, Any]:
        """Bytes that each call keeps for good; 0 where a call keeps none, as every one but the first ones should."""
        self.cell.result = None
        return {"bytes": kept_by(self._called_on_copies)}

    def _called_on_copies(self) -> Any:
        return self.module(*[a.clone() if isinstance(a, self.torch.Tensor) else a for a in self.arguments])

    def _argument_names(self, arguments: list[Any]) -> list[str]:
        names = list(self.names[: len(arguments)])
        while len(names) < len(arguments):
            names.append(f"{self.names[-1] if self.names else 'x'}_{len(names)}")
        return names

    def _inputs(self, seed: int) -> list[Any]:
        self.torch.manual_seed(seed)
        return self.suite.inputs(self.file, self.axes)

    def _specify(self, name: str, value: Any) -> dict[str, Any]:
        if isinstance(value, self.torch.Tensor):
            return {"tensor": self._tensor(name, value)}
        if not _scalar(value):
            return {"type": type(value).__name__, "name": name}
        return {"scalar": {"name": name, "value": list(value) if isinstance(value, tuple | list) else value}}

    def _tensor(self, name: str, value: Any) -> dict[str, Any]:
        return {
            "name": name,
            "shape": list(value.shape),
            "stride": list(value.stride()),
            "dtype": _dtype(value),
        }

    def _state_specs(self) -> list[dict[str, Any]]:
        return [{**self._tensor(n, t), "role": role} for n, t, role in _state(self.module)]

    def _equal_results(self, first: Any, second: Any) -> bool:
        torch = self.torch
        if isinstance(first, list | tuple):
            return all(self._equal_results(a, b) for a, b in zip(first, second, strict=True))
        if not isinstance(first, torch.Tensor):
            return True
        return _same(torch, first, second) or bool(
            torch.allclose(first.double(), second.double(), rtol=1e-3, atol=1e-3)
        )

    def draw(self, seed: int) -> dict[str, Any]:
        """Fresh inputs and a freshly initialised state, for the parent to read."""
        torch = self.torch
        torch.manual_seed(seed)
        fresh = self.suite.build(self.file, self.axes)
        state = [*fresh.parameters(), *fresh.buffers()]
        tensors = [t for t in self._inputs(seed) if isinstance(t, torch.Tensor)] + [t.detach() for t in state]
        self.keep = tensors
        return {"tensors": [{**self._tensor("", t), "address": t.data_ptr()} for t in tensors]}

    def attach(self) -> dict[str, Any]:
        """After `bind`: the module's own parameters become the bound buffers; calls run the reference."""
        self.keep, self.arguments = [], []
        for (_, tensor, _), bound in zip(_state(self.module), self.cell.state, strict=True):
            tensor.data = bound
        runner = self.runner
        self.cell.implementation = lambda args, _state: runner(*args)
        return {}

    def double(self, shares: dict[str, float] | None = None, seed: int = 0) -> dict[str, Any]:
        """Run once in float64 on the bound inputs; where the result is.

        Args:
            shares: Dtype -> by how much of itself each value of such inputs and such state is moved, up or down at
                random. Whole numbers below 4096 stay: their sums are exact, and ties among them are meant.
            seed: Of the ups and downs.
        """
        torch = self.torch
        module = copy.deepcopy(self.module).double()
        wide = [a.double() if isinstance(a, torch.Tensor) and a.is_floating_point() else a for a in self.cell.args]
        if shares:
            chance = torch.Generator().manual_seed(seed)
            for number, given in enumerate(self.cell.args):
                if isinstance(given, torch.Tensor):
                    wide[number] = _moved(torch, wide[number], shares.get(_dtype(given), 0.0), chance)
            for (_, tensor, _), (_, given, _) in zip(_state(module), _state(self.module), strict=True):
                tensor.data = _moved(torch, tensor.data, shares.get(_dtype(given), 0.0), chance)
        self.cell.result = None
        self.cell.result = module(*wide)
        return self.cell.outputs()

    def trace(self, tracer: str) -> dict[str, Any]:
        """The reference's graph, made by `trace_json(module, arguments, names)` of a trusted module."""
        arguments = self._inputs(0)
        graph = importlib.import_module(tracer).trace_json(self.module, arguments, self._argument_names(arguments))
        return {"graph": graph}

    def cost(self) -> dict[str, Any]:
        """Arithmetic of the products and convolutions of one call on the task's inputs, a multiply-add counted as 2."""
        from torch.utils.flop_counter import FlopCounterMode

        counter = FlopCounterMode(display=False)
        with counter:
            self.module(*self._inputs(0))
        return {"flops": float(counter.get_total_flops())}


WHOLE = 4096
"""Below it, the sum of 4096 whole numbers is exact in fp32."""


def _state(module: Any) -> list[tuple[str, Any, str]]:
    parameters = [(n, p, "parameter") for n, p in module.named_parameters()]
    return parameters + [(n, b, "buffer") for n, b in module.named_buffers()]


def _dtype(tensor: Any) -> str:
    return str(tensor.dtype).removeprefix("torch.")


def _moved(torch: types.ModuleType, values: Any, share: float, chance: Any) -> Any:
    """Every value times 1 + share or 1 - share, at random; whole numbers stay. A new tensor."""
    if not share:
        return values
    signs = torch.randint(0, 2, values.shape, generator=chance, dtype=values.dtype) * 2 - 1
    stays = (values == values.round()) & (values.abs() < WHOLE)
    return torch.where(stays, values, values * (1 + share * signs))


def _literal(value: Any) -> bool:
    if isinstance(value, list | tuple):
        return all(_literal(v) for v in value)
    return value is None or isinstance(value, bool | int | float | str)


def _scalar(value: Any) -> bool:
    if isinstance(value, list | tuple):
        return all(isinstance(v, int | float) for v in value)
    return _literal(value)


def _same(torch: types.ModuleType, first: Any, second: Any) -> bool:
    if first.shape != second.shape or first.dtype != second.dtype:
        return False
    if first.is_floating_point():
        return bool(((first == second) | (first.isnan() & second.isnan())).all())
    return bool(torch.equal(first, second))
