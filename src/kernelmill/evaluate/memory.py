"""Reading and writing another process's memory, so that what counts never passes through its code."""

from __future__ import annotations

import ctypes
import os
import time
from pathlib import Path

import numpy as np

from kernelmill.errors import InfraError, LaunchError
from kernelmill.evaluate.arrays import Array

POLL_S = 30e-6

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
    function = getattr(_LIBC, name)
    function.restype = ctypes.c_ssize_t
    done = 0
    start = data.ctypes.data
    while done < data.nbytes:
        local = _Iovec(start + done, data.nbytes - done)
        remote = _Iovec(address + done, data.nbytes - done)
        moved = function(pid, ctypes.byref(local), 1, ctypes.byref(remote), 1, 0)
        if moved <= 0:
            _raise(name, pid, address + done)
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
