"""What is here, what is missing, and what to do about it."""

from __future__ import annotations

import importlib.util
import os
import platform
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from kernelmill.config import cache_dir
from kernelmill.errors import KernelMillError
from kernelmill.evaluate import machine
from kernelmill.evaluate.pipeline import languages
from kernelmill.optimize.run import package_version
from kernelmill.optimize.workbench import Workbench, free_bytes
from kernelmill.sandboxes import Probe, Sandbox, choose

Status = Literal["ok", "note", "weak", "missing"]
"""Fine; worth knowing; works, with a weaker promise; does not work."""

LEAST_FREE = 2 * 2**30
"""Bytes; compiled kernels and `torch.compile` of a few references fit in it."""

BUSY = 0.25
"""Load average per core above which timings take longer to become tight."""


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at."""

    name: str
    status: Status
    text: str
    remedy: str = ""
    """The exact line that mends it, where something does."""


@dataclass(frozen=True)
class Diagnosis:
    """All of them."""

    findings: tuple[Finding, ...]
    probes: tuple[Probe, ...]
    """Attempts to break out of the sandbox, made just now."""

    @property
    def able(self) -> bool:
        """Whether kernels can be built and judged here."""
        return all(finding.status != "missing" for finding in self.findings)


def diagnose(bench: Workbench) -> Diagnosis:
    """Look at everything; takes some seconds, the first time some more to measure the device."""
    findings = [
        *_software(),
        *_toolchains(),
        *_device(bench),
        *_state(),
        *_disk(bench),
    ]
    try:
        sandbox = choose()
    except KernelMillError as error:
        remedy = "Linux 5.13 or later, or: apt install bubblewrap; KERNELMILL_MEASURE_CONFINE=0 runs without"
        return Diagnosis((*findings, Finding("sandbox", "missing", str(error), remedy)), ())
    return Diagnosis((*findings, _sandbox(sandbox), *_server(bench)), tuple(sandbox.probe()))


def _software() -> Iterator[Finding]:
    yield Finding("python", "ok", f"{platform.python_version()} ({platform.python_implementation()})")
    torch = package_version("torch")
    if torch is None or importlib.util.find_spec("torch") is None:
        yield Finding("torch", "missing", "not installed; tasks are written in it", "pip install 'kernelmill[torch]'")
    else:
        old = tuple(int(part) for part in torch.split(".")[:2] if part.isdigit()) < (2, 6)
        yield Finding("torch", "missing" if old else "ok", torch, "pip install 'torch>=2.6'" if old else "")
    optuna = package_version("optuna")
    if optuna is None:
        yield Finding("optuna", "note", "not installed; knobs are tuned by a simpler search", "pip install optuna")
    else:
        yield Finding("optuna", "ok", optuna)


def _toolchains() -> Iterator[Finding]:
    for name in languages.names():
        missing = languages.get(name).missing()
        yield Finding(f"language {name}", "missing" if missing else "ok", missing or "ready")


def _device(bench: Workbench) -> Iterator[Finding]:
    found = bench.description
    caches = ", ".join(f"{name} {size / 2**10:.0f} KiB" for name, size in found.cache_bytes.items())
    cores = " ".join(map(str, found.cores))
    yield Finding(
        "cpu", "ok", f"{found.name}; {len(found.cores)} usable cores ({cores}); {found.memory_bytes / 2**30:.0f} GiB"
    )
    yield Finding("isa", "ok", " ".join(found.isa) or "no vector extension known")
    yield Finding("caches", "ok" if caches else "note", caches or "the system does not say; 32 MiB are assumed")
    try:
        peaks = bench.peaks
    except KernelMillError as error:
        yield Finding("peaks", "weak", f"not measured: {error}", "run again on a quiet machine")
        return
    if peaks is None:
        yield Finding("peaks", "weak", "not measured without a compiler; results come without a floor")
        return
    yield Finding(
        "peaks",
        "ok",
        f"copy {peaks.copy_bytes / 1e9:.1f} GB/s, triad {peaks.triad_bytes / 1e9:.1f} GB/s, read "
        f"{peaks.read_bytes / 1e9:.1f} GB/s, cache {peaks.llc_read_bytes / 1e9:.0f} GB/s, "
        f"{peaks.fma_flops / 1e9:.0f} GFLOP/s in fp32",
    )


def _state() -> Iterator[Finding]:
    load, cores = machine.load(), max(1, len(machine.usable_cores()))
    busy = load / cores > BUSY
    text = f"{load:.2f} over the last minute on {cores} cores"
    yield Finding("load", "note" if busy else "ok", text, "stop what else is running" if busy else "")
    pages = machine.huge_pages()
    yield Finding("huge pages", "ok" if pages in ("madvise", "always") else "note", pages or "none")


def _disk(bench: Workbench) -> Iterator[Finding]:
    for name, path in (("cache", cache_dir()), ("runs", bench.config.paths.runs.absolute())):
        free = free_bytes(path)
        nearest = next(p for p in (path, *path.parents) if p.exists())
        if not os.access(nearest, os.W_OK):
            remedy = "KERNELMILL_CACHE=FOLDER" if name == "cache" else "KERNELMILL_PATHS_RUNS=FOLDER"
            yield Finding(name, "missing", f"{path} cannot be written", remedy)
        else:
            status: Status = "weak" if free < LEAST_FREE else "ok"
            yield Finding(name, status, f"{path}, {free / 2**30:.1f} GiB free")


def _sandbox(sandbox: Sandbox) -> Finding:
    return Finding("sandbox", "ok", sandbox.label())


def _server(bench: Workbench) -> Iterator[Finding]:
    """Whether confined processes start, and how their memory is allocated."""
    try:
        neutral = bench.server.neutral_allocator
    except KernelMillError as error:
        yield Finding("evaluation", "missing", str(error))
        return
    text = "neutral: freed memory is kept, so that page faults are not timed" if neutral else "the system's default"
    yield Finding("allocator", "ok" if neutral else "weak", text)
