"""`kernelmill optimize TASK`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from kernelmill.cli._verb import TASK_HELP, Face, plugin_names, verb


@verb("budget.trials", "budget.seconds", "searcher", "operator", "language", "seed", "measure.threads", "paths.runs")
def optimize(face: Face, task: Annotated[Path, typer.Argument(metavar="TASK", help=TASK_HELP)]) -> int:
    from kernelmill import api
    from kernelmill.cli._live import progress
    from kernelmill.cli._text import run_code, run_data, run_text

    config = face.config()
    with progress(face, config.budget) as on_event:
        run = api.optimize(task, config=config, on_event=on_event)
    face.result(run_text(run), run_data(run))
    return run_code(run)


optimize.__doc__ = f"""Search for a faster kernel of a task and export it. The best is measured again in fresh processes
on fresh data; what holds is written as a drop-in module, with a report.

\b
Examples:
  kernelmill optimize task.py
  kernelmill optimize task.py --seconds 60 --threads 1
  kernelmill optimize task.py --trials 20 -o json > result.json

\b
Searchers: {", ".join(plugin_names("kernelmill.search"))}.
Operators: {", ".join(plugin_names("kernelmill.propose"))}.
Languages: {", ".join(plugin_names("kernelmill.languages"))}.

Exit code: 0 faster than every baseline; 1 no gain; 2 the command or the task is wrong; 4 no compiler; 5 the machine
failed; 6 the budget ended before any kernel was right; 130 interrupted: `kernelmill runs resume` goes on.
"""
