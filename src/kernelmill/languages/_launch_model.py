"""What a declared launch is once it is read. Imports only the standard library."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal

from kernelmill.languages._launch_syntax import ArgumentKind


@dataclass(frozen=True)
class Guard:
    """One condition outside which the candidate does not apply."""

    value: str
    """Python of what is looked at, e.g. `x.shape`."""
    expected: str
    line: int
    argument: int
    """Position of the argument it looks at."""
    attribute: Literal["shape", "stride", "value"]
    index: int | None
    """Of the one size or stride it looks at; None: all of them."""
    wanted: Any
    """`expected` as a value."""

    def holds(self, arguments: Sequence[Mapping[str, Any]]) -> bool:
        """Whether it holds for the arguments and state of a `schema.Signature` as JSON."""
        found = arguments[self.argument].get(self.attribute, _ABSENT)
        if isinstance(found, list):
            found = tuple(found)
        if self.index is not None:
            sizes = found if isinstance(found, tuple) else ()
            found = sizes[self.index] if -len(sizes) <= self.index < len(sizes) else _ABSENT
        wanted = tuple(self.wanted) if isinstance(self.wanted, list) else self.wanted
        return bool(found == wanted)


_ABSENT: Final = object()
"""What an argument does not have: a scalar its shape, a tensor its value; equal to nothing."""


@dataclass(frozen=True)
class KernelArgument:
    """One argument of a kernel call."""

    text: str
    kind: ArgumentKind


@dataclass(frozen=True)
class Step:
    """One statement of the launch."""

    kind: Literal["library", "view", "allocate", "kernel"]
    line: int
    target: str
    """The name it assigns; for a kernel, the kernel's own name."""
    text: str
    """Python of the right-hand side; empty for a kernel."""
    operators: tuple[str, ...] = ()
    """Library operators it calls, e.g. `aten.mm.default`."""
    arguments: tuple[KernelArgument, ...] = ()
    dtype: str | None = None
    """Of an allocation."""

    @property
    def label(self) -> str:
        """Its key in a profile: `k0`, `c0:aten.mm.default`, `v1:contiguous`, `views` or `allocate`."""
        if self.kind == "kernel":
            return self.target
        if self.operators:
            return f"{self.target}:{self.operators[-1]}"
        if self.kind == "allocate":
            return "allocate"
        copies = re.search(r"\.(contiguous|reshape|flatten)\(", self.text)
        return f"{self.target}:{copies[1]}" if copies else "views"


@dataclass(frozen=True)
class Launch:
    """A parsed launch."""

    line: int
    """Where its block begins."""
    arguments: tuple[str, ...]
    """Positional arguments of the task, then its state, under the launch's own names."""
    guards: tuple[Guard, ...]
    steps: tuple[Step, ...]
    returns: tuple[str, ...]
    scalars_used: frozenset[str] = field(default=frozenset())
    """Arguments that the launch uses in arithmetic, so they must be numbers."""

    @property
    def kernels(self) -> tuple[str, ...]:
        """Names of the kernels called, each once, in the order of the first call."""
        return tuple(dict.fromkeys(s.target for s in self.steps if s.kind == "kernel"))

    @property
    def operators(self) -> tuple[str, ...]:
        """Library operators called, each once, in order."""
        return tuple(dict.fromkeys(name for s in self.steps for name in s.operators))

    @property
    def conditions(self) -> frozenset[tuple[int, str, int | None, str]]:
        """What its guards ask for, whatever the arguments are called."""
        return frozenset((g.argument, g.attribute, g.index, g.expected) for g in self.guards)
