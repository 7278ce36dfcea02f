"""The launcher that waits for its command."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from kernelmill.sandboxes import Policy
from kernelmill.sandboxes.guard import Guard


@pytest.fixture()
def guard() -> Guard:
    if reason := Guard.missing():
        pytest.skip(reason)
    return Guard()


def waiting_of(guard: Guard) -> int:
    assert guard._ready is not None
    return guard._ready._process.pid


def test_a_waiting_launcher_is_used_for_the_next_command(guard: Guard, tmp_path: Path) -> None:
    guard.start(["/bin/true"], Policy(), tmp_path).communicate()
    waiting = waiting_of(guard)
    process = guard.start(["/bin/sh", "-c", "exit 4"], Policy(), tmp_path)
    process.communicate()
    assert (process.pid, process.returncode) == (waiting, 4)


def test_one_that_was_killed_is_replaced(guard: Guard, tmp_path: Path) -> None:
    guard.start(["/bin/true"], Policy(), tmp_path).communicate()
    os.kill(waiting_of(guard), 9)
    os.waitid(os.P_PID, waiting_of(guard), os.WEXITED | os.WNOWAIT)
    output, _ = guard.start(["/bin/echo", "said"], Policy(), tmp_path).communicate()
    assert output == b"said\n"


def test_it_ends_with_its_owner(guard: Guard, tmp_path: Path) -> None:
    guard.start(["/bin/true"], Policy(), tmp_path).communicate()
    waiting = waiting_of(guard)
    guard._ready = None
    gc.collect()
    with pytest.raises(ProcessLookupError):
        os.kill(waiting, 0)


def test_it_ends_with_a_process_that_is_killed(guard: Guard, tmp_path: Path) -> None:
    code = (
        "import time; from pathlib import Path; from kernelmill.sandboxes import Policy; "
        "from kernelmill.sandboxes.guard import Guard; guard = Guard(); "
        f"guard.start(['/bin/true'], Policy(), Path({str(tmp_path)!r})).communicate(); "
        "print(guard._ready._process.pid, flush=True); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as owner:
        assert owner.stdout is not None
        waiting = int(owner.stdout.readline())
        owner.kill()
    deadline = time.monotonic() + 10
    while Path(f"/proc/{waiting}/cmdline").exists() and Path(f"/proc/{waiting}/cmdline").read_bytes():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_a_fork_of_its_owner_leaves_it_alone(guard: Guard, tmp_path: Path) -> None:
    code = (
        "import os; from pathlib import Path; from kernelmill.sandboxes import Policy; "
        "from kernelmill.sandboxes.guard import Guard; guard = Guard(); "
        f"guard.start(['/bin/true'], Policy(), Path({str(tmp_path)!r})).communicate(); child = os.fork()\n"
        "if child: os.waitpid(child, 0); print(guard._ready._process.poll())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == "None\n"
