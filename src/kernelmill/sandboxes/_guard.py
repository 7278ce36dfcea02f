"""The guard: a process confines itself, with nothing installed and no privilege.

Runs in the children that execute candidates, so it needs the standard library only. What it does in
what order, and why each layer is there:

==========  =====================================================================================
user        nobody's rights, and a namespace in which the next four may be had without being root
net ipc uts no network device, no shared memory of others, no host name to change
mnt         every mount is read-only but the writable folders: chmod and time stamps too
pid         held where the process is number 1 of its namespace: nothing it starts outlives it
session     no terminal to type into
fds         nothing inherited but what is named
rlimits     CPU, memory, file size, descriptors, no core dumps
caps        none, none to be regained
landlockN   files, TCP, and from version 6 signals and abstract sockets to the outside
seccomp     no debugging, no namespaces, no mounts, no network, and where asked no processes
==========  =====================================================================================
"""

from __future__ import annotations

import os
import re
import resource
import sys
from collections.abc import Callable, Collection, Iterable, Iterator
from pathlib import Path

from kernelmill.errors import InfraError
from kernelmill.sandboxes import _landlock, _namespaces, _seccomp
from kernelmill.sandboxes._base import Policy
from kernelmill.sandboxes._namespaces import Forked, die_with_parent, fork_into_pid_namespace

__all__ = [
    "Forked",
    "die_with_parent",
    "enter",
    "fork_into_pid_namespace",
    "interpreter_paths",
    "system_paths",
    "tighten",
]

_SYSTEM = """
/usr /lib /lib32 /lib64 /bin /sbin /etc/alternatives /etc/ld.so.cache /etc/ld.so.conf /etc/ld.so.conf.d
/etc/localtime /etc/timezone /dev/zero /dev/full /dev/random /dev/urandom
/proc/self /proc/cpuinfo /proc/meminfo /proc/stat /proc/loadavg /proc/version /proc/filesystems
/proc/sys/vm /proc/sys/kernel /sys/devices/system
"""

_PACKAGE = Path(__file__).resolve().parent.parent

# glibc reserves 128 MiB of addresses for the arenas of a thread; 16 threads and some libraries.
_ADDRESS_SLACK_BYTES = 4 * 2**30


def system_paths() -> list[Path]:
    """What any program needs to read: libraries, compilers, the processor's description. No accounts, no keys."""
    return [Path(name) for name in _SYSTEM.split()]


def interpreter_paths() -> list[Path]:
    """What this Python needs to read to start and to import KernelMill."""
    found = {Path(sys.prefix), Path(sys.base_prefix), Path(sys.exec_prefix), _PACKAGE}
    return sorted(path for path in found if len(path.parts) > 1)


def enter(policy: Policy, keep: Iterable[int] = (), require: Collection[str] = ()) -> list[str]:
    """Confine this process, and all it will start, for good; gives the names of the layers that hold.

    Standard input, output and error and the descriptors in `keep` stay open. `policy.environment` is the
    business of who starts a program. Call it in a process with one thread, such as a fresh fork.

    Raises:
        InfraError: There are more threads, or a layer named in `require` does not hold.
    """
    threads = len(os.listdir("/proc/self/task"))
    if threads != 1:
        raise InfraError(f"only a process with one thread can enter the sandbox, this one has {threads}")
    layers = " ".join(_attempt(name, step) for name, step in _steps(policy, {0, 1, 2, *keep})).split()
    lost = sorted(set(require) - set(layers))
    if lost:
        raise InfraError(f"the sandbox does not hold: {' '.join(lost)}; what holds: {' '.join(layers)}")
    return layers


def _attempt(name: str, step: Callable[[], object]) -> str:
    """The name where the step works, with what it adds to it; empty where the kernel refuses."""
    try:
        found = step()
    except OSError:
        return ""
    if isinstance(found, list):
        return " ".join(found)
    return name if found is None else f"{name}{found}"


def _steps(policy: Policy, keep: set[int]) -> Iterator[tuple[str, Callable[[], object]]]:
    """In an order in which no layer takes away what the next needs."""
    yield "user", _namespaces.enter_user_namespace
    yield "rest", _namespaces.unshare_rest
    yield "mnt", lambda: _namespaces.make_read_only(policy.writable)
    yield "pid", lambda: ["pid"] if _own_numbers() else []
    yield "session", _new_session
    yield "fds", lambda: _namespaces.close_descriptors(keep)
    yield "rlimits", lambda: _limit(policy)
    yield "caps", _namespaces.drop_capabilities
    readable = [*system_paths(), *interpreter_paths(), *policy.readable]
    writable = [Path("/dev/null"), *policy.writable]
    # The import system finds a package by listing the folder that it lies in.
    listable = [_PACKAGE.parent]
    yield "landlock", lambda: _landlock.restrict(readable, writable, listable)
    yield "seccomp", lambda: _seccomp.install_entry(processes=policy.processes)


def _own_numbers() -> bool:
    """Whether this process has another number in the PID namespace that /proc shows, that of its parents."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return any(line.startswith("NSpid:") and len(line.split()) > 2 for line in lines)


def _new_session() -> None:
    if os.getsid(0) != os.getpid():
        os.setsid()


def _limit(policy: Policy) -> None:
    wanted = {
        resource.RLIMIT_CPU: policy.cpu_seconds,
        resource.RLIMIT_FSIZE: policy.file_bytes,
        resource.RLIMIT_NOFILE: policy.open_files,
        # 1, not 0: at 0 the kernel still starts a core handler that is a program, at 1 it does not (core(5)).
        resource.RLIMIT_CORE: 1,
        resource.RLIMIT_DATA: policy.memory_bytes,
    }
    if not policy.reserves:
        wanted[resource.RLIMIT_AS] = _address_space_bytes() + policy.memory_bytes + _ADDRESS_SLACK_BYTES
    if _counts_own_tasks():
        wanted[resource.RLIMIT_NPROC] = policy.tasks
    for limit, value in wanted.items():
        ceiling = resource.getrlimit(limit)[1]
        allowed = value if ceiling == resource.RLIM_INFINITY else min(value, ceiling)
        resource.setrlimit(limit, (allowed, allowed))


def _counts_own_tasks() -> bool:
    """Whether the kernel counts tasks per user namespace, not all of the user's: in one, from Linux 5.14 on."""
    release = tuple(int(part) for part in re.findall(r"\d+", os.uname().release)[:2])
    return release >= (5, 14) and int(Path("/proc/self/uid_map").read_text().split()[2]) == 1


def _address_space_bytes() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    return pages * resource.getpagesize()


def tighten() -> None:
    """Deny new processes, other programs and further filters from now on, in all threads; new threads stay allowed.

    For after a candidate with host code has been loaded. Raises OSError where the kernel refuses.
    """
    _seccomp.install_tight()
