"""Every exception of the package as one tree, and the one place that may catch everything."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


class KernelMillError(Exception):
    """Root of the tree. `exit_code` is what the command line ends with when nobody handles it, `kind` its name."""

    exit_code = 5
    kind = "internal"


class UserError(KernelMillError):
    """The caller asked for something that cannot be: wrong name, missing file, bad option."""

    exit_code = 2
    kind = "usage"


class TaskError(UserError):
    """The task itself is unusable: does not load, raises, leaks, is not deterministic."""

    kind = "task"


class CredentialsError(KernelMillError):
    """A provider refused the key, or there is none."""

    exit_code = 3
    kind = "credentials"


class ToolchainError(KernelMillError):
    """A compiler or device that the work needs is missing or too old."""

    exit_code = 4
    kind = "toolchain"


class InfraError(KernelMillError):
    """The machine failed, not the candidate. Never a score; the work may be tried again."""

    exit_code = 5
    kind = "infrastructure"


class DiskError(KernelMillError):
    """A folder that the work needs is full or cannot be written; trying again at once mends nothing."""

    exit_code = 5
    kind = "disk"


class BudgetError(KernelMillError):
    """The budget ended before there was a result."""

    exit_code = 6
    kind = "budget"


class StageError(KernelMillError):
    """Foreign code failed inside a named stage; the evaluator turns it into `Failed`."""

    kind = "stage"
    stage: str = "launch"


class BuildError(StageError):
    """The candidate does not compile or load."""

    stage = "build"


class LaunchError(StageError):
    """The candidate crashed, hung or refused to run."""

    stage = "launch"


@contextmanager
def stage(error: type[KernelMillError]) -> Iterator[None]:
    """Attribute whatever foreign code raises inside to `error`; typed errors pass through."""
    try:
        yield
    except KernelMillError:
        raise
    except Exception as exc:
        raise error(f"{type(exc).__name__}: {exc}") from exc
