"""Sides that live in the test's own process, on a clock that the test moves."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from kernelmill.evaluate.arrays import HostTensor
from kernelmill.evaluate.cells import Call
from kernelmill.evaluate.machine import CpuTimes, Reading, Watch
from kernelmill.evaluate.timing import Instruments
from kernelmill.schema import TensorSpec

HANDSHAKE_S = 40e-6


def tensor(values: Sequence[float] | np.ndarray, name: str = "x", dtype: str = "float32", **more: object) -> HostTensor:
    """A contiguous host tensor of some values."""
    array = np.ascontiguousarray(values)
    stride = tuple(s // array.itemsize for s in array.strides)
    return HostTensor(TensorSpec(name=name, shape=array.shape, dtype=dtype, stride=stride, **more), array.reshape(-1))


@dataclass
class FakeClock:
    """Seconds that pass only when told."""

    now: float = 0.0

    def __call__(self) -> float:
        return self.now


@dataclass
class FakeSide:
    """An implementation whose time is a function of how often it was called."""

    pid: int
    clock: FakeClock
    seconds: Callable[[int], float]
    run: Callable[[np.ndarray], np.ndarray] = np.sin
    child_share: float = 1.0
    calls: int = 0
    seen: list[bytes] = field(default_factory=list)
    delay: Callable[[int], float] = lambda call: 0.0
    """Seconds by which each call's threads were held up."""

    def load(self, tensors: Sequence[HostTensor]) -> None:
        self.inputs = tensors

    def call(self) -> Call:
        wall = self.seconds(self.calls)
        self.calls += 1
        values = self.inputs[0].storage
        self.seen.append(values.tobytes())
        self.result = self.run(values)
        self.clock.now += wall + HANDSHAKE_S
        return Call(wall + HANDSHAKE_S, wall * self.child_share, self.delay(self.calls - 1))

    def null_call(self) -> float:
        self.clock.now += HANDSHAKE_S
        return HANDSHAKE_S

    def outputs(self, part: int | None = None) -> list[HostTensor]:
        return [tensor(self.result, "out")]


class FakeWatch(Watch):
    """Counters of a machine on which nothing else happens."""

    def read(self, others: object) -> Reading:
        return Reading(0.0, CpuTimes(0.0, 0.0))


def instruments(clock: FakeClock, watch: Watch | None = None) -> Instruments:
    """No flush, no machine, the fake clock."""
    return Instruments(lambda: None, watch or FakeWatch(), clock)
