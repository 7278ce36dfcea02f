"""Tensors that a cell makes for its parent, between red zones. Standard library only; torch comes as an argument."""

from __future__ import annotations

import types
from collections.abc import Sequence
from typing import Any

ZONE = 4096
"""Bytes of red zone on each side of every tensor the parent owns."""

ALIGNMENT = 64


class Arena:
    """Outputs and temporaries of a declared launch: the same buffers, in order, on every call."""

    def __init__(self, torch: types.ModuleType) -> None:
        self.torch = torch
        self.slots: list[tuple[Any, dict[str, Any]]] = []
        self.next = 0

    def rewind(self) -> None:
        """The next allocation is the first of a call."""
        self.next = 0

    def allocate(self, shape: Sequence[int], stride: Sequence[int], dtype: Any) -> Any:
        """The buffer for this allocation, made the first time it is asked for."""
        key = (tuple(shape), tuple(stride), str(dtype))
        if self.next < len(self.slots) and self.slots[self.next][1]["key"] == repr(key):
            tensor = self.slots[self.next][0]
        else:
            del self.slots[self.next :]
            tensor, address = guarded_tensor(self.torch, shape, stride, str(dtype).removeprefix("torch."), 0)
            self.slots.append((tensor, {**address, "key": repr(key)}))
        self.next += 1
        return tensor


def guarded_tensor(
    torch: types.ModuleType, shape: Sequence[int], stride: Sequence[int], dtype: str, offset: int
) -> tuple[Any, dict[str, Any]]:
    """A strided tensor between two red zones, `offset` bytes off a 64-byte boundary, and where it is."""
    kind = getattr(torch, dtype)
    span = 0 if 0 in shape else 1 + sum((n - 1) * s for n, s in zip(shape, stride, strict=True))
    size = span * kind.itemsize
    raw = torch.empty(size + 2 * ZONE + 2 * ALIGNMENT, dtype=torch.uint8)
    start = -(-(raw.data_ptr() + ZONE) // ALIGNMENT) * ALIGNMENT + offset - raw.data_ptr()
    flat = raw[start : start + size].view(kind)
    tensor = flat.as_strided(tuple(shape), tuple(stride), flat.storage_offset())
    return tensor, {"address": raw.data_ptr() + start, "bytes": size}
