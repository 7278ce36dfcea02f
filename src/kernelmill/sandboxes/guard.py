"""Confinement by the process itself: no program to install, no privilege, and a process can be forked into it."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from kernelmill.sandboxes._base import Policy, Sandbox
from kernelmill.sandboxes._launch import Launch
from kernelmill.sandboxes._ready import Ready

_ALL = "user net ipc uts mnt pid session fds rlimits caps landlock seccomp cgroup"
_ESSENTIAL = {"landlock", "seccomp"}
_AS_TIGHT_AS_A_ROOT_OF_ITS_OWN = {"user", "net", "ipc", "mnt", "pid", "caps", *_ESSENTIAL}
_SURVEY_SECONDS = 20.0


@dataclass(frozen=True)
class Survey:
    """What the guard can hold on this machine, found by entering it."""

    layers: tuple[str, ...]
    cgroup: bool
    problem: str = ""

    @property
    def plain(self) -> set[str]:
        """The layers without version numbers."""
        return {name.rstrip("0123456789") for name in self.layers} | ({"cgroup"} if self.cgroup else set())


def _try(launch: Launch) -> subprocess.CompletedProcess[str]:
    return subprocess.run(launch.command([]), capture_output=True, text=True, timeout=_SURVEY_SECONDS, check=False)


@cache
def survey() -> Survey:
    """Enter the guard once in a process of its own, with as much as goes, and see what held."""
    problem = ""
    for pid_namespace in (True, False):
        done = _try(Launch(Policy(), pid_namespace=pid_namespace))
        if not done.returncode:
            cgroup = not _try(Launch(Policy(), confine=False, cgroup=True)).returncode
            return Survey(tuple(done.stdout.split()), cgroup)
        problem = done.stderr.strip().splitlines()[-1] if done.stderr.strip() else f"exit code {done.returncode}"
    return Survey((), cgroup=False, problem=problem)


def _launch(policy: Policy) -> Launch:
    found = survey()
    return Launch(policy, require=found.layers, pid_namespace="pid" in found.layers, cgroup=found.cgroup)


class Guard(Sandbox):
    """Namespaces, Landlock, seccomp and resource limits, entered by the process itself."""

    @classmethod
    def rank(cls) -> int:
        # With namespaces of its own it keeps out what bubblewrap does, and starts a compiler in half the time.
        return 30 if survey().plain >= _AS_TIGHT_AS_A_ROOT_OF_ITS_OWN else 10

    @classmethod
    def missing(cls) -> str | None:
        found = survey()
        lacks = _ESSENTIAL - found.plain
        if not lacks:
            return None
        return f"this kernel or container does not grant {' and '.join(sorted(lacks))} {found.problem}".strip()

    def __init__(self) -> None:
        self._ready: Ready | None = None

    def command(self, argv: Sequence[str], policy: Policy) -> list[str]:
        return _launch(policy).command(argv)

    def start(self, argv: Sequence[str], policy: Policy, folder: Path) -> subprocess.Popen[bytes]:
        """As everywhere; from the second command on by a launcher that waits for it."""
        waiting, self._ready = self._ready, None
        process = waiting.start(_launch(policy), argv, folder) if waiting else None
        process = process or super().start(argv, policy, folder)
        with suppress(OSError):  # no process to spare: the next command starts without
            self._ready = Ready()
        return process

    def label(self) -> str:
        found = survey()
        lost = [name for name in _ALL.split() if name not in found.plain]
        held = " ".join(found.layers) + (" cgroup" if found.cgroup else "")
        return f"guard: {held}" + (f"; without: {' '.join(lost)}" if lost else "")
