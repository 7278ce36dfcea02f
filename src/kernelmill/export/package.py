"""The export as a folder that `pip install` takes."""

from __future__ import annotations

import shutil
from pathlib import Path

from kernelmill.export.module import envelope, reference_entry, template
from kernelmill.export.winner import Winner
from kernelmill.export.words import headline


def write_package(folder: Path, winner: Winner, exported: Path) -> Path:
    """Write an installable project with the files of an export inside; gives back its folder.

    The wheel is named for any platform: a library that does not fit the machine is compiled at first use.
    """
    name = f"kernelmill_{winner.slug}"
    package = folder / "src" / name
    shutil.rmtree(folder, ignore_errors=True)
    package.mkdir(parents=True)
    for path in sorted(exported.iterdir()):
        if path.is_file() and path.suffix != ".html":
            shutil.copyfile(path, package / path.name)
    entry, is_class = reference_entry(winner.task.source)
    values = {
        "name": name,
        "entry": entry,
        "is_class": is_class,
        "headline": headline(winner.evaluation),
        "description": headline(winner.evaluation).replace("\\", "/").replace('"', "'"),
        "candidate": winner.candidate.id,
        "envelope": envelope(winner),
        "differentiable": winner.task.contract.differentiable,
    }
    (package / "__init__.py").write_text(template("init.py.j2", values), encoding="utf-8")
    (folder / "pyproject.toml").write_text(template("pyproject.toml.j2", values), encoding="utf-8")
    (folder / "README.md").write_text(template("readme.md.j2", values), encoding="utf-8")
    return folder
