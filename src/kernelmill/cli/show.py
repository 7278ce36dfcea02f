"""`kernelmill show TASK`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from kernelmill.cli._verb import TASK_HELP, Face, verb


@verb("language", "measure.threads", language="What the skeleton is written in. [default: cpp]")
def show(
    face: Face,
    task: Annotated[Path, typer.Argument(metavar="TASK", help=TASK_HELP)],
    *,
    program: Annotated[
        bool, typer.Option("--program", help="Also the program that would be generated first, step by step.")
    ] = False,
) -> int:
    """Say what a task computes, moves and allows. The last part is the skeleton of a kernel for it.

    \b
    Example:
      kernelmill show task.py

    Exit code: 0 the task can be used; 2 it cannot, and the message says why; 5 the machine failed.
    """
    from kernelmill import api
    from kernelmill.cli._text import card_data, card_text

    card = api.show(task, program=program, config=face.config())
    face.result(card_text(card), card_data(card))
    return 0
