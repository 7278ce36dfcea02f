"""A kernel against itself: the interval must hold 1.0. Run on an idle machine.

    python benchmarks/same_against_same.py [--runs 20] [TASK.py]

Eager plays both sides, as candidate (tier T2) and as baseline, each time in a fresh process on a fresh secret seed.
Prints every interval and how many hold 1.0; 95 % should.
"""

from __future__ import annotations

import argparse
import ast
from pathlib import Path

from rich.console import Console

from kernelmill.config import load_config
from kernelmill.optimize.workbench import Workbench
from kernelmill.schema import Candidate, Passed

ROOT = Path(__file__).parent.parent


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("task", nargs="?", type=Path, default=ROOT / "examples" / "gelu_bias_scale.py")
    parser.add_argument("--runs", type=int, default=20)
    arguments = parser.parse_args()
    candidate = Candidate(language="python", source=undecorated(arguments.task.read_text()))
    console, held, said = Console(), 0, 0
    config = load_config({"measure.compile_baseline": False})
    with Workbench(config) as bench:
        task = bench.load_task(arguments.task)
        for number in range(arguments.runs):
            with bench.evaluator(task) as evaluator:
                found = evaluator.evaluate(candidate, "full")
            interval = found.speedup() if isinstance(found, Passed) else None
            if interval is None:
                console.print(f"{number + 1:3}  no number: {found}")
                continue
            said += 1
            held += interval.low <= 1.0 <= interval.high
            text = f"{interval.ratio:.4f} [{interval.low:.4f}, {interval.high:.4f}]"
            console.print(f"{number + 1:3}  {text}  {interval.pairs} pairs, {interval.dropped} dropped")
    console.print(f"{held} of {said} intervals hold 1.0")


def undecorated(source: str) -> str:
    """The task's function without `@task`, as a candidate."""
    tree = ast.parse(source)
    kept = [n for n in tree.body if not (isinstance(n, ast.ImportFrom) and n.module == "kernelmill")]
    for node in kept:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            node.decorator_list = []
    return ast.unparse(ast.Module(kept, []))


if __name__ == "__main__":
    main()
