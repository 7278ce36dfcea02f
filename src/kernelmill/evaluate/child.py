"""The process that runs untrusted code. Standard library, numpy and torch only.

A warm *server* imports torch once, then forks a fresh *cell* for every candidate, baseline and oracle.
A cell confines itself, then answers commands on its socket. Nothing it says is believed: the parent
reads the outputs out of the cell's memory and times calls on its own clock.

Wire format: frames of a 4-byte little-endian length and a body, JSON but for these: `c` is one call, `n` is
the same handshake without it. The answer to both is `r`, the child's own seconds as 8 bytes, a hint only, and JSON
that says where the outputs are. That is one frame, and the parent stops its clock and the process when it has come:
with a second frame for the outputs, an implementation could report its end first and work afterwards.
"""

from __future__ import annotations

import array
import contextlib
import ctypes
import importlib
import json
import os
import signal
import socket
import struct
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

from kernelmill.evaluate.child_memory import Arena, guarded_tensor
from kernelmill.sandboxes import _guard
from kernelmill.sandboxes._base import Policy

PREPARED = ("torch._dynamo", "torch._inductor.compile_fx")
"""What tracing and `torch.compile` import when they are first used."""


class Implementation(Protocol):
    """What a loader gives back."""

    def __call__(self, args: list[Any], state: list[Any]) -> Any:
        """Run once; what the reference returns."""


def send(sock: socket.socket, body: bytes) -> None:
    """Write one frame."""
    sock.sendall(struct.pack("<I", len(body)) + body)


def receive(sock: socket.socket) -> bytes:
    """Read one frame; empty bytes at end of file."""
    head = _exactly(sock, 4)
    if not head:
        return b""
    (length,) = struct.unpack("<I", head)
    return _exactly(sock, length)


def _exactly(sock: socket.socket, count: int) -> bytes:
    chunks = bytearray()
    while len(chunks) < count:
        chunk = sock.recv(count - len(chunks))
        if not chunk:
            return b""
        chunks += chunk
    return bytes(chunks)


def neutral_allocator() -> bool:
    """Make malloc keep its pages, so that page faults are nobody's speed-up; False where it is not glibc.

    Without it ReLU into a fresh 100 MB output spends 48 of 59 ms in the kernel's zeroing of pages.
    """
    libc = ctypes.CDLL(None)
    if not hasattr(libc, "mallopt"):
        return False
    mmap_max, trim_threshold, top_pad, arena_max = -4, -1, -2, -8
    settings = ((mmap_max, 0), (trim_threshold, 2**31 - 1), (top_pad, 64 * 2**20), (arena_max, 1))
    results = [libc.mallopt(what, value) for what, value in settings]
    return results == [1] * len(settings)


# ---------------------------------------------------------------------------------------------- server


def serve(fd: int, prepared_fd: int) -> None:
    """Import torch, then fork a cell for every request until the parent hangs up.

    A second process of the same kind, behind `prepared_fd`, goes on to import what tracing and `torch.compile` need:
    4 s that each cell of the reference would pay again.
    """
    neutral = neutral_allocator()
    importlib.import_module("torch")
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    control, prepared = socket.socket(fileno=fd), socket.socket(fileno=prepared_fd)
    if os.fork() == 0:
        control.close()
        _prepare()
        _fork_cells(prepared)
    prepared.close()
    control.send(json.dumps({"neutral_allocator": neutral}).encode())
    _fork_cells(control)


def _prepare() -> None:
    for module in PREPARED:
        with contextlib.suppress(ImportError):  # the cell that needs it says what is missing
            importlib.import_module(module)
    # torch 2.6 makes a folder when it is imported, and this process ends without clearing up.
    folder = getattr(sys.modules.get("torch.distributed.nn.jit.instantiator"), "_TEMP_DIR", None)
    if folder is not None:
        folder.cleanup()


def _fork_cells(control: socket.socket) -> None:
    """Until the hang-up; then end at once, since torch takes 2 s to leave a process in order, and all cells with it."""
    server = os.getpid()
    while True:
        body, descriptors = _receive_with_descriptor(control)
        if not body:
            os._exit(0)
        if os.fork() == 0:
            _guard.die_with_parent(server)
            control.close()
            _become_cell(json.loads(body), socket.socket(fileno=descriptors[0]))
        os.close(descriptors[0])
        _reap()


def _receive_with_descriptor(control: socket.socket) -> tuple[bytes, list[int]]:
    descriptors = array.array("i")
    data, ancillary, _, _ = control.recvmsg(1 << 20, socket.CMSG_SPACE(descriptors.itemsize))
    for level, kind, payload in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            descriptors.frombytes(payload[: len(payload) - len(payload) % descriptors.itemsize])
    return data, list(descriptors)


def _reap() -> None:
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        return


def _become_cell(request: dict[str, Any], sock: socket.socket) -> None:
    """Confine this process, then run its loop in the innermost process. Never returns."""
    spec = dict(request["policy"])
    policy = Policy(
        readable=tuple(Path(p) for p in spec.pop("readable")),
        writable=tuple(Path(p) for p in spec.pop("writable")),
        **spec,
    )
    _silence()
    os.sched_setaffinity(0, request["cores"])
    keeper = _fork_inner(confine=request["confine"])
    if keeper:
        _, status = os.waitpid(keeper, 0)
        with contextlib.suppress(OSError):
            send(sock, json.dumps({"exit": os.waitstatus_to_exitcode(status)}).encode())
        os._exit(0)
    layers = _guard.enter(policy, keep=[sock.fileno()]) if request["confine"] else []
    send(sock, json.dumps({"hello": True, "layers": layers}).encode())
    Cell(sock, request["threads"]).run()
    os._exit(0)


def _fork_inner(*, confine: bool) -> int:
    """Fork the process that will run untrusted code, in a PID namespace where there is one.

    Gives 0 inside, else the process to wait for.
    """
    if confine:
        with contextlib.suppress(OSError):
            forked = _guard.fork_into_pid_namespace()
            return forked.keeper if forked else 0
    keeper = os.getpid()
    inner = os.fork()
    if not inner:
        _guard.die_with_parent(keeper)
    return inner


def _silence() -> None:
    null = os.open(os.devnull, os.O_RDWR)
    for fd in (0, 1, 2):
        os.dup2(null, fd)
    os.close(null)


# ------------------------------------------------------------------------------------------------ cell


class Cell:
    """Holds the tensors and the implementation, and answers commands."""

    def __init__(self, sock: socket.socket, threads: int) -> None:
        import torch

        torch.set_num_threads(threads)
        self.torch = torch
        self.sock = sock
        self.buffers: list[Any] = []
        self.args: list[Any] = []
        self.state: list[Any] = []
        self.implementation: Implementation | None = None
        self.arena = Arena(torch)
        self.result: Any = None
        self.handlers: dict[str, Callable[..., dict[str, Any]]] = {
            "load": self.load,
            "bind": self.bind,
            "arena": self.arena_addresses,
            "forget": self.forget,
            "profile": self.profile,
            "role": self.role,
            "tighten": self.tighten,
        }

    def run(self) -> None:
        """Answer until the parent hangs up."""
        while True:
            body = receive(self.sock)
            if not body:
                return
            if body == b"c":
                self.call()
            elif body == b"n":
                self.report(0.0)
            else:
                self.answer(json.loads(body))

    def answer(self, command: dict[str, Any]) -> None:
        """Run one JSON command and report what it gave or raised."""
        handler = self.handlers[command.pop("do")]
        send(self.sock, json.dumps(self.guarded(handler, **command)).encode())

    def guarded(self, function: Callable[..., dict[str, Any]], **arguments: Any) -> dict[str, Any]:
        """The function's answer, or the foreign exception as data: it must not end the cell's loop."""
        try:
            with self.torch.no_grad():
                return function(**arguments)
        except BaseException as error:  # noqa: BLE001 - SystemExit and KeyboardInterrupt of a candidate included
            return {"error": describe(error), "kind": type(error).__name__}

    def call(self) -> None:
        """One timed call: everything between the two frames is the candidate's."""
        implementation, args, state = self.implementation, self.args, self.state
        self.result = None
        answer = self.guarded(self._timed, implementation=implementation, args=args, state=state)
        if "error" in answer:
            send(self.sock, json.dumps(answer).encode())
        else:
            self.report(answer["seconds"])

    def report(self, seconds: float) -> None:
        """That a call is over, and where its outputs are."""
        send(self.sock, b"r" + struct.pack("<d", seconds) + json.dumps(self.guarded(self.outputs)).encode())

    def _timed(self, implementation: Implementation, args: list[Any], state: list[Any]) -> dict[str, Any]:
        self.arena.rewind()
        start = time.perf_counter()
        self.result = implementation(args, state)
        return {"seconds": time.perf_counter() - start}

    def role(self, module: str) -> dict[str, Any]:
        """Take on the handlers of another trusted module, e.g. the oracle's."""
        self.handlers.update(importlib.import_module(module).handlers(self))
        return {}

    def load(self, loader: str, payload: dict[str, str], signature: dict[str, Any]) -> dict[str, Any]:
        """Load an artifact."""
        implementation = importlib.import_module(loader).load(payload, signature)
        if hasattr(implementation, "use_allocator"):
            implementation.use_allocator(self.arena.allocate)
        self.implementation = implementation
        return {}

    def tighten(self) -> dict[str, Any]:
        """No new processes from here on."""
        _guard.tighten()
        return {}

    def bind(self, args: list[dict[str, Any]], state: list[dict[str, Any]]) -> dict[str, Any]:
        """Make the tensors the parent writes into; scalars come as `{"value": ...}`."""
        self.buffers = []
        self.args = [self._make(a) for a in args]
        self.state = [self._make(s) for s in state]
        return {"tensors": [address for _, address in self.buffers]}

    def _make(self, spec: dict[str, Any]) -> Any:
        if "value" in spec:
            value = spec["value"]
            return tuple(value) if isinstance(value, list) else value
        tensor, address = guarded_tensor(self.torch, spec["shape"], spec["stride"], spec["dtype"], spec["offset"])
        self.buffers.append((tensor, address))
        return tensor

    def outputs(self) -> dict[str, Any]:
        """Where the last call's results are."""
        leaves: list[Any] = []
        kinds: list[str] = []
        tree = flatten(self.result, leaves, kinds)
        return {"outputs": [self._describe(leaf) for leaf in leaves], "tree": tree, "kinds": "".join(kinds)}

    def _describe(self, leaf: Any) -> dict[str, Any]:
        if type(leaf) is not self.torch.Tensor and type(leaf) is not self.torch.nn.Parameter:
            return {"type": type(leaf).__name__, "value": repr(leaf)[:80]}
        if leaf.layout is not self.torch.strided or leaf.device.type != "cpu":
            return {"type": f"{leaf.layout} tensor on {leaf.device}", "value": ""}
        return {
            "address": leaf.data_ptr(),
            "shape": list(leaf.shape),
            "stride": list(leaf.stride()),
            "dtype": str(leaf.dtype).removeprefix("torch."),
            "flags": "conj" * leaf.is_conj() + "neg" * leaf.is_neg(),
        }

    def arena_addresses(self) -> dict[str, Any]:
        """Buffers the launch allocated, for poison and red zones."""
        return {"tensors": [address for _, address in self.arena.slots]}

    def forget(self, sizes: list[int]) -> dict[str, Any]:
        """Drop the last result and fill the free heap with NaN bytes, so that stale memory is no answer."""
        self.result = None
        blocks = [self.torch.full((size,), 0xFF, dtype=self.torch.uint8) for size in sizes]
        del blocks
        return {}

    def profile(self, repeats: int) -> dict[str, Any]:
        """Median seconds of each step over some calls; empty where the implementation cannot tell."""
        profiled = getattr(self.implementation, "profiled", None)
        if profiled is None:
            return {"steps": {}}
        samples: dict[str, list[float]] = {}
        for _ in range(repeats):
            self.arena.rewind()
            _, steps = profiled(self.args, self.state)
            for name, seconds in steps.items():
                samples.setdefault(name, []).append(seconds)
        return {"steps": {name: sorted(values)[len(values) // 2] for name, values in samples.items()}}


def flatten(value: Any, leaves: list[Any], kinds: list[str]) -> Any:
    """Nesting of tuples and lists as a tree of leaf numbers; leaves and container kinds are appended."""
    if isinstance(value, list | tuple):
        kinds.append("l" if isinstance(value, list) else "t")
        return [flatten(item, leaves, kinds) for item in value]
    leaves.append(value)
    return len(leaves) - 1


def describe(error: BaseException) -> str:
    """One line for a foreign exception, at most 2000 characters, whatever its `str` does."""
    try:
        text = str(error)
    except BaseException:  # noqa: BLE001 - a candidate's own __str__
        text = "(its message could not be made)"
    return f"{type(error).__name__}: {text}"[:2000]
