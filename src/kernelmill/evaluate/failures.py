"""What an implementation can do wrong in its cell, each with the stage that names it."""

from __future__ import annotations

from typing import Any

from kernelmill.errors import LaunchError, StageError


class CallTimeoutError(StageError):
    """The implementation did not answer in time."""

    stage = "timeout"


class OutOfMemoryError(StageError):
    """The implementation wanted more memory than it may have."""

    stage = "memory"


class SpecialisedError(StageError):
    """The candidate's own guard refuses these shapes: the caller falls back to the reference."""

    stage = "held_out"


class StructureError(StageError):
    """The result is not what the reference returns: count, nesting, type, shape, dtype."""

    stage = "structure"


class IntegrityError(StageError):
    """The implementation touched what is not its own."""

    stage = "integrity"


def from_answer(answer: dict[str, Any]) -> StageError:
    """What an exception inside the cell means."""
    text = str(answer["error"])
    if answer.get("kind") == "MemoryError" or "can't allocate memory" in text or "bad_alloc" in text:
        return OutOfMemoryError(text)
    if answer.get("kind") == "SpecialisedError":
        return SpecialisedError(text)
    return LaunchError(text)
