"""`kernelmill runs ...`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from kernelmill.cli._verb import Face, verb
from kernelmill.errors import UserError

app = typer.Typer(help="Runs of this folder: list, show, resume, compare, export.", no_args_is_help=True)

_WHOLE = "Limit for the whole run, what was spent included. [default: as before]"

RunId = Annotated[str, typer.Argument(metavar="RUN", help="A run's id, or the beginning of it.")]


@app.command("list")
@verb("paths.runs")
def list_runs(face: Face) -> int:
    """List the runs of this folder, oldest first."""
    from kernelmill import api
    from kernelmill.cli._text import run_data, runs_text

    found = api.runs(face.config())
    face.result(runs_text(found), [run_data(run) for run in found])
    return 0


@app.command("show")
@verb("paths.runs")
def show_run(face: Face, run: RunId) -> int:
    """Show one run: its result and every candidate."""
    from kernelmill import api
    from kernelmill.cli._text import run_data, run_text, trials_data, trials_text

    found = api.load_run(run, face.config())
    face.result(f"{run_text(found)}\n\n{trials_text(found)}", {**run_data(found), "candidates": trials_data(found)})
    return 0


@app.command("resume")
@verb("budget.trials", "budget.seconds", "paths.runs", trials=_WHOLE, seconds=_WHOLE)
def resume_run(face: Face, run: RunId) -> int:
    """Go on with a run that was interrupted. Or give a finished one more budget.

    \b
    Examples:
      kernelmill runs resume 20261121
      kernelmill runs resume 20261121 --seconds 600

    Exit code: as that of `kernelmill optimize`.
    """
    from kernelmill import api
    from kernelmill.cli._live import progress
    from kernelmill.cli._text import run_code, run_data, run_text
    from kernelmill.schema import BudgetLimits

    trials, seconds = face.settings["budget.trials"], face.settings["budget.seconds"]
    budget = BudgetLimits(trials=trials, seconds=seconds) if trials or seconds else None
    config = face.config()
    known = api.load_run(run, config)
    with progress(face, budget or known.info.limits, before=known.events) as on_event:
        found = api.resume(known.info.id, budget=budget, config=config, on_event=on_event)
    face.result(run_text(found), run_data(found))
    return run_code(found)


@app.command("compare")
@verb("paths.runs")
def compare_runs(
    face: Face, runs: Annotated[list[str], typer.Argument(metavar="RUN...", help="Two or more runs.")]
) -> int:
    """Put runs side by side: what each reached, at what cost."""
    from kernelmill import api
    from kernelmill.cli._text import run_data, runs_text

    if len(runs) < 2:
        raise UserError(f"a comparison needs at least two runs, got {len(runs)}: {runs[0]}")
    config = face.config()
    found = [api.load_run(run, config) for run in runs]
    face.result(runs_text(found), [run_data(run) for run in found])
    return 0


@app.command("export")
@verb("paths.runs")
def export_run(
    face: Face,
    run: RunId,
    to: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", help="Where the module goes. [default: best/ of the run]", show_default=False),
    ] = None,
) -> int:
    """Write the best kernel of a run as a module. And the report again."""
    from kernelmill import api

    module = api.export(run, to, config=face.config())
    face.result(str(module), {"module": str(module)})
    return 0
