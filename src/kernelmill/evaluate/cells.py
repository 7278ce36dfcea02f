"""The parent's side of the trust boundary: a warm server, and one confined cell per implementation."""

from __future__ import annotations

import array
import json
import os
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kernelmill.errors import InfraError, LaunchError
from kernelmill.evaluate import machine
from kernelmill.evaluate.failures import CallTimeoutError, OutOfMemoryError, from_answer
from kernelmill.evaluate.memory import wait_until_stopped
from kernelmill.languages._base import Artifact
from kernelmill.sandboxes._base import Policy

WORKING_SHARE = 0.2
"""A thread that ran for this share of a call's wall time works in it."""


@dataclass(frozen=True)
class CellSettings:
    """How every cell of one evaluation runs."""

    threads: int
    cores: tuple[int, ...]
    confine: bool = True
    memory_bytes: int = 8 * 2**30
    start_seconds: float = 60.0
    reference_s: float = 60.0
    """Longest import of a task file, construction of its reference, making of its inputs, call of it."""
    environment: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class Call:
    """One call, timed by the parent."""

    wall_s: float
    child_s: float
    """What the child says; a label."""
    contention_s: float = 0.0
    """By how much waiting for CPUs held up its threads, see `machine.contention_s`."""


class Server:
    """A process that has torch imported and forks cells from there, in some milliseconds each.

    Where it was killed, the next `spawn` fails and starts another, so that trying again works.
    """

    def __init__(self, settings: CellSettings) -> None:
        self.settings = settings
        self._lock = threading.Lock()
        self._start()

    def _start(self) -> None:
        settings = self.settings
        pairs = [socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET) for _ in range(2)]
        self.control, self.prepared = (ours for ours, _ in pairs)
        theirs = [end.fileno() for _, end in pairs]
        code = (
            f"import sys; sys.path[:] = {sys.path!r}; "
            f"from kernelmill.evaluate.child import serve; serve({theirs[0]}, {theirs[1]})"
        )
        environment = {
            "PATH": "/usr/local/bin:/usr/bin:/bin",
            "LANG": "C.UTF-8",
            "OMP_NUM_THREADS": str(settings.threads),
            "HOME": "/nonexistent",
            **dict(settings.environment),
        }
        self.process = subprocess.Popen(
            [sys.executable, "-I", "-c", code],
            env=environment,
            pass_fds=theirs,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
        for _, end in pairs:
            end.close()
        self._await_ready()

    def _await_ready(self) -> None:
        try:
            self.control.settimeout(self.settings.start_seconds)
            self.neutral_allocator = json.loads(self.control.recv(1 << 16))["neutral_allocator"]
        except (OSError, ValueError) as error:
            self.process.kill()
            _, errors = self.process.communicate()
            tail = errors.decode(errors="replace").strip().splitlines()[-1:] or ["no message"]
            raise InfraError(f"the evaluation server did not start: {tail[0]} (torch must be importable)") from error

    def spawn(self, policy: Policy, *, prepared: bool = False) -> Cell:
        """A fresh confined process.

        Args:
            prepared: One that has imported what tracing and `torch.compile` need. The first waits for it.

        Raises:
            InfraError: The server is gone or the cell could not be confined.
        """
        with self._lock:
            ours = self._requested(policy, prepared=prepared)
        return Cell(ours, self.settings.start_seconds, self.settings.cores)

    def _requested(self, policy: Policy, *, prepared: bool) -> socket.socket:
        """Our end of the socket on which the new process will say hello."""
        if self.process.poll() is not None:
            raise self._lost()
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        ours.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        body = json.dumps(
            {
                "policy": {
                    "readable": [str(p) for p in policy.readable],
                    "writable": [str(p) for p in policy.writable],
                    "processes": policy.processes,
                    "memory_bytes": policy.memory_bytes,
                    "cpu_seconds": policy.cpu_seconds,
                    "file_bytes": policy.file_bytes,
                    "open_files": policy.open_files,
                    "environment": policy.environment,
                },
                "cores": list(self.settings.cores),
                "threads": self.settings.threads,
                "confine": self.settings.confine,
            }
        ).encode()
        try:
            fds = array.array("i", [theirs.fileno()])
            control = self.prepared if prepared else self.control
            control.sendmsg([body], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, fds)])
        except OSError as error:
            ours.close()
            raise self._lost() from error
        finally:
            theirs.close()
        return ours

    def _lost(self) -> InfraError:
        """Start another server in place of one that ended; what to raise."""
        self.close()
        code = self.process.returncode
        self._start()
        return InfraError(f"the evaluation server had ended with code {code}; another was started, try again")

    def close(self) -> None:
        """End the server; cells die when their sockets close."""
        self.control.close()
        self.prepared.close()
        with suppress(subprocess.TimeoutExpired):
            self.process.wait(timeout=2)
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        if self.process.stderr:
            self.process.stderr.close()


def _receive(sock: socket.socket, limit_s: float) -> bytes:
    """One frame; TimeoutError where it is not there in time, however slowly it drips, EOFError at the end."""
    deadline = time.monotonic() + limit_s
    head = _exactly(sock, 4, deadline)
    (length,) = struct.unpack("<I", head)
    if length > 1 << 26:
        raise LaunchError(f"the child sent a frame of {length} bytes; at most {1 << 26} are read")
    return _exactly(sock, length, deadline)


def _exactly(sock: socket.socket, count: int, deadline: float) -> bytes:
    chunks = bytearray()
    while len(chunks) < count:
        left = deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError
        sock.settimeout(left)
        chunk = sock.recv(count - len(chunks))
        if not chunk:
            raise EOFError
        chunks += chunk
    return bytes(chunks)


def _signal_name(number: int) -> str:
    return signal.Signals(number).name if number in list(signal.Signals) else f"signal {number}"


def _parsed(body: bytes) -> dict[str, Any]:
    """A JSON object that an untrusted process sent."""
    try:
        answer = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise LaunchError(
            f"the process sent {body[:40]!r} where an answer was due; it must leave its socket"
        ) from error
    if not isinstance(answer, dict):
        raise LaunchError(f"the process sent a {type(answer).__name__} where an answer was due")
    return answer


def _hello(sock: socket.socket) -> tuple[int, list[str]]:
    """The cell's pid as the kernel attests it, and the confinement layers it reports."""
    size = socket.CMSG_SPACE(struct.calcsize("iII"))
    data, ancillary, _, _ = sock.recvmsg(1 << 16, size)
    for level, kind, payload in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_CREDENTIALS:
            pid: int = struct.unpack("iII", payload)[0]
            answer = json.loads(data[4:]) if len(data) > 4 else {}
            if "hello" not in answer:
                raise InfraError(f"a cell ended while it confined itself: {answer or 'no message'}")
            return pid, answer["layers"]
    raise InfraError("a cell ended before it could be identified")


class Cell:
    """One process that runs one implementation."""

    def __init__(self, sock: socket.socket, start_seconds: float, cores: Sequence[int]) -> None:
        self.sock = sock
        sock.settimeout(start_seconds)
        try:
            self.pid, self.layers = _hello(sock)
        except OSError as error:
            raise InfraError(f"a cell did not start: {error}") from error
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 0)
        self.limit_s = start_seconds
        self.cores = tuple(cores)
        self._placed: set[int] = set()
        self.frozen = False
        self.returned: dict[str, Any] = {}
        """Where the outputs of the last call are, as the cell says."""

    def ask(self, do: str, limit_s: float | None = None, **fields: Any) -> dict[str, Any]:
        """Run one command in the cell.

        Raises:
            LaunchError: It raised; or the process died, with how.
            CallTimeoutError: No answer in time; the cell is killed.
        """
        body = json.dumps({"do": do, **fields}).encode()
        return self._understood(self._exchange(body, limit_s or self.limit_s, do))

    def call(self, limit_s: float) -> Call:
        """One call of the implementation, on the parent's clock; its outputs' addresses come with its end."""
        before = machine.schedule(self.pid)
        self.thaw()
        start = time.perf_counter()
        answer = self._exchange(b"c", limit_s, "call")
        wall = time.perf_counter() - start
        self._stop()
        # Before all threads have stopped: a sleeping one must get a CPU to stop, and waits for it up to 0.9 ms.
        after = machine.schedule(self.pid)
        self._place(machine.busy_threads(before, after, WORKING_SHARE * wall))
        contention = machine.contention_s(before, after)
        if answer[:1] != b"r":
            self._understood(answer)
        self.returned = _parsed(answer[9:])
        return Call(wall, struct.unpack("<d", answer[1:9])[0], contention)

    def _place(self, busy: set[int]) -> None:
        """Give the main thread and every thread that worked beside it in this call a CPU of its own.

        Without it the scheduler often wakes the threads of a thawed process on one CPU and leaves them there for the
        whole call: two threads of 16 ms each took 31 ms with an idle CPU beside them (Zen 3, Linux 6.18). A process
        with one working thread stays free, since threads that it starts in a call inherit the CPUs of the starter.
        """
        workers = busy - {self.pid}
        if not workers or workers <= self._placed or len(workers) >= len(self.cores):
            return
        self._placed = workers
        for thread, core in zip([self.pid, *sorted(workers)], self.cores, strict=False):
            with suppress(OSError):
                os.sched_setaffinity(thread, {core})

    def null_call(self) -> float:
        """Seconds of the same handshake, outputs described as after a call, that runs nothing."""
        self.thaw()
        start = time.perf_counter()
        self._exchange(b"n", 10.0, "null call")
        return time.perf_counter() - start

    def _understood(self, body: bytes) -> dict[str, Any]:
        answer = _parsed(body)
        if "exit" in answer:
            raise self._death(answer["exit"] if isinstance(answer["exit"], int) else None)
        if "error" in answer:
            raise from_answer(answer)
        return answer

    def _exchange(self, body: bytes, limit_s: float, what: str) -> bytes:
        self.thaw()
        with suppress(OSError):  # a dead peer shows when its answer is read
            self.sock.sendall(struct.pack("<I", len(body)) + body)
        return self._answer(limit_s, what)

    def _answer(self, limit_s: float, what: str) -> bytes:
        try:
            return _receive(self.sock, limit_s)
        except TimeoutError as error:
            self.kill()
            raise CallTimeoutError(f"{what} took longer than {limit_s:.3g} s; it was killed") from error
        except (EOFError, OSError) as error:
            raise self._death(None) from error

    def _death(self, code: int | None) -> LaunchError | OutOfMemoryError:
        self.kill()
        if code is None:
            return LaunchError("the process died without a word")
        if code < 0:
            name = _signal_name(-code)
            if name == "SIGKILL":
                return OutOfMemoryError("the process was killed (SIGKILL): out of memory or CPU time")
            return LaunchError(f"the process crashed with {name}")
        return LaunchError(f"the process exited with code {code} instead of returning a result")

    def kill(self) -> None:
        """End the process and everything it started (it is the first process of its own namespace)."""
        with suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)

    def close(self) -> None:
        """Kill and hang up."""
        self.kill()
        self.sock.close()

    @property
    def ended(self) -> bool:
        """Whether the process runs no more."""
        try:
            return Path(f"/proc/{self.pid}/stat").read_text().rsplit(")", 1)[1].split()[0] in "ZX"
        except OSError:
            return True

    def freeze(self) -> None:
        """Stop every thread of the process, so that nothing is written after the return."""
        if not self.frozen:
            self._stop()
        wait_until_stopped(self.pid)

    def _stop(self) -> None:
        with suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGSTOP)
        self.frozen = True

    def thaw(self) -> None:
        """Let it go on."""
        if self.frozen:
            with suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGCONT)
            self.frozen = False


def candidate_policy(artifact: Artifact, settings: CellSettings) -> Policy:
    """What a candidate's cell may do: read the interpreter, the system's libraries and its own artifact."""
    return Policy(readable=tuple(Path(p) for p in artifact.readable), memory_bytes=settings.memory_bytes)
