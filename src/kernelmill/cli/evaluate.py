"""`kernelmill evaluate TASK SOURCE`."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

from kernelmill.cli._verb import TASK_HELP, Face, verb


class Depth(str, Enum):
    """How much is checked."""

    smoke = "smoke"
    screening = "screening"
    full = "full"
    promotion = "promotion"


@verb("language", "measure.threads", language="What it is written in. [default: as its suffix says]")
def evaluate(
    face: Face,
    task: Annotated[Path, typer.Argument(metavar="TASK", help=TASK_HELP)],
    source: Annotated[Path, typer.Argument(metavar="SOURCE", help="The kernel: .cpp, or .py with a class ModelNew.")],
    level: Annotated[
        Depth,
        typer.Option(
            metavar="LEVEL", help="smoke: one case, not timed; screening: quick; full; promotion: held-out shapes too."
        ),
    ] = Depth.full,
) -> int:
    """Check and time one kernel. Is it right, is it honest, how fast is it?

    \b
    Examples:
      kernelmill evaluate task.py kernel.cpp
      kernelmill evaluate task.py model_new.py --level smoke -o json

    Exit code: 0 right and not slower than the best baseline; 1 wrong, slower or undecided; 2 the command or the task
    is wrong; 4 no compiler; 5 the machine failed, no verdict; 7 the kernel tampered with the measurement.
    """
    from kernelmill import api
    from kernelmill.cli._text import evaluation_code, evaluation_text

    config = face.config()
    language = face.settings["language"]
    found = api.evaluate(task, source, level=level.value, language=language, config=config)
    data = {"exit_code": evaluation_code(found), **found.model_dump(mode="json")}
    face.result(evaluation_text(found, verbose=face.verbose), data)
    return evaluation_code(found)
