"""What was verified, one workload each: the layouts of all tensors, the values of all scalars."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any

import torch


class Layout:
    """One verified tensor."""

    def __init__(self, spec: dict[str, Any]) -> None:
        self.name: str = spec["name"]
        self.shape: tuple[int, ...] = tuple(spec["shape"])
        self.stride: tuple[int, ...] = tuple(spec["stride"])
        self.dtype: torch.dtype = getattr(torch, spec["dtype"])
        empty = 0 in self.shape
        self.significant = tuple(d for d, size in enumerate(self.shape) if size > 1 and not empty)
        """Dims whose stride says something about where elements are."""

    def mismatch(self, value: Any) -> str | None:
        """Why a value is not what was verified, or None."""
        if not isinstance(value, torch.Tensor):
            return f"{self.name} is a {type(value).__name__}, verified was a tensor"
        if value.device.type != "cpu" or value.layout is not torch.strided:
            return f"{self.name} is on {value.device.type} ({value.layout}), verified was a dense cpu tensor"
        if value.dtype is not self.dtype:
            return f"{self.name} is {value.dtype}, verified was {self.dtype}"
        if tuple(value.shape) != self.shape:
            return f"{self.name} has shape {tuple(value.shape)}, verified was {self.shape}"
        strides = value.stride()
        for dim in self.significant:
            if strides[dim] != self.stride[dim]:
                return f"{self.name} has strides {strides}, verified were {self.stride}; try .contiguous()"
        return None

    def empty(self) -> torch.Tensor:
        """An uninitialised tensor of this layout."""
        return torch.empty_strided(self.shape, self.stride, dtype=self.dtype)


class Variant:
    """One verified workload."""

    def __init__(self, spec: dict[str, Any]) -> None:
        self.workload: str = spec["workload"]
        self.payload: dict[str, str] = spec["payload"]
        self.files: dict[str, str] = spec["files"]
        """Entries of the payload that are files of this folder."""
        self.signature: dict[str, Any] = spec["signature"]
        self.init: str = spec["init"]
        """JSON of the positional arguments that constructed the reference."""
        self.tolerance: float = spec["tolerance"]
        """Largest allowed |kernel - reference| / rms(reference), from the error budget of the verification."""
        self.arguments = [Layout(a) if "shape" in a else None for a in self.signature["arguments"]]
        self.scalars = [_as_tuple(a.get("value")) for a in self.signature["arguments"]]
        self.names: list[str] = [a["name"] for a in self.signature["arguments"]]
        self.state = [Layout(s) for s in self.signature["state"]]
        nesting, kinds = self.signature["output_tree"], self.signature["tree_kinds"]
        # Parsed here since torch.compile cannot look into the JSON parser.
        self.tree: Tree = None if nesting == "tensor" else _tree(json.loads(nesting), iter(kinds))
        self.outputs = [Layout(o) for o in self.signature["outputs"]]

    def mismatch(self, arguments: Sequence[Any], state: Sequence[Any]) -> str | None:
        """Why a call is outside what was verified, or None."""
        if len(state) != len(self.state):
            return f"the module has {len(state)} tensors, verified were {len(self.state)}"
        for name, layout, scalar, value in zip(self.names, self.arguments, self.scalars, arguments, strict=True):
            if layout is not None:
                why = layout.mismatch(value)
            elif isinstance(value, torch.Tensor):
                why = f"{name} is a tensor, verified was {scalar!r}"
            else:
                same = type(_as_tuple(value)) is type(scalar) and _as_tuple(value) == scalar
                why = None if same else f"{name} is {value!r}, verified was {scalar!r}"
            if why is not None:
                return why
        for layout, value in zip(self.state, state, strict=True):
            why = layout.mismatch(value)
            if why is not None:
                return why
        return None

    def split(self, tensors: Sequence[torch.Tensor]) -> tuple[list[Any], list[torch.Tensor]]:
        """Arguments (scalars filled in) and state tensors, from the tensors alone."""
        rest = list(tensors)
        arguments = [
            rest.pop(0) if layout is not None else scalar
            for layout, scalar in zip(self.arguments, self.scalars, strict=True)
        ]
        return arguments, rest

    def nested(self, flat: Sequence[torch.Tensor]) -> Any:
        """The outputs as the reference nests them."""
        return flat[0] if self.tree is None else _nest(self.tree, flat)


Tree = Any
"""An output's position, or a container's kind (`l` list, `t` tuple) followed by its trees."""


def _tree(node: Any, kinds: Iterator[str]) -> Tree:
    if isinstance(node, int):
        return node
    kind = next(kinds, "t")
    return (kind, *(_tree(child, kinds) for child in node))


def _nest(tree: Tree, flat: Sequence[torch.Tensor]) -> Any:
    if isinstance(tree, int):
        return flat[tree]
    items = [_nest(child, flat) for child in tree[1:]]
    return items if tree[0] == "l" else tuple(items)


def _as_tuple(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value
