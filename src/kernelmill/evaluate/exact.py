"""Integer and boolean outputs: equal to the reference's, but for elements that rounding decides.

`(x @ w > 0)` or an argmax rounds a sum and then compares it. Another order of the same sum is as right, and turns over
the elements that are nearer to the threshold than its rounding errors. Those are found by asking the fp64 reference
again with every input moved by as much, relative to itself, as such a sum may be off (backward errors, Higham,
Accuracy and Stability of Numerical Algorithms, 2002, section 1.5).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from kernelmill.evaluate.arrays import Array, HostTensor
from kernelmill.evaluate.mismatch import index_text

CHANCE = 1 / 8
"""Share of the elements that rounding may decide that may come out differently. The moves are larger than an honest
kernel's errors: of such elements, fp32 sums of 16 to 4096 terms of one sign turned over 1 to 5 % when summed in eight
lanes, and 5 to 27 % one after the other; of either sign, 1 % at most. All else of them is not rounding."""

FEW = 2
"""So many may always."""

HINT_SHARE = 1 / 64
"""Where no more elements are wrong than this share, they may be the ones near a threshold."""

MOVES = (1, 2)
"""Seeds of the moves; each is made both ways, so that one of the two crosses a threshold that is near enough."""

EXACT_FAMILIES = ("integers", "zeros")
"""Families in which no sum is rounded: all must agree, ties included."""

COUNT_SHARE = 1 / 64
"""A count that is off by less says something still."""


@dataclass(frozen=True)
class Reach:
    """Answers of the fp64 reference on inputs moved by `share` of themselves, over one output."""

    low: Array
    high: Array
    share: float


@dataclass(frozen=True)
class Wrong:
    """What is wrong about an integer or boolean output."""

    mask: NDArray[np.bool_]
    message: str


def reach(answers: Sequence[Array], share: float) -> Reach:
    """Least and largest answer an element. Shapes are those of the output."""
    return Reach(np.minimum.reduce(list(answers)), np.maximum.reduce(list(answers)), share)


def undecided(truth: Array, native: HostTensor) -> float:
    """Share of the elements that are others, by more than 1 part in 64 and by 1 at least, in fp64."""
    right, rounded = truth.astype(np.float64), native.view.astype(np.float64)
    return float(np.mean(np.abs(rounded - right) > np.abs(right) * COUNT_SHARE * (native.spec.dtype != "bool")))


def compare(found: HostTensor, truth: Array, native: HostTensor, ask: Callable[[], Reach | None]) -> Wrong | None:
    """Compare with the fp64 and the native reference; either is right.

    Args:
        ask: What moved inputs give; asked only where something differs. None where they cannot be moved: without
            floating inputs, and where arithmetic is exact anyway.
    """
    values, expected, right = (np.ascontiguousarray(a).reshape(-1) for a in (found.view, native.view, truth))
    differs = (values != expected) & (values != right)
    if not differs.any():
        return None
    reached = ask()
    if reached is None:
        return _wrong(differs, found, values, expected)
    low = np.minimum(np.minimum(reached.low.reshape(-1), right), expected)
    high = np.maximum(np.maximum(reached.high.reshape(-1), right), expected)
    wrong = differs & ~((low < high) & (low <= values) & (values <= high))
    turned = int(np.count_nonzero(low < high))
    told = f"{turned} elements change where inputs move by {reached.share:.1g} of themselves, and"
    if wrong.any():
        few = differs.sum() <= max(FEW, HINT_SHARE * differs.size)
        hint = f"; so few may be rounding of what is compared: {told} may differ, but these are others"
        return _wrong(wrong, found, values, expected, hint if few else "")
    if differs.sum() > max(FEW, CHANCE * turned):
        return _wrong(differs, found, values, expected, f"; {told} an eighth of those may differ")
    return None


def _wrong(mask: NDArray[np.bool_], found: HostTensor, values: Array, expected: Array, hint: str = "") -> Wrong:
    at = int(mask.argmax())
    message = (
        f"{int(mask.sum())} of {mask.size} {found.spec.dtype} elements are wrong; first at "
        f"{index_text(at, found.spec.shape)}: expected {expected[at]}, got {values[at]}{hint}"
    )
    return Wrong(mask.reshape(found.spec.shape), message)
