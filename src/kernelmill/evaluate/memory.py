"""Reading and writing another process's memory, so that what counts never passes through its code."""

from __future__ import annotations

import ctypes
import os
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path

import numpy as np

from kernelmill.errors import InfraError, LaunchError
from kernelmill.evaluate.arrays import Array

POLL_S = 30e-6

SPLIT_BYTES = 4 * 2**20
PARTS = max(1, min(4, len(os.sched_getaffinity(0))))
"""One CPU copies a third of what memory can move."""

_LIBC = ctypes.CDLL(None, use_errno=True)


class _Iovec(ctypes.Structure):
    _fields_ = [("base", ctypes.c_void_p), ("length", ctypes.c_size_t)]


def read_memory(pid: int, address: int, into: Array) -> None:
    """Fill a contiguous array from `address` of process `pid`.

    Raises:
        LaunchError: The address is not readable memory there.
        InfraError: This machine does not let us look into our own children.
    """
    _transfer("process_vm_readv", pid, address, into)


def write_memory(pid: int, address: int, data: Array) -> None:
    """Copy a contiguous array to `address` of process `pid`; raises as `read_memory`."""
    _transfer("process_vm_writev", pid, address, data)


def _transfer(name: str, pid: int, address: int, data: Array) -> None:
    if data.nbytes == 0:
        return
    if not data.flags["C_CONTIGUOUS"]:
        raise ValueError(f"{name} needs a contiguous array, got strides {data.strides}")
    start = data.ctypes.data
    split(lambda first, end: _move(name, pid, (start + first, address + first), end - first), data.nbytes)


def split(work: Callable[[int, int], object], nbytes: int) -> None:
    """Do `work(first, end)` on all of so many bytes, where there are many of them in parts side by side.

    For what leaves the interpreter's lock alone; raises what the parts raise.
    """
    if nbytes < SPLIT_BYTES:
        work(0, nbytes)
        return
    part = -(-nbytes // PARTS // 4096) * 4096
    spans = [(first, min(first + part, nbytes)) for first in range(0, nbytes, part)]
    for done in [_pool().submit(work, *span) for span in spans]:
        done.result()


@cache
def _pool() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(PARTS, thread_name_prefix="copy")


def _move(name: str, pid: int, ends: tuple[int, int], count: int) -> None:
    """Between an address here and one there."""
    function = getattr(_LIBC, name)
    function.restype = ctypes.c_ssize_t
    done = 0
    while done < count:
        here, there = (_Iovec(end + done, count - done) for end in ends)
        moved = function(pid, ctypes.byref(here), 1, ctypes.byref(there), 1, 0)
        if moved <= 0:
            _raise(name, pid, ends[1] + done)
        done += moved


def _raise(name: str, pid: int, address: int) -> None:
    number = ctypes.get_errno()
    if number in (1, 38):  # EPERM, ENOSYS
        raise InfraError(
            f"{name} of our own child {pid} is not permitted here ({os.strerror(number)}); "
            "in a container allow CAP_SYS_PTRACE (docker run --cap-add SYS_PTRACE)"
        )
    raise LaunchError(f"memory at {address:#x} of the candidate is not accessible: {os.strerror(number)}")


def wait_until_stopped(pid: int, seconds: float = 1.0) -> bool:
    """Wait until every thread of a process that was sent SIGSTOP has stopped; False where it is gone."""
    deadline = time.monotonic() + seconds
    tasks = Path(f"/proc/{pid}/task")
    while time.monotonic() < deadline:
        try:
            states = [(task / "stat").read_text().rsplit(")", 1)[1].split()[0] for task in tasks.iterdir()]
        except (OSError, IndexError):
            return False
        if all(state in "TtZX" for state in states):
            return True
        time.sleep(POLL_S)  # a thread must get a CPU to stop: spinning here could take the one it needs
    return False


def as_bytes(data: Array) -> Array:
    """The same contiguous memory as bytes."""
    return data.reshape(-1).view(np.uint8)
