"""Limits on the number of tasks and on memory for a whole process tree, where a control group may be made.

Works with version 2 (delegated or root) and version 1. Standard library only.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

_ROOT = Path("/sys/fs/cgroup")
_PREFIX = "kernelmill-"


@dataclass(frozen=True)
class Cgroup:
    """A control group that limits what joins it."""

    folders: tuple[Path, ...]
    """One for version 2, one per controller for version 1."""

    def join(self, process: int = 0) -> None:
        """Put a process into it (0: this one); its children follow. OSError where it is not ours to move."""
        for folder in self.folders:
            (folder / "cgroup.procs").write_text(str(process))


def _parent(own: str, controllers: str) -> Path | None:
    """Where a group with those controllers may be made: `own` or the nearest ancestor that allows it."""
    folder = _ROOT / own.strip("/")
    for candidate in (folder, *folder.parents):
        if candidate == _ROOT.parent:
            return None
        enabled = candidate / "cgroup.subtree_control"
        holds = not controllers or (enabled.exists() and {*controllers.split()} <= {*enabled.read_text().split()})
        if holds and os.access(candidate, os.W_OK) and os.access(candidate / "cgroup.procs", os.W_OK):
            return candidate
    return None


def _parents() -> list[Path]:
    """Folders to make groups in, empty where limits cannot be had."""
    own = dict(line.split(":", 2)[1:] for line in Path("/proc/self/cgroup").read_text().splitlines())
    if (_ROOT / "cgroup.controllers").exists():
        unified = _parent(own.get("", "/"), "pids memory")
        return [unified] if unified else []
    found = [_parent(f"{name}/{own[name].strip('/')}", "") for name in ("pids", "memory") if name in own]
    present = [folder for folder in found if folder is not None]
    return present if len(present) == 2 else []


def _sweep(parent: Path) -> None:
    """Remove groups whose maker was killed before it could."""
    for folder in parent.glob(f"{_PREFIX}*"):
        if not Path("/proc", folder.name.split("-")[1]).exists():
            with suppress(OSError):  # still in use: the next sweep gets it
                folder.rmdir()


def _limit(folder: Path, tasks: int, memory_bytes: int) -> None:
    """Set what limits this folder has; swap would only delay the end, so there is none."""
    values = {
        "pids.max": tasks,
        "memory.max": memory_bytes,
        "memory.swap.max": 0,
        "memory.limit_in_bytes": memory_bytes,
        "memory.memsw.limit_in_bytes": memory_bytes,
    }
    for name, value in values.items():
        if (folder / name).exists():
            (folder / name).write_text(str(value))


@contextmanager
def limits(tasks: int, memory_bytes: int) -> Iterator[Cgroup | None]:
    """A control group with those limits, to join; None where this user may make none.

    `tasks` counts processes and threads. Whatever is still inside at the end keeps the group alive;
    a later call removes it.
    """
    folders: list[Path] = []
    try:
        for parent in _parents():
            _sweep(parent)
            folder = parent / f"{_PREFIX}{os.getpid()}-{os.urandom(4).hex()}"
            folder.mkdir()
            folders.append(folder)
            _limit(folder, tasks, memory_bytes)
    except OSError:
        _remove(folders)
        folders = []
    try:
        yield Cgroup(tuple(folders)) if folders else None
    finally:
        _remove(folders)


def _remove(folders: list[Path]) -> None:
    for folder in folders:
        with suppress(OSError):
            folder.rmdir()
