"""Opens the compiled kernel of an export on this machine; rebuilds it where the shipped one does not fit."""

from __future__ import annotations

import hashlib
import logging
import os
import platform
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

logger = logging.getLogger("kernelmill.export")

BUILD_SECONDS = 120
PREFIXES = ("sse", "ssse", "avx", "fma", "f16c", "bmi", "popcnt", "abm", "amx", "gfni", "vaes", "vpclmul", "xop")
"""x86 extensions that a compiler may use on its own under -march=native."""


def instruction_set(cpuinfo: str = "/proc/cpuinfo") -> list[str]:
    """Vector and bit extensions of this CPU, sorted; empty where the system does not say."""
    path = Path(cpuinfo)
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines() if path.exists() else []
    for line in lines:
        key, _, value = line.partition(":")
        if key.strip() == "flags":
            return sorted(flag for flag in value.split() if flag.startswith(PREFIXES))
        if key.strip() == "Features":
            return sorted(value.split())
    return []


def open(
    folder: Path, spec: dict[str, Any], variant: Any, loader: ModuleType
) -> Callable[[list[Any], list[Any]], Any] | str:
    """The callable kernel of a variant, or why it cannot run here. `loader` is what the child loaded it with."""
    payload = {**variant.payload, **{key: str(folder / name) for key, name in variant.files.items()}}
    try:
        why = unfit(folder, spec)
        if why is None:
            return _load(loader, payload, variant.signature)
    except OSError as error:
        why = f"the shipped library does not load: {error}"
    try:
        rebuilt = rebuild(folder, spec)
        kernel = _load(loader, {**payload, "library": str(rebuilt)}, variant.signature)
    except (OSError, RuntimeError, subprocess.SubprocessError) as error:
        return f"{why}; it could not be rebuilt: {error}"
    logger.warning("%s: %s; rebuilt from source as %s", spec["name"], why, rebuilt)
    return kernel


def _load(loader: Any, payload: dict[str, str], signature: dict[str, Any]) -> Callable[[list[Any], list[Any]], Any]:
    kernel: Callable[[list[Any], list[Any]], Any] = loader.load(payload, signature)
    return kernel


def unfit(folder: Path, spec: dict[str, Any]) -> str | None:
    """Why the shipped library must not be loaded on this machine, or None."""
    build = spec["build"]
    if build is None:
        return None
    if platform.machine() != build["machine"]:
        return f"the library is for {build['machine']}, this is {platform.machine()}"
    missing = sorted(set(build["isa"]) - set(instruction_set()))
    if missing:
        return f"the library may use {', '.join(missing)}, which this CPU lacks"
    for name, sha256 in build["sha256"].items():
        library = folder / name
        if not library.exists():
            return f"{name} is missing"
        if hashlib.sha256(library.read_bytes()).hexdigest() != sha256:
            return f"{name} is not the file that was verified"
    return None


def rebuild(folder: Path, spec: dict[str, Any]) -> Path:
    """Compile the shipped source for this machine, once per machine kind; gives back the library.

    Raises:
        RuntimeError: There is no compiler, or it refused.
        OSError: There is no place to put the result.
    """
    command: list[str] = (spec["build"] or {}).get("command") or []
    if not command:
        raise RuntimeError("no build command was recorded")
    compiler = next((found for name in (command[0], "g++", "c++", "clang++") if (found := shutil.which(name))), None)
    if compiler is None:
        raise RuntimeError(f"no C++ compiler was found ({command[0]}, g++, c++, clang++); install one")
    source = folder / spec["build"]["source"]
    key = hashlib.sha256(
        "\0".join([source.read_text(encoding="utf-8"), *command, platform.machine(), *instruction_set()]).encode()
    ).hexdigest()
    library = _writable(folder) / f"kernel-{key[:16]}.so"
    if library.exists():
        return library
    with tempfile.TemporaryDirectory(dir=library.parent) as scratch:
        output = Path(scratch) / "kernel.so"
        blanks = {"{source}": str(source), "{output}": str(output), "{folder}": str(folder)}
        filled = [compiler, *(_fill(word, blanks) for word in command[1:])]
        done = subprocess.run(filled, capture_output=True, text=True, timeout=BUILD_SECONDS, check=False)
        if done.returncode != 0:
            raise RuntimeError(f"{' '.join(filled)} failed: {done.stderr.strip()[:400]}")
        os.replace(output, library)
    return library


def _fill(word: str, blanks: dict[str, str]) -> str:
    for blank, value in blanks.items():
        word = word.replace(blank, value)
    return word


def _writable(folder: Path) -> Path:
    """Beside the export where that can be written, else the user's own cache."""
    for place in (folder / "rebuilt", Path.home() / ".cache" / "kernelmill" / "exports"):
        try:
            place.mkdir(parents=True, exist_ok=True, mode=0o700)
        except OSError:
            continue
        if os.access(place, os.W_OK):
            return place
    raise OSError(f"neither {folder} nor {Path.home() / '.cache'} can be written")
