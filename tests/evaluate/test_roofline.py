"""Floors follow bytes, arithmetic, threads and the cache."""

from __future__ import annotations

import pytest

from kernelmill.devices import Description, Peaks
from kernelmill.evaluate.roofline import (
    Floor,
    bytes_moved,
    bytes_of,
    floor,
    floor_us,
    implausible,
    rates,
)
from kernelmill.schema import Signature, TensorSpec

PEAKS = Peaks(2e10, 1.8e10, 2.4e10, 1.5e10, 4e11, 1e11, 1e11)
DEVICE = Description("cpu", (0, 1, 2, 3), ("avx2",), {"l3": 32 << 20}, 1 << 34)


def vector(count: int, role: str = "input", dtype: str = "float32") -> TensorSpec:
    return TensorSpec(name="x", shape=(count,), dtype=dtype, stride=(1,), role=role)


def elementwise(count: int) -> Signature:
    return Signature(arguments=(vector(count),), outputs=(vector(count, "output"),))


def test_the_slower_of_memory_and_arithmetic_is_the_floor() -> None:
    assert floor_us(1e6, 1e6, 1e12, 1e9) == pytest.approx(1000.0)
    assert floor_us(1e9, 1e6, 1e12, 1e12) == pytest.approx(1000.0)


@pytest.mark.parametrize(("flops", "bandwidth"), [(0, 1e9), (1e9, -1)])
def test_peaks_must_be_positive(flops: float, bandwidth: float) -> None:
    with pytest.raises(ValueError, match="peaks must be positive"):
        floor_us(1, 1, flops, bandwidth)


def test_every_element_counts_once_and_a_broadcast_one_only_once() -> None:
    wide = TensorSpec(name="b", shape=(64, 8), dtype="float64", stride=(0, 1))
    assert bytes_of(wide) == 64
    weight = vector(10, "parameter", "bfloat16")
    signature = Signature(arguments=(vector(100), wide), state=(weight,), outputs=(vector(5, "output", "bool"),))
    assert bytes_moved(signature) == 400 + 64 + 20 + 5


def test_a_working_set_beyond_the_cache_moves_through_memory() -> None:
    limits = rates(PEAKS, DEVICE, 4)
    found = floor(elementwise(64 << 20), 0.0, limits)
    held, rest = 32 << 20, (512 << 20) - (32 << 20)
    assert found.bound == "memory"
    assert found.time_us == pytest.approx((held / 1e11 + rest / 2.4e10) * 1e6)


def test_a_working_set_within_the_cache_is_bounded_by_the_cache() -> None:
    small = floor(elementwise(1 << 20), 0.0, rates(PEAKS, DEVICE, 4))
    assert small.time_us == pytest.approx((8 << 20) / 1e11 * 1e6)


def test_arithmetic_can_be_the_bound() -> None:
    found = floor(elementwise(1 << 10), 4e8, rates(PEAKS, DEVICE, 4))
    assert found == Floor(pytest.approx(1000.0), "compute")


def test_one_thread_has_lower_limits_than_all() -> None:
    one, four = rates(PEAKS, DEVICE, 1), rates(PEAKS, DEVICE, 4)
    assert one.flops == 1e11
    assert one.memory_bytes == pytest.approx(2.4e10 * 0.75)
    assert one.cache_bytes == pytest.approx(0.5e11)
    assert four.memory_bytes == 2.4e10


def test_doubles_have_half_the_rate_and_halves_none_where_a_matrix_unit_is() -> None:
    assert rates(PEAKS, DEVICE, 4, "float64").flops == 2e11
    assert rates(PEAKS, DEVICE, 4, "bfloat16").flops == 4e11
    amx = Description("cpu", (0,), ("amx_bf16",), {}, 1)
    assert rates(PEAKS, amx, 4, "bfloat16").flops == float("inf")


def test_plausibility() -> None:
    least = Floor(100.0, "memory")
    assert implausible(91.0, least) is None
    assert "cannot do it in less than 100 us (memory)" in (implausible(80.0, least) or "")
