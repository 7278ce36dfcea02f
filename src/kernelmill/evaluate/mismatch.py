"""Where outputs differ, in words that help to find the mistake."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray


def pattern(wrong: NDArray[np.bool_]) -> str:
    """What the wrong elements have in common: one slab of one dim, or alternating indices; empty where nothing.

    Errors of rounding are spread; skipped work (the last rows, one tile, every other column) is not.
    """
    count = int(np.count_nonzero(wrong))
    if count == 0 or wrong.ndim == 0:
        return ""
    for axis, size in enumerate(wrong.shape):
        others = tuple(i for i in range(wrong.ndim) if i != axis)
        hit = np.flatnonzero(wrong.any(axis=others))
        note = _slab(axis, size, hit)
        if note:
            return note
    return ""


def _slab(axis: int, size: int, hit: NDArray[np.intp]) -> str:
    first, last = int(hit[0]), int(hit[-1])
    span = last - first + 1
    if span <= size // 2 and hit.size >= 0.9 * span:
        place = "last" if last == size - 1 else "first" if first == 0 else ""
        rows = f"the {place} {span} of {size}" if place else f"{span} of {size}"
        return f"all of them at indices {first}..{last} of dim {axis} ({rows})"
    if size >= 8 and hit.size >= size // 4 and np.unique(hit % 2).size == 1:
        return f"all of them at {'odd' if hit[0] % 2 else 'even'} indices of dim {axis}"
    return ""


def index_text(flat: int, shape: Sequence[int]) -> str:
    """A flat index as `[17, 4]`."""
    return str([int(i) for i in np.unravel_index(flat, tuple(shape))]) if shape else "[]"
