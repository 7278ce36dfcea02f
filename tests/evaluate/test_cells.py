"""What a cell promises: frozen means frozen, deaths are named, nothing outlives it, and no answer is believed."""

from __future__ import annotations

import json
import os
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from kernelmill.errors import LaunchError
from kernelmill.evaluate.cells import Cell, CellSettings, Server, _parsed, _receive
from kernelmill.evaluate.failures import CallTimeoutError, IntegrityError, OutOfMemoryError, StructureError
from kernelmill.evaluate.memory import read_memory, write_memory
from kernelmill.evaluate.side import Side
from kernelmill.languages._base import Artifact
from kernelmill.sandboxes._base import Policy
from kernelmill.schema import Signature, TensorSpec
from tests.evaluate.fakes import tensor

SHAPE = (64, 64)
SIGNATURE = Signature(
    arguments=(TensorSpec(name="x", shape=SHAPE, dtype="float32", stride=(64, 1)),),
    outputs=(TensorSpec(name="out", shape=SHAPE, dtype="float32", stride=(64, 1), role="output"),),
)
ONES = np.ones(SHAPE, np.float32)

Start = Callable[[str], Side]


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    server = Server(CellSettings(threads=1, cores=tuple(sorted(os.sched_getaffinity(0)))))
    yield server
    server.close()


@pytest.fixture
def start(server: Server) -> Iterator[Start]:
    """Source of `custom_kernel` -> a side that has loaded and bound it."""
    cells: list[Cell] = []

    def make(source: str) -> Side:
        cells.append(server.spawn(Policy(memory_bytes=2**30)))
        side = Side(cells[-1], SIGNATURE, limit_s=3.0)
        payload = {"source": source, "entry": "custom_kernel", "init": "[]"}
        side.load_artifact(Artifact(loader="kernelmill.languages._python_loader", payload=payload))
        side.bind()
        side.load([tensor(ONES)])
        return side

    yield make
    for cell in cells:
        cell.close()


def gone(pid: int) -> bool:
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline:
        if not Path(f"/proc/{pid}").exists():
            return True
        time.sleep(0.01)
    return False


def test_outputs_are_read_from_the_memory_of_the_process(start: Start) -> None:
    side = start("def custom_kernel(x):\n    return x * 3\n")
    side.call()
    (out,) = side.outputs()
    assert np.array_equal(out.view, ONES * 3)
    side.load([tensor(ONES * 2)])
    side.call()
    assert np.array_equal(side.outputs()[0].view, ONES * 6)


def test_no_thread_writes_after_the_return(start: Start) -> None:
    side = start(
        """
import threading
import torch

OUT = torch.zeros(64, 64)


def count():
    while True:
        OUT.add_(1)


threading.Thread(target=count, daemon=True).start()


def custom_kernel(x):
    return OUT
"""
    )
    side.call()
    first = side.outputs()[0].view.copy()
    time.sleep(0.2)
    assert np.array_equal(side.outputs()[0].view, first)
    side.cell.thaw()
    time.sleep(0.2)
    assert not np.array_equal(side.outputs()[0].view, first)


def test_a_null_call_leaves_the_outputs_alone_and_the_process_frozen(start: Start) -> None:
    side = start("def custom_kernel(x):\n    return x + 1\n")
    side.call()
    assert side.null_call() > 0
    assert side.cell.frozen
    assert np.array_equal(side.outputs()[0].view, ONES * 2)


def test_a_call_takes_as_long_as_the_parent_saw(start: Start) -> None:
    side = start("import time\n\ndef custom_kernel(x):\n    time.sleep(0.05)\n    return x + 1\n")
    call = side.call()
    assert call.wall_s >= 0.05
    assert 0.05 <= call.child_s <= call.wall_s


def test_a_call_that_takes_too_long_ends_the_process(start: Start) -> None:
    side = start("import time\n\ndef custom_kernel(x):\n    time.sleep(60)\n")
    with pytest.raises(CallTimeoutError, match="longer than 3 s; it was killed"):
        side.call()
    assert gone(side.pid)
    assert side.cell.ended


@pytest.mark.parametrize(
    ("body", "error", "said"),
    [
        ("os._exit(5)", LaunchError, "exited with code 5"),
        ("ctypes.string_at(0)", LaunchError, "SIGSEGV"),
        ("raise ValueError('three')", LaunchError, "ValueError: three"),
        ("return torch.ones(1 << 33)", OutOfMemoryError, "memory"),
    ],
)
def test_a_death_is_named(start: Start, body: str, error: type[Exception], said: str) -> None:
    side = start(f"import ctypes\nimport os\nimport torch\n\n\ndef custom_kernel(x):\n    {body}\n")
    with pytest.raises(error, match=said):
        side.call()


def test_what_a_process_started_ends_with_it(server: Server) -> None:
    cell = server.spawn(Policy(processes=True))
    side = Side(cell, SIGNATURE, limit_s=3.0)
    forking = """
import os
import time


def custom_kernel(x):
    for _ in range(3):
        if os.fork() == 0:
            os.setsid()
            time.sleep(600)
    return x + 1
"""
    payload = {"source": forking, "entry": "custom_kernel", "init": "[]"}
    side.load_artifact(Artifact(loader="kernelmill.languages._python_loader", payload=payload))
    side.bind()
    side.load([tensor(ONES)])
    side.call()
    text = Path(f"/proc/{cell.pid}/task/{cell.pid}/children").read_text()
    children = [int(pid) for pid in text.split()]
    assert len(children) == 3
    cell.close()
    assert all(gone(pid) for pid in [cell.pid, *children])


def test_a_changed_input_is_found_with_its_place(start: Start) -> None:
    side = start("def custom_kernel(x):\n    x[0, 5] = 7\n    return x + 1\n")
    side.call()
    with pytest.raises(IntegrityError, match=r"input 'x' was changed: element 5 of its storage was 1\.0, is 7\.0"):
        side.outputs()


def test_a_write_around_an_input_is_found(start: Start) -> None:
    side = start(
        "import ctypes\n\ndef custom_kernel(x):\n"
        "    ctypes.memset(x.data_ptr() + x.nbytes + 8, 1, 4)\n    return x + 1\n"
    )
    side.call()
    with pytest.raises(IntegrityError, match="out-of-bounds write 8 bytes after buffer 'x'"):
        side.outputs()


def test_copying_past_both_ends_is_found_though_red_zone_meets_red_zone(start: Start) -> None:
    side = start("def custom_kernel(x):\n    return x + 1\n")
    zones = [slot.zone.tobytes() for slot in (*side.slots, *start("def custom_kernel(x):\n    return x\n").slots)]
    assert zones[0] != zones[1]


def test_an_output_that_is_the_input_is_recognised(start: Start) -> None:
    side = start("def custom_kernel(x):\n    return x\n")
    side.call()
    assert side.aliases(side.outputs()[0]) == "x"


def test_memory_goes_both_ways_in_one_piece(start: Start) -> None:
    side = start("def custom_kernel(x):\n    return x + 0\n")
    values = np.random.default_rng(0).standard_normal(SHAPE).astype(np.float32)
    write_memory(side.pid, side.slots[0].address, values)
    back = np.empty_like(values)
    read_memory(side.pid, side.slots[0].address, back)
    assert np.array_equal(back, values)


def test_reading_what_is_not_mapped_is_the_candidates_fault(start: Start) -> None:
    side = start("def custom_kernel(x):\n    return x\n")
    with pytest.raises(LaunchError, match="is not accessible"):
        read_memory(side.pid, 8, np.empty(16, np.uint8))


@pytest.mark.parametrize(
    "outputs",
    [
        [{"address": -1, "shape": [64, 64], "stride": [64, 1], "dtype": "float32", "flags": ""}],
        [{"address": 8, "shape": [1 << 62, 4], "stride": [4, 1], "dtype": "float32", "flags": ""}],
        [{"address": 8, "shape": ["a"], "stride": [1], "dtype": "float32", "flags": ""}],
        [{"address": 8, "shape": [2, 2], "stride": [1], "dtype": "float32", "flags": ""}],
        [{"address": 8, "shape": [2], "stride": [-1], "dtype": "float32", "flags": ""}],
        [{"address": 8, "shape": [2], "stride": [1], "dtype": "float31", "flags": ""}],
        [{"shape": [2]}],
        [7],
        7,
    ],
)
def test_no_description_of_outputs_breaks_the_reader(start: Start, outputs: object) -> None:
    side = start("def custom_kernel(x):\n    return x\n")
    side.call()
    side.cell.returned = {"outputs": outputs, "tree": 0, "kinds": ""}
    with pytest.raises((StructureError, LaunchError)):
        side.outputs()


@pytest.mark.parametrize("body", [b"", b"\xff\xfe", b"[1]", b"[" * 100_000, b"nonsense", b"r"])
def test_an_answer_that_is_none_is_refused(body: bytes) -> None:
    with pytest.raises(LaunchError, match="where an answer was due"):
        _parsed(body)


def test_a_frame_must_be_there_in_time_however_it_drips() -> None:
    ours, theirs = socket.socketpair()

    def drip() -> None:
        for byte in struct.pack("<I", 100) + b"x" * 20:
            theirs.send(bytes([byte]))
            time.sleep(0.05)

    sender = threading.Thread(target=drip)
    sender.start()
    with pytest.raises(TimeoutError):
        _receive(ours, 0.4)
    sender.join()


def test_a_frame_that_claims_gigabytes_is_not_read() -> None:
    ours, theirs = socket.socketpair()
    theirs.send(struct.pack("<I", 1 << 31) + json.dumps({}).encode())
    with pytest.raises(LaunchError, match="at most"):
        _receive(ours, 1.0)
