"""How much error a dtype excuses, and which precision an error level gives away."""

from __future__ import annotations

import math
from collections.abc import Sequence

from kernelmill.evaluate.arrays import UNIT_ROUNDOFF
from kernelmill.schema import Precision, Signature

NOMINAL: dict[str, Precision] = {"float64": "fp64", "float32": "fp32", "float16": "fp16", "bfloat16": "bf16"}

_ROUNDOFF_OF_PRECISION = {"fp64": 2.0**-53, "fp32": 2.0**-24, "tf32": 2.0**-11, "fp16": 2.0**-11, "bf16": 2.0**-8}
_ROUNDOFF_OF_PRECISION["fp8"] = 2.0**-4

_ACCUMULATOR = {"float64": 2.0**-53, "float32": 2.0**-24, "float16": 2.0**-24, "bfloat16": 2.0**-24}
_ACCUMULATION_CAP = {"float64": 2.0**-42, "float32": 2.0**-16, "float16": 2.0**-16, "bfloat16": 2.0**-16}

# Bits of rms(error) / rms(truth). Rounding the operands of a product costs 2**-11.8 in tf32, 2**-8.8 in bf16
# and 2**-5.3 in fp8 (e4m3), rounding once 2**-12.3, 2**-9.3 and 2**-5.8; fp32 sums stay below 2**-17.
_LEAST_BITS: tuple[tuple[float, Precision], ...] = (
    (30.0, "fp64"),
    (15.0, "fp32"),
    (10.5, "tf32"),
    (7.0, "bf16"),
    (2.0, "fp8"),
)
_RANK: dict[str, int] = {"exact": 0, "fp64": 0, "fp32": 1, "tf32": 2, "fp16": 2, "bf16": 3, "fp8": 4, "none": 5}


def excused_error(dtype: str, reduction: int, precision: str = "native", peak: float = 1.0) -> float:
    """Error, relative to the output's rms, that any honest implementation in this dtype may have.

    Two roundings of the result, at the largest magnitude, plus those of a sum of n terms: sqrt(n), since rounding
    errors walk at random (Higham & Mary, SIAM J. Sci. Comput. 41(5), 2019), or n/4, which with k = 4 is the worst
    case n*u. Sequential sums reach it: 507 terms of 1.5 u each, added to 1, come out a third too small. The second
    part is capped at 2**-16, so that four times of it (6e-5) stays below what tf32 operands cost (5e-4 at least, as
    the largest of many errors).

    Args:
        dtype: Of the output.
        reduction: Terms of the longest sum.
        precision: `Contract.precision`; anything coarser than the dtype excuses its roundings instead.
        peak: Largest magnitude of the output over its rms.
    """
    terms = max(1, reduction)
    walk = min(max(math.sqrt(terms), terms / 4) * _ACCUMULATOR[dtype], _ACCUMULATION_CAP[dtype])
    roundoff = max(UNIT_ROUNDOFF[dtype], _ROUNDOFF_OF_PRECISION.get(precision, 0.0))
    return (2 * roundoff + walk) * max(1.0, peak)


def too_coarse(found: Precision, dtype: str, precision: str = "native") -> bool:
    """Whether an effective precision is below what the contract asks of this dtype."""
    least = _RANK[NOMINAL[dtype]]
    if precision in _RANK:
        least = max(least, _RANK[precision])
    return least < _RANK[found] < _RANK["none"]


def reduction_estimate(signature: Signature) -> int:
    """Terms of the longest sum, guessed from sizes: K of a matmul, N of a row sum, the longest dim of a norm.

    Each output element of a product of A and B with |C| elements uses sqrt(|A| |B| / |C|) terms of both;
    a plain reduction uses |A| / |C|; a softmax or a norm sums inside and shows it only in its dims.
    """
    sizes = sorted((tensor.numel for tensor in signature.tensors), reverse=True)
    outputs = [spec.numel for spec in signature.outputs if spec.numel]
    if not outputs or not sizes or sizes[0] == 0:
        return 1
    smallest = min(outputs)
    product = math.sqrt(sizes[0] * sizes[1] / smallest) if len(sizes) > 1 else 1.0
    longest = max((size for tensor in signature.inputs for size in tensor.shape), default=1)
    return max(1, round(product), sizes[0] // smallest, longest)


def effective_precision(dtype: str, error: float, usual: float) -> Precision:
    """The precision that an error level corresponds to.

    Args:
        dtype: Of the output.
        error: rms(candidate - truth) / rms(truth).
        usual: What the dtype excuses on this case, native error included; up to there the dtype's own name is given.
    """
    nominal = NOMINAL[dtype]
    if error <= usual:
        return nominal
    bits = -math.log2(error) if math.isfinite(error) else -math.inf
    found: Precision = next((name for least, name in _LEAST_BITS if bits >= least), "none")
    return found if _RANK[found] > _RANK[nominal] else nominal


def coarsest(found: Sequence[Precision]) -> Precision:
    """The coarsest of several; `exact` where all are integers or there is none."""
    return max(found, key=lambda name: (_RANK[name], name != "exact"), default="exact")
