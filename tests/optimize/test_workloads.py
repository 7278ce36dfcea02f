"""A task with two workloads and a shape domain from the file to the exported module; only the stopwatch is replaced."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from kernelmill import api
from kernelmill.config import MeasureConfig, PathsConfig, RunConfig
from kernelmill.errors import TaskError
from kernelmill.evaluate.cells import Server
from kernelmill.evaluate.pipeline import Evaluator
from kernelmill.languages.cpp import Cpp
from kernelmill.optimize.workbench import Workbench
from kernelmill.schema import BudgetLimits, Candidate, Evaluation, Level, Passed
from tests.cli.stories import passed

pytestmark = pytest.mark.skipif(Cpp.missing() is not None, reason="needs a C++ compiler")

TASK = '''
import torch
from kernelmill import task


@task(
    inputs={"x": "float32[T, D]"},
    axes={"T": (2, 256), "D": (8, 512)},
    workloads={"train": {"T": 96, "D": 200}, "decode": {"T": 3, "D": 200}},
)
def scaled(x):
    """Rows of unit length."""
    return x * torch.rsqrt((x * x).sum(-1, keepdim=True) + 1e-6)
'''


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    """One for all tests here: starting it costs two seconds."""
    started = Workbench(RunConfig()).server
    yield started
    started.close()


@pytest.fixture
def config(tmp_path: Path, server: Server, monkeypatch: pytest.MonkeyPatch) -> RunConfig:
    monkeypatch.setattr(Workbench, "server", server)
    return RunConfig(
        budget=BudgetLimits(trials=2),
        measure=MeasureConfig(compile_baseline=False),
        paths=PathsConfig(runs=tmp_path / ".kernelmill"),
    )


@pytest.fixture
def task(tmp_path: Path) -> Path:
    path = tmp_path / "task.py"
    path.write_text(TASK)
    return path


@pytest.fixture
def without_stopwatch(monkeypatch: pytest.MonkeyPatch) -> None:
    """Candidates are built, run and compared as ever, at promotion also on held-out shapes; their times are made up."""
    judge = Evaluator.evaluate
    comparisons = passed(3.0, "full").results[0].comparisons

    def evaluate(self: Evaluator, candidate: Candidate, level: Level = "full") -> Evaluation:
        found = judge(self, candidate, "smoke")
        if not isinstance(found, Passed):
            return found
        timed = (r if r.specialised else r.model_copy(update={"comparisons": comparisons}) for r in found.results)
        held_out = tuple(self._held_out(candidate)) if level == "promotion" else ()
        return found.model_copy(update={"level": level, "results": tuple(timed), "held_out": held_out})

    monkeypatch.setattr(Evaluator, "evaluate", evaluate)


def module_of(path: Path) -> Any:
    spec = importlib.util.spec_from_file_location("exported_workloads", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def test_every_workload_is_written_for_and_exported(without_stopwatch: None, task: Path, config: RunConfig) -> None:
    run = api.optimize(task, config=config)
    assert run.best is not None and run.evaluation is not None and run.module is not None
    assert {r.workload: r.specialised for r in run.evaluation.results} == {"train": False, "decode": False}
    held = {r.workload: r.specialised for r in run.evaluation.held_out}
    assert [taken for name, taken in held.items() if "off alignment" in name] == [False, False]
    shapes = [taken for name, taken in held.items() if "off alignment" not in name]
    assert shapes and all(shapes)  # the reference answers there
    for path in (run.module, api.export(run.info.id, task.parent / "out", config=config)):
        exported = module_of(path)
        for rows in (96, 3):
            x = torch.randn(rows, 200)
            torch.testing.assert_close(exported.scaled(x), torch.nn.functional.normalize(x), atol=1e-5, rtol=1e-5)
        assert exported.stats() == {"kernel": 2}
        other = torch.randn(5, 200)
        torch.testing.assert_close(exported.scaled(other), torch.nn.functional.normalize(other), atol=1e-5, rtol=1e-5)
        assert sum(exported.stats().values()) == 3 and exported.stats()["kernel"] == 2


def test_a_resumed_run_has_the_graphs_of_all_workloads(
    without_stopwatch: None, task: Path, config: RunConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = api.optimize(task, config=config.model_copy(update={"budget": BudgetLimits(trials=1)}))
    graphs = sorted(path.name for path in first.folder.glob("graph*.json"))
    assert graphs == ["graph-2.json", "graph.json"]
    task.unlink()
    traced: list[str] = []
    trace = Evaluator.trace

    def counted(self: Evaluator, *arguments: Any) -> str:
        traced.append(arguments[1].name)
        return trace(self, *arguments)

    monkeypatch.setattr(Evaluator, "trace", counted)
    (first.folder / "graph-2.json").unlink()
    api.resume(first.info.id, budget=BudgetLimits(trials=2), config=config)
    assert traced == ["decode"]
    assert (first.folder / "graph-2.json").is_file()


def test_a_later_workload_that_cannot_be_traced_is_an_error(task: Path, config: RunConfig) -> None:
    text = task.read_text().replace(
        "    return x *", "    if x.shape[0] == 3 and float(x[0, 0]) > 99:\n        return x\n    return x *"
    )
    task.write_text(text)
    with pytest.raises(TaskError):
        api.optimize(task, config=config)
