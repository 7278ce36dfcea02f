"""KernelMill: a slow piece of PyTorch in, a faster kernel that you can believe out."""

from __future__ import annotations

import sys
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

from kernelmill.task import task

if TYPE_CHECKING:
    from kernelmill.api import doctor, evaluate, export, load_task, optimize, resume, runs, show

__version__ = "0.1.0"

__all__ = ["doctor", "evaluate", "export", "load_task", "optimize", "resume", "runs", "show", "task"]

_VERBS = frozenset(__all__) - {"task"}


def __getattr__(name: str) -> Any:
    """The verbs, imported when one is first used."""
    if name not in _VERBS:
        raise AttributeError(f"module 'kernelmill' has no attribute {name!r}; it offers: {', '.join(__all__)}")
    return getattr(import_module("kernelmill.api"), name)


class _Package(ModuleType):
    """Some verbs are named like subpackages, which Python binds here when they are imported; the verbs stay."""

    def __setattr__(self, name: str, value: object) -> None:
        if not (name in __all__ and isinstance(value, ModuleType)):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package
