"""KernelBench's one-file format: `Model`, `get_inputs()`, `get_init_inputs()`."""

from __future__ import annotations

import ast
from types import ModuleType
from typing import TYPE_CHECKING, Any

from kernelmill.suites._base import Reference, Suite, argument_names

if TYPE_CHECKING:
    import torch


class KernelBench(Suite):
    """Works on unchanged files. Shapes are the file's own; the module runs as in inference."""

    @classmethod
    def recognises(cls, source: str) -> bool:
        """Whether the file defines `Model` or `get_inputs`."""
        names = {n.name for n in ast.parse(source).body if isinstance(n, ast.ClassDef | ast.FunctionDef)}
        return bool(names & {"Model", "get_inputs", "get_init_inputs"})

    def reference(self, module: ModuleType) -> Reference:
        """One workload, `main`, with static shapes."""
        missing = [n for n in ("Model", "get_inputs") if not hasattr(module, n)]
        if missing:
            raise ValueError(
                f"the task file defines no {' and no '.join(missing)}; KernelBench's shape is "
                "`class Model(nn.Module)`, `get_inputs()` and, for a constructor with arguments, `get_init_inputs()`"
            )
        names = argument_names(module.Model.forward)[1:]
        doc = (module.Model.__doc__ or "").strip()
        return Reference(name="", argument_names=names, workloads={"main": {}}, doc=doc)

    def build(self, module: ModuleType, axes: dict[str, int]) -> torch.nn.Module:
        """`Model(*get_init_inputs())`."""
        model: torch.nn.Module = module.Model(*self.init(module))
        return model

    def init(self, module: ModuleType) -> list[Any]:
        """Constructor arguments."""
        return list(getattr(module, "get_init_inputs", list)())

    def inputs(self, module: ModuleType, axes: dict[str, int]) -> list[Any]:
        """What `get_inputs()` returns."""
        found = module.get_inputs()
        if not isinstance(found, list | tuple):
            raise TypeError(
                f"get_inputs() returns a {type(found).__name__}; a list of the arguments of Model.forward is right"
            )
        return list(found)
