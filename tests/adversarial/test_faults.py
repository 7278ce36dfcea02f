"""Bad tasks, bad candidates and lost processes: each ends in words that name it, and leaves nothing behind."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from kernelmill.errors import InfraError, TaskError
from kernelmill.evaluate.cells import CellSettings, Server
from kernelmill.evaluate.pipeline import Evaluator
from kernelmill.evaluate.reference import load_task
from kernelmill.evaluate.settings import Settings
from kernelmill.schema import Candidate, Evaluation, Failed, Level, Passed, Task

from .conftest import Judge
from .honest import RELU_PY, SOFTMAX_CPP, SOFTMAX_PY
from .processes import descendants, soon

HEAD = "import os, sys, torch\n\n\n"
MODEL = """class Model(torch.nn.Module):
    def forward(self, x):
        {body}


def get_inputs():
    return [{inputs}]


def get_init_inputs():
    return []
"""

Load = Callable[[str], Task]


def model(body: str, inputs: str = "torch.randn(16, 32)") -> str:
    """A task file with that `forward`."""
    return HEAD + MODEL.format(body=body, inputs=inputs)


def python(source: str) -> Candidate:
    return Candidate(language="python", source=source)


@pytest.fixture
def load(server: Server, settings: Settings, tmp_path: Path) -> Load:
    """Text of a task file -> the task."""

    def from_text(text: str) -> Task:
        path = tmp_path / "task.py"
        path.write_text(text)
        return load_task(server, path, settings.reference)

    return from_text


@pytest.fixture
def evaluate(load: Load, server: Server, settings: Settings) -> Callable[[str, str, Level], Evaluation]:
    """Task text, Python candidate and level -> its verdict."""

    def verdict(task: str, source: str, level: Level = "screening") -> Evaluation:
        with Evaluator(load(task), server, settings) as evaluator:
            return evaluator.evaluate(python(source), level)

    return verdict


# ------------------------------------------------------------------------------------------------ task files


def test_a_missing_task_file_is_named(server: Server, settings: Settings, tmp_path: Path) -> None:
    with pytest.raises(TaskError, match=r"cannot read the task file .*absent\.py: No such file"):
        load_task(server, tmp_path / "absent.py", settings.reference)


def test_a_folder_is_no_task_file(server: Server, settings: Settings, tmp_path: Path) -> None:
    with pytest.raises(TaskError, match="Is a directory"):
        load_task(server, tmp_path, settings.reference)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("def broken(:\n", r"task\.py:1: SyntaxError"),
        ("", "no task found; define KernelBench's `class Model`"),
        ("import torch\nx = 1\n", "no task found"),
        (HEAD + "class Model(torch.nn.Module):\n    pass\n", "defines no get_inputs"),
        (model("return x") + "\nraise KeyError('no')\n", "the reference fails: KeyError"),
        (model("raise RuntimeError('on purpose')"), "the reference fails: RuntimeError: on purpose"),
        (model("os._exit(0)"), "the process exited with code 0"),
        (model("sys.exit(3)"), "SystemExit: 3"),
        (model("return None"), "returns a NoneType as output 0; dense tensors are right"),
        (model("return 3.5"), "returns a float as output 0; dense tensors are right"),
        (model("return ()"), "the reference returns nothing; at least one tensor is right"),
        (model("return x + torch.rand(())"), "not deterministic"),
        (model("return torch.dropout(x, 0.5, True)"), "not deterministic"),
        (model("return x.mul_(2)"), "changes its input 'x' in place"),
        (model("return x @ x"), "the reference fails: RuntimeError: mat1 and mat2"),
        (model("return torch.ones(1 << 40)"), "the reference fails"),
        (model("return x", "open('/etc/passwd')"), r"the reference fails: PermissionError.*reads no other file"),
        (model("return {'out': x}"), "returns a dict as output 0; dense tensors are right"),
        (model("return x, {'out': x}"), "returns a dict as output 1; dense tensors are right"),
        (
            model("return x.to_sparse()"),
            "returns a torch.sparse_coo tensor on cpu as output 0; dense tensors are right",
        ),
        (model("return x", "object()"), "argument 'x' is a object; tensors, numbers and strings are right"),
        (model("return x[0]", "[torch.randn(4), torch.randn(4)]"), "argument 'x' is a list; tensors, numbers"),
        (model("return x['a']", "{'a': torch.randn(4)}"), "argument 'x' is a dict; tensors, numbers"),
        (model("return torch.ones(x[0])", "[[2], [3]]"), "argument 'x' is a list; .* and lists of numbers"),
        (
            model("return x").replace("[torch.randn(16, 32)]", "torch.randn(16, 32)"),
            r"get_inputs\(\) returns a Tensor; a list",
        ),
    ],
    ids=lambda value: "",
)
def test_an_unusable_task_says_what_is_wrong(load: Load, text: str, said: str) -> None:
    with pytest.raises(TaskError, match=said) as caught:
        load(text)
    assert len(str(caught.value).splitlines()) == 1


def test_a_file_of_bytes_is_no_task(server: Server, settings: Settings, tmp_path: Path) -> None:
    path = tmp_path / "task.py"
    path.write_bytes(b"\xff\xfe\x00 class Model")
    with pytest.raises(TaskError, match="not UTF-8 text"):
        load_task(server, path, settings.reference)


def test_a_reference_that_grows_its_memory_with_every_call_is_refused(load: Load) -> None:
    leaking = (
        HEAD
        + "KEPT = []\n\n\n"
        + MODEL.format(body="KEPT.append(torch.ones(1 << 18)); return x.relu()", inputs="torch.rand(16, 32)")
    )
    with pytest.raises(TaskError, match=r"the reference leaks: each of 8 more calls kept 10\d{5} bytes"):
        load(leaking)


def test_what_a_reference_prints_is_no_answer(evaluate: Callable[..., Evaluation]) -> None:
    noisy = model("print('{\"exit\": 0}' * 1000); sys.stderr.write('x' * 65536); return x.relu()")
    assert isinstance(evaluate(noisy, RELU_PY, "smoke"), Passed)


@pytest.mark.parametrize(
    ("task", "candidate"),
    [
        (model("return x > 0"), "import torch\n\ndef custom_kernel(x):\n    return torch.gt(x, 0)\n"),
        (
            model("return x.cumsum(0)", "torch.randint(0, 9, (16, 32))"),
            "import torch\n\ndef custom_kernel(x):\n    return torch.cumsum(x, 0)\n",
        ),
        (model("return x.relu()", "torch.zeros(0, 32)"), RELU_PY),
        (model("return x.sum()", "torch.tensor(3.0)"), "import torch\n\ndef custom_kernel(x):\n    return x + 0\n"),
        (
            HEAD
            + "class Model(torch.nn.Module):\n    def forward(self, x, y):\n        return x + y\n\n\n"
            + "def get_inputs():\n    both = torch.randn(4, 8)\n    return [both, both[:2].repeat(2, 1)]\n\n\n"
            + "def get_init_inputs():\n    return []\n",
            "import torch\n\ndef custom_kernel(x, y):\n    return torch.add(y, x)\n",
        ),
        (
            HEAD
            + "class Model(torch.nn.Module):\n    def forward(self, x, y):\n        return x * y\n\n\n"
            + "def get_inputs():\n    one = torch.randn(8, 8)\n    return [one, one]\n\n\n"
            + "def get_init_inputs():\n    return []\n",
            "import torch\n\ndef custom_kernel(x, y):\n    return torch.mul(y, x)\n",
        ),
    ],
    ids=["bool", "integers", "no-elements", "no-dims", "overlap", "same-storage"],
)
def test_unusual_but_legal_tasks_are_judged(evaluate: Callable[..., Evaluation], task: str, candidate: str) -> None:
    found = evaluate(task, candidate, "smoke")
    assert isinstance(found, Passed), found


def test_a_reference_that_dies_on_some_inputs_does_not_take_the_other_checks_with_it(
    evaluate: Callable[..., Evaluation],
) -> None:
    fragile = model("os._exit(1) if x.abs().max() > 12 * x.std() else None; return x.relu()", "torch.rand(64, 64)")
    identity = "import torch\n\ndef custom_kernel(x):\n    return torch.where(x.abs().max() > 12 * x.std(), x, x + 0)\n"
    found = evaluate(fragile, identity, "full")
    assert isinstance(found, Failed), found
    assert found.stage == "numerics"


# ------------------------------------------------------------------------------------------------ candidates


@pytest.mark.parametrize(
    ("source", "stage", "said"),
    [
        ("def custom_kernel(x):\n    raise ValueError('no')\n", "launch", "ValueError: no"),
        ("def custom_kernel(x):\n    raise SystemExit(0)\n", "launch", "SystemExit"),
        ("def custom_kernel(x):\n    raise KeyboardInterrupt\n", "launch", "KeyboardInterrupt"),
        ("class E(Exception):\n    def __str__(self):\n        1 / 0\n\n\n"
         "def custom_kernel(x):\n    raise E\n", "launch", "could not be made"),
        ("def custom_kernel(x):\n    return custom_kernel(x)\n", "launch", "RecursionError"),
        ("def custom_kernel(x, y):\n    return x\n", "build", "must take"),
        ("import absent_package\n\n\ndef custom_kernel(x):\n    return x\n", "build", "absent_package"),
        ("while True:\n    pass\n\n\ndef custom_kernel(x):\n    return x\n", "build", "longer than|timeout"),
        ("def custom_kernel(x):\n    return {'out': x}\n", "structure", "dict"),
        ("def custom_kernel(x):\n    return [[x]]\n", "structure", "nested"),
        ("import ctypes\n\n\ndef custom_kernel(x):\n    return ctypes.string_at(0)\n", "launch", "SIGSEGV"),
        ("import os\n\n\ndef custom_kernel(x):\n    os.kill(os.getpid(), 9)\n    os._exit(7)\n", "launch", "code 7"),
    ],
    ids=lambda value: "",
)  # fmt: skip
def test_a_bad_candidate_fails_in_words(judge: Judge, source: str, stage: str, said: str) -> None:
    found = judge("softmax").evaluate(python(source), "smoke")
    assert isinstance(found, Failed), found
    assert found.stage == stage or (stage == "build" and found.stage == "timeout"), found
    assert re.search(said, found.message), found.message


def test_a_gigabyte_on_standard_output_disturbs_nobody(judge: Judge) -> None:
    shout = "import sys\n\nfor _ in range(1024):\n    sys.stdout.write('x' * (1 << 20))\n\n" + SOFTMAX_PY
    assert isinstance(judge("softmax").evaluate(python(shout), "smoke"), Passed)


def test_a_frame_that_drips_is_cut_off(judge: Judge) -> None:
    drip = """
import time

from kernelmill.evaluate import child


def drip(sock, body):
    for _ in range(1000):
        sock.send(b"\\x00\\x00\\x01\\x00"[:1])
        time.sleep(0.5)


def custom_kernel(x):
    child.send = drip
    return x
"""
    found = judge("softmax").evaluate(python(drip), "smoke")
    assert isinstance(found, Failed)
    assert found.stage in ("timeout", "launch", "structure")


# ------------------------------------------------------------------------------------------------ lost processes


@pytest.fixture
def own(cells: CellSettings, settings: Settings) -> Evaluator:
    """An evaluator with a server of its own, which the test may kill."""
    server = Server(cells)
    task = load_task(server, Path(__file__).parent / "tasks" / "softmax.py", settings.reference)
    return Evaluator(task, server, settings)


def shut(evaluator: Evaluator) -> None:
    evaluator.close()
    evaluator.server.close()


def test_a_server_that_was_killed_is_started_again(own: Evaluator) -> None:
    good = Candidate(language="cpp", source=SOFTMAX_CPP)
    try:
        assert isinstance(own.evaluate(good, "smoke"), Passed)
        os.kill(own.server.process.pid, signal.SIGKILL)
        own.server.process.wait()
        with pytest.raises(InfraError, match="another was started, try again"):
            own.evaluate(good, "smoke")
        assert isinstance(own.evaluate(good, "smoke"), Passed)
    finally:
        shut(own)


def test_an_oracle_that_was_killed_is_asked_again(own: Evaluator) -> None:
    good, bad = (
        Candidate(language="cpp", source=s) for s in (SOFTMAX_CPP, SOFTMAX_CPP.replace("/= sum", "/= 1.001f * sum"))
    )
    try:
        assert isinstance(own.evaluate(good, "smoke"), Passed)
        os.kill(own.bench(own.task.workloads[0]).oracle.cell.pid, signal.SIGKILL)
        assert own.evaluate(good, "screening").status != "failed"
        assert isinstance(own.evaluate(bad, "screening"), Failed)
    finally:
        shut(own)


def test_a_baseline_that_was_killed_is_the_machines_fault(own: Evaluator) -> None:
    good = Candidate(language="cpp", source=SOFTMAX_CPP)
    try:
        own.evaluate(good, "screening")
        os.kill(own.bench(own.task.workloads[0]).baseline("eager").pid, signal.SIGKILL)
        with pytest.raises(InfraError, match="the eager baseline failed"):
            own.evaluate(good, "screening")
        assert own.evaluate(good, "screening").status != "failed"
    finally:
        shut(own)


SPINNING_RUN = """
import sys
from pathlib import Path
from kernelmill.config import load_config
from kernelmill.optimize.workbench import Workbench
from kernelmill.schema import Candidate

with Workbench(load_config()) as bench:
    task = bench.load_task(Path(sys.argv[1]))
    with bench.evaluator(task) as evaluator:
        evaluator.begin()
        evaluator.bench(task.workloads[0]).baseline("eager")
        print("ready", flush=True)
        evaluator.evaluate(Candidate(language="python", source=sys.argv[2]), "smoke")
"""


def test_nothing_outlives_a_run_that_was_killed() -> None:
    task = Path(__file__).parent / "tasks" / "softmax.py"
    argv = [sys.executable, "-c", SPINNING_RUN, str(task), "def custom_kernel(x):\n    while True:\n        pass\n"]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as run:
        assert run.stdout is not None
        assert run.stdout.readline() == "ready\n"
        everything: list[psutil.Process] = []
        deadline = time.monotonic() + 60
        while not any(p.cpu_percent(0.2) > 50 for p in everything) and time.monotonic() < deadline:
            everything = psutil.Process(run.pid).children(recursive=True)
        run.kill()
    assert len(everything) > 3
    _, alive = psutil.wait_procs(everything, timeout=20)
    assert [p.cmdline() for p in alive if p.status() != psutil.STATUS_ZOMBIE] == []


def test_nothing_runs_and_nothing_lies_about_afterwards(cells: CellSettings, settings: Settings) -> None:
    before, files = descendants(), set(os.listdir(tempfile.gettempdir()))
    server = Server(cells)
    servers = descendants() - before
    assert len(servers) == 2
    task = load_task(server, Path(__file__).parent / "tasks" / "softmax.py", settings.reference)
    loop = SOFTMAX_CPP.replace(
        "    const int64_t rows", "    for (volatile int i = 0;; i = 1) {}\n    const int64_t rows"
    )
    spin = "import threading\n\nthreading.Thread(target=lambda: [None for _ in iter(int, 1)]).start()\n" + SOFTMAX_PY
    with Evaluator(task, server, settings) as evaluator:
        evaluator.evaluate(Candidate(language="cpp", source=loop), "smoke")
        evaluator.evaluate(python(spin), "smoke")
        evaluator.evaluate(Candidate(language="cpp", source=SOFTMAX_CPP), "screening")
    assert soon(lambda: descendants() - before == servers)
    server.close()
    assert soon(lambda: descendants() <= before)
    assert set(os.listdir(tempfile.gettempdir())) - files == set()
