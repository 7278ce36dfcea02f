"""Tensors as the parent holds them: bytes, shape and strides, without torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import as_strided
from numpy.typing import NDArray

from kernelmill.schema import TensorSpec

Array = NDArray[Any]

STORAGE: dict[str, type[np.generic]] = {
    "float64": np.float64,
    "float32": np.float32,
    "float16": np.float16,
    "bfloat16": np.uint16,  # numpy has no bfloat16: its bits
    "int64": np.int64,
    "int32": np.int32,
    "int16": np.int16,
    "int8": np.int8,
    "uint8": np.uint8,
    "bool": np.bool_,
    "complex64": np.complex64,
    "complex128": np.complex128,
}
"""How each PyTorch dtype is kept in numpy."""

WHOLE_BYTES = 64 * 2**20
"""Tensors up to this size are always looked at as a whole: comparing 8 M fp32 elements takes 12 ms (Zen 3)."""

UNIT_ROUNDOFF = {"float64": 2.0**-53, "float32": 2.0**-24, "float16": 2.0**-11, "bfloat16": 2.0**-8}
"""u of each floating dtype: half the distance from 1 to the next number."""


def storage_size(shape: Sequence[int], stride: Sequence[int]) -> int:
    """Elements of storage that a strided tensor spans; 0 where it has no elements."""
    if 0 in shape:
        return 0
    return 1 + sum((size - 1) * step for size, step in zip(shape, stride, strict=True))


@dataclass(frozen=True)
class HostTensor:
    """One tensor in the parent: flat storage and how to look at it."""

    spec: TensorSpec
    storage: Array
    """One-dimensional, `storage_size` elements of `STORAGE[spec.dtype]`."""
    address: int = 0
    """Where it was read from in another process; 0 where it was made here."""

    @property
    def view(self) -> Array:
        """The tensor in its logical shape; shares memory with `storage`."""
        step = self.storage.itemsize
        return as_strided(self.storage, self.spec.shape, [s * step for s in self.spec.stride])

    def as_float64(self) -> NDArray[np.float64]:
        """Logical values in double precision, a copy."""
        return to_float64(self.view, self.spec.dtype)


def empty_tensor(spec: TensorSpec) -> HostTensor:
    """An uninitialised tensor of that spec."""
    return HostTensor(spec, np.empty(storage_size(spec.shape, spec.stride), STORAGE[spec.dtype]))


def pieces(count: int, itemsize: int, part: int | None) -> list[slice]:
    """What is looked at of so many elements: all of them, or of many the two ends and 64 blocks of 4 KiB.

    `part` is a secret number that says which blocks; None stands for all.
    """
    length = 4096 // itemsize
    if part is None or count * itemsize <= WHOLE_BYTES:
        return [slice(0, count)]
    starts = np.random.Generator(np.random.Philox(key=part)).integers(0, count - length, 64)
    return [slice(int(start), int(start) + length) for start in (0, *np.sort(starts), count - length)]


def to_float64(values: Array, dtype: str) -> NDArray[np.float64]:
    """Values of a real dtype in double precision; bfloat16 comes as its bits in uint16."""
    if dtype == "bfloat16":
        wide = values.astype(np.uint32) << np.uint32(16)
        return np.ascontiguousarray(wide).view(np.float32).astype(np.float64)
    return values.astype(np.float64)


def from_float64(values: NDArray[np.float64], dtype: str) -> Array:
    """Values rounded to nearest-even in a real or integer dtype; bfloat16 gives its bits in uint16."""
    if dtype == "bfloat16":
        bits = np.ascontiguousarray(values.astype(np.float32)).view(np.uint32)
        nan = np.isnan(values)
        rounded = (bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))) >> np.uint32(16)
        return np.where(nan, np.uint16(0x7FC0), rounded.astype(np.uint16)).astype(np.uint16)
    return values.astype(STORAGE[dtype])
