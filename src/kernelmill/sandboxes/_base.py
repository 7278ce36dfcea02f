"""Where untrusted code may run. Knows nothing of kernels."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import subprocess


@dataclass(frozen=True)
class Policy:
    """What code in the sandbox may do; everything else is denied."""

    readable: tuple[Path, ...] = ()
    """Files and folders it may read and execute, beside the system's own libraries."""
    writable: tuple[Path, ...] = ()
    """Folders it may write."""
    processes: bool = False
    """Whether it may start other processes (a compiler driver must)."""
    memory_bytes: int = 8 * 2**30
    cpu_seconds: int = 300
    file_bytes: int = 1 * 2**30
    """Largest file it may write."""
    open_files: int = 256
    tasks: int = 1024
    """Most processes and threads at once."""
    reserves: bool = False
    """Whether it reserves far more address space than it uses (a GPU runtime, a sanitizer): then only
    private memory is limited, and shared memory by the control group where there is one."""
    environment: dict[str, str] = field(default_factory=dict)
    """The whole environment; nothing is inherited."""


@dataclass(frozen=True)
class Probe:
    """One attempt to break out, made inside the sandbox on this machine."""

    name: str
    """What was tried, e.g. `read another user's home`."""
    blocked: bool
    detail: str = ""


class Sandbox(ABC):
    """Runs code we do not trust."""

    @classmethod
    @abstractmethod
    def missing(cls) -> str | None:
        """Why it does not work on this machine, or None."""

    @classmethod
    def rank(cls) -> int:
        """The highest of those that work here is taken where nobody names one."""
        return 0

    @abstractmethod
    def command(self, argv: Sequence[str], policy: Policy) -> list[str]:
        """The command line that runs `argv` under `policy`."""

    def start(self, argv: Sequence[str], policy: Policy, folder: Path) -> subprocess.Popen[bytes]:
        """Start `argv` under `policy` in a folder and a session of its own.

        Its input is empty; its output is a pipe, and errors go there too. Raises OSError where nothing can be started.
        """
        import subprocess  # not above: every launcher imports this module and starts no process by it

        return subprocess.Popen(
            self.command(argv, policy),
            cwd=folder,
            env=policy.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )

    @abstractmethod
    def label(self) -> str:
        """What holds here, for the verdict, e.g. `guard: user net ipc pid landlock7 seccomp rlimits`."""

    def probe(self) -> list[Probe]:
        """Try to break out in every known way; what `doctor` shows."""
        from kernelmill.sandboxes._probes import run_probes

        return run_probes(self)
