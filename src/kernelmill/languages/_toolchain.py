"""The C++ compiler on this machine: which one, which version, which flags."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

from kernelmill.errors import BuildError, ToolchainError
from kernelmill.schema import digest

OLDEST: Final = {"g++": 9, "clang++": 12}
"""First major versions with complete C++17 and `-march=native` for today's CPUs."""
_SEARCHED: Final = ("g++", "clang++", *(f"g++-{v}" for v in range(16, 8, -1)))
_REMEDY: Final = "install g++ 9 or newer (Debian: apt install g++; Fedora: dnf install gcc-c++) or clang++ 12 or newer"

# -ffast-math is out: gcc's links crtfastmath, which flushes denormals of the whole process at load, and it lets
# NaN and Inf tests be folded away. What is here keeps the meaning of NaN, Inf and -0 and still vectorises.
COMPILE_FLAGS: Final = (
    *("-std=c++17", "-O3", "-march=native", "-fopenmp", "-fPIC"),
    *("-fno-math-errno", "-fno-trapping-math", "-ffp-contract=fast"),
    *("-fvisibility-inlines-hidden", "-w", "-fmax-errors=3", "-fdiagnostics-color=never"),
)
LINK_FLAGS: Final = ("-shared", "-Wl,-z,defs", "-Wl,-z,noexecstack", "-Wl,-Bsymbolic", "-Wl,--build-id=none")

_ALLOWED: Final = re.compile(
    r"-O[123]|-mprefer-vector-width=(128|256|512)|-f(no-)?(unroll-loops|unroll-all-loops|tree-vectorize|"
    r"tree-slp-vectorize|tree-loop-distribute-patterns|tree-loop-vectorize|inline-functions|split-loops|ivopts|"
    r"associative-math|reciprocal-math|signed-zeros|prefetch-loop-arrays|peel-loops|strict-aliasing)|"
    r"-ffp-contract=(off|on|fast)|-fvect-cost-model=(unlimited|dynamic|cheap|very-cheap)|"
    r"-falign-(loops|functions)=(16|32|64)|-m(no-)?(avx512f|avx2|fma|vzeroupper)"
)


@dataclass(frozen=True)
class Compiler:
    """One compiler driver."""

    path: str
    kind: str
    """`g++` or `clang++`."""
    version: str
    cpu: str
    """Hash of what `-march=native` means here: CPU, extensions, cache sizes."""

    @property
    def identity(self) -> str:
        """What a cached result depends on beside the text and the flags."""
        return digest(self.path, self.kind, self.version, self.cpu)

    def flags(self, extra: Sequence[str] = ()) -> list[str]:
        """The flags of every compilation, then those a source asks for."""
        # clang's own -fopenmp would bring a second thread pool (libomp) beside torch's libgomp.
        own = ["-fopenmp=libgomp" if f == "-fopenmp" and self.kind == "clang++" else f for f in COMPILE_FLAGS]
        if self.kind == "g++":
            own.append("-fno-semantic-interposition")  # otherwise -fPIC forbids inlining exported functions
        else:
            own = [f.replace("-fmax-errors=", "-ferror-limit=").replace("-fdiagnostics-color=never", "") for f in own]
            own = [f for f in own if f] + ["-fno-color-diagnostics"]
        return [*own, *extra]


def extra_flags(source: str) -> tuple[str, ...]:
    """The flags that `// flags:` lines of a source ask for.

    Raises:
        BuildError: One of them is not on the allow-list.
    """
    found: list[str] = []
    for match in re.finditer(r"^[ \t]*//[ \t]*flags:(.*)$", source, re.MULTILINE):
        for flag in match[1].split():
            if not _ALLOWED.fullmatch(flag):
                raise BuildError(
                    f"flag {flag[:60]!r} is not allowed; allowed are -O1..3, -mprefer-vector-width=128|256|512, "
                    "-f[no-]unroll-loops, -f[no-]tree-vectorize, -f[no-]associative-math (with -fno-signed-zeros), "
                    "-f[no-]reciprocal-math, -ffp-contract=off|on|fast, -fvect-cost-model=..., and a few more; "
                    "-ffast-math and -ffinite-math-only never, since NaN and Inf must keep their meaning"
                )
            found.append(flag)
    return tuple(dict.fromkeys(found))


def find_compiler(wanted: str | None = None) -> Compiler:
    """The named compiler, or the first usable one of this machine.

    Raises:
        ToolchainError: There is none, or only ones that are too old; says which and what to install.
    """
    rejected: list[str] = []
    for name in (wanted,) if wanted else _SEARCHED:
        path = shutil.which(name)
        if path is None:
            continue
        try:
            return _describe(path)
        except ToolchainError as exc:
            rejected.append(str(exc))
    found = "; ".join(rejected) or f"no {wanted or 'g++ or clang++'} on the PATH"
    raise ToolchainError(f"the cpp language needs a C++ compiler: {found}; {_REMEDY}")


@lru_cache(maxsize=8)
def _describe(path: str) -> Compiler:
    banner = _ask(path, "--version").splitlines()[0:1]
    text = banner[0] if banner else ""
    kind = "clang++" if "clang" in text else "g++"
    match = re.search(r"version (\d+\.\d+[.\d]*)", text) if kind == "clang++" else re.search(r"(\d+)\.\d+[.\d]*", text)
    if match is None:
        raise ToolchainError(f"{path} does not tell its version (it says {text[:80]!r})")
    version = match[0].removeprefix("version ")
    if int(version.split(".")[0]) < OLDEST[kind]:
        raise ToolchainError(f"{path} is {kind} {version}; the oldest that works is {OLDEST[kind]}")
    meaning = _ask(path, "-march=native", "-###", "-E", "-x", "c++", "/dev/null")
    return Compiler(path, kind, version, digest(meaning))


def _ask(path: str, *arguments: str) -> str:
    environment = {"PATH": "/usr/local/bin:/usr/bin:/bin", "LC_ALL": "C"}
    try:
        done = subprocess.run(
            [path, *arguments], capture_output=True, text=True, timeout=20, check=False, env=environment
        )
    except (OSError, subprocess.TimeoutExpired) as exc:
        raise ToolchainError(f"{path} does not start: {exc}") from exc
    return done.stdout + done.stderr
