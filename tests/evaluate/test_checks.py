"""What the comparison with the oracle stops, and the honest twins it lets through."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kernelmill.evaluate import arrays
from kernelmill.evaluate.agreement import agree, tolerance
from kernelmill.evaluate.arrays import HostTensor, from_float64, to_float64
from kernelmill.evaluate.checks import Case, accuracy, meaningless, structure
from kernelmill.evaluate.precision import reduction_estimate
from kernelmill.schema import Accuracy, Contract, Failed, Signature, TensorSpec
from tests.evaluate.fakes import tensor

RNG = np.random.default_rng(0)
REPLAY = "family=normal index=0 seed=abc"
A64, B64 = (RNG.standard_normal(shape).astype(np.float32).astype(np.float64) for shape in ((96, 512), (512, 128)))
A32, B32 = A64.astype(np.float32), B64.astype(np.float32)
TRUTH = A64 @ B64
NATIVE = tensor(A32 @ B32)


def rounded(values: np.ndarray, bits: int) -> np.ndarray:
    """fp32 values rounded to so many significant bits: 11 tf32 and fp16, 8 bf16, 4 fp8."""
    fraction, exponent = np.frexp(values.astype(np.float64))
    return np.ldexp(np.round(fraction * 2**bits) / 2**bits, exponent).astype(np.float32)


def judge(
    candidate: HostTensor | np.ndarray,
    truth: np.ndarray = TRUTH,
    native: HostTensor = NATIVE,
    contract: Contract | None = None,
) -> tuple[Accuracy, Failed | None]:
    found = candidate if isinstance(candidate, HostTensor) else tensor(candidate)
    return accuracy([found], contract or Contract(), Case([truth], [native], REPLAY, reduction=512))


def test_another_order_of_the_same_sum_passes_as_fp32() -> None:
    split = sum(A32[:, i : i + 64] @ B32[i : i + 64] for i in range(0, 512, 64))
    seen, failed = judge(np.asarray(split, np.float32))
    assert failed is None
    assert seen.precision == "fp32"
    assert seen.error <= seen.budget


def test_a_sequential_sum_passes() -> None:
    out = np.zeros((96, 128), np.float32)
    for k in range(512):
        out += A32[:, k : k + 1] * B32[k]
    assert judge(out)[1] is None


@pytest.mark.parametrize(("bits", "name"), [(11, "tf32"), (8, "bf16"), (4, "fp8")])
def test_lower_precision_operands_are_named(bits: int, name: str) -> None:
    seen, failed = judge(rounded(A32, bits) @ rounded(B32, bits))
    assert failed is not None
    assert failed.stage == "precision"
    assert failed.clause == "precision"
    assert seen.precision == name
    assert name in failed.message


def test_three_tf32_products_in_place_of_one_pass_as_fp32() -> None:
    high_a, high_b = rounded(A32, 11), rounded(B32, 11)
    low_a, low_b = rounded(A32 - high_a, 11), rounded(B32 - high_b, 11)
    seen, failed = judge(high_a @ high_b + high_a @ low_b + low_a @ high_b)
    assert failed is None
    assert seen.precision == "fp32"


def test_a_contract_may_allow_tf32_and_still_refuses_bf16() -> None:
    contract = Contract(precision="tf32")
    seen, failed = judge(rounded(A32, 11) @ rounded(B32, 11), contract=contract)
    assert failed is None
    assert seen.precision == "tf32"
    assert judge(rounded(A32, 8) @ rounded(B32, 8), contract=contract)[1] is not None


@pytest.mark.parametrize("fill", [0.0, 1.0])
def test_constants_fail(fill: float) -> None:
    assert judge(np.full_like(NATIVE.view, fill))[1] is not None


def test_the_message_says_where_what_and_how_to_replay() -> None:
    wrong = NATIVE.view.copy()
    wrong[17, 4] += 1
    failed = judge(wrong)[1]
    assert failed is not None
    for part in ("output 0: 1 of 12288", "[17, 4]", f"{TRUTH[17, 4]:.8g}", "budget", "family=normal index=0"):
        assert part in failed.message
    assert failed.replay == REPLAY


@pytest.mark.parametrize(
    ("spoil", "note"),
    [
        (np.s_[-3:], "indices 93..95 of dim 0 (the last 3 of 96)"),
        (np.s_[:, :32], "indices 0..31 of dim 1 (the first 32 of 128)"),
        (np.s_[:, 1::2], "odd indices of dim 1"),
    ],
)
def test_skipped_work_is_recognised_by_its_shape(spoil: object, note: str) -> None:
    wrong = NATIVE.view.copy()
    wrong[spoil] = 0
    failed = judge(wrong)[1]
    assert failed is not None
    assert note in failed.message


SOFTMAX64 = np.exp(A64 * 3 - (A64 * 3).max(-1, keepdims=True))
SOFTMAX64 /= SOFTMAX64.sum(-1, keepdims=True)
SOFTMAX = tensor(SOFTMAX64.astype(np.float32))


def test_small_probabilities_are_not_free() -> None:
    flushed = np.where(SOFTMAX.view < 1e-7, 0, SOFTMAX.view).astype(np.float32)
    failed = judge(flushed, SOFTMAX64, SOFTMAX)[1]
    assert failed is not None
    assert "wrong for their size" in failed.message


def test_a_good_but_not_perfect_exponential_passes() -> None:
    off = (SOFTMAX.view * (1 + 6e-8 * RNG.standard_normal(SOFTMAX64.shape))).astype(np.float32)
    assert judge(off, SOFTMAX64, SOFTMAX)[1] is None


def test_zeros_fail_even_where_all_values_are_tiny() -> None:
    wide = np.full((8, 4096), 1 / 4096) * (1 + 0.1 * RNG.standard_normal((8, 4096)))
    assert judge(np.zeros(wide.shape, np.float32), wide, tensor(wide.astype(np.float32)))[1] is not None


def test_a_small_row_beside_large_ones_is_judged_by_its_own_size() -> None:
    truth = RNG.standard_normal((64, 256)) * np.geomspace(1e-6, 1e6, 64)[:, None]
    native = tensor(truth.astype(np.float32))
    wrong = native.view.copy()
    wrong[0] *= np.float32(1.0002)
    assert judge(wrong, truth, native)[1] is None, "0.02 % of a tiny row drowns in the whole tensor's scale"
    contract = Contract(reduction_dims=(-1,))
    failed = judge(wrong, truth, native, contract)[1]
    assert failed is not None
    assert "the first 1 of 64" in failed.message
    assert judge(native, truth, native, contract)[1] is None


def test_nan_is_no_wildcard() -> None:
    assert judge(np.full_like(NATIVE.view, np.nan))[1] is not None


def test_nan_and_infinities_must_stand_where_the_reference_has_them() -> None:
    truth = TRUTH.copy()
    truth[0, 0], truth[0, 1], truth[0, 2] = np.nan, np.inf, -np.inf
    native = tensor(np.where(np.isfinite(truth), NATIVE.view, truth).astype(np.float32))
    assert judge(native, truth, native)[1] is None
    swapped = native.view.copy()
    swapped[0, 1], swapped[0, 2] = -np.inf, np.inf
    failed = judge(swapped, truth, native)[1]
    assert failed is not None
    assert "[0, 1]: expected inf, got -inf" in failed.message
    silent = np.nan_to_num(native.view, posinf=1, neginf=1)
    assert judge(silent, truth, native)[1] is not None


def test_where_native_overflows_the_true_value_may_stand_and_a_wrong_one_may_not() -> None:
    native_values = NATIVE.view.copy()
    native_values[3, 3] = np.inf
    native = tensor(native_values)
    assert judge(NATIVE, TRUTH, native)[1] is None
    assert judge(native, TRUTH, native)[1] is None
    wrong = NATIVE.view.copy()
    wrong[3, 3] = 1e6
    assert judge(wrong, TRUTH, native)[1] is not None


def bf16(values: np.ndarray) -> HostTensor:
    return tensor(from_float64(values, "bfloat16"), dtype="bfloat16")


def test_bf16_results_are_judged_by_bf16_and_truncation_leans() -> None:
    truth = to_float64(from_float64(RNG.standard_normal(1 << 16), "bfloat16"), "bfloat16") * 1.01
    native = bf16(truth)
    assert judge(native, truth, native)[1] is None
    cut = truth.astype(np.float32).view(np.uint32) >> 16
    failed = judge(tensor(cut.astype(np.uint16), dtype="bfloat16"), truth, native)[1]
    assert failed is not None
    assert "lean towards zero" in failed.message


def test_a_shift_within_the_references_own_noise_is_no_truncation() -> None:
    truth = np.abs(RNG.standard_normal((64, 1024))) + 0.5
    native = tensor((truth + 4e-4 * RNG.standard_normal(truth.shape)).astype(np.float32))
    noisy = truth + 4e-4 * RNG.standard_normal(truth.shape)
    assert judge((noisy + 1e-4).astype(np.float32), truth, native)[1] is None
    failed = judge((noisy + 6e-4).astype(np.float32), truth, native)[1]
    assert failed is not None
    assert "lean away from zero" in failed.message


def test_fp8_dressed_as_bf16_is_refused() -> None:
    truth = RNG.standard_normal(1 << 14)
    seen, failed = judge(bf16(rounded(truth, 4).astype(np.float64)), truth, bf16(truth))
    assert failed is not None
    assert seen.precision == "fp8"


def test_integers_are_exact() -> None:
    right = np.arange(12, dtype=np.int64).reshape(3, 4)
    wrong = right.copy()
    wrong[2, 1] = 5
    native = tensor(right, dtype="int64")
    found = tensor(wrong, dtype="int64")
    failed = judge(found, right, native)[1]
    assert failed is not None
    assert "[2, 1]: expected 9, got 5" in failed.message
    assert judge(found, wrong, native)[1] is None, "the oracle itself has it"
    assert judge(native, right, native)[0].precision == "exact"


def test_complex_results_are_judged_by_their_parts() -> None:
    truth = TRUTH + 1j * TRUTH[::-1]
    native = tensor(truth.astype(np.complex64), dtype="complex64")
    assert judge(native, truth, native)[1] is None
    assert judge(tensor(truth.real.astype(np.complex64), dtype="complex64"), truth, native)[1] is not None


def test_a_transposed_result_is_read_in_logical_order() -> None:
    storage = np.ascontiguousarray(NATIVE.view.T)
    spec = TensorSpec(name="out", shape=(96, 128), dtype="float32", stride=(1, 96))
    assert judge(HostTensor(spec, storage.reshape(-1)))[1] is None


def test_an_empty_and_a_scalar_output_are_compared() -> None:
    empty = tensor(np.empty((0, 3), np.float32))
    assert judge(empty, np.empty((0, 3)), empty)[1] is None
    scalar = tensor(np.array(2.0, np.float32))
    assert judge(scalar, np.array(2.0), scalar)[1] is None
    assert judge(tensor(np.array(2.1, np.float32)), np.array(2.0), scalar)[1] is not None


OUT = TensorSpec(name="out", shape=(2, 3), dtype="float32", stride=(3, 1), role="output")


@pytest.mark.parametrize(
    ("got", "part"),
    [
        ([], "expected 1 outputs, got 0"),
        ([OUT, OUT], "expected 1 outputs, got 2"),
        ([OUT.model_copy(update={"shape": (1, 3)})], "expected (2, 3) float32, got (1, 3) float32"),
        ([OUT.model_copy(update={"dtype": "float16"})], "expected (2, 3) float32, got (2, 3) float16"),
        ([OUT.model_copy(update={"stride": (1, 2)})], "expected strides (3, 1), got (1, 2)"),
    ],
)
def test_structure_is_exact(got: list[TensorSpec], part: str) -> None:
    failed = structure([OUT], got, Contract(output_strides="same"))
    assert failed is not None
    assert part in failed.message


def test_strides_are_free_unless_the_contract_says_same_and_never_matter_for_size_one() -> None:
    assert structure([OUT], [OUT.model_copy(update={"stride": (1, 2)})], Contract()) is None
    row = OUT.model_copy(update={"shape": (1, 3)})
    same = Contract(output_strides="same")
    assert structure([row], [row.model_copy(update={"stride": (99, 1)})], same) is None


def test_cases_without_meaning_are_named() -> None:
    mostly = np.full(100, np.nan)
    mostly[:5] = 1
    assert "finite in 5%" in (meaningless([mostly], [tensor(mostly.astype(np.float32))]) or "")
    bias = np.full(64, 1e-9)
    assert "own error" in (meaningless([bias], [tensor(np.full(64, 1e-7, np.float32))]) or "")
    assert meaningless([TRUTH], [NATIVE]) is None


def test_the_reduction_length_is_guessed_from_sizes() -> None:
    a = TensorSpec(name="a", shape=(96, 512), dtype="float32", stride=(512, 1))
    b = TensorSpec(name="b", shape=(512, 128), dtype="float32", stride=(128, 1))
    c = TensorSpec(name="c", shape=(96, 128), dtype="float32", stride=(128, 1), role="output")
    assert reduction_estimate(Signature(arguments=(a, b), outputs=(c,))) == 512
    row = c.model_copy(update={"shape": (96,), "stride": (1,)})
    assert reduction_estimate(Signature(arguments=(a,), outputs=(row,))) == 512
    assert reduction_estimate(Signature(arguments=(a,), outputs=(a,))) == 512, "it may be a softmax"


def test_a_timed_call_agrees_with_the_baseline_or_is_named() -> None:
    seen, _ = judge(NATIVE)
    allowed = tolerance(seen, Contract())
    other = np.asarray(sum(A32[:, i : i + 64] @ B32[i : i + 64] for i in range(0, 512, 64)), np.float32)
    assert agree([tensor(other)], [NATIVE], allowed) is None
    other[9, 9] += 0.1
    failed = agree([tensor(other)], [NATIVE], allowed, 77)
    assert failed is not None
    assert "[9, 9]" in failed.message
    nan = NATIVE.view.copy()
    nan[5, 5] = np.nan
    assert agree([tensor(nan)], [NATIVE], allowed) is not None
    assert agree([tensor(nan)], [tensor(nan)], allowed) is None


@given(count=st.integers(1, 10**7), itemsize=st.sampled_from([1, 2, 4, 8]), part=st.integers(0, 2**62))
def test_pieces_are_within_the_tensor_and_hold_both_ends(count: int, itemsize: int, part: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(arrays, "WHOLE_BYTES", 1 << 16)
        found = arrays.pieces(count, itemsize, part)
        assert found == arrays.pieces(count, itemsize, part)
    assert found[0].start == 0
    assert found[-1].stop == count
    assert all(0 <= piece.start < piece.stop <= count for piece in found)
    assert len(found) == 1 or sum(piece.stop - piece.start for piece in found) * itemsize <= 66 * 4096


def test_one_changed_element_of_a_large_output_is_seen_when_all_are_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(arrays, "WHOLE_BYTES", 1 << 20)
    base = RNG.standard_normal(1 << 19).astype(np.float32)
    wrong = base.copy()
    wrong[345_678] += 1
    assert agree([tensor(wrong)], [tensor(base)], 1e-5) is not None
    assert agree([tensor(wrong)], [tensor(base)], 1e-5, 77) is None
    assert agree([tensor(-base)], [tensor(base)], 1e-5, 77) is not None
    stale = base.copy()
    stale[-1] += 1
    assert agree([tensor(stale)], [tensor(base)], 1e-5, 78) is not None, "both ends are always looked at"


def test_integers_of_a_timed_call_are_exact() -> None:
    right = np.arange(5)
    assert agree([tensor(right, dtype="int64")], [tensor(right, dtype="int64")], 1.0) is None
    assert agree([tensor(right[::-1], dtype="int64")], [tensor(right, dtype="int64")], 1.0) is not None
