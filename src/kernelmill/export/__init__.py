"""The winner as a module, a torch operator, a package and a report."""

from __future__ import annotations

import shutil
from pathlib import Path

from kernelmill.devices._base import Description, Peaks
from kernelmill.errors import UserError
from kernelmill.export.evidence import Evidence, collect
from kernelmill.export.module import write_module
from kernelmill.export.package import write_package
from kernelmill.export.winner import Build, Winner

__all__ = ["Build", "Evidence", "Winner", "export_best"]


def export_best(
    folder: Path, winner: Winner, description: Description | None = None, peaks: Peaks | None = None
) -> Path:
    """Write the winner into a folder; gives back the path of its `module.py`.

    The folder holds the source, the library, `module.py` with what it needs, `reference.py`, `evidence.json` and
    `package/`, an installable project with the same files.

    Raises:
        UserError: The candidate answers no workload, its task cannot be exported, or the folder holds something else.
    """
    winner.verified()
    _make_room(folder)
    write_module(folder, winner)
    evidence = collect(folder, winner, description, peaks)
    (folder / "evidence.json").write_text(evidence.model_dump_json(indent=2) + "\n", encoding="utf-8")
    write_package(folder / "package", winner, folder)
    return folder / "module.py"


def _make_room(folder: Path) -> None:
    """An empty folder; what an earlier export left there goes, nothing else does."""
    if folder.exists() and any(folder.iterdir()):
        if not (folder / "evidence.json").is_file():
            raise UserError(
                f"{folder} is not empty and holds no earlier export (no evidence.json); name another folder"
            )
        shutil.rmtree(folder)
    folder.mkdir(parents=True, exist_ok=True)
