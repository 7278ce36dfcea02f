"""bubblewrap builds a file system of only what is needed; inside it the guard holds too."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path

from kernelmill.sandboxes._base import Policy, Sandbox
from kernelmill.sandboxes._guard import interpreter_paths, system_paths
from kernelmill.sandboxes._launch import Launch
from kernelmill.sandboxes.guard import survey

_SURVEY_SECONDS = 20.0
_NAMESPACES = "user net ipc uts mnt pid cgroupns"
# As root bubblewrap keeps every capability unless told otherwise.
_FLAGS = (
    "--unshare-all --unshare-user --disable-userns --uid 65534 --gid 65534 --cap-drop ALL "
    "--die-with-parent --new-session --hostname kernelmill --proc /proc --dev /dev --tmpfs /tmp "
    "--ro-bind-try /sys/devices/system /sys/devices/system"
)
# It has these of its own.
_OWN = ("/proc", "/dev", "/sys")


def _binds(option: str, paths: Iterable[Path]) -> list[str]:
    """Arguments that show those paths inside, a symbolic link as the link it is and its target."""
    arguments: list[str] = []
    for path in paths:
        if path.is_symlink() and len(path.parts) == 2:
            arguments += ["--symlink", os.readlink(path), str(path)]
        elif path.exists():
            arguments += [option, str(path), str(path)]
            if path.resolve() != path.absolute():
                arguments += [option, str(path.resolve()), str(path.resolve())]
    return arguments


def _arguments(policy: Policy) -> list[str]:
    system = [path for path in system_paths() if not str(path).startswith(_OWN)]
    return [
        shutil.which("bwrap") or "bwrap",
        *_FLAGS.split(),
        *_binds("--ro-bind", [*system, *interpreter_paths(), *policy.readable]),
        *_binds("--bind", policy.writable),
        "--chdir",
        "/tmp",
        "--",
    ]


def _inner(policy: Policy, require: Sequence[str] = ()) -> Launch:
    # /tmp inside is a file system of the sandbox's own that ends with it.
    return Launch(replace(policy, writable=(*policy.writable, Path("/tmp"))), require=tuple(require))


@cache
def _inner_layers() -> tuple[tuple[str, ...], str]:
    """What the guard holds inside bubblewrap, and why nothing does where that is so."""
    if shutil.which("bwrap") is None:
        return (), "no program named bwrap; install the package bubblewrap"
    policy = Policy()
    command = [*_arguments(policy), *_inner(policy).command([])]
    done = subprocess.run(command, capture_output=True, text=True, timeout=_SURVEY_SECONDS, check=False)
    if done.returncode:
        return (), f"bwrap does not start: {(done.stderr.strip() or f'exit code {done.returncode}').splitlines()[-1]}"
    return tuple(done.stdout.split()), ""


class Bubblewrap(Sandbox):
    """A root of its own, read-only, with only the named paths in it; then everything the guard does."""

    @classmethod
    def rank(cls) -> int:
        return 20

    @classmethod
    def missing(cls) -> str | None:
        return _inner_layers()[1] or None

    def command(self, argv: Sequence[str], policy: Policy) -> list[str]:
        layers, _ = _inner_layers()
        inside = [*_arguments(policy), *_inner(policy, layers).command(argv)]
        if not survey().cgroup:
            return inside
        return Launch(policy, confine=False, cgroup=True).command(inside)

    def label(self) -> str:
        layers, _ = _inner_layers()
        inner = [name for name in layers if name not in _NAMESPACES.split()]
        lost = [name for name in ("landlock", "seccomp") if not any(n.startswith(name) for n in inner)]
        if survey().cgroup:
            inner.append("cgroup")
        else:
            lost.append("cgroup")
        return f"bwrap: {_NAMESPACES} root {' '.join(inner)}" + (f"; without: {' '.join(lost)}" if lost else "")
