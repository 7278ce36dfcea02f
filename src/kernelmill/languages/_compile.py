"""Runs the compiler in a sandbox, with limits, against a precompiled header."""

from __future__ import annotations

import errno
import os
import re
import signal
import subprocess
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Final

from kernelmill.errors import BuildError, DiskError, ToolchainError
from kernelmill.languages._cache import LibraryCache, disk
from kernelmill.languages._diagnostics import trim
from kernelmill.languages._toolchain import LINK_FLAGS, Compiler
from kernelmill.sandboxes import Policy, Sandbox
from kernelmill.schema import digest

_HEADER: Final = files("kernelmill.languages").joinpath("kernelmill.h").read_text()
_MORE: Final = re.compile(
    r"_mm|_MM_|__m(64|128|256|512|mask)|intrin|arm_neon|[a-z]+\d+x\d+(x\d)?_t|\bv\w+_[fsup]\d|_Float16|rdtsc|complex|"
    r"_pdep|_pext|_tzcnt|_lzcnt|_popcnt|_cvts|_bzhi|_bls|_bextr|_addcarry|_subborrow|_rot[lr]|_rdrand|printf|"
    r"\b(string|array|accumulate|iota|inner_product|partial_sum|adjacent_difference|gcd|lcm|midpoint)\b|"
    r"\b(transform_)?reduce\b|\b(transform_)?(in|ex)clusive_scan\b|\bomp_"
)
"""Words of what the header leaves out otherwise: intrinsics, complex numbers, numeric algorithms, OpenMP."""
_MAIN: Final = '#include "kernelmill.h"\n#include "knobs.h"\n#include "kernel.cpp"\n#include "launch.h"\n'
_NO_MEMORY: Final = re.compile(r"out of memory|memory exhausted|bad_alloc|Killed signal|cannot allocate", re.IGNORECASE)
_HEADER_SECONDS: Final = 120.0
"""The precompiled header takes 2 s here; once per compiler and flags, so a slow machine gets its time."""


def header_of(*texts: str) -> str:
    """The header that these texts are compiled with; precompiled with intrinsics it takes 110 ms longer to read."""
    return f"#define KERNELMILL_MORE\n{_HEADER}" if any(map(_MORE.search, texts)) else _HEADER


@dataclass(frozen=True)
class Limits:
    """What one compilation may take."""

    seconds: float = 10.0
    memory_bytes: int = 4 * 2**30


@dataclass(frozen=True)
class _Outcome:
    code: int
    text: str


class Compile:
    """Makes shared objects with one compiler in one sandbox."""

    def __init__(self, compiler: Compiler, cache: LibraryCache, sandbox: Sandbox, limits: Limits) -> None:
        self.compiler = compiler
        self.cache = cache
        self.sandbox = sandbox
        self.limits = limits

    def library(self, workdir: Path, texts: dict[str, str], extra: Sequence[str], defined: list[str]) -> Path:
        """Compile `kernel.cpp` with its `knobs.h` and `launch.h`; gives back the library inside `workdir`.

        Raises:
            BuildError: The source is wrong, or needs more time or memory than a kernel may.
            ToolchainError: The compiler failed by itself.
        """
        header = self._header(extra, header_of(*texts.values()))
        with disk(self.cache.root):
            for name, text in {**texts, "main.cpp": _MAIN}.items():
                (workdir / name).write_text(text, encoding="utf-8")
        include = ["-include-pch", str(header / "kernelmill.h.gch")] if self.compiler.kind == "clang++" else []
        flags = [*self.compiler.flags(extra), *include, "-I", str(header)]
        library = workdir / "kernel.so"
        # Absolute paths, since a sandbox may start the command in another folder.
        argv = [self.compiler.path, *flags, *LINK_FLAGS, str(workdir / "main.cpp"), "-o", str(library)]
        outcome = self._run(argv, workdir, (header,), self.limits.seconds)
        if outcome.code != 0 or not library.exists():
            raise self._failure(outcome, defined)
        return library

    def _header(self, extra: Sequence[str], text: str) -> Path:
        """The folder of the precompiled header for these flags; made on first use."""
        flags = self.compiler.flags(extra)
        folder = self.cache.root / "headers" / digest(self.compiler.identity, " ".join(flags), text)
        if (folder / "kernelmill.h.gch").exists():
            return folder
        with self.cache.workdir() as workdir:
            with disk(self.cache.root):
                path = workdir / "kernelmill.h"
                path.write_text(text)
                folder.parent.mkdir(parents=True, exist_ok=True)
            argv = [self.compiler.path, *flags, "-x", "c++-header", str(path), "-o", f"{path}.gch"]
            outcome = self._run(argv, workdir, (), _HEADER_SECONDS)
            if outcome.code != 0:
                said = _tail(outcome)
                if os.strerror(errno.ENOSPC) in said:
                    raise DiskError(f"the compile cache {self.cache.root} is full: {said}")
                raise ToolchainError(f"{self.compiler.path} does not compile the standard headers: {said}")
            with disk(self.cache.root), suppress(FileExistsError):
                _publish(workdir, folder)
        return folder

    def _policy(self, workdir: Path, readable: tuple[Path, ...], seconds: float) -> Policy:
        install = Path(os.path.realpath(self.compiler.path)).parent.parent
        return Policy(
            readable=(workdir, install, *readable),
            writable=(workdir,),
            processes=True,
            memory_bytes=self.limits.memory_bytes,
            cpu_seconds=int(seconds) + 1,
            file_bytes=256 * 2**20,
            environment={
                "PATH": f"{Path(self.compiler.path).parent}:/usr/local/bin:/usr/bin:/bin",
                "LC_ALL": "C",
                "TMPDIR": str(workdir),
            },
        )

    def _run(self, argv: list[str], workdir: Path, readable: tuple[Path, ...], seconds: float) -> _Outcome:
        policy = self._policy(workdir, readable, seconds)
        try:
            process = self.sandbox.start(argv, policy, workdir)
        except OSError as exc:
            raise ToolchainError(f"{argv[0]} cannot be started in the sandbox: {exc}") from exc
        try:
            output, _ = process.communicate(timeout=seconds)
        except subprocess.TimeoutExpired:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
            raise BuildError(
                f"compiling took longer than {seconds:g} s; unroll less, use fewer templates and smaller tables"
            ) from None
        return _Outcome(process.returncode, output[:200_000].decode("utf-8", "replace"))

    def _failure(self, outcome: _Outcome, defined: list[str]) -> BuildError | ToolchainError:
        text = outcome.text
        if "CPU time limit" in text or outcome.code in {-signal.SIGXCPU, 128 + signal.SIGXCPU}:
            return BuildError(f"compiling took longer than {self.limits.seconds:g} s of processor time")
        killed = outcome.code in {-signal.SIGKILL, 128 + signal.SIGKILL}
        if killed or re.search(
            r"out of memory|memory exhausted|bad_alloc|Killed signal|cannot allocate", text, re.IGNORECASE
        ):
            gib = self.limits.memory_bytes / 2**30
            return BuildError(f"compiling needed more than {gib:g} GiB; unroll less, use smaller tables")
        if "internal compiler error" in text or "PLEASE submit a bug report" in text:
            return BuildError(f"this source crashes {self.compiler.kind} {self.compiler.version}; write it another way")
        if not re.search(r"(?<![a-z])error: |undefined (reference|symbol)", text, re.IGNORECASE):
            return ToolchainError(f"{self.compiler.path} failed without a diagnostic: {_tail(outcome)}")
        if re.search(r"cannot execute|No space left|Permission denied|Read-only file system|cannot find -l", text):
            return ToolchainError(f"{self.compiler.path} failed by itself: {_tail(outcome)}")
        return BuildError(trim(text, defined))


def _publish(workdir: Path, folder: Path) -> None:
    """Move a finished folder to its place at once; another process may have been first, with the same content."""
    moved = workdir.parent / f"{workdir.name}-done"
    moved.mkdir()
    try:
        for name in ("kernelmill.h", "kernelmill.h.gch"):
            (workdir / name).chmod(0o444)
            (workdir / name).rename(moved / name)
        moved.rename(folder)
    except OSError:
        for file in moved.iterdir():
            file.unlink()
        moved.rmdir()
        if not folder.exists():
            raise


def _tail(outcome: _Outcome) -> str:
    lines = outcome.text.strip().splitlines()
    return f"exit code {outcome.code}; " + " | ".join(lines[-4:])[:500]
