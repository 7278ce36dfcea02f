"""`kernelmill evaluate TASK SOURCE`."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

from kernelmill.cli._verb import Face, verb


class Depth(str, Enum):
    """How much is checked."""

    smoke = "smoke"
    screening = "screening"
    full = "full"
    promotion = "promotion"


@verb("language", "measure.threads")
def evaluate(
    face: Face,
    task: Annotated[Path, typer.Argument(help="Task file: KernelBench's shape, or decorated with kernelmill.task.")],
    source: Annotated[Path, typer.Argument(help="The kernel.")],
    level: Annotated[Depth, typer.Option(help="How much is checked and how tightly it is timed.")] = Depth.full,
) -> int:
    """Check and time one kernel: is it right, is it honest, how fast is it?

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
