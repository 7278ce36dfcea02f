"""Distributions of floating inputs, and what the task's own generator shows of its tensors."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kernelmill.evaluate.arrays import STORAGE, UNIT_ROUNDOFF, Array, HostTensor, from_float64, to_float64
from kernelmill.schema import Family

Reals = NDArray[Any]

REAL_OF = {"complex64": "float32", "complex128": "float64"}
"""A complex tensor is drawn as twice as many reals."""

LARGEST = {"float64": 1e300, "float32": 3e38, "float16": 6.0e4, "bfloat16": 3e38}
"""Finite values are kept below this, so that rounding never makes an infinity."""

LEAST_NORMAL = {"float64": 2.0**-1022, "float32": 2.0**-126, "float16": 2.0**-14, "bfloat16": 2.0**-126}

WIDEST_INTEGER = {"float64": 2**30 - 1, "float32": 4095, "float16": 255, "bfloat16": 255}
"""Integers of the `integers` family: odd ones above 2**11 do not survive tf32 (11 significant bits), nor bf16,
and 4095 * 2 * sqrt(n) < 2**24 for sums of up to 4 million signed terms, so fp32 is exact."""

BLOCK = 4_000_037
"""Longer tensors repeat a block of this odd length: drawing 2**22 normals takes 40 ms, a copy 2 ms (Zen 3)."""


def real_dtype(dtype: str) -> str | None:
    """The real floating dtype that a tensor's storage consists of; None for integers and booleans."""
    name = REAL_OF.get(dtype, dtype)
    return name if name in UNIT_ROUNDOFF else None


def real_storage(tensor: HostTensor) -> Array:
    """The storage of a floating or complex tensor as reals; shares its memory."""
    return tensor.storage.view(STORAGE[REAL_OF[tensor.spec.dtype]]) if tensor.spec.dtype in REAL_OF else tensor.storage


@dataclass(frozen=True)
class Facts:
    """What the task's own generator shows of one floating tensor, over all sets it gave."""

    low: float
    high: float
    mean: float
    deviation: float
    kept: bool
    """It has non-finite values or just two distinct ones: a mask, whose values carry meaning. Never replaced."""

    @property
    def scale(self) -> float:
        """Root mean square, 1 where the tensor is all zero."""
        return float(np.hypot(self.mean, self.deviation)) or 1.0

    @property
    def hull(self) -> tuple[float, float]:
        """Least interval that holds the generator's values; widened where they are all the same."""
        if self.low < self.high:
            return self.low, self.high
        return (
            (-1.0, 1.0) if self.low == 0 else (min(0.5 * self.low, 1.5 * self.low), max(0.5 * self.low, 1.5 * self.low))
        )


def facts(tensors: Sequence[HostTensor]) -> Facts:
    """Range and spread of the same floating tensor in several sets.

    Minimum and maximum are over all elements; mean and deviation over at most 65536 of each set.
    """
    lows, highs, samples, kept = [], [], [], False
    for tensor in tensors:
        storage = real_storage(tensor)
        if storage.size == 0:
            continue
        sample = to_float64(storage[:: max(1, storage.size // 65536)], real_dtype(tensor.spec.dtype) or "float64")
        whole = sample if storage.size == sample.size else to_float64(storage, real_dtype(tensor.spec.dtype) or "")
        lows.append(float(whole.min()))
        highs.append(float(whole.max()))
        samples.append(sample)
        kept = kept or not np.isfinite(lows[-1] + highs[-1])
    if not samples or kept:
        return Facts(0.0, 0.0, 0.0, 0.0, kept)
    pool = np.concatenate(samples)
    low, high = min(lows), max(highs)
    mask = pool.size >= 4 and low < high and bool(np.all((pool == low) | (pool == high)))
    return Facts(low, high, float(pool.mean()), float(pool.std()), mask)


@dataclass(frozen=True)
class Draw:
    """What to draw: `count` reals of `dtype`, rows of `row` where structure goes by rows."""

    count: int
    row: int
    dtype: str
    facts: Facts
    rng: np.random.Generator
    wide: bool = True
    """In `integers`: whether this tensor takes the integers that lower precisions cannot hold."""

    def normals(self) -> Reals:
        """Standard normal values."""
        if self.dtype == "float64":
            return self.rng.standard_normal(self.count)
        return self.rng.standard_normal(self.count, dtype=np.float32)

    def uniforms(self) -> Reals:
        """Uniform values in [0, 1)."""
        if self.dtype == "float64":
            return self.rng.random(self.count)
        return self.rng.random(self.count, dtype=np.float32)

    def sign(self) -> float:
        """-1 or 1."""
        return float(1 - 2 * self.rng.integers(2))

    def factor(self, octaves: float) -> float:
        """Log-uniform factor in [2**-octaves, 2**octaves]."""
        return float(2.0 ** self.rng.uniform(-octaves, octaves))

    def block(self) -> Draw:
        """The same for the values that are drawn; longer tensors repeat them."""
        return replace(self, count=min(self.count, BLOCK))


def _normal(draw: Draw) -> Reals:
    scale = draw.facts.scale * draw.factor(3)
    values: Reals = draw.normals() * scale + scale * draw.rng.uniform(-1, 1)
    return values


def _uniform(draw: Draw) -> Reals:
    """Over a random part of the generator's own range: legal wherever the task is, yet the mean moves."""
    low, high = draw.facts.hull
    width = (high - low) * draw.rng.uniform(0.25, 1.0)
    start = low + (high - low - width) * draw.rng.uniform()
    return np.clip(draw.uniforms() * width + start, low, high)


def _log_scale(draw: Draw) -> Reals:
    octaves = 6.0 if draw.dtype == "float16" else 13.0
    magnitude = np.exp2((2 * draw.uniforms() - 1) * octaves) * (draw.facts.scale * draw.factor(1))
    flip = draw.uniforms() < 0.5
    np.negative(magnitude, out=magnitude, where=flip)
    return magnitude


def _offset(draw: Draw) -> Reals:
    """A common offset that costs half of the significant bits (2**12 deviations in fp32)."""
    scale = draw.facts.scale * draw.factor(1)
    ratio = min(UNIT_ROUNDOFF[draw.dtype] ** -0.5, 2.0**13)
    values: Reals = draw.normals() * scale + draw.sign() * scale * ratio
    return values


def _near_constant(draw: Draw) -> Reals:
    """A value whose relative variation is the root of the unit roundoff: E[x^2] - E[x]^2 has no digit left."""
    value = draw.sign() * draw.facts.scale * draw.factor(2)
    values: Reals = value * (1 + draw.normals() * max(UNIT_ROUNDOFF[draw.dtype] ** 0.5, 2.0**-13))
    return values


def _spike(draw: Draw) -> Reals:
    """One large element in each row over small noise."""
    values = draw.normals() * (draw.facts.scale * 1e-3)
    starts = np.arange(0, draw.count, max(1, draw.row))
    ends = np.minimum(starts + max(1, draw.row), draw.count)
    values[draw.rng.integers(starts, ends)] = draw.sign() * draw.facts.scale * draw.factor(4) * 16
    return values


def _integers(draw: Draw) -> Reals:
    """Exact small integers; the wide tensor's are odd and need more bits than the next lower precision has."""
    if not draw.wide:
        small: Reals = np.floor(draw.uniforms() * 5) - 2
        return small
    top = WIDEST_INTEGER[draw.dtype]
    odd: Reals = 2 * np.floor(draw.uniforms() * (top // 4)) + top // 2 + (top // 2 + 1) % 2
    np.negative(odd, out=odd, where=draw.uniforms() < 0.5)
    return odd


def _zeros(draw: Draw) -> Reals:
    return np.zeros(draw.count, np.float64 if draw.dtype == "float64" else np.float32)


def _denormal(draw: Draw) -> Reals:
    values: Reals = (2 * draw.uniforms() - 1) * LEAST_NORMAL[draw.dtype]
    return values


def _nonfinite(draw: Draw) -> Reals:
    """Mostly normal; a few NaN and infinities."""
    values = draw.normals() * draw.facts.scale
    where = draw.rng.integers(draw.count, size=max(1, min(6, draw.count // 64)))
    values[where] = np.resize(np.array([np.nan, np.inf, -np.inf], values.dtype), where.size)
    return values


_DRAWS: dict[Family, Callable[[Draw], Reals]] = {
    "normal": _normal,
    "uniform": _uniform,
    "log_scale": _log_scale,
    "offset": _offset,
    "near_constant": _near_constant,
    "spike": _spike,
    "integers": _integers,
    "zeros": _zeros,
    "denormal": _denormal,
    "nonfinite": _nonfinite,
}


def draw_reals(family: Family, draw: Draw) -> Array:
    """Storage values of one tensor in one family, rounded to its dtype. KeyError for `given`."""
    if draw.count == 0:
        return np.empty(0, STORAGE[draw.dtype])
    return _repeated(round_to(_DRAWS[family](draw.block()), draw.dtype), draw.count)


def _repeated(values: Array, count: int) -> Array:
    return values if values.size == count else np.resize(values, count)


def draw_state(draw: Draw, family: Family) -> Array:
    """Values for a parameter or a buffer: about the given scale, so that deep nets do not blow up.

    What initialisation leaves all equal (norm weights 1, biases 0) never survives; what is nowhere negative
    (running variances) stays positive; in the family `integers` the values are integers times a power of two.
    """
    if draw.count == 0:
        return np.empty(0, STORAGE[draw.dtype])
    return _repeated(round_to(_state_values(draw.block(), family), draw.dtype), draw.count)


def _state_values(draw: Draw, family: Family) -> Reals:
    known = draw.facts
    positive = known.low >= 0 and known.high > 0
    spread = known.deviation or (0.25 * abs(known.mean) or 0.1)
    if family == "integers":
        values = np.floor(draw.uniforms() * 5) - 2
        values = np.abs(values) + 1 if positive else values
        values = values * 2.0 ** float(np.round(np.log2(known.scale if known.scale != 1.0 or known.high else 0.125)))
    elif positive:
        values = known.scale * np.exp2(draw.normals().clip(-2, 2) * 0.5)
    else:
        values = known.mean + spread * draw.factor(0.5) * (draw.uniforms() * 2 - 1) * 3.0**0.5
    return np.asarray(values)


def round_to(values: Reals, dtype: str) -> Array:
    """Values rounded to a real floating dtype's storage; finite ones stay finite."""
    top = LARGEST[dtype]
    if dtype == "bfloat16":
        return from_float64(np.asarray(values, np.float64), dtype)
    if dtype == "float16":
        values = np.where(np.isfinite(values), np.clip(values, -top, top), values)
    return np.asarray(values).astype(STORAGE[dtype], copy=False)
