"""Attempts to break out, one a process, run inside a sandbox by `_probes`. Standard library only.

Each takes what it needs by name and gives what it got; OSError is the sandbox saying no. They do no harm
where nothing stops them.
"""

from __future__ import annotations

import ctypes
import json
import mmap
import os
import signal
import socket
import sys
import time
from collections.abc import Callable
from pathlib import Path

from kernelmill.sandboxes._kernel import call

Facts = dict[str, str]
"""What the prober outside prepared: paths, ports, the victim's process id and address, the secret."""

_PTRACE_SEIZE, _PTRACE_DETACH = 0x4206, 17
_CLONE_NEWUSER = 0x10000000


def read_file(facts: Facts) -> str:
    return Path(facts["path"]).read_text()


def write_file(facts: Facts) -> str:
    return str(Path(facts["path"]).write_text("changed"))


def change_mode(facts: Facts) -> str:
    os.chmod(facts["path"], 0o600)
    return "changed"


def read_environment(_: Facts) -> str:
    return Path("/proc/self/environ").read_text()


def read_parent_environment(facts: Facts) -> str:
    return Path("/proc", facts["pid"], "environ").read_text()


def read_parent_memory(facts: Facts) -> str:
    with open(f"/proc/{facts['pid']}/mem", "rb", buffering=0) as memory:
        memory.seek(int(facts["address"]))
        return memory.read(len(facts["secret"])).decode()


def list_parent_descriptors(facts: Facts) -> str:
    return " ".join(os.listdir(f"/proc/{facts['pid']}/fd"))


def copy_parent_memory(facts: Facts) -> str:
    size = len(facts["secret"])
    room = ctypes.create_string_buffer(size)
    here = (ctypes.c_size_t * 2)(ctypes.addressof(room), size)
    there = (ctypes.c_size_t * 2)(int(facts["address"]), size)
    addresses = [ctypes.addressof(here), 1, ctypes.addressof(there), 1]
    call("process_vm_readv", int(facts["pid"]), *addresses, 0)
    return room.raw.decode()


def trace_parent(facts: Facts) -> str:
    call("ptrace", _PTRACE_SEIZE, int(facts["pid"]), 0, 0)
    return "seized"


def signal_parent(facts: Facts) -> str:
    os.kill(int(facts["pid"]), signal.SIGUSR1)
    return "sent"


def connect_tcp(facts: Facts) -> str:
    with socket.create_connection(("127.0.0.1", int(facts["port"])), timeout=1.0):
        return "connected"


def send_udp(facts: Facts) -> str:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        return str(sender.sendto(b"x", ("127.0.0.1", int(facts["port"]))))


def connect_unix(facts: Facts) -> str:
    """A socket file, or an abstract name where it starts with `@`."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
        client.connect(facts["path"].replace("@", "\0", 1))
        return "connected"


def mount(facts: Facts) -> str:
    target = os.fsencode(facts["path"])
    call("mount", b"tmpfs", target, b"tmpfs", 0, None)
    call("umount2", target, 0)
    return "mounted"


def chroot(_: Facts) -> str:
    os.chroot("/")
    return "changed root"


def nested_namespace(_: Facts) -> str:
    call("unshare", _CLONE_NEWUSER)
    return "unshared"


def system_call(facts: Facts) -> str:
    """Null arguments: a kernel that lets the call in complains of them, a filter of the caller's rights."""
    try:
        call(facts["name"], *([0] * 6))
    except PermissionError:
        raise
    except OSError as exc:
        return f"reached the kernel: {exc.strerror}"
    return "reached the kernel"


def start_process(_: Facts) -> str:
    child = os.fork()
    if not child:
        os._exit(0)
    os.waitpid(child, 0)
    return "forked"


def fork_bomb(facts: Facts) -> str:
    """As many idle processes as asked for; they are gone before it returns."""
    children: list[int] = []
    try:
        for _ in range(int(facts["count"])):
            child = os.fork()
            if not child:
                signal.pause()
            children.append(child)
    finally:
        for child in children:
            os.kill(child, signal.SIGKILL)
    return f"{len(children)} processes"


def memory_bomb(facts: Facts) -> str:
    return f"{len(b'x' * int(facts['bytes']))} bytes"


def shared_memory_bomb(facts: Facts) -> str:
    """Reserve `bytes`, which an address-space limit refuses, and touch a fifth, which a control group kills."""
    size = int(facts["bytes"])
    block = bytes(2**20)
    with mmap.mmap(-1, size) as room:
        for _ in range(size // 5 // len(block)):
            room.write(block)
    return f"{size} bytes"


def large_file(facts: Facts) -> str:
    with open(facts["path"], "wb") as file:
        return str(file.write(bytes(int(facts["bytes"]))))


def many_descriptors(facts: Facts) -> str:
    held = [os.open("/dev/null", os.O_RDONLY) for _ in range(int(facts["count"]))]
    return f"{len(held)} descriptors"


def daemon(facts: Facts) -> str:
    """Outlive the command: a grandchild in a session of its own writes a file a little later."""
    if os.fork():
        return "started"
    os.setsid()
    if os.fork():
        os._exit(0)
    time.sleep(float(facts["seconds"]))
    Path(facts["path"]).write_text("alive")
    os._exit(0)


def burn_cpu(facts: Facts) -> str:
    end = time.process_time() + float(facts["seconds"])
    while time.process_time() < end:
        pass
    return f"{facts['seconds']} s of CPU"


def main(name: str, text: str) -> None:
    """Make one attempt and write what came of it to standard output as JSON: `got`, or `error`."""
    attempt: Callable[[Facts], str] = globals()[name]
    try:
        outcome = {"got": attempt(json.loads(text))}
    except (OSError, MemoryError) as exc:
        outcome = {"error": f"{type(exc).__name__}: {exc}"}
    sys.stdout.write(json.dumps(outcome))
    sys.stdout.flush()
