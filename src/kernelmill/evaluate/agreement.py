"""The cheap check of every timed call: the candidate against the eager baseline on the same fresh content."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from kernelmill.evaluate.arrays import Array, HostTensor, pieces, to_float64
from kernelmill.evaluate.differences import CHUNK
from kernelmill.evaluate.families import LEAST_NORMAL, real_dtype
from kernelmill.evaluate.mismatch import index_text
from kernelmill.schema import Accuracy, Contract, Failed


def tolerance(accuracy: Accuracy, contract: Contract) -> float:
    """How far two implementations may be apart, in units of the output's rms.

    Either may be off by its own budget: the candidate by k times max(native error, what is excused), the
    native reference by once that. `accuracy` should be that of the family `given`, whose distribution fresh
    content has.
    """
    return accuracy.budget * (contract.error_factor + 1) / contract.error_factor


def agree(
    candidate: Sequence[HostTensor], native: Sequence[HostTensor], allowed: float, part: int | None = None
) -> Failed | None:
    """Compare a timed call's outputs with the baseline's on the same content.

    A disagreement is a reason to ask the oracle, not yet a verdict: the baseline may be the inaccurate side, and
    an integer may be one of two right answers.

    Args:
        candidate: Outputs, structure already checked.
        native: The eager baseline's outputs.
        allowed: `tolerance`.
        part: Which `pieces` of large outputs are compared; both sides must have them laid out alike, without gaps.
    """
    for number, (ours, theirs) in enumerate(zip(candidate, native, strict=True)):
        if ours.spec.numel == 0:
            continue
        chosen = pieces(ours.storage.size, ours.storage.itemsize, part)
        if len(chosen) > 1:
            left, right = (np.concatenate([t.storage[piece] for piece in chosen]) for t in (ours, theirs))
        else:
            left, right = (np.ascontiguousarray(t.view).reshape(-1) for t in (ours, theirs))
        dtype = real_dtype(ours.spec.dtype)
        at = _unequal(left, right) if dtype is None else _apart(left, right, dtype, allowed)
        if at is not None:
            where = index_text(at, ours.spec.shape) if len(chosen) == 1 else "a place that was looked at"
            expected, got = (_shown(side[at], dtype) for side in (right, left))
            message = f"a timed call's output {number} differs from the baseline's at {where}: {expected}, got {got}"
            return Failed(stage="integrity", message=message)
    return None


def _unequal(left: Array, right: Array) -> int | None:
    wrong = left != right
    return int(wrong.argmax()) if wrong.any() else None


def _shown(value: np.generic, dtype: str | None) -> str:
    if dtype == "bfloat16":
        return f"{float(to_float64(np.array([value]), dtype)[0]):.8g}"
    return f"{value:.8g}" if dtype else str(value)


def _apart(left: Array, right: Array, dtype: str, allowed: float) -> int | None:
    """Flat index of an element that is too far apart, or None."""
    if np.iscomplexobj(left):
        at = _apart(left.view(left.real.dtype), right.view(right.real.dtype), dtype, allowed)
        return None if at is None else at // 2
    squares, largest, where, count = 0.0, 0.0, 0, 0
    for start in range(0, right.size, CHUNK):
        reference = _wide(right[start : start + CHUNK], dtype)
        apart = _wide(left[start : start + CHUNK], dtype) - reference
        square, top = float(np.dot(reference, reference)), float(np.abs(apart, out=apart).max())
        if not (np.isfinite(square) and np.isfinite(top)):
            odd = _nonfinite_mismatch(left[start : start + CHUNK], right[start : start + CHUNK], dtype)
            if odd is not None:
                return start + odd
            apart = np.where(np.isfinite(apart), apart, 0)
            finite = np.where(np.isfinite(reference), reference, 0).astype(np.float64)
            square, top = float(np.dot(finite, finite)), float(apart.max())
        squares, count = squares + square, count + reference.size
        if top > largest:
            largest, where = top, start + int(apart.argmax())
    scale = max(float(np.sqrt(squares / count)), LEAST_NORMAL[dtype])
    return where if largest > allowed * scale else None


def _nonfinite_mismatch(left: Array, right: Array, dtype: str) -> int | None:
    ours, theirs = to_float64(left, dtype), to_float64(right, dtype)
    same = np.where(np.isfinite(theirs), np.isfinite(ours), (ours == theirs) | (np.isnan(ours) & np.isnan(theirs)))
    return None if same.all() else int((~same).argmax())


def _wide(values: Array, dtype: str) -> Array:
    """In fp32 where that holds the values: the difference of near values is then exact (Sterbenz)."""
    return values if dtype == "float32" else to_float64(values, dtype)
