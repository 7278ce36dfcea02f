"""Task formats: how a file becomes a reference that can be run.

Imports only the standard library and torch, since it runs in the oracle's cell on machines without
the control plane's packages.
"""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Reference:
    """A task as the oracle runs it."""

    name: str
    argument_names: tuple[str, ...]
    workloads: dict[str, dict[str, int]]
    """Workload name -> size of every symbolic axis."""
    axes: dict[str, tuple[int, int, int]] = field(default_factory=dict)
    """Shape domain: low, high, multiple. Empty: static shapes."""
    contract: dict[str, Any] = field(default_factory=dict)
    """Fields of `schema.Contract` that the file sets."""
    doc: str = ""


class Suite(ABC):
    """One format of task files."""

    @classmethod
    @abstractmethod
    def recognises(cls, source: str) -> bool:
        """Whether the text looks like this format; parses, never executes."""

    @abstractmethod
    def reference(self, module: ModuleType) -> Reference:
        """What the executed task file declares. Raises ValueError with what is missing."""

    @abstractmethod
    def build(self, module: ModuleType, axes: dict[str, int]) -> torch.nn.Module:
        """The reference as a module, freshly constructed; a function comes wrapped."""

    @abstractmethod
    def init(self, module: ModuleType) -> list[Any]:
        """Constructor arguments of the reference, for candidates that are constructed like it."""

    @abstractmethod
    def inputs(self, module: ModuleType, axes: dict[str, int]) -> list[Any]:
        """Positional arguments of `forward`, drawn from torch's global generator, which the caller seeds."""


def argument_names(function: Callable[..., Any]) -> tuple[str, ...]:
    """Positional parameter names of a function; `*args` gives its name once."""
    kinds = (
        inspect.Parameter.POSITIONAL_ONLY,
        inspect.Parameter.POSITIONAL_OR_KEYWORD,
        inspect.Parameter.VAR_POSITIONAL,
    )
    return tuple(n for n, p in inspect.signature(function).parameters.items() if p.kind in kinds)
