"""The parent's view of a task: what is read without running it, and what the oracle's cell tells."""

from __future__ import annotations

import os
import sysconfig
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from kernelmill.config import RunConfig
from kernelmill.errors import TaskError
from kernelmill.evaluate.bench import WorkloadBench
from kernelmill.evaluate.cells import Cell, CellSettings, Server
from kernelmill.evaluate.reference import ReferencePolicy, load_task, read_task_file
from kernelmill.languages.cpp import Cpp
from kernelmill.optimize.workbench import Workbench
from kernelmill.schema import Axis, Scalar, Task

KERNELBENCH = '''
import torch


class Model(torch.nn.Module):
    """Scaled sum of rows."""

    def __init__(self, n, scale):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.randn(n))
        self.register_buffer("mean", torch.zeros(n))
        self.scale = scale

    def forward(self, x, power):
        return ((x - self.mean) * self.weight).sum(-1) * self.scale**power, x.amax(-1)


def get_inputs():
    return [torch.randn(8, 32), 2]


def get_init_inputs():
    return [32, 0.5]
'''
NATIVE = """
import torch

from kernelmill import task


@task(inputs={"x": "float32[B, N]"}, axes={"B": (1, 64), "N": (4, 256, 4)}, workloads={"a": {"B": 4, "N": 16},
      "b": {"B": 2, "N": 8}}, error_factor=3.0)
def double(x):
    return x * 2
"""


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    server = Server(CellSettings(threads=1, cores=tuple(sorted(os.sched_getaffinity(0)))))
    yield server
    server.close()


POLICY = ReferencePolicy(readable=(), memory_bytes=2 * 2**30)


def load(server: Server, folder: Path, text: str, *workloads: str) -> Task:
    path = folder / "job.py"
    path.write_text(text)
    return load_task(server, path, POLICY, workloads)


def test_reading_a_task_file_executes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "job.py"
    path.write_text(KERNELBENCH + f"\nopen({str(tmp_path / 'trace')!r}, 'w')\n")
    assert read_task_file(path)[1] == "kernelbench"
    assert not (tmp_path / "trace").exists()


def test_a_signature_lists_arguments_state_and_outputs_in_order(server: Server, tmp_path: Path) -> None:
    signature = load(server, tmp_path, KERNELBENCH).workloads[0].signature
    assert [a.name for a in signature.arguments] == ["x", "power"]
    assert signature.arguments[1] == Scalar(name="power", value=2)
    assert [(s.name, s.role) for s in signature.state] == [("weight", "parameter"), ("mean", "buffer")]
    assert [o.shape for o in signature.outputs] == [(8,), (8,)]
    assert (signature.output_tree, signature.tree_kinds, signature.init) == ("[0, 1]", "t", "[32, 0.5]")


def test_workloads_axes_and_contract_come_from_the_declaration(server: Server, tmp_path: Path) -> None:
    task = load(server, tmp_path, NATIVE)
    assert [(w.name, w.signature.inputs[0].shape) for w in task.workloads] == [("a", (4, 16)), ("b", (2, 8))]
    assert task.axes["N"] == Axis(low=4, high=256, multiple=4)
    assert task.contract.error_factor == 3.0


HANGS = {
    "its import": ("import torch\n", "import torch\nwhile True: pass\n"),
    "its constructor": ("super().__init__()", "super().__init__()\n        while True: pass"),
    "making its inputs": ("return [torch.randn(8, 32), 2]", "while True: pass"),
    "two calls of the reference": ("        return ((x", "        while True: pass\n        return ((x"),
}


@pytest.mark.parametrize("where", HANGS)
def test_what_of_a_task_file_hangs_is_named_and_it_is_killed(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    monkeypatch.setattr(server, "settings", replace(server.settings, reference_s=2.0))
    spawned: list[Cell] = []
    spawn = server.spawn
    monkeypatch.setattr(server, "spawn", lambda *a, **named: spawned.append(spawn(*a, **named)) or spawned[-1])
    said = rf"job\.py: {where}.* did not end within 2 s, its process was killed"
    with pytest.raises(TaskError, match=said) as caught:
        load(server, tmp_path, KERNELBENCH.replace(*HANGS[where]))
    assert "measure.reference_seconds" in str(caught.value)
    deadline = time.monotonic() + 5
    while not spawned[0].ended and time.monotonic() < deadline:
        time.sleep(0.01)
    assert [cell.ended for cell in spawned] == [True]


KEEPS = """
import torch

kept = []
known = {}


class Model(torch.nn.Module):
    def forward(self, x):
        BODY
        return x * 2


def get_inputs():
    return [torch.randn(64, 64)]
"""


@pytest.mark.parametrize("body", ["kept.append(x)", "kept.append(x * 3)", "kept.append(x.tolist())"])
def test_a_reference_that_keeps_memory_in_every_call_is_refused(server: Server, tmp_path: Path, body: str) -> None:
    with pytest.raises(TaskError, match=r"the reference leaks: each of 8 more calls kept \d{4,} bytes"):
        load(server, tmp_path, KEEPS.replace("BODY", body))


@pytest.mark.parametrize(
    "body",
    [
        "known.setdefault('x', x)",
        "known[len(known) % 5] = x * 3\n        len(known) > 4 and known.clear()",
        "loop = [x * 3]\n        loop.append(loop)",
        "kept.append(1.5)",
    ],
    ids=["once", "in turns", "a cycle", "a number"],
)
def test_a_reference_that_keeps_memory_once_or_next_to_none_passes(server: Server, tmp_path: Path, body: str) -> None:
    assert load(server, tmp_path, KEEPS.replace("BODY", body)).workloads


def test_one_workload_may_be_picked_and_a_wrong_name_lists_the_others(server: Server, tmp_path: Path) -> None:
    assert [w.name for w in load(server, tmp_path, NATIVE, "b").workloads] == ["b"]
    with pytest.raises(TaskError, match="no workload 'c'; there are: a, b"):
        load(server, tmp_path, NATIVE, "c")


def test_a_wrong_contract_is_named(server: Server, tmp_path: Path) -> None:
    with pytest.raises(TaskError, match="the contract is wrong"):
        load(server, tmp_path, NATIVE.replace("error_factor=3.0", "precision='fp3'"))


def test_shapes_that_depend_on_chance_are_refused(server: Server, tmp_path: Path) -> None:
    chance = KERNELBENCH.replace("torch.randn(8, 32), 2]", "torch.randn(int(torch.randint(2, 999, ())), 32), 2]")
    task = load(server, tmp_path, chance)
    bench = WorkloadBench(server, task, task.workloads[0], POLICY, b"s" * 32)
    with pytest.raises(TaskError, match="shapes must not depend on chance"):
        _ = bench.content
    bench.close()


def test_the_oracle_answers_in_double_precision_on_what_was_loaded(server: Server, tmp_path: Path) -> None:
    task = load(server, tmp_path, KERNELBENCH)
    bench = WorkloadBench(server, task, task.workloads[0], POLICY, b"s" * 32)
    truth = bench.truth("normal", 0)
    x, weight, mean = (t.as_float64() for t in truth.tensors)
    assert truth.case.oracle[0].dtype == np.float64
    assert np.allclose(truth.case.oracle[0], ((x - mean) * weight).sum(-1) * 0.25, rtol=1e-13)
    assert np.array_equal(truth.case.oracle[1], x.max(-1))
    bench.truth("offset", 0)
    assert np.allclose(truth.case.native[0].view, truth.case.oracle[0], rtol=1e-3, atol=1e-4), "kept, not written over"
    bench.close()


def test_the_same_seed_gives_the_same_case_and_another_does_not(server: Server, tmp_path: Path) -> None:
    task = load(server, tmp_path, KERNELBENCH)
    benches = [
        WorkloadBench(server, task, task.workloads[0], POLICY, seed) for seed in (b"a" * 32, b"a" * 32, b"b" * 32)
    ]
    first, again, other = ([t.storage.tobytes() for t in b.content.case("normal", 3)] for b in benches)
    assert first == again
    assert all(one != two for one, two in zip(first, other, strict=True))
    assert benches[0].secret_number("p") == benches[1].secret_number("p") != benches[2].secret_number("p")
    for bench in benches:
        bench.close()


def test_a_module_in_the_present_folder_is_compiled_as_a_baseline(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if Cpp.missing() or not Path(sysconfig.get_path("include"), "Python.h").is_file():
        pytest.skip("torch.compile needs a C++ compiler and the headers of Python")
    monkeypatch.chdir(tmp_path)
    Path("job.py").write_text(KERNELBENCH)
    with Workbench(RunConfig()) as workbench, workbench.evaluator(workbench.load_task(Path("job.py"))) as evaluator:
        bench = evaluator.bench(evaluator.task.workloads[0])
        assert bench.works("compile"), bench.notes
