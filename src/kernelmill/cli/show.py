"""`kernelmill show TASK`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from kernelmill.cli._verb import Face, verb


@verb("language", "measure.threads")
def show(
    face: Face,
    task: Annotated[Path, typer.Argument(help="Task file.")],
    *,
    program: Annotated[
        bool, typer.Option("--program", help="Also the program that would be generated first, step by step.")
    ] = False,
) -> int:
    """Say what a task computes, moves and allows, and print the skeleton of a kernel for it."""
    from kernelmill import api
    from kernelmill.cli._text import card_data, card_text

    card = api.show(task, program=program, config=face.config())
    face.result(card_text(card), card_data(card))
    return 0
