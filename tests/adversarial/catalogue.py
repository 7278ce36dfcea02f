"""What an exploit is, and all of them: one file each in `exploits/`."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

from kernelmill.schema import Candidate, Level, Stage

from . import exploits

TASKS = Path(__file__).parent / "tasks"


@dataclass(frozen=True)
class Exploit:
    """One cheat, and the honest kernel that uses the same means.

    An exploit's file has a docstring whose first line says what the cheat does, with its number in the
    catalogue, and the constants TASK, LANGUAGE, EXPLOIT, STAGES and TWIN; LEVEL and CLAUSE where they are not
    "full" and None.
    """

    name: str
    about: str
    task: str
    """Stem of a file in `tasks/`."""
    language: str
    cheat: str
    """Source."""
    stages: frozenset[Stage]
    """Stages that may say no."""
    clause: str | None
    level: Level
    """The cheapest level that must say no, and that the twin must pass."""
    twin: str
    """Source of the honest twin."""

    def candidate(self, source: str) -> Candidate:
        """One of the two sources as a candidate."""
        return Candidate(language=self.language, source=source)


def _read(name: str, module: ModuleType) -> Exploit:
    return Exploit(
        name=name,
        about=(module.__doc__ or "").strip().splitlines()[0],
        task=module.TASK,
        language=module.LANGUAGE,
        cheat=module.EXPLOIT,
        stages=frozenset(module.STAGES),
        clause=getattr(module, "CLAUSE", None),
        level=getattr(module, "LEVEL", "full"),
        twin=module.TWIN,
    )


def all_exploits() -> Iterator[Exploit]:
    """Every file of the folder, ordered by task so that few oracles are alive at once."""
    names = [m.name for m in pkgutil.iter_modules(exploits.__path__)]
    read = [_read(name, importlib.import_module(f"{exploits.__name__}.{name}")) for name in names]
    yield from sorted(read, key=lambda e: (e.task, e.name))
