"""Speed-ups of complete runs over eager mode and torch.compile: the examples and the tasks beside this file.

    python benchmarks/headroom.py --seconds 60 --output headroom.json

Every figure is what promotion measured. A kernel that is right but no gain over the fastest baseline is in the table
with its figures; the second pair of means keeps the fastest baseline in its place: 1 against the best, and against
eager what that baseline reaches. `already_optimal` is the control: no kernel should win there.
Run it on a machine that does nothing else; the load is printed with the result.
"""

from __future__ import annotations

import json
import os
from math import exp, log
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from kernelmill import api
from kernelmill.config import RunConfig, load_config
from kernelmill.errors import KernelMillError
from kernelmill.export.record import Run
from kernelmill.schema import Comparison, Interval, Measured, WorkloadResult

HERE = Path(__file__).parent
TASKS = sorted(HERE.joinpath("tasks").glob("*.py")) + sorted(HERE.parent.joinpath("examples").glob("*.py"))
COLUMNS = ("task", "eager ms", "compile ms", "ours ms", "vs eager", "vs best", "floor", "claims")


def milliseconds(samples: tuple[float, ...]) -> float:
    """Median of timed calls."""
    return sorted(samples)[len(samples) // 2] / 1000


def spread(interval: Interval | None) -> dict[str, float] | None:
    """An interval as plain numbers."""
    return None if interval is None else {"ratio": interval.ratio, "low": interval.low, "high": interval.high}


def row_of(path: Path, run: Run) -> dict[str, Any]:
    """What one run found, as plain data; times of the first workload."""
    row: dict[str, Any] = {"task": f"{path.parent.name}/{path.stem}", "run": run.info.id, "stopped": run.stopped}
    row |= {"trials": sum(isinstance(e, Measured) for e in run.events), "headline": run.headline}
    found = run.evaluation or run.no_gain
    if found is None:
        return row | {"eager": None, "best": None, "claims": [], "held": False}
    result: WorkloadResult = found.results[0]
    named: dict[str, Comparison] = {c.baseline: c for c in result.comparisons}
    return row | {
        "eager": spread(found.speedup("eager")),
        "best": spread(found.speedup()),
        "held": run.evaluation is not None,
        "milliseconds": {name: milliseconds(c.baseline_us) for name, c in named.items()},
        "ours_ms": None if result.time_us is None else result.time_us / 1000,
        "floor": result.floor_us / result.time_us if result.floor_us and result.time_us else None,
        "claims": list(run.best.claims) if run.best else ["no gain: the baseline is kept"],
    }


def geomean(ratios: list[float]) -> float:
    """Geometric mean; 1 of nothing."""
    return exp(sum(map(log, ratios)) / len(ratios)) if ratios else 1.0


def of_kernels(row: dict[str, Any]) -> tuple[float, float]:
    """Measured speed-up over eager and over the best baseline; 1 where nothing was right."""
    return (row["eager"]["ratio"], row["best"]["ratio"]) if row["best"] else (1.0, 1.0)


def of_returned(row: dict[str, Any]) -> tuple[float, float]:
    """The same of what the user ends with."""
    eager, best = of_kernels(row)
    return (eager, best) if row["held"] else (max(1.0, eager / best), 1.0)


def shown(row: dict[str, Any]) -> list[str]:
    """A row of the table."""
    if "error" in row:
        return [row["task"], *[""] * 5, "", f"refused: {row['error']}"]
    if row["best"] is None:
        return [row["task"], "", "", "", "1", "1", "", row["headline"]]
    times = row["milliseconds"]
    ratio = "{ratio:.2f} [{low:.2f}, {high:.2f}]"
    return [
        row["task"],
        f"{times['eager']:.3f}" if "eager" in times else "",
        f"{times['compile']:.3f}" if "compile" in times else "",
        f"{row['ours_ms']:.3f}",
        ratio.format(**row["eager"]) if row["eager"] else "",
        ratio.format(**row["best"]),
        f"{row['floor']:.0%}" if row["floor"] else "",
        ", ".join(row["claims"]),
    ]


def one(path: Path, config: RunConfig) -> dict[str, Any]:
    """A whole run of one task; what made it impossible, if anything did."""
    try:
        run = api.optimize(path, config=config)
        if run.interrupted:
            raise KeyboardInterrupt
        return row_of(path, run)
    except KernelMillError as error:
        return {"task": f"{path.parent.name}/{path.stem}", "error": str(error)}


def main(
    seconds: Annotated[float, typer.Option(help="Budget per task.")] = 60.0,
    trials: Annotated[int | None, typer.Option(help="Most candidates per task.")] = None,
    only: Annotated[str, typer.Option(help="Only tasks whose path contains this.")] = "",
    output: Annotated[Path, typer.Option(help="Where the figures go as JSON.")] = Path("headroom.json"),
    runs: Annotated[Path, typer.Option(help="Folder for the logs of the runs.")] = Path(".kernelmill"),
) -> None:
    """Optimise every task and print what promotion measured."""
    console = Console()
    flags = {"budget.seconds": seconds, "budget.trials": trials, "paths.runs": str(runs)}
    config = load_config(flags)
    rows = []
    for path in [p for p in TASKS if only in str(p)]:
        rows.append(one(path, config))
        console.print("  ".join(shown(rows[-1])), highlight=False)
        output.write_text(json.dumps({"load": os.getloadavg(), "seconds": seconds, "rows": rows}, indent=1))
    table = Table(*COLUMNS)
    for row in rows:
        table.add_row(*shown(row))
    console.print(table)
    measured = [r for r in rows if "error" not in r]
    for what, ratios in (("of the kernels", of_kernels), ("of what is returned", of_returned)):
        means = [geomean([ratios(r)[i] for r in measured]) for i in range(2)]
        console.print(f"{what}: {means[0]:.2f}x eager, {means[1]:.2f}x the best baseline ({len(measured)} tasks)")


if __name__ == "__main__":
    typer.run(main)
