"""Runs in the child: a compiled library and its launch become a callable. Standard library and torch only."""

from __future__ import annotations

import ctypes
import json
import math
import time
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Any

import torch

_C_TYPES: dict[str, Any] = {
    "tensor": ctypes.c_void_p,
    "dims": ctypes.c_void_p,
    "int": ctypes.c_int64,
    "float": ctypes.c_double,
    "bool": ctypes.c_bool,
}

Allocator = Callable[[Sequence[int], Sequence[int], torch.dtype], torch.Tensor]
"""Sizes, strides in elements and dtype -> an uninitialised tensor."""


class SpecialisedError(ValueError):
    """The candidate's own guard says that it does not take these arguments; the caller falls back."""


class NativeCallable:
    """A launch bound to its library.

    Raises (when called):
        SpecialisedError: A guard of the launch does not hold.
    """

    def __init__(self, payload: Mapping[str, str], signature: Mapping[str, Any]) -> None:
        self._library = ctypes.CDLL(payload["library"])
        self._tree = json.loads(signature["output_tree"]) if signature["output_tree"] != "tensor" else None
        self._containers = signature["tree_kinds"]
        self._seconds: dict[str, float] = {}
        self._last = 0.0
        for name in json.loads(payload["operators"]):
            _check_operator(name)
        kernels = {n: self._kernel(n, kinds) for n, kinds in json.loads(payload["kernels"]).items()}
        self._names = names = {**_NAMES, **kernels, "tick": self._tick, "__builtins__": {}}
        exec(compile(payload["launch"], "<launch>", "exec"), names)
        self._launch: Callable[..., tuple[torch.Tensor, ...]] = names["launch"]
        self._profiled: Callable[..., tuple[torch.Tensor, ...]] = names["launch_profiled"]

    def __call__(self, args: Sequence[Any], state: Sequence[torch.Tensor]) -> object:
        """What the reference returns, nested as it nests it."""
        if torch.is_grad_enabled():
            with torch.no_grad():
                return self._nest(self._launch(*args, *state))
        return self._nest(self._launch(*args, *state))

    def use_allocator(self, allocate: Allocator) -> None:
        """Make the launch's `empty` and `empty_strided` take their tensors from the caller."""

        def empty(sizes: Sequence[int], dtype: torch.dtype) -> torch.Tensor:
            return allocate(sizes, _contiguous(sizes), dtype)

        self._names.update(empty=empty, empty_strided=allocate)

    def profiled(self, args: Sequence[Any], state: Sequence[torch.Tensor]) -> tuple[object, dict[str, float]]:
        """The outputs, and the seconds of every step by `Step.label`; steps of one label are added up."""
        self._seconds = {}
        with torch.no_grad():
            self._last = time.perf_counter()
            outputs = self._profiled(*args, *state)
        return self._nest(outputs), self._seconds

    def _kernel(self, name: str, kinds: Sequence[str]) -> Callable[..., None]:
        function = getattr(self._library, name)
        function.argtypes = [_C_TYPES[kind] for kind in kinds]
        function.restype = None
        kernel: Callable[..., None] = function
        return kernel

    def _tick(self, label: str) -> None:
        now = time.perf_counter()
        self._seconds[label] = self._seconds.get(label, 0.0) + now - self._last
        self._last = time.perf_counter()

    def _nest(self, outputs: tuple[torch.Tensor, ...]) -> object:
        if self._tree is None:
            return outputs[0]
        containers = iter(self._containers)

        def build(node: Any) -> object:
            if isinstance(node, int):
                return outputs[node]
            kind = next(containers, "t")
            items = [build(item) for item in node]
            return items if kind == "l" else tuple(items)

        return build(self._tree)


def load(payload: Mapping[str, str], signature: Mapping[str, Any]) -> NativeCallable:
    """The callable of a built kernel file.

    Args:
        payload: `library` (path of the shared object), `launch` (Python source), and as JSON `kernels` (name ->
            kinds of its arguments) and `operators` (library operators it calls).
        signature: `schema.Signature` as JSON.

    Raises:
        OSError: The library does not load.
        ValueError: It calls an operator that is not functional in this version of torch.
    """
    return NativeCallable(payload, signature)


def _check_operator(path: str) -> None:
    """Raises ValueError unless `aten.<name>.<overload>` exists and neither writes nor aliases for writing."""
    _, name, overload = path.split(".")
    packet = getattr(torch.ops.aten, name, None)
    operator = getattr(packet, overload, None) if packet is not None else None
    if operator is None:
        known = ", ".join(packet.overloads()) if packet is not None else "none"
        raise ValueError(f"{path} does not exist in torch {torch.__version__}; overloads of {name}: {known}")
    if operator._schema.is_mutable:
        raise ValueError(f"{path} changes its arguments: {operator._schema}")


@lru_cache(maxsize=4096)
def _dims(sizes: tuple[int, ...]) -> ctypes.Array[ctypes.c_int64]:
    """An array that lives on, since making one takes longer than the call of a small kernel."""
    return (ctypes.c_int64 * max(len(sizes), 1))(*sizes)


def _contiguous(sizes: Sequence[int]) -> list[int]:
    strides: list[int] = []
    step = 1
    for size in reversed(sizes):
        strides.append(step)
        step *= max(size, 1)
    return strides[::-1]


def _empty(sizes: Sequence[int], dtype: torch.dtype) -> torch.Tensor:
    return torch.empty(sizes, dtype=dtype)


def _empty_strided(sizes: Sequence[int], strides: Sequence[int], dtype: torch.dtype) -> torch.Tensor:
    return torch.empty_strided(sizes, strides, dtype=dtype)


def _refuse(what: str, got: object, wanted: object) -> None:
    raise SpecialisedError(f"this candidate takes only {what} == {wanted}, got {got}")


_NAMES: dict[str, Any] = {
    "aten": torch.ops.aten,
    "torch": torch,
    "empty": _empty,
    "empty_strided": _empty_strided,
    "dims": _dims,
    "refuse": _refuse,
    "inf": math.inf,
    "nan": math.nan,
}
