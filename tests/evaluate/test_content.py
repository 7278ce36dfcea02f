"""Content is secret, reproducible, legal, random in scale and sign, and never the same twice."""

from __future__ import annotations

from itertools import pairwise
from typing import get_args

import numpy as np
import pytest

from kernelmill.evaluate.arrays import HostTensor, from_float64, to_float64
from kernelmill.evaluate.content import ContentSource
from kernelmill.evaluate.families import facts
from kernelmill.schema import Contract, Family, Signature
from tests.evaluate.fakes import tensor

RNG = np.random.default_rng(3)
FAMILIES = get_args(Family)
OUT = tensor(np.zeros(1, np.float32), "out", role="output").spec


def source(tensors: list[HostTensor], state: list[HostTensor] | None = None, seed: bytes = b"s") -> ContentSource:
    held = state or []
    signature = Signature(arguments=tuple(t.spec for t in tensors), state=tuple(t.spec for t in held), outputs=(OUT,))
    return ContentSource(signature, [[*tensors, *held]], seed, Contract())


def layer() -> ContentSource:
    """A layer-norm-like task: positive input, indices, weight 1, bias 0, running variance 1, counter, causal mask."""
    inputs = [
        tensor(RNG.random((64, 96)).astype(np.float32)),
        tensor(RNG.integers(0, 50, 64), "labels", "int64"),
        tensor(np.array([0, 3, 9, 64]), "offsets", "int64"),
    ]
    state = [
        tensor(np.ones(96, np.float32), "weight", role="parameter"),
        tensor(np.zeros(96, np.float32), "bias", role="parameter"),
        tensor(np.ones(96, np.float32), "running_var", role="buffer"),
        tensor(np.array(7), "batches", "int64", role="buffer"),
        tensor(np.tril(np.ones((9, 9), np.float32)), "mask", role="buffer"),
    ]
    return source(inputs, state)


def floats(x: HostTensor) -> np.ndarray:
    return x.as_float64()


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_is_reproducible_and_differs_by_index_and_seed(family: Family) -> None:
    x = tensor(RNG.standard_normal((32, 33)).astype(np.float32))

    def drawn(seed: bytes, index: int) -> bytes:
        return source([x], [tensor(np.ones(5, np.float32), "w")], seed).case(family, index)[0].storage.tobytes()

    assert drawn(b"a", 1) == drawn(b"a", 1)
    if family != "zeros":
        assert drawn(b"a", 1) != drawn(b"a", 2)
        assert drawn(b"a", 1) != drawn(b"b", 1)


@pytest.mark.parametrize("family", FAMILIES)
def test_no_initial_value_of_a_parameter_survives(family: Family) -> None:
    weight, bias, variance = layer().case(family, 0)[3:6]
    assert np.unique(weight.storage).size > 1
    assert np.abs(weight.storage - 1).max() > 0.1
    assert np.abs(bias.storage).max() > 0
    assert variance.storage.min() > 0
    assert 0.2 < floats(weight).std() + abs(floats(weight).mean()) < 5


def test_masks_counters_and_sorted_offsets_are_left_alone() -> None:
    made = layer().case("normal", 5)
    assert made[2].storage.tolist() == [0, 3, 9, 64]
    assert made[6].storage.tolist() == [7]
    assert np.array_equal(made[7].view, np.tril(np.ones((9, 9))))


def test_integers_keep_their_values_but_not_their_places() -> None:
    task = layer()
    first, second = task.case("normal", 0)[1].storage, task.case("normal", 1)[1].storage
    assert sorted(first) == sorted(second)
    assert not np.array_equal(first, second)


def test_the_first_given_cases_are_the_generators_own_arguments() -> None:
    x = tensor(RNG.standard_normal((8, 8)).astype(np.float32))
    assert source([x]).case("given", 0)[0] is x
    assert not np.array_equal(source([x]).case("given", 1)[0].storage, x.storage)


def many(family: Family, count: int = 40, values: np.ndarray | None = None) -> list[np.ndarray]:
    given = tensor(RNG.random((16, 128)).astype(np.float32) if values is None else values)
    task = source([given])
    return [floats(task.case(family, i)[0]) for i in range(count)]


def test_normal_cases_vary_in_scale_and_cover_both_signs() -> None:
    scales = [x.std() for x in many("normal")]
    assert max(scales) / min(scales) > 8
    assert all(x.min() < 0 < x.max() for x in many("normal"))


def test_uniform_cases_stay_in_the_generators_range_with_another_mean_each() -> None:
    cases = many("uniform")
    assert all(x.min() >= 0 and x.max() <= 1 for x in cases)
    assert np.ptp([x.mean() for x in cases]) > 0.2


def test_offsets_of_both_signs_dwarf_the_spread() -> None:
    cases = many("offset")
    assert all(abs(x.mean()) > 1000 * x.std() for x in cases)
    assert {np.sign(x.mean()) for x in cases} == {-1.0, 1.0}


def test_near_constant_rows_break_the_textbook_variance() -> None:
    x = many("near_constant", 1)[0].astype(np.float32)
    honest = x.astype(np.float64).var(-1)
    naive = (x**2).mean(-1, dtype=np.float32) - x.mean(-1, dtype=np.float32) ** 2
    assert np.abs(naive / honest - 1).max() > 0.1


def test_log_scale_spans_many_octaves_and_spikes_stand_out_in_each_row() -> None:
    x = np.abs(many("log_scale", 1)[0])
    assert x.max() / x.min() > 2**20
    rows = np.abs(many("spike", 1)[0])
    assert (rows.max(-1) > 100 * np.median(rows, -1)).all()


def test_integers_are_exact_in_fp32_and_not_in_lower_precision() -> None:
    a, b = tensor(RNG.random((64, 512)).astype(np.float32), "a"), tensor(RNG.random((512, 64)).astype(np.float32), "b")
    left, right = (floats(t) for t in source([a, b]).case("integers", 0))
    assert np.array_equal(left, np.round(left))
    assert np.array_equal(right, np.round(right))
    product = left.astype(np.float32) @ right.astype(np.float32)
    assert np.array_equal(product, left @ right)
    wide = left if np.abs(left).max() > 2 else right
    as_bf16 = to_float64(from_float64(wide, "bfloat16"), "bfloat16")
    assert (as_bf16 != wide).mean() > 0.5


def test_special_families_hold_what_they_say() -> None:
    zeros, tiny, odd = (many(f, 1)[0] for f in ("zeros", "denormal", "nonfinite"))
    assert not zeros.any()
    assert 0 < np.abs(tiny).max() < 2.0**-126
    assert np.isnan(odd).any()
    assert np.isinf(odd).any()
    assert np.isfinite(odd).mean() > 0.99


@pytest.mark.parametrize("dtype", ["float64", "float32", "float16", "bfloat16", "complex64", "complex128"])
@pytest.mark.parametrize("family", [f for f in FAMILIES if f != "nonfinite"])
def test_every_dtype_gets_finite_values_of_its_own_kind(dtype: str, family: Family) -> None:
    values = RNG.random((7, 5))
    stored = from_float64(values, dtype) if dtype == "bfloat16" else values.astype(dtype)
    x = source([tensor(stored, dtype=dtype)]).case(family, 0)[0]
    assert x.storage.dtype == stored.dtype
    assert x.storage.size == 35
    assert np.isfinite(to_float64(x.storage, dtype) if dtype == "bfloat16" else x.storage).all()


def test_strided_broadcast_scalar_and_empty_inputs_are_filled() -> None:
    wide = tensor(RNG.random((4, 6)).astype(np.float32))
    spread = HostTensor(wide.spec.model_copy(update={"shape": (9, 6), "stride": (0, 1)}), wide.storage[:6])
    scalar, empty = tensor(np.array(2.0, np.float32)), tensor(np.empty((0, 4), np.float32))
    task = source([spread, scalar, empty])
    for family in FAMILIES:
        made = task.case(family, 1)
        assert [t.storage.size for t in made] == [6, 1, 0]
    assert [t.storage.size for t in task.fresh(0)] == [6, 1, 0]


@pytest.mark.parametrize("shape", [(1,), (3, 5), (100, 700)])
def test_no_two_timed_calls_share_content(shape: tuple[int, ...]) -> None:
    task = source([tensor(RNG.random(shape).astype(np.float32))])
    assert len({task.fresh(i)[0].storage.tobytes() for i in range(300)}) == 300


def test_fresh_content_stays_in_the_generators_range_and_is_reproducible() -> None:
    x = tensor(RNG.uniform(2, 5, (40, 50)).astype(np.float32))
    a, b = source([x]), source([x])
    for i in range(60):
        made = a.fresh(i)[0].storage
        assert made.min() > 1.99
        assert made.max() < 5.01
    assert np.array_equal(a.fresh(33)[0].storage, b.fresh(33)[0].storage)
    assert not np.array_equal(a.fresh(33)[0].storage, source([x], seed=b"t").fresh(33)[0].storage)


def test_the_given_tensors_are_never_written_to() -> None:
    values = RNG.random((30, 30)).astype(np.float32)
    x = tensor(values.copy())
    task = source([x])
    for i in range(50):
        task.fresh(i)
        task.case("given", i)
    assert np.array_equal(x.view, values)


def test_near_twins_differ_in_one_or_two_elements_and_share_their_ends() -> None:
    task = source([tensor(RNG.random((64, 64)).astype(np.float32))])
    twins = [(i, task.fresh(i)[0].storage, task.fresh(i - 1)[0].storage) for i in range(1, 120) if task.is_near(i)]
    assert 15 < len(twins) < 45
    for _, now, before in twins:
        assert 1 <= np.count_nonzero(now != before) <= 2
        assert (now[0], now[-1]) == (before[0], before[-1])
    kept = [abs(now.sum(dtype=np.float64) - before.sum(dtype=np.float64)) < 1e-9 for _, now, before in twins]
    assert any(kept), "some twins keep the sum"
    assert not all(kept), "some do not"


def test_small_state_is_new_in_every_call_and_large_state_in_every_eighth() -> None:
    x = tensor(RNG.random(8).astype(np.float32))
    small = source([x], [tensor(RNG.standard_normal(9).astype(np.float32), "w")])
    assert not any(np.array_equal(a[1].storage, b[1].storage) for a, b in pairwise(small.fresh(i) for i in range(9)))
    large = source([x], [tensor(RNG.standard_normal(1 << 19).astype(np.float32), "w")])
    states = [large.fresh(i)[1] for i in range(17)]
    assert all((a is b) == (i % 8 != 7) for i, (a, b) in enumerate(pairwise(states)))


def test_a_mask_with_infinities_is_kept_and_known() -> None:
    mask = np.triu(np.full((6, 6), -np.inf, np.float32), 1)
    assert facts([tensor(mask)]).kept
    made = source([tensor(mask), tensor(RNG.random((6, 6)).astype(np.float32))]).case("normal", 1)
    assert np.isneginf(made[0].storage).sum() == 15


def test_the_replay_text_does_not_give_the_seed_away() -> None:
    text = source([tensor(np.ones(2, np.float32))], seed=b"topsecret").replay("spike", 3)
    assert "family=spike index=3" in text
    assert "topsecret" not in text


def test_content_needs_a_given_set_that_fits() -> None:
    x = tensor(np.ones(3, np.float32))
    signature = Signature(arguments=(x.spec,), outputs=(OUT,))
    with pytest.raises(ValueError, match=r"one set of 1 tensors, got sets of \[\]"):
        ContentSource(signature, [], b"s", Contract())
    with pytest.raises(ValueError, match=r"got sets of \[2\]"):
        ContentSource(signature, [[x, x]], b"s", Contract())
