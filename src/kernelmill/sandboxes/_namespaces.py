"""Namespaces, capabilities and a PID namespace of one's own. Standard library only.

A process in these namespaces stays open to its ancestors of the same user outside: the user namespace
belongs to them, so process_vm_readv and /proc/<pid> go on working from there (not the other way round).
"""

from __future__ import annotations

import os
import resource
import signal
import struct
from collections.abc import Collection, Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from kernelmill.sandboxes._kernel import call

_NEW_USER, _NEW_PID = 0x10000000, 0x20000000
_NEW = {"net": 0x40000000, "ipc": 0x08000000, "uts": 0x04000000}
_NEW_MOUNTS = 0x00020000
_NOBODY = 65534

_PR_SET_PDEATHSIG, _PR_CAPBSET_DROP, _PR_SET_NO_NEW_PRIVS, _PR_CAP_AMBIENT = 1, 24, 38, 47
_PR_CAP_AMBIENT_CLEAR_ALL = 4
_CAPABILITY_VERSION_3 = 0x20080522

_AT_FDCWD, _AT_RECURSIVE, _MOUNT_ATTR_RDONLY, _MS_BIND, _MS_REC = -100, 0x8000, 1, 0x1000, 0x4000


@dataclass(frozen=True)
class Forked:
    """What the caller of `fork_into_pid_namespace` gets; process ids in the caller's numbering."""

    keeper: int
    """The caller's child: wait for it, kill it. It ends as the inner process ended, by exit code or signal."""
    inside: int
    """The process inside, which is 1 in its own numbering: read its memory and its /proc."""


def enter_user_namespace(flags: int = 0) -> None:
    """Move this process into a new user namespace, and those of `flags`, as nobody with its real user behind.

    Raises:
        OSError: The kernel refuses, or this process has more than one thread.
    """
    user, group = os.geteuid(), os.getegid()
    call("unshare", _NEW_USER | flags)
    Path("/proc/self/setgroups").write_text("deny")
    Path("/proc/self/uid_map").write_text(f"{_NOBODY} {user} 1")
    Path("/proc/self/gid_map").write_text(f"{_NOBODY} {group} 1")


def unshare_rest() -> list[str]:
    """Leave the network, SysV IPC and host name behind, each if it goes; the names of those left."""
    left = []
    for name, flag in _NEW.items():
        try:
            call("unshare", flag)
        except OSError:
            continue
        left.append(name)
    return left


def make_read_only(writable: Iterable[Path]) -> None:
    """Make every mount read-only but those folders, in a mount namespace of this process's own.

    Landlock does not govern chmod, chown, time stamps and attributes; a read-only mount does.

    Raises:
        OSError: The kernel refuses or is older than 5.12.
    """
    here = os.getcwd()
    call("unshare", _NEW_MOUNTS)
    read_only, writing = (
        struct.pack("=4Q", _MOUNT_ATTR_RDONLY, 0, 0, 0),
        struct.pack("=4Q", 0, _MOUNT_ATTR_RDONLY, 0, 0),
    )
    call("mount_setattr", _AT_FDCWD, b"/", _AT_RECURSIVE, read_only, len(read_only))
    for path in filter(os.path.exists, writable):
        name = os.fsencode(path)
        call("mount", name, name, None, _MS_BIND | _MS_REC, None)
        call("mount_setattr", _AT_FDCWD, name, 0, writing, len(writing))
    os.chdir(here)  # below a new mount the old directory would still be the read-only one


def drop_capabilities() -> None:
    """Give up all capabilities for good, over the host or over a user namespace of one's own.

    No program started later gains rights either, whatever its file's mode; Landlock and seccomp rely on that.
    """
    call("prctl", _PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    with suppress(OSError):  # beyond the last that this kernel knows, or not ours to drop
        for capability in range(64):
            call("prctl", _PR_CAPBSET_DROP, capability, 0, 0, 0)
    call("prctl", _PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0)
    call("capset", struct.pack("=Ii", _CAPABILITY_VERSION_3, 0), bytes(24))


def die_with_parent(parent: int | None = None) -> None:
    """Have this process killed when the thread that started it ends; at once where process `parent` has ended."""
    call("prctl", _PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if parent is not None and os.getppid() != parent:
        os._exit(1)


def close_descriptors(keep: Collection[int]) -> None:
    """Close every descriptor but those."""
    for number in map(int, os.listdir("/proc/self/fd")):
        if number not in keep:
            with suppress(OSError):  # the listing's own is closed by now
                os.close(number)


def fork_inside(*, pid_namespace: bool = True) -> int:
    """Fork, the child as process 1 of a new PID namespace; it dies with this process, and all inside with it.

    Gives what os.fork gives. This process moves into a new user namespace and can fork no second time
    into it; it must have one thread only. Without `pid_namespace` a plain fork that dies with its parent.

    Raises:
        OSError: The kernel gives no such namespace.
    """
    if pid_namespace:
        enter_user_namespace(_NEW_PID)
    waiting, ready = os.pipe()
    inside = os.fork()
    if inside:
        os.close(ready)
        os.read(waiting, 1)
        os.close(waiting)
        return inside
    os.close(waiting)
    die_with_parent()
    try:
        os.write(ready, b"1")
    except BrokenPipeError:  # the parent died before it could take us along
        os._exit(1)
    os.close(ready)
    return 0


def mirror(status: int) -> NoReturn:
    """End this process as the one with that wait status ended: same exit code, or same signal."""
    code = os.waitstatus_to_exitcode(status)
    if code < 0:
        if code != -signal.SIGKILL:
            signal.signal(-code, signal.SIG_DFL)
        resource.setrlimit(resource.RLIMIT_CORE, (1, 1))
        os.kill(os.getpid(), -code)
    os._exit(code if code >= 0 else 128 - code)


def default_signals() -> None:
    """Let the signals that ask a process to end do so again, whatever handlers were inherited."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)


def _keep(report: int) -> None:
    """The keeper's life: fork the inner process, tell its number, wait for it. Returns in the inner one only."""
    die_with_parent()
    try:
        inside = fork_inside()
    except OSError as exc:
        os.write(report, f"! {exc}".encode())
        os._exit(1)
    if inside:
        default_signals()
        os.write(report, str(inside).encode())
        close_descriptors(())  # so that whoever reads from the inner process sees it end
        mirror(os.waitpid(inside, 0)[1])
    os.close(report)


def fork_into_pid_namespace() -> Forked | None:
    """Fork a process that is number 1 of its own PID namespace: when it ends, everything it started ends.

    Between it and the caller stands a keeper, which mirrors how it ended. The inner process dies with the
    keeper and the keeper with the caller's thread. As process 1 it ignores signals it has no handler for;
    those the kernel sends for faults still kill, and abort() ends as SIGSEGV.

    Gives None in the inner process. Raises OSError in the caller where the kernel gives no such namespace.
    """
    heard, report = os.pipe()
    keeper = os.fork()
    if not keeper:
        os.close(heard)
        _keep(report)
        return None
    os.close(report)
    with os.fdopen(heard) as answer:
        text = answer.read()
    if not text.isdigit():
        os.waitpid(keeper, 0)
        raise OSError(f"no PID namespace: {text[2:] or 'the keeper died'}")
    return Forked(keeper, int(text))
