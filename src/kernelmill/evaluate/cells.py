"""The parent's side of the trust boundary: a warm server, and one confined cell per implementation."""

from __future__ import annotations

import array
import json
import os
import secrets
import signal
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from kernelmill.errors import BuildError, InfraError, LaunchError, StageError
from kernelmill.evaluate.arrays import HostTensor, empty_tensor
from kernelmill.evaluate.child import ZONE
from kernelmill.evaluate.memory import as_bytes, read_memory, wait_until_stopped, write_memory
from kernelmill.languages._base import Artifact
from kernelmill.sandboxes._base import Policy
from kernelmill.schema import Scalar, Signature, TensorSpec


class TimeoutFailure(StageError):
    """The implementation did not answer in time."""

    stage = "timeout"


class MemoryFailure(StageError):
    """The implementation wanted more memory than it may have."""

    stage = "memory"


class StructureFailure(StageError):
    """The result is not what the reference returns: count, nesting, type, shape, dtype."""

    stage = "structure"


class IntegrityFailure(StageError):
    """The implementation touched what is not its own."""

    stage = "integrity"


@dataclass(frozen=True)
class CellSettings:
    """How every cell of one evaluation runs."""

    threads: int
    cores: tuple[int, ...]
    confine: bool = True
    memory_bytes: int = 8 * 2**30
    start_seconds: float = 60.0
    environment: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class Call:
    """One call, timed by the parent."""

    wall_s: float
    child_s: float
    """What the child says; a label."""


class Server:
    """A process that has torch imported and forks cells from there, in some milliseconds each."""

    def __init__(self, settings: CellSettings) -> None:
        self.settings = settings
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        self.control = ours
        code = (
            f"import sys; sys.path[:] = {sys.path!r}; "
            f"from kernelmill.evaluate.child import serve; serve({theirs.fileno()})"
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
            pass_fds=[theirs.fileno()],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
        theirs.close()
        ours.settimeout(settings.start_seconds)
        self._await_ready()

    def _await_ready(self) -> None:
        try:
            ready = _receive(self.control)
        except (OSError, EOFError) as error:
            self.process.kill()
            _, errors = self.process.communicate()
            tail = errors.decode(errors="replace").strip().splitlines()[-1:] or ["no message"]
            raise InfraError(f"the evaluation server did not start: {tail[0]} (torch must be importable)") from error
        assert ready == b"ready"

    def spawn(self, policy: Policy) -> Cell:
        """A fresh confined process.

        Raises:
            InfraError: The server is gone or the cell could not be confined.
        """
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
            self.control.sendmsg([body], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, fds)])
        except OSError as error:
            raise InfraError(f"the evaluation server is gone: {error}") from error
        theirs.close()
        return Cell(ours, self.settings.start_seconds)

    def close(self) -> None:
        """End the server; cells die when their sockets close."""
        self.control.close()
        with suppress(subprocess.TimeoutExpired):
            self.process.wait(timeout=2)
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        if self.process.stderr:
            self.process.stderr.close()


def _receive(sock: socket.socket) -> bytes:
    head = _exactly(sock, 4)
    (length,) = struct.unpack("<I", head)
    if length > 1 << 26:
        raise LaunchError(f"the child sent a frame of {length} bytes; at most {1 << 26} are read")
    return _exactly(sock, length)


def _exactly(sock: socket.socket, count: int) -> bytes:
    chunks = bytearray()
    while len(chunks) < count:
        chunk = sock.recv(count - len(chunks))
        if not chunk:
            raise EOFError
        chunks += chunk
    return bytes(chunks)


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

    def __init__(self, sock: socket.socket, start_seconds: float) -> None:
        self.sock = sock
        sock.settimeout(start_seconds)
        try:
            self.pid, self.layers = _hello(sock)
        except OSError as error:
            raise InfraError(f"a cell did not start: {error}") from error
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 0)
        self.limit_s = start_seconds
        self.frozen = False
        self.returned: dict[str, Any] = {}
        """Where the outputs of the last call are, as the cell says."""

    def ask(self, do: str, limit_s: float | None = None, **fields: Any) -> dict[str, Any]:
        """Run one command in the cell.

        Raises:
            LaunchError: It raised; or the process died, with how.
            TimeoutFailure: No answer in time; the cell is killed.
        """
        body = json.dumps({"do": do, **fields}).encode()
        answer: dict[str, Any] = json.loads(self._exchange(body, limit_s or self.limit_s, do))
        if "exit" in answer:
            raise self._death(answer["exit"])
        if "error" in answer:
            kind = MemoryFailure if _is_memory(answer) else LaunchError
            raise kind(answer["error"])
        return answer

    def call(self, limit_s: float) -> Call:
        """One call of the implementation, on the parent's clock."""
        self.thaw()
        start = time.perf_counter()
        answer = self._exchange(b"c", limit_s, "call")
        wall = time.perf_counter() - start
        if len(answer) != 8:
            message = json.loads(answer)
            if "exit" in message:
                raise self._death(message["exit"])
            kind = MemoryFailure if _is_memory(message) else LaunchError
            raise kind(message["error"])
        self.returned = json.loads(self._answer(10.0, "reporting its outputs"))
        return Call(wall, struct.unpack("<d", answer)[0])

    def null_call(self) -> float:
        """Seconds of a handshake that runs nothing."""
        start = time.perf_counter()
        self._exchange(b"n", 10.0, "null call")
        return time.perf_counter() - start

    def _exchange(self, body: bytes, limit_s: float, what: str) -> bytes:
        self.thaw()
        with suppress(OSError):  # a dead peer shows when its answer is read
            self.sock.sendall(struct.pack("<I", len(body)) + body)
        return self._answer(limit_s, what)

    def _answer(self, limit_s: float, what: str) -> bytes:
        self.sock.settimeout(limit_s)
        try:
            return _receive(self.sock)
        except socket.timeout as error:
            self.kill()
            raise TimeoutFailure(f"{what} took longer than {limit_s:.3g} s; it was killed") from error
        except (EOFError, OSError) as error:
            raise self._death(None) from error

    def _death(self, code: int | None) -> LaunchError | MemoryFailure:
        self.kill()
        if code is None:
            return LaunchError("the process died without a word")
        if code < 0:
            name = signal.Signals(-code).name
            if name == "SIGKILL":
                return MemoryFailure("the process was killed (SIGKILL): out of memory or CPU time")
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

    def freeze(self) -> None:
        """Stop every thread of the process, so that nothing is written after the return."""
        if not self.frozen:
            with suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGSTOP)
            wait_until_stopped(self.pid)
            self.frozen = True

    def thaw(self) -> None:
        """Let it go on."""
        if self.frozen:
            with suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGCONT)
            self.frozen = False


def _is_memory(answer: dict[str, Any]) -> bool:
    return (
        answer.get("kind") == "MemoryError"
        or "can't allocate memory" in answer["error"]
        or ("bad_alloc" in answer["error"])
    )


@dataclass(frozen=True)
class _Slot:
    """A buffer of the cell that the parent owns."""

    address: int
    size: int


class Side:
    """An implementation bound to one workload in its own cell: write inputs, call, read outputs.

    Satisfies `timing.Side`. Every input and every buffer of a declared launch stands between red zones,
    which are checked after each snapshot; outputs of a declared launch are poisoned before each call.
    """

    def __init__(self, cell: Cell, signature: Signature, limit_s: float = 60.0) -> None:
        self.cell = cell
        self.signature = signature
        self.limit_s = limit_s
        self.slots: list[_Slot] = []
        self.arena: list[_Slot] = []
        self.loaded: list[HostTensor] = []
        self.sizes: list[int] = []
        self._zone = np.frombuffer(secrets.token_bytes(ZONE), np.uint8)
        self._poison = np.full(1 << 20, 0xFF, np.uint8)

    @property
    def pid(self) -> int:
        """Process id, for the machine's counters."""
        return self.cell.pid

    def load_artifact(self, artifact: Artifact, limit_s: float = 60.0) -> None:
        """Load a built candidate. Raises BuildError with what its code said."""
        try:
            self.cell.ask(
                "load",
                limit_s,
                loader=artifact.loader,
                payload=artifact.payload,
                signature=self.signature.model_dump(mode="json"),
            )
        except LaunchError as error:
            raise BuildError(f"it does not load: {error}") from error

    def bind(self, offset: int = 0) -> None:
        """Make the input and state buffers in the cell, `offset` bytes off their natural alignment."""
        args = [_bind_spec(a, offset) for a in self.signature.arguments]
        state = [_bind_spec(s, offset) for s in self.signature.state]
        answer = self.cell.ask("bind", args=args, state=state)
        self.slots = [_Slot(t["address"], t["bytes"]) for t in answer["tensors"]]
        for slot in self.slots:
            self._write_zones(slot)
        self.loaded = []

    def load(self, tensors: Sequence[HostTensor]) -> None:
        """Write arguments, then state, in place; poison what the launch will write; let the process run."""
        for position, (slot, tensor) in enumerate(zip(self.slots, tensors, strict=True)):
            if position < len(self.loaded) and self.loaded[position] is tensor:
                continue
            write_memory(self.pid, slot.address, tensor.storage)
        self.loaded = list(tensors)
        for slot in self.arena:
            self._fill(slot)
        self.cell.thaw()

    def _fill(self, slot: _Slot) -> None:
        for start in range(0, slot.size, self._poison.size):
            count = min(self._poison.size, slot.size - start)
            write_memory(self.pid, slot.address + start, self._poison[:count])

    def _write_zones(self, slot: _Slot) -> None:
        write_memory(self.pid, slot.address - ZONE, self._zone)
        write_memory(self.pid, slot.address + slot.size, self._zone)

    def call(self) -> Call:
        """One call; from its return on the process is frozen, so that nothing is finished later."""
        call = self.cell.call(self.limit_s)
        self.cell.freeze()
        return call

    def outputs(self) -> list[HostTensor]:
        """What the last call returned, copied out of the frozen process's memory.

        Raises:
            StructureFailure: Other count, nesting or type than the reference's.
            IntegrityFailure: A red zone or an input was written to; an output is an input.
        """
        answer = self.cell.returned
        if "error" in answer:
            raise StructureFailure(f"the result cannot be looked at: {answer['error']}")
        self._check_tree(answer)
        found = [self._snapshot(o) for o in answer["outputs"]]
        self._check_inputs()
        self._check_zones([*self.slots, *self.arena])
        return found

    def learn_arena(self) -> None:
        """After a first call: take charge of the buffers its launch allocated."""
        answer = self.cell.ask("arena")
        self.arena = [_Slot(t["address"], t["bytes"]) for t in answer["tensors"]]
        for slot in self.arena:
            self._write_zones(slot)

    def forget(self) -> None:
        """Fill the process's free heap with NaN bytes of the outputs' sizes."""
        self.cell.ask("forget", sizes=self.sizes)

    def _check_tree(self, answer: dict[str, Any]) -> None:
        tree = "tensor" if answer["tree"] == 0 else json.dumps(answer["tree"])
        if tree != self.signature.output_tree:
            raise StructureFailure(
                f"the result is nested as {tree}; the reference returns {self.signature.output_tree}"
            )
        for number, output in enumerate(answer["outputs"]):
            if "type" in output:
                raise StructureFailure(
                    f"output {number} is a {output['type']} {output['value']}; a plain torch.Tensor on the CPU is right"
                )
            if output["flags"]:
                raise StructureFailure(f"output {number} is a lazy {output['flags']} view; resolve it before returning")

    def _snapshot(self, output: dict[str, Any]) -> HostTensor:
        spec = TensorSpec(
            name="out", shape=output["shape"], dtype=output["dtype"], stride=output["stride"], role="output"
        )
        if any(s < 0 for s in spec.stride):
            raise StructureFailure(f"an output has negative strides {spec.stride}")
        tensor = empty_tensor(spec)
        if tensor.storage.nbytes > 1 << 36:
            raise StructureFailure(f"an output spans {tensor.storage.nbytes} bytes")
        read_memory(self.pid, output["address"], tensor.storage)
        return replace(tensor, address=output["address"])

    def aliases(self, tensor: HostTensor) -> str | None:
        """Name of the input whose memory an output shares, or None."""
        low, high = tensor.address, tensor.address + tensor.storage.nbytes
        for slot, spec in zip(self.slots, self.signature.tensors, strict=True):
            if low < slot.address + slot.size and slot.address < high:
                return spec.name
        return None

    def _check_inputs(self) -> None:
        for slot, tensor in zip(self.slots, self.loaded, strict=True):
            seen = np.empty_like(tensor.storage)
            read_memory(self.pid, slot.address, seen)
            if not _equal(seen, tensor.storage):
                where = int(np.flatnonzero(as_bytes(seen) != as_bytes(tensor.storage))[0]) // seen.itemsize
                raise IntegrityFailure(
                    f"input {tensor.spec.name!r} was changed: element {where} of its storage was "
                    f"{tensor.storage[where]}, is {seen[where]}; inputs are read-only unless the contract says `mutates`"
                )

    def _check_zones(self, slots: Sequence[_Slot]) -> None:
        seen = np.empty(ZONE, np.uint8)
        for number, slot in enumerate(slots):
            for where, address in (("before", slot.address - ZONE), ("after", slot.address + slot.size)):
                read_memory(self.pid, address, seen)
                if not np.array_equal(seen, self._zone):
                    at = int(np.flatnonzero(seen != self._zone)[0])
                    distance = ZONE - at if where == "before" else at
                    raise IntegrityFailure(
                        f"out-of-bounds write {distance} bytes {where} buffer {self._buffer_name(number)} "
                        f"of {slot.size} bytes"
                    )

    def _buffer_name(self, number: int) -> str:
        tensors = self.signature.tensors
        return repr(tensors[number].name) if number < len(tensors) else f"#{number - len(tensors)} of the launch"


def _equal(a: Any, b: Any) -> bool:
    """Whether two arrays have the same bytes (NaN included)."""
    wide = a.nbytes // 8 * 8
    x, y = as_bytes(a), as_bytes(b)
    return bool(
        np.array_equal(x[:wide].view(np.uint64), y[:wide].view(np.uint64)) and np.array_equal(x[wide:], y[wide:])
    )


def _bind_spec(argument: TensorSpec | Scalar, offset: int) -> dict[str, Any]:
    if isinstance(argument, Scalar):
        return {"value": argument.value}
    item = np.dtype(_itemsize(argument.dtype)).itemsize
    return {
        "shape": list(argument.shape),
        "stride": list(argument.stride),
        "dtype": argument.dtype,
        "offset": offset * item,
    }


def _itemsize(dtype: str) -> Any:
    from kernelmill.evaluate.arrays import STORAGE

    return STORAGE[dtype]


def candidate_policy(artifact: Artifact, settings: CellSettings, python_paths: Sequence[Path]) -> Policy:
    """What a candidate's cell may do: read the interpreter, the system's libraries and its own artifact."""
    return Policy(
        readable=(*python_paths, *(Path(p) for p in artifact.readable)),
        memory_bytes=settings.memory_bytes,
        environment={},
    )
