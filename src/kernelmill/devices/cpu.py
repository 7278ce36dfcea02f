"""The CPU this process runs on."""

from __future__ import annotations

import json
import os
import platform
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, fields
from importlib.resources import as_file, files
from pathlib import Path

from kernelmill import config
from kernelmill.devices._base import Description, Device, Peaks
from kernelmill.errors import InfraError, ToolchainError
from kernelmill.schema import digest

SYSTEM = Path("/sys/devices/system/cpu")
CPUINFO = Path("/proc/cpuinfo")
COMPILE_SECONDS = 60
MEASURE_SECONDS = 60

_UNIT_FLAGS = {
    "sse4_2",
    "avx",
    "avx2",
    "fma",
    "f16c",
    "avx_vnni",
    "neon",
    "asimd",
    "asimdhp",
    "sme",
    "sme2",
    "bf16",
    "i8mm",
}
_UNIT_FAMILIES = ("avx512", "amx", "sve")

ATTEMPTS = 3
DISTURBED_SHARE = 0.4
"""All threads together reach less than this share of so many single threads: something else ran (two hardware
threads of one core still reach half each)."""

_CACHE_NAMES = {(1, "Data"): "l1d", (1, "Unified"): "l1d", (2, "Unified"): "l2", (3, "Unified"): "l3"}
_UNITS = {"K": 2**10, "M": 2**20, "G": 2**30}


class Cpu(Device):
    """The processor, with peaks measured by a small C++ program that is compiled here.

    Args:
        cache_dir: Where peaks are kept, one file per machine, kernel and compiler.
        compiler: A C++ compiler that takes g++'s options; the first of several that is found.
        threads: How many threads `all threads` means; by default, one for each usable CPU.
    """

    def __init__(
        self, cache_dir: Path | None = None, compiler: tuple[str, ...] = ("g++", "c++"), threads: int | None = None
    ) -> None:
        self.cache_dir = cache_dir or config.cache_dir() / "devices"
        self.compiler = compiler
        self.threads = threads or len(os.sched_getaffinity(0))

    def describe(self) -> Description:
        """What is here, without measuring; caches and vector units only where the system tells."""
        name, flags = cpu_info(CPUINFO.read_text() if CPUINFO.exists() else "")
        return Description(
            name=name or platform.processor() or platform.machine(),
            cores=tuple(sorted(os.sched_getaffinity(0))),
            isa=tuple(sorted(flag for flag in flags if flag in _UNIT_FLAGS or flag.startswith(_UNIT_FAMILIES))),
            cache_bytes=cache_sizes(SYSTEM / "cpu0" / "cache"),
            memory_bytes=os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"),
        )

    def peaks(self, refresh: bool = False) -> Peaks:  # noqa: FBT001, FBT002
        """Measured limits, from the cache where this machine was measured before; measuring takes under 3 s.

        A limit is what nothing exceeds, and other load only ever hides it: a disturbed measurement is repeated,
        and `refresh` keeps the higher of the cached and the new figure.

        Raises:
            ToolchainError: There is no C++ compiler, or it cannot build the program.
            InfraError: The program failed.
        """
        compiler = self._compiler()
        path = self.cache_dir / f"cpu-{self._identity(compiler)}.json"
        known: list[Peaks] = []
        with suppress(OSError, ValueError, TypeError):
            known.append(Peaks(**json.loads(path.read_text())))
        if known and not refresh:
            return known[0]
        found = highest([*known, *self._measure(compiler)])
        with suppress(OSError):  # where nothing can be kept, the next run measures again
            self._keep(path, found)
        return found

    def _keep(self, path: Path, found: Peaks) -> None:
        """Renamed into place, so that two measurements at a time leave one whole file."""
        self.cache_dir.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile("w", dir=self.cache_dir, suffix=".tmp", delete=False) as file:
            json.dump(asdict(found), file)
        Path(file.name).replace(path)

    def _compiler(self) -> str:
        for name in self.compiler:
            found = shutil.which(name)
            if found:
                return found
        raise ToolchainError(
            f"measuring this CPU needs a C++ compiler; none of {', '.join(self.compiler)} is on the PATH: "
            "install g++ (Debian: apt install g++)"
        )

    def _identity(self, compiler: str) -> str:
        about = self.describe()
        version = _run([compiler, "--version"], COMPILE_SECONDS, ToolchainError).split("\n", 1)[0]
        return digest(
            about.name, str(about.cores), str(self.threads), str(about.cache_bytes), platform.release(), version
        )

    def _measure(self, compiler: str) -> list[Peaks]:
        about = self.describe()
        llc = about.cache_bytes.get("l3", about.cache_bytes.get("l2", 2**23))
        with tempfile.TemporaryDirectory(prefix="kernelmill-peaks-") as folder:
            program = str(Path(folder) / "peaks")
            with as_file(files("kernelmill.devices").joinpath("_cpu_peaks.cpp")) as source:
                options = ["-O3", "-march=native", "-ffp-contract=fast", "-fopenmp", "-std=c++17"]
                _run([compiler, *options, str(source), "-o", program], COMPILE_SECONDS, ToolchainError)
            found = []
            for _ in range(ATTEMPTS):
                answer = _run([program, str(self.threads), str(llc)], MEASURE_SECONDS, InfraError)
                found.append(Peaks(**json.loads(answer)))
                if min(asdict(found[-1]).values()) <= 0:
                    raise InfraError(f"measuring this CPU gave a rate that is not positive: {answer.strip()}")
                if found[-1].fma_flops >= DISTURBED_SHARE * self.threads * found[-1].fma_flops_one:
                    break
        return found


def highest(measured: Sequence[Peaks]) -> Peaks:
    """The highest of each rate over several measurements."""
    return Peaks(**{field.name: max(getattr(one, field.name) for one in measured) for field in fields(Peaks)})


def _run(command: list[str], seconds: float, error: type[ToolchainError] | type[InfraError]) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=seconds, check=False)
    except (OSError, subprocess.TimeoutExpired) as problem:
        raise error(f"{command[0]} did not run: {problem}") from problem
    if done.returncode:
        lines = done.stderr.strip().splitlines() or ["no message"]
        said = next((line for line in lines if "error" in line), lines[-1])
        raise error(f"{command[0]} ended with {done.returncode}: {said}")
    return done.stdout


def cpu_info(text: str) -> tuple[str, frozenset[str]]:
    """Model name and feature flags from the text of /proc/cpuinfo (x86 `flags`, Arm `Features`)."""
    name, flags = "", frozenset[str]()
    for line in text.splitlines():
        key, _, value = (part.strip() for part in line.partition(":"))
        if key == "model name" and not name:
            name = value
        elif key in ("flags", "Features") and not flags:
            flags = frozenset(value.split())
    return name, flags


def cache_sizes(folder: Path) -> dict[str, int]:
    """Bytes of `l1d`, `l2`, `l3` as one CPU sees them, from its sysfs folder; absent where the system does not say."""
    sizes = {}
    for index in sorted(folder.glob("index*")):
        with suppress(OSError, ValueError, KeyError):
            level, kind, size = ((index / name).read_text().strip() for name in ("level", "type", "size"))
            sizes[_CACHE_NAMES[int(level), kind]] = int(size.rstrip("KMG")) * _UNITS.get(size[-1], 1)
    return sizes
