"""Plugins, found by file name and by entry point. The only registry of the package."""

from __future__ import annotations

import inspect
import pkgutil
from importlib import import_module
from importlib.metadata import entry_points
from types import GenericAlias, ModuleType
from typing import Generic, TypeVar

from kernelmill.errors import UserError

T = TypeVar("T")


class Registry(Generic[T]):
    """All plugins of one kind.

    A plugin is a concrete subclass of `base` in a module of `package`; the module's name is the
    plugin's name. A module whose name starts with `_` is not a plugin, nor is a folder. Another distribution adds one
    through the entry-point group named like the package. Nothing is imported until it is asked for.
    """

    def __init__(self, package: str, base: type[T]) -> None:
        self.package = package
        self.base = base

    def names(self) -> list[str]:
        """Names of all plugins, sorted."""
        modules = pkgutil.iter_modules(import_module(self.package).__path__)
        own = {m.name for m in modules if not m.ispkg and not m.name.startswith("_")}
        return sorted(own | {point.name for point in entry_points(group=self.package)})

    def get(self, name: str) -> type[T]:
        """The plugin class of that name.

        Raises:
            UserError: There is none; the message lists those there are.
        """
        if name not in self.names():
            kind, known = self.base.__name__.lower(), ", ".join(self.names())
            raise UserError(f"no {kind} named {name!r}; there are: {known}")
        for point in entry_points(group=self.package):
            if point.name == name:
                found: type[T] = point.load()
                return found
        return self._from_module(import_module(f"{self.package}.{name}"))

    def _from_module(self, module: ModuleType) -> type[T]:
        classes = [
            value
            for value in vars(module).values()
            if inspect.isclass(value)
            and not isinstance(value, GenericAlias)  # `dict[str, int]` says that it is a class before Python 3.11
            and issubclass(value, self.base)
            and value.__module__ == module.__name__
            and not inspect.isabstract(value)
        ]
        if len(classes) != 1:
            names = ", ".join(c.__name__ for c in classes) or "none"
            raise UserError(f"{module.__name__} must define exactly one {self.base.__name__}; it defines: {names}")
        return classes[0]
