"""What KernelMill itself costs: start-up, compiling, screening, a full evaluation. Run on an idle machine.

    python benchmarks/costs.py [TASK.py ...]

Without tasks: the two of `kernelmill demo`. Prints one table; medians with their range.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from rich.console import Console
from rich.table import Table

from kernelmill.config import load_config
from kernelmill.evaluate.pipeline import Evaluator
from kernelmill.languages.cpp import Cpp
from kernelmill.optimize.workbench import Workbench
from kernelmill.propose.embedded import TRACER
from kernelmill.propose.embedded.cpp_printer import CppPrinter
from kernelmill.propose.embedded.ir import from_json
from kernelmill.propose.embedded.render import default_genome, render
from kernelmill.schema import Candidate, Passed, Task

ROOT = Path(__file__).parent.parent
DEMO = ("row_argmax.py", "rmsnorm_swiglu.py")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tasks", nargs="*", type=Path, default=[ROOT / "examples" / name for name in DEMO])
    table = Table("what", "target", "median", "least", "most", title="What KernelMill itself costs, in seconds")
    for name, argv in (
        ("import kernelmill", [sys.executable, "-c", "import kernelmill"]),
        ("kernelmill --help", [sys.executable, "-m", "kernelmill", "--help"]),
        ("kernelmill optimize --help", [sys.executable, "-m", "kernelmill", "optimize", "--help"]),
    ):
        _row(table, name, "0.3", _times(lambda argv=argv: subprocess.run(argv, check=True, capture_output=True), 9))
    with Workbench(load_config()) as bench:
        for path in parser.parse_args().tasks:
            task = bench.load_task(path)
            with bench.evaluator(task) as evaluator:
                _costs_of(table, task, evaluator)
    Console().print(table)


def _costs_of(table: Table, task: Task, evaluator: Evaluator) -> None:
    graph = from_json(evaluator.trace(TRACER))
    candidate = render([graph], default_genome([graph], task.contract.output_strides), CppPrinter())
    builder, signature = Cpp(), task.workloads[0].signature
    numbers = iter(range(1000))

    def build() -> None:
        fresh = Candidate(language="cpp", source=f"{candidate.source}\n// copy {next(numbers)} {time.time()}\n")
        builder.build(fresh, signature)

    build()
    _row(table, f"{task.name}: compile", "0.3", _times(build, 7))
    evaluator.evaluate(candidate, "full")  # starts oracle and baselines
    _row(table, f"{task.name}: screening beyond calls", "0.5", [_beyond(evaluator, candidate) for _ in range(5)])
    _row(table, f"{task.name}: full evaluation", "10", _times(lambda: evaluator.evaluate(candidate, "full"), 3))


def _beyond(evaluator: Evaluator, candidate: Candidate) -> float:
    """Seconds of a screening beyond the timed calls themselves."""
    found = evaluator.evaluate(candidate, "screening")
    if not isinstance(found, Passed):
        return float("nan")
    pairs = [c for r in found.results for c in r.comparisons]
    return found.seconds - 1e-6 * sum(sum(c.candidate_us) + sum(c.baseline_us) for c in pairs)


def _times(action: Callable[[], object], count: int) -> list[float]:
    found = []
    for _ in range(count):
        start = time.perf_counter()
        action()
        found.append(time.perf_counter() - start)
    return found


def _row(table: Table, name: str, target: str, seconds: list[float]) -> None:
    table.add_row(name, f"<= {target}", *(f"{f(seconds):.3f}" for f in (statistics.median, min, max)))


if __name__ == "__main__":
    main()
