"""Made-up verdicts."""

from __future__ import annotations

from kernelmill.schema import Accuracy, Comparison, Interval, Passed, WorkloadResult


def passed(ratio: float, level: str = "full") -> Passed:
    """A verdict with that speed-up over torch.compile, and a larger one over eager."""

    def against(name: str, factor: float) -> Comparison:
        middle = ratio * factor
        interval = Interval(ratio=middle, low=middle * 0.97, high=middle * 1.03, pairs=20)
        return Comparison(baseline=name, interval=interval, candidate_us=(100.0,), baseline_us=(100.0 * middle,))

    result = WorkloadResult(
        workload="main",
        accuracy=Accuracy(error=1e-7, native_error=1e-7, budget=4e-7, precision="fp32", cases=9),
        comparisons=(against("eager", 1.4), against("compile", 1.0)),
        time_us=100.0,
        floor_us=60.0,
        floor_bound="memory",
    )
    return Passed(level=level, tier="T1", results=(result,))
