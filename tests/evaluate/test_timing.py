"""Paired timing on synthetic clocks: honest sides, noise, drift, caches and liars."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import pytest

from kernelmill.evaluate.agreement import agree
from kernelmill.evaluate.arrays import HostTensor
from kernelmill.evaluate.content import ContentSource
from kernelmill.evaluate.intervals import verdict
from kernelmill.evaluate.roofline import Floor
from kernelmill.evaluate.timing import Flusher, Limits, compare
from kernelmill.schema import Comparison, Contract, Failed, Inconclusive, Signature
from tests.evaluate.fakes import FakeClock, FakeSide, instruments, tensor

X = tensor(np.linspace(-1, 1, 257, dtype=np.float32))
SIGNATURE = Signature(arguments=(X.spec,), outputs=(X.spec.model_copy(update={"role": "output"}),))


def content() -> ContentSource:
    return ContentSource(SIGNATURE, [[X]], b"secret", Contract())


def verify(_: Sequence[HostTensor], ours: list[HostTensor], theirs: list[HostTensor], index: int) -> Failed | None:
    return agree(ours, theirs, 1e-5)


def noisy(mean_s: float, seed: int, deviation: float = 0.02) -> Callable[[int], float]:
    rng = np.random.default_rng(seed)
    return lambda call: mean_s * math.exp(rng.normal(0, deviation))


def race(
    ours: Callable[[int], float], theirs: Callable[[int], float], limits: Limits | None = None, **candidate: object
) -> dict[str, Comparison] | Failed | Inconclusive:
    clock = FakeClock()
    a, b = FakeSide(1, clock, ours, **candidate), FakeSide(2, clock, theirs)
    return compare(a, {"eager": b}, content(), verify, limits or Limits.full(), instruments(clock))


def test_the_same_kernel_against_itself_covers_one_in_95_percent_of_runs() -> None:
    covered = 0
    for run in range(60):
        found = race(noisy(1e-3, run), noisy(1e-3, 1000 + run))["eager"].interval
        covered += found.low <= 1 <= found.high
    assert covered >= 54


def test_a_two_percent_slowdown_is_measured_and_is_no_verdict_of_slower() -> None:
    found = race(noisy(1.02e-3, 1, 0.01), noisy(1e-3, 2, 0.01))["eager"].interval
    assert found.high < 1.0
    assert found.ratio == pytest.approx(1 / 1.02, abs=0.01)
    assert verdict(found) == "same"


def test_linear_drift_cancels() -> None:
    clock = FakeClock()
    steps = iter(range(10_000))

    def slower_and_slower(_: int) -> float:
        return 1e-3 * (1 + 0.01 * next(steps))

    sides = [FakeSide(pid, clock, slower_and_slower) for pid in (1, 2)]
    limits = replace(Limits.promotion(), plan=replace(Limits.promotion().plan, looks=(40,)))
    found = compare(sides[0], {"eager": sides[1]}, content(), verify, limits, instruments(clock))["eager"].interval
    assert found.ratio == pytest.approx(1.0, abs=0.002)


def test_the_handshake_is_subtracted_from_both_sides() -> None:
    found = race(lambda _: 10e-6, lambda _: 30e-6)["eager"]
    assert found.interval.ratio == pytest.approx(3.0)
    assert found.candidate_us[0] == pytest.approx(10.0)


def test_a_screening_of_a_clear_case_ends_after_four_pairs() -> None:
    found = race(noisy(1e-3, 1), noisy(3e-3, 2), Limits.screening())["eager"].interval
    assert found.pairs == 4
    assert verdict(found) == "faster"


def test_spikes_in_one_call_of_eight_do_not_move_the_ratio() -> None:
    base = noisy(1e-3, 3)
    found = race(lambda call: base(call) * (5 if call % 8 == 3 else 1), noisy(1e-3, 4))["eager"].interval
    assert found.ratio == pytest.approx(1.0, abs=0.03)


def test_disturbed_pairs_are_dropped_and_counted() -> None:
    clock = FakeClock()
    base = noisy(1e-3, 5)
    ours = FakeSide(1, clock, lambda call: base(call) + (5e-3 if call % 3 == 0 else 0))
    ours.delay = lambda call: 4e-3 if call % 3 == 0 else 0.0
    theirs = FakeSide(2, clock, noisy(1e-3, 6))
    found = compare(ours, {"eager": theirs}, content(), verify, Limits.full(), instruments(clock))
    assert found["eager"].interval.dropped > 2
    assert found["eager"].interval.ratio == pytest.approx(1.0, abs=0.03)
    assert max(found["eager"].candidate_us) < 2000


def test_a_machine_that_is_always_busy_gives_no_number() -> None:
    clock = FakeClock()
    sides = [FakeSide(pid, clock, noisy(1e-3, pid), delay=lambda call: 1e-3) for pid in (1, 2)]
    found = compare(sides[0], {"eager": sides[1]}, content(), verify, Limits.screening(), instruments(clock))
    assert isinstance(found, Inconclusive)
    assert "0 undisturbed pairs" in found.reason
    assert "waited 1.00 ms for a CPU" in found.reason


def test_what_its_own_threads_wait_in_every_call_disturbs_nothing() -> None:
    clock = FakeClock()
    ours = FakeSide(1, clock, noisy(1e-3, 5), delay=lambda call: 4e-3 if call % 4 == 0 else 0.2e-3)
    theirs = FakeSide(2, clock, noisy(1e-3, 6))
    found = compare(ours, {"eager": theirs}, content(), verify, Limits.full(), instruments(clock))
    assert found["eager"].interval.pairs >= 8
    assert found["eager"].interval.dropped < found["eager"].interval.pairs


def test_no_two_calls_see_the_same_content_and_both_sides_see_the_same() -> None:
    clock = FakeClock()
    ours, theirs = FakeSide(1, clock, noisy(1e-3, 7)), FakeSide(2, clock, noisy(1e-3, 8))
    compare(ours, {"eager": theirs}, content(), verify, Limits.full(), instruments(clock))
    assert len(set(ours.seen)) == ours.calls
    assert ours.seen == theirs.seen


class _Caches:
    """Answers with what it gave for content with the same fingerprint."""

    def __init__(self, key: Callable[[np.ndarray], object]) -> None:
        self.key = key
        self.known: dict[object, np.ndarray] = {}

    def __call__(self, x: np.ndarray) -> np.ndarray:
        return self.known.setdefault(self.key(x), np.sin(x))


@pytest.mark.parametrize(
    "key", [lambda x: x.shape, lambda x: x.sum().round(2), lambda x: (x[0], x[-1])], ids=["shape", "sum", "ends"]
)
def test_a_cache_of_results_is_caught(key: Callable[[np.ndarray], object]) -> None:
    limits = replace(Limits.promotion(), plan=replace(Limits.promotion().plan, half_width=0.0))
    found = race(noisy(1e-6, 1), noisy(1e-3, 2), limits, run=_Caches(key))
    assert isinstance(found, Failed)
    assert found.stage == "integrity"


def test_warm_up_calls_are_verified_too() -> None:
    calls = iter(range(1000))
    found = race(noisy(1e-3, 1), noisy(1e-3, 2), run=lambda x: np.sin(x) if next(calls) else np.zeros_like(x))
    assert isinstance(found, Failed)


@pytest.mark.parametrize("share", [0.1, 1.9])
def test_a_child_whose_clock_tells_another_story_fails(share: float) -> None:
    found = race(noisy(1e-3, 1), noisy(1e-3, 2), child_share=share)
    assert isinstance(found, Failed)
    assert (found.stage, found.clause) == ("integrity", "clock")


def test_faster_than_the_device_is_implausible() -> None:
    floor = Floor(500.0, "memory")
    found = race(noisy(0.4e-3, 1), noisy(1e-3, 2), replace(Limits.full(), floor=floor))
    assert isinstance(found, Failed)
    assert found.stage == "implausible"
    assert not isinstance(race(noisy(0.6e-3, 1), noisy(1e-3, 2), replace(Limits.full(), floor=floor)), Failed)


def test_each_of_several_baselines_gets_its_own_interval_and_stops_by_itself() -> None:
    clock = FakeClock()
    ours = FakeSide(1, clock, noisy(1e-3, 1, 0.001))
    eager, compiled = FakeSide(2, clock, noisy(2e-3, 2, 0.1)), FakeSide(3, clock, noisy(1.5e-3, 3, 0.001))
    sides = {"eager": eager, "compile": compiled}
    found = compare(ours, sides, content(), verify, Limits.full(), instruments(clock))
    assert found["eager"].interval.ratio == pytest.approx(2.0, rel=0.1)
    assert found["compile"].interval.ratio == pytest.approx(1.5, rel=0.01)
    assert found["compile"].interval.pairs < found["eager"].interval.pairs
    assert compiled.calls < eager.calls


def test_time_up_ends_a_measurement() -> None:
    limits = replace(Limits.full(), seconds=0.05, plan=replace(Limits.full().plan, half_width=0.0))
    found = race(noisy(2e-3, 1), noisy(2e-3, 2), limits)["eager"].interval
    assert 8 <= found.pairs < 20


def test_slow_kernels_get_the_time_that_a_first_look_takes() -> None:
    limits = replace(
        Limits.screening(), seconds=10.0, patience_s=20.0, plan=replace(Limits.screening().plan, on_verdict=False)
    )
    assert race(noisy(2.0, 1), noisy(2.0, 2), limits)["eager"].interval.pairs == 4
    assert isinstance(race(noisy(20.0, 1), noisy(20.0, 2), limits), Inconclusive)


def test_without_a_baseline_there_is_nothing_to_compare() -> None:
    clock = FakeClock()
    with pytest.raises(ValueError, match="at least one baseline"):
        compare(FakeSide(1, clock, noisy(1, 1)), {}, content(), verify, Limits.full(), instruments(clock))


def test_the_flush_buffer_is_twice_the_cache_and_random() -> None:
    flusher = Flusher(1 << 20)
    assert flusher._buffer.nbytes == 2 << 20
    assert np.unique(flusher._buffer).size > 0.99 * flusher._buffer.size
    flusher()
