"""Whether outputs are right: their structure, and their distance from the fp64 oracle.

Source of the policy: error against fp64 on the exact rounded inputs, measured by what the reference's own
precision costs there. Nothing is compared with a bare absolute tolerance.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from kernelmill.evaluate import exact
from kernelmill.evaluate.arrays import UNIT_ROUNDOFF, Array, HostTensor, to_float64
from kernelmill.evaluate.differences import Difference, Doubles, difference, largest_size, root_mean_square
from kernelmill.evaluate.exact import Reach
from kernelmill.evaluate.families import LEAST_NORMAL, real_dtype
from kernelmill.evaluate.mismatch import index_text, pattern
from kernelmill.evaluate.precision import NOMINAL, coarsest, effective_precision, excused_error, too_coarse
from kernelmill.schema import Accuracy, Contract, Failed, Precision, Stage, TensorSpec

LEAST_FINITE_SHARE = 1 / 8
MEANINGLESS_ERROR = 1e-2
UNDECIDED_SHARE = 1 / 8
SAMPLE = 65536
GROUP = 512
FORTUNATE = 8192
"""One sampled element in so many may be wrong for its size: where a row's mean happened to be exact in the native
reference, an honest one is not. Layer norm's own composite in torch had 1 or 2 such of 65028 with one seed in 16."""


@dataclass(frozen=True)
class _Native:
    """The right answer of one output and how far the reference in its own precision is from it."""

    difference: Difference
    rms: float
    largest: float
    """Magnitude."""


@dataclass(frozen=True)
class Case:
    """The right answer on some inputs."""

    oracle: Sequence[Array]
    """fp64 results, in logical shapes."""
    native: Sequence[HostTensor]
    """The reference's results in its own precision."""
    replay: str = ""
    """Family and seed, for messages."""
    reduction: int = 1
    """Terms of the longest sum, see `reduction_estimate`."""
    reach: Callable[[], Mapping[int, Reach]] = dict
    """Output -> what rounding may make of its integers or booleans; asked only where one differs."""
    seen: dict[int, _Native] = field(default_factory=dict, compare=False)
    """Output -> what was found out about its right answer; the same for every candidate."""


@dataclass(frozen=True)
class _Finding:
    """One output of one case."""

    error: float
    native_error: float
    budget: float
    precision: Precision
    failed: Failed | None = None


def structure(spec: Sequence[TensorSpec], got: Sequence[TensorSpec], contract: Contract) -> Failed | None:
    """Compare count, shape, dtype and, where the contract says so, strides of the outputs."""
    if len(got) != len(spec):
        return Failed(stage="structure", message=f"expected {len(spec)} outputs, got {len(got)}")
    for number, (right, found) in enumerate(zip(spec, got, strict=True)):
        for what in ("shape", "dtype"):
            if getattr(right, what) != getattr(found, what):
                message = f"output {number}: expected {_described(right)}, got {_described(found)}"
                return Failed(stage="structure", message=message)
        if contract.output_strides == "same" and _steps(right) != _steps(found):
            message = f"output {number}: expected strides {right.stride}, got {found.stride}"
            return Failed(stage="structure", message=message, clause="output_strides")
    return None


def _described(spec: TensorSpec) -> str:
    return f"{spec.shape} {spec.dtype}"


def _steps(spec: TensorSpec) -> list[int]:
    """Strides that matter: those of dims with more than one element."""
    return [step for size, step in zip(spec.shape, spec.stride, strict=True) if size > 1] if spec.numel else []


def meaningless(oracle64: Sequence[Array], native: Sequence[HostTensor]) -> str | None:
    """Why a case says nothing about a candidate, or None.

    Where the reference itself is mostly not finite, is off by more than 1e-2 of the output's rms, or has only integers
    and booleans of which an eighth are others in fp64, the family is skipped; on the task's own inputs it may not be.
    """
    undecided = []
    for number, (truth, tensor) in enumerate(zip(oracle64, native, strict=True)):
        dtype = real_dtype(tensor.spec.dtype)
        if truth.size == 0:
            continue
        if dtype is None:
            undecided.append(exact.undecided(truth, tensor))
            continue
        values, right = _reals(tensor), _real_truth(truth)
        found = difference(values, dtype, right)
        finite = 1.0 if found.finite else float(np.mean(np.isfinite(right) & np.isfinite(to_float64(values, dtype))))
        if finite < LEAST_FINITE_SHARE:
            return f"the reference is finite in {finite:.0%} of output {number}"
        error = found.rms / max(root_mean_square(right), LEAST_NORMAL[dtype])
        if error > MEANINGLESS_ERROR:
            return f"the reference's own error in output {number} is {error:.2g} of its rms"
    if len(undecided) == len(native) and min(undecided, default=0.0) > UNDECIDED_SHARE:
        return f"the reference's own rounding decides {min(undecided):.0%} of the output"
    return None


def accuracy(candidate: Sequence[HostTensor], contract: Contract, case: Case) -> tuple[Accuracy, Failed | None]:
    """Compare the outputs of one case with the fp64 oracle.

    An output passes where all of this holds:

    * NaN and infinities are where the reference has them in its own precision. Where that overflows but the
      oracle is finite, a finite value may stand as well, and is judged by the oracle.
    * rms(c - r) does not give away a coarser precision than the contract asks for.
    * max |c - r| / scale <= k * max(the same for the native reference, `excused_error`), over the whole
      output or by rows over `Contract.reduction_dims`; scale is the rms of the oracle.
    * Small values are not free: each is right to sqrt(u) of itself, or as near as 2k times the worst error
      the native reference makes on values of that size, or 4k times its median error on all.
    * Errors do not lean: the mean of (c - r) * sign(r) is explained by the native one's mean and spread; in fp32
      half of the native error's rms is no lean.
    * Integers and booleans equal the oracle's or the native reference's, but for a few that rounding decides.

    Args:
        candidate: Its outputs; structure has been checked.
        contract: Gives k (`error_factor`), `precision` and `reduction_dims`.
        case: Right answer, reduction length, words for messages.

    Returns:
        The worst output's figures, and the first failure.
    """
    outputs = zip(candidate, case.oracle, case.native, strict=True)
    findings = [_judge(number, *output, contract, case) for number, output in enumerate(outputs)]
    failed = next((f.failed for f in findings if f.failed), None)
    if not findings:
        return Accuracy(error=0, native_error=0, budget=0, precision="exact", cases=1), None
    worst = max(findings, key=lambda f: f.error / f.budget if f.budget else f.error)
    seen = Accuracy(
        error=worst.error,
        native_error=worst.native_error,
        budget=worst.budget,
        precision=coarsest([f.precision for f in findings]),
        cases=1,
    )
    return seen, failed


def _judge(
    number: int, found: HostTensor, truth: Array, native: HostTensor, contract: Contract, case: Case
) -> _Finding:
    if found.spec.numel == 0:
        return _Finding(0, 0, 0, "exact")
    dtype = real_dtype(found.spec.dtype)
    if dtype is None:
        return _judge_exact(number, found, truth, native, case)
    comparison = _Comparison(number, _reals(found), _real_truth(truth), _reals(native), dtype, contract, case)
    return comparison.finding()


def _judge_exact(number: int, found: HostTensor, truth: Array, native: HostTensor, case: Case) -> _Finding:
    wrong = exact.compare(found, truth, native, lambda: case.reach().get(number))
    if wrong is None:
        return _Finding(0, 0, 0, "exact")
    failed = _failure("numerics", f"output {number}: {wrong.message}", pattern(wrong.mask), case)
    return _Finding(float(wrong.mask.sum()), 0, 0, "none", failed)


def _failure(stage: Stage, message: str, note: str, case: Case) -> Failed:
    text = message + (f"; {note}" if note else "") + (f" ({case.replay})" if case.replay else "")
    clause = "precision" if stage == "precision" else None
    return Failed(stage=stage, message=text, clause=clause, replay=case.replay or None)


@dataclass
class _Comparison:
    """One floating output against the oracle."""

    number: int
    found: Array
    truth: Doubles
    native: Array
    dtype: str
    contract: Contract
    case: Case
    peak: float = 1.0
    excused: float = 0.0

    @property
    def factor(self) -> float:
        return self.contract.error_factor

    def _excused(self, precision: str) -> float:
        return excused_error(self.dtype, self.case.reduction, precision, self.peak)

    def finding(self) -> _Finding:
        """Run all checks."""
        ours, known, failed = difference(self.found, self.dtype, self.truth), self._known(), None
        if not (ours.finite and known.difference.finite):
            failed = self._nonfinite()  # changes the truth
            ours, known = difference(self.found, self.dtype, self.truth), self._about_native()
        rms, theirs = known.rms, known.difference
        scale = max(rms, LEAST_NORMAL[self.dtype])
        self.peak = known.largest / rms if rms else 1.0
        self.excused = self._excused(self.contract.precision)
        usual = max(self.factor * theirs.rms / scale, excused_error(self.dtype, self.case.reduction))
        precision = effective_precision(self.dtype, ours.rms / scale, usual)
        if self._by_rows():
            error, native_error, budget, wrong = self._rows()
        else:
            error, native_error = ours.largest / scale, theirs.largest / scale
            budget, wrong = self.factor * max(native_error, self.excused), None
        coarse = too_coarse(precision, self.dtype, self.contract.precision)
        if failed is None and (error > budget or coarse):
            failed = self._too_far(_Finding(error, native_error, budget, precision), wrong, coarse=coarse)
        failed = failed or self._small_values() or self._leaning(ours.lean, theirs.lean, theirs.rms, scale)
        return _Finding(error, native_error, budget, precision, failed)

    def _known(self) -> _Native:
        if self.number not in self.case.seen:
            self.case.seen[self.number] = self._about_native()
        return self.case.seen[self.number]

    def _about_native(self) -> _Native:
        apart = difference(self.native, self.dtype, self.truth)
        return _Native(apart, root_mean_square(self.truth), largest_size(self.truth))

    def _nonfinite(self) -> Failed | None:
        """Compare NaN and infinities; afterwards the truth is finite wherever the native reference is."""
        found, native = to_float64(self.found, self.dtype), to_float64(self.native, self.dtype)
        allowed = np.isfinite(found) & np.isfinite(self.truth) & ~np.isfinite(native)
        same = np.where(
            np.isfinite(native), np.isfinite(found), (found == native) | (np.isnan(found) & np.isnan(native))
        )
        wrong = ~(same | allowed)
        self.truth = np.where(np.isfinite(self.truth) | ~np.isfinite(native), self.truth, native)
        if not wrong.any():
            return None
        at = int(wrong.reshape(-1).argmax())
        message = (
            f"output {self.number}: {int(wrong.sum())} of {wrong.size} elements are finite where the reference is "
            f"not, or the reverse; first at {index_text(at, wrong.shape)}: expected {native.reshape(-1)[at]:.6g}, "
            f"got {found.reshape(-1)[at]:.6g}"
        )
        return _failure("numerics", message, pattern(wrong), self.case)

    def _by_rows(self) -> bool:
        dims = self.contract.reduction_dims
        return bool(dims) and all(-self.truth.ndim <= d < self.truth.ndim for d in dims or ())

    def _rows(self) -> tuple[float, float, float, NDArray[np.bool_]]:
        """Worst row's error, native error and budget, in units of the row's rms, and which elements are too far."""
        axes = tuple(self.contract.reduction_dims or ())
        finite = np.isfinite(self.truth)
        count = np.maximum(finite.sum(axis=axes, keepdims=True), 1)
        squares = np.square(np.where(finite, self.truth, 0.0)).sum(axis=axes, keepdims=True)
        scale = np.maximum(np.sqrt(squares / count), LEAST_NORMAL[self.dtype])
        ours = _distance(self.found, self.dtype, self.truth)
        theirs = _distance(self.native, self.dtype, self.truth)
        native_rows = theirs.max(axis=axes, keepdims=True) / scale
        tops = np.abs(np.where(finite, self.truth, 0.0)).max(axis=axes, keepdims=True)
        self.peak = float((tops / scale).max())
        self.excused = self._excused(self.contract.precision)
        # A row on which the native reference is exact by luck must not demand the same of everybody.
        usual = float(np.quantile(native_rows, 0.95))
        budget = self.factor * np.maximum(native_rows, max(self.excused, usual))
        rows = ours.max(axis=axes, keepdims=True) / scale
        worst = int((rows / budget).argmax())
        picked = (float(a.reshape(-1)[worst]) for a in (rows, native_rows, budget))
        error, native_error, allowed = picked
        return error, native_error, allowed, ours > budget * scale

    def _too_far(self, found: _Finding, wrong: NDArray[np.bool_] | None, *, coarse: bool) -> Failed:
        distance = _distance(self.found, self.dtype, self.truth)
        if wrong is None:
            wrong = distance > found.budget * max(root_mean_square(self.truth), LEAST_NORMAL[self.dtype])
        at = int(np.where(wrong, distance, -1.0).argmax()) if wrong.any() else int(distance.argmax())
        count = int(wrong.sum())
        message = (
            f"output {self.number}: {count} of {wrong.size} elements too far from the fp64 oracle; worst at "
            f"{index_text(at, wrong.shape)}: expected {self.truth.reshape(-1)[at]:.8g}, got {self._got(at)}; "
            f"error {found.error:.2g} of the output's rms, budget {found.budget:.2g} = {self.factor:g} x "
            f"max(native error {found.native_error:.2g}, {self.excused:.2g})"
        )
        note = pattern(wrong)
        if coarse and not note:
            asked = NOMINAL[self.dtype] if self.contract.precision == "native" else self.contract.precision
            message += f"; its rms is that of {found.precision}, the contract asks for {asked}"
        return _failure("precision" if coarse and not note else "numerics", message, note, self.case)

    def _got(self, at: int) -> str:
        return f"{float(to_float64(self.found.reshape(-1)[at : at + 1], self.dtype)[0]):.8g}"

    def _small_values(self) -> Failed | None:
        """Judge each of a sample by its own size; the native reference's worst in groups of like size is excused."""
        step = max(1, self.truth.size // SAMPLE) | 1
        truth = self.truth.reshape(-1)[::step]
        ours = _distance(self.found.reshape(-1)[::step], self.dtype, truth)
        theirs = _distance(self.native.reshape(-1)[::step], self.dtype, truth)
        size = np.abs(np.where(np.isfinite(truth), truth, 0.0))
        order = np.argsort(size, kind="stable")
        starts = np.arange(0, order.size, GROUP) if order.size >= GROUP else np.array([0])
        worst = np.maximum.reduceat(theirs[order], starts)
        usual = np.empty(order.size)
        usual[order] = np.repeat(worst, np.diff([*starts, order.size]))
        usual = np.maximum(usual, 2 * np.median(theirs))  # what cancels is off by as much as what does not
        # Where the contract allows a coarser precision, the reference's errors are scaled to what that costs.
        asked = self.contract.precision
        relaxed = excused_error(self.dtype, 1, asked) / excused_error(self.dtype, 1)
        roundoff = UNIT_ROUNDOFF[self.dtype] * relaxed
        flushed = 2.0**-24 if self.dtype == "float16" else LEAST_NORMAL[self.dtype]
        allowed = np.maximum(2 * self.factor * relaxed * usual, roundoff**0.5 * size) + flushed
        wrong = ours > allowed
        if wrong.sum() <= wrong.size // FORTUNATE:
            return None
        at = int((ours / allowed).argmax())
        message = (
            f"output {self.number}: {int(wrong.sum())} of {wrong.size} sampled elements are wrong for their size; "
            f"worst at {index_text(at * step, self.truth.shape)}: expected {truth[at]:.8g}, got "
            f"{self._got(at * step)}; the reference errs by {usual[at]:.2g} on values of that size"
        )
        return _failure("numerics", message, "", self.case)

    def _leaning(self, lean: float, native_lean: float, native_rms: float, scale: float) -> Failed | None:
        """Truncation instead of rounding, or a constant added: too small for the budget, but always one way."""
        chance = 4 * native_rms / float(np.sqrt(self.truth.size))
        half = UNIT_ROUNDOFF[self.dtype] if self.dtype in ("float16", "bfloat16") else 0.0
        coarse = self.contract.precision != "native" or not half
        # An ill-conditioned mean is off by much and alike in all rows: half of the reference's own noise is no sign of
        # truncation (instance norm of offset data: 16 % of it, with the noise of the reference itself).
        systematic = max(self.excused * self.factor / 2 * scale, native_rms / 2) if coarse else half / 4 * scale
        allowed = self.factor * max(abs(native_lean), chance) + systematic
        if abs(lean) <= allowed:
            return None
        way = "away from" if lean > 0 else "towards"
        message = (
            f"output {self.number}: errors lean {way} zero by {abs(lean) / scale:.2g} of the output's rms on average, "
            f"at most {allowed / scale:.2g} is chance; the reference's lean is {native_lean / scale:.2g}"
        )
        return _failure("numerics", message, "", self.case)


def _distance(values: Array, dtype: str, truth: Doubles) -> Doubles:
    """|values - truth|, 0 where either is not finite."""
    with np.errstate(invalid="ignore"):
        distance: Doubles = np.abs(to_float64(values, dtype) - truth)
    distance[~np.isfinite(distance)] = 0.0
    return distance


def _reals(tensor: HostTensor) -> Array:
    """Values in logical order; a complex tensor has its real and imaginary parts as a last dim."""
    values = np.ascontiguousarray(tensor.view).reshape(tensor.spec.shape)
    if np.iscomplexobj(values):
        return values.view(values.real.dtype).reshape(*tensor.spec.shape, 2)
    return values


def _real_truth(truth: Array) -> Doubles:
    if np.iscomplexobj(truth):
        return np.ascontiguousarray(truth, np.complex128).view(np.float64).reshape(*truth.shape, 2)
    return np.asarray(np.ascontiguousarray(truth, np.float64).reshape(truth.shape))
