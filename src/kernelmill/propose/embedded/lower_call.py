"""What a handler of one ATen operator gets and gives."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import fx

from kernelmill.propose.embedded.build import Builder
from kernelmill.propose.embedded.ir import COMPUTE_DTYPES, Node


@dataclass(frozen=True)
class Call:
    """One ATen call with its tensor arguments already lowered."""

    node: fx.Node
    args: tuple[Any, ...]
    kwargs: dict[str, Any]

    def get(self, position: int, name: str, default: Any = None) -> Any:
        """An argument by position or by name."""
        if len(self.args) > position:
            return self.args[position]
        return self.kwargs.get(name, default)

    @property
    def value(self) -> Any:
        """The fake result: shape and dtype."""
        return self.node.meta["val"]

    @property
    def dtype(self) -> str:
        """dtype of the (first) result."""
        value = self.value[0] if isinstance(self.value, list | tuple) else self.value
        return str(value.dtype).removeprefix("torch.")


Result = Any
"""A `Node`, a tuple of them (None where nobody reads that result), or None: not for kernels."""
Handler = Callable[[Builder, Call], Result]


def computable(*values: Any) -> bool:
    """Whether kernels compute in the dtypes of these values; half precision they only load and store."""
    return all(v.dtype in COMPUTE_DTYPES for v in values if isinstance(v, Node))
