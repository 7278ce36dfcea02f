"""Our own shape: a function or module decorated with `kernelmill.task`."""

from __future__ import annotations

import ast
import inspect
from types import ModuleType
from typing import TYPE_CHECKING, Any

from kernelmill.suites._base import Reference, Suite, argument_names
from kernelmill.task import Declaration, Input

if TYPE_CHECKING:
    import torch


class Native(Suite):
    """One decorated reference per file."""

    @classmethod
    def recognises(cls, source: str) -> bool:
        """Whether some top-level definition is decorated with `task(...)`."""
        for node in ast.parse(source).body:
            if isinstance(node, ast.ClassDef | ast.FunctionDef):
                for decorator in node.decorator_list:
                    target = decorator.func if isinstance(decorator, ast.Call) else decorator
                    if ast.unparse(target).split(".")[-1] == "task":
                        return True
        return False

    def reference(self, module: ModuleType) -> Reference:
        """What the decorator declared."""
        target, declaration = self._target(module)
        names = _parameters(target)
        declared = set(declaration.inputs) | set(declaration.scalars)
        if set(names) != declared:
            raise ValueError(
                f"{target.__name__} takes ({', '.join(names)}), but the task declares ({', '.join(sorted(declared))})"
            )
        return Reference(
            name=target.__name__,
            argument_names=names,
            workloads=declaration.workloads,
            axes=declaration.axes,
            contract=declaration.contract,
            doc=(target.__doc__ or "").strip(),
        )

    def build(self, module: ModuleType, axes: dict[str, int]) -> torch.nn.Module:
        """The module itself, or the function wrapped as one."""
        import torch

        target, declaration = self._target(module)
        if isinstance(target, type):
            built: torch.nn.Module = target(*declaration.init)
            return built

        class Function(torch.nn.Module):
            def forward(self, *args: Any) -> Any:
                return target(*args)

        return Function()

    def init(self, module: ModuleType) -> list[Any]:
        """Constructor arguments."""
        return list(self._target(module)[1].init)

    def inputs(self, module: ModuleType, axes: dict[str, int]) -> list[Any]:
        """Tensors as declared: standard normal, or uniform integers in their range."""
        _, declaration = self._target(module)
        names = self.reference(module).argument_names
        return [
            declaration.scalars[n] if n in declaration.scalars else _draw(declaration.inputs[n], axes) for n in names
        ]

    def _target(self, module: ModuleType) -> tuple[Any, Declaration]:
        found = [v for v in vars(module).values() if isinstance(getattr(v, "__kernelmill__", None), Declaration)]
        if len(found) != 1:
            raise ValueError(f"a task file holds exactly one @task; this one has {len(found)}")
        return found[0], found[0].__kernelmill__


def _parameters(target: Any) -> tuple[str, ...]:
    return argument_names(vars(target)["forward"])[1:] if inspect.isclass(target) else argument_names(target)


def _size(text: str, axes: dict[str, int]) -> int:
    return int(text) if text.lstrip("-").isdigit() else axes[text]


def _draw(spec: Input, axes: dict[str, int]) -> torch.Tensor:
    import torch

    shape = [_size(dim, axes) for dim in spec.shape]
    dtype: torch.dtype = getattr(torch, spec.dtype)
    if dtype.is_floating_point:
        return torch.randn(shape).to(dtype)
    if dtype is torch.bool:
        return torch.rand(shape) < 0.5
    return torch.randint(_size(spec.low, axes), _size(spec.high, axes), shape, dtype=dtype)
