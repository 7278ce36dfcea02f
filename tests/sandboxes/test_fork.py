"""Forking a warm process into the guard, and what its parent outside may still do."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import kernelmill
from kernelmill.sandboxes.guard import Guard, survey

ROOT = Path(kernelmill.__file__).resolve().parent.parent
HEAD = f"import sys; sys.path.append({str(ROOT)!r})\n"

PARENT = (
    HEAD
    + """
import ctypes, os, signal, time
from pathlib import Path
from kernelmill.sandboxes._base import Policy
from kernelmill.sandboxes._guard import enter, fork_into_pid_namespace
from kernelmill.sandboxes._kernel import call

buffer = ctypes.create_string_buffer(b"before", 16)
told, tell = os.pipe()
heard, hear = os.pipe()
forked = fork_into_pid_namespace()
if forked is None:
    layers = enter(Policy(), keep=(tell, heard))
    os.write(tell, " ".join(layers).encode())
    os.read(heard, 1)
    os.write(tell, buffer.value)
    os._exit(5)

def move(name, data):
    mine = ctypes.create_string_buffer(data, len(data))
    here = (ctypes.c_size_t * 2)(ctypes.addressof(mine), len(data))
    there = (ctypes.c_size_t * 2)(ctypes.addressof(buffer), len(data))
    call(name, forked.inside, ctypes.addressof(here), 1, ctypes.addressof(there), 1, 0)
    return mine.raw

print("layers", os.read(told, 1000).decode())
print("read", move("process_vm_readv", bytes(6)).decode())
move("process_vm_writev", b"AFTER!")
tasks = list(Path(f"/proc/{forked.inside}/task").iterdir())
print("schedstat", len([t for t in tasks if len((t / "schedstat").read_text().split()) == 3]))
os.write(hear, b"1")
print("inside saw", os.read(told, 16).decode())
print("code", os.waitstatus_to_exitcode(os.waitpid(forked.keeper, 0)[1]))
"""
)


def lines(argv: list[str]) -> dict[str, str]:
    done = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return dict(
        line.rsplit(" ", 1) if not line.startswith("layers") else line.split(" ", 1)
        for line in done.stdout.splitlines()
    )


@pytest.fixture(autouse=True)
def _guard_works() -> None:
    reason = Guard.missing() or (None if "pid" in survey().layers else "no PID namespace")
    if reason:
        pytest.skip(f"guard: {reason}")


def check(found: dict[str, str]) -> None:
    assert found["read"] == "before"
    assert found["inside saw"] == "AFTER!"
    assert int(found["schedstat"]) >= 1
    assert found["code"] == "5"
    assert {"user", "net", "pid", "seccomp", "caps"} <= set(found["layers"].split())


def test_the_parent_outside_reads_and_writes_the_memory_of_a_guarded_child() -> None:
    check(lines([sys.executable, "-I", "-S", "-c", PARENT]))


def test_a_parent_without_privilege_can_do_so_too() -> None:
    python = shutil.which("python3", path="/usr/bin")
    if os.getuid() != 0 or python is None or shutil.which("setpriv") is None:
        pytest.skip("needs root, setpriv and a system Python to become nobody")
    nobody = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]
    importable = [*nobody, python, "-I", "-S", "-c", HEAD + "import kernelmill.sandboxes._guard"]
    if subprocess.run(importable, capture_output=True, check=False).returncode:
        pytest.skip("nobody cannot read this checkout")
    check(lines([*nobody, python, "-I", "-S", "-c", PARENT]))


def run(body: str) -> subprocess.CompletedProcess[str]:
    names = (
        "from kernelmill.sandboxes._guard import *\nfrom kernelmill.sandboxes._base import Policy\nimport os, signal\n"
    )
    argv = [sys.executable, "-c", HEAD + names + body]
    return subprocess.run(argv, capture_output=True, text=True, timeout=120, check=False)


def test_the_guard_needs_nothing_but_the_standard_library() -> None:
    done = run("import sys; print(sorted({'pydantic', 'torch', 'numpy', 'rich'} & set(sys.modules)))")
    assert done.stdout == "[]\n", done.stderr


def test_a_killed_child_is_mirrored_by_its_keeper() -> None:
    done = run(
        """
forked = fork_into_pid_namespace()
if forked is None:
    signal.pause()
os.kill(forked.inside, signal.SIGKILL)
print(os.waitstatus_to_exitcode(os.waitpid(forked.keeper, 0)[1]))
"""
    )
    assert done.stdout == "-9\n", done.stderr


def test_killing_the_keeper_ends_the_child_and_what_it_started() -> None:
    done = run(
        """
read, write = os.pipe()
forked = fork_into_pid_namespace()
if forked is None:
    enter(Policy(processes=True), keep=(write,))
    os.fork()
    os.setsid() if os.getpid() != 1 else None
    os.write(write, b"1")
    signal.pause()
os.close(write)
os.read(read, 1), os.read(read, 1)
os.kill(forked.keeper, signal.SIGKILL)
os.waitpid(forked.keeper, 0)
print("ended", os.read(read, 1))
"""
    )
    assert done.stdout == "ended b''\n", done.stderr


def test_a_child_cannot_detach_from_its_keeper() -> None:
    done = run(
        """
import ctypes
if fork_into_pid_namespace() is None:
    enter(Policy())
    print(ctypes.CDLL(None).prctl(1, 0, 0, 0, 0), flush=True)
    os._exit(0)
os.wait()
"""
    )
    assert done.stdout == "-1\n", done.stderr


def test_a_process_with_threads_is_refused() -> None:
    done = run(
        "import threading, time; threading.Thread(target=time.sleep, args=(5,), daemon=True).start()\nenter(Policy())"
    )
    assert "only a process with one thread can enter the sandbox, this one has 2" in done.stderr


def test_a_layer_that_is_required_and_does_not_hold_is_an_error() -> None:
    done = run("enter(Policy(), require=('user', 'moat'))")
    assert "the sandbox does not hold: moat; what holds: user" in done.stderr


def test_tightening_denies_programs_and_processes_but_not_threads() -> None:
    done = run(
        """
import ctypes, threading
enter(Policy(processes=True))
tighten()
def refused(action):
    try:
        action()
    except PermissionError:
        return True
    return False
print(refused(os.fork), refused(lambda: os.execv("/bin/true", ["true"])), ctypes.CDLL(None).prctl(22, 2, 0, 0, 0))
thread = threading.Thread(target=lambda: print("thread"))
thread.start()
thread.join()
"""
    )
    assert done.stdout == "True True -1\nthread\n", done.stderr


def test_a_warm_server_with_torch_forks_a_child_that_computes_with_threads() -> None:
    pytest.importorskip("torch")
    done = run(
        """
import torch
forked = fork_into_pid_namespace()
if forked is None:
    enter(Policy())
    torch.set_num_threads(2)
    x = torch.ones(512, 512)
    print(int((x @ x).sum()), int(torch.nn.functional.gelu(x).sum() > 0), flush=True)
    os._exit(0)
print(os.waitstatus_to_exitcode(os.waitpid(forked.keeper, 0)[1]))
"""
    )
    assert done.stdout == f"{512**3} 1\n0\n", done.stderr
