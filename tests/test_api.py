"""The verbs on real files, with real processes; only the stopwatch is replaced where a run needs one."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import kernelmill
from kernelmill import api
from kernelmill.config import MeasureConfig, PathsConfig, RunConfig
from kernelmill.errors import TaskError, ToolchainError, UserError
from kernelmill.evaluate.cells import Server
from kernelmill.evaluate.pipeline import Evaluator
from kernelmill.optimize.workbench import Workbench
from kernelmill.schema import BudgetLimits, Candidate, Event, Failed, Inconclusive, Level, Measured, Passed, Stopped
from tests.cli.stories import passed

TASK = '''
import torch
from kernelmill import task


@task(inputs={"x": "float32[B, D]"}, workloads={"main": {"B": 8, "D": 64}})
def scaled_sum(x):
    """Twice the sum of every row."""
    return 2 * x.sum(-1)
'''

RIGHT = """
#include <cstdint>
extern "C" void kernel(const float* x, const int64_t* shape, const int64_t* stride, float* out, const int64_t*,
                       const int64_t*) {
    for (int64_t i = 0; i < shape[0]; ++i) {
        double sum = 0;
        for (int64_t j = 0; j < shape[1]; ++j) sum += x[i * stride[0] + j * stride[1]];
        out[i] = static_cast<float>(FACTOR * sum);
    }
}
"""


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    """One for all tests here: starting it costs two seconds."""
    started = Workbench(RunConfig()).server
    yield started
    started.close()


@pytest.fixture
def warm(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Workbench, "server", server)


@pytest.fixture
def config(tmp_path: Path) -> RunConfig:
    return RunConfig(
        budget=BudgetLimits(trials=3),
        measure=MeasureConfig(compile_baseline=False),
        paths=PathsConfig(runs=tmp_path / ".kernelmill"),
    )


@pytest.fixture
def task(tmp_path: Path, warm: None) -> Path:
    path = tmp_path / "task.py"
    path.write_text(TASK)
    return path


def kernel(folder: Path, factor: str) -> Path:
    path = folder / "kernel.cpp"
    path.write_text(RIGHT.replace("FACTOR", factor))
    return path


def test_the_decorator_and_the_verbs_keep_their_names_whatever_is_imported() -> None:
    script = """
import kernelmill.evaluate.cells, kernelmill.optimize.engine, kernelmill.export, kernelmill.task
from kernelmill.task import Declaration
from kernelmill import evaluate, export, optimize, task
import types
assert all(isinstance(v, types.FunctionType) for v in (evaluate, export, optimize, task, kernelmill.optimize))
"""
    subprocess.run([sys.executable, "-c", script], check=True)


def test_an_unknown_name_says_what_there_is() -> None:
    with pytest.raises(AttributeError, match="it offers: doctor, evaluate"):
        _ = kernelmill.optimise


def test_show_gives_shapes_bytes_floor_and_the_skeleton(task: Path, config: RunConfig) -> None:
    card = api.show(task, program=True, config=config)
    (workload,) = card.workloads
    assert card.task.name == "scaled_sum"
    assert workload.bytes_moved == 4 * (8 * 64 + 8)
    assert "const float* x" in card.template
    assert card.program


def test_a_right_kernel_passes_and_a_wrong_one_fails_with_the_figures(
    task: Path, config: RunConfig, tmp_path: Path
) -> None:
    loaded = api.load_task(task, config=config)
    right = api.evaluate(loaded, kernel(tmp_path, "2"), level="smoke", config=config)
    wrong = api.evaluate(loaded, kernel(tmp_path, "3"), level="smoke", config=config)
    assert isinstance(right, Passed)
    assert isinstance(wrong, Failed)
    assert wrong.stage == "numerics"
    assert wrong.replay


def test_a_kernel_without_the_entry_point_fails_at_build(task: Path, config: RunConfig, tmp_path: Path) -> None:
    source = tmp_path / "other.cpp"
    source.write_text('extern "C" void other() {}')
    found = api.evaluate(task, source, level="smoke", config=config)
    assert isinstance(found, Failed)
    assert (found.stage, "other" in found.message) == ("build", True)


@pytest.mark.parametrize(
    ("name", "data", "words"),
    [
        ("empty.cpp", b"  \n", "is empty"),
        ("nul.cpp", b"int x;\0", "NUL byte at 6"),
        ("latin.cpp", b"// \xff", r"not UTF-8 text \(byte 3\)"),
        ("large.cpp", b"/" * (api.MAX_SOURCE + 1), "at most 1048576"),
        ("kernel.f90", b"end", r"suffix '.f90'; known: .cpp \(cpp\)"),
    ],
)
def test_an_unusable_source_says_what_is_wrong(tmp_path: Path, name: str, data: bytes, words: str) -> None:
    (tmp_path / name).write_bytes(data)
    with pytest.raises(UserError, match=words):
        api.read_candidate(tmp_path / name)


def test_a_missing_source_is_a_user_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="No such file"):
        api.read_candidate(tmp_path / "none.cpp")


def test_a_task_file_that_raises_is_a_task_error(tmp_path: Path, config: RunConfig) -> None:
    path = tmp_path / "task.py"
    path.write_text(TASK.replace("2 * x.sum(-1)", "x.no_such_method()"))
    with pytest.raises(TaskError, match="no_such_method"):
        api.load_task(path, config=config)


def scripted(monkeypatch: pytest.MonkeyPatch, search: float, promotion: Passed | Failed | Inconclusive) -> list[str]:
    """Verdicts without a stopwatch; gives back the levels that were asked for."""
    levels: list[str] = []

    def evaluate(self: Evaluator, candidate: Candidate, level: Level = "full") -> Passed | Failed | Inconclusive:
        levels.append(level)
        self.seed_of_promotion = "ab"
        return promotion if level == "promotion" else passed(search, level)

    monkeypatch.setattr(Evaluator, "evaluate", evaluate)
    return levels


def test_a_run_ends_with_a_promoted_exported_reported_kernel(
    monkeypatch: pytest.MonkeyPatch, task: Path, config: RunConfig
) -> None:
    levels = scripted(monkeypatch, 3.0, passed(2.5, "promotion"))
    events: list[Event] = []
    run = api.optimize(task, config=config, on_event=events.append)
    assert run.best is not None
    assert run.speedup is not None
    assert run.speedup.ratio == pytest.approx(2.5)  # promotion's figure, not the search's
    assert levels.count("promotion") == 1
    assert isinstance(events[-1], Stopped)
    assert run.module is not None
    assert run.headline.split()[0] in run.report.read_text()
    again = api.load_run(run.info.id[:12], config)
    assert (again.best, again.evaluation) == (run.best, run.evaluation)
    assert [found.info.id for found in api.runs(config)] == [run.info.id]


def test_a_run_is_limited_by_its_arguments_over_its_settings(
    monkeypatch: pytest.MonkeyPatch, task: Path, config: RunConfig, tmp_path: Path
) -> None:
    scripted(monkeypatch, 3.0, passed(2.5, "promotion"))
    assert api.optimize(task, trials=1, config=config).info.limits == BudgetLimits(trials=1)
    assert api.optimize(task, seconds=9, config=config).info.limits == BudgetLimits(trials=3, seconds=9)
    monkeypatch.chdir(tmp_path)
    assert api.optimize(task, trials=1).info.limits == BudgetLimits(trials=1)


def test_export_writes_the_module_and_its_evidence_where_it_is_asked_to(
    monkeypatch: pytest.MonkeyPatch, task: Path, config: RunConfig, tmp_path: Path
) -> None:
    scripted(monkeypatch, 3.0, passed(2.5, "promotion"))
    run = api.optimize(task, config=config)
    module = api.export(run.info.id, tmp_path / "out", config=config)
    assert module == tmp_path / "out" / "module.py"
    evidence = json.loads((tmp_path / "out" / "evidence.json").read_text())
    assert evidence["command"]  # how to compile it again elsewhere
    assert evidence["seeds"]["promotion"] == "ab"


def test_what_does_not_hold_at_promotion_is_never_returned(
    monkeypatch: pytest.MonkeyPatch, task: Path, config: RunConfig
) -> None:
    levels = scripted(monkeypatch, 3.0, passed(0.9, "promotion"))
    run = api.optimize(task, config=config)
    assert run.best is None
    assert run.module is None
    assert "0.90x" in run.headline
    assert levels.count("promotion") > 1  # it fell back to the next best
    assert run.report.is_file()
    with pytest.raises(UserError, match="nothing to export"):
        api.export(run.info.id, config=config)


def test_a_candidate_that_search_rules_out_is_not_promoted(
    monkeypatch: pytest.MonkeyPatch, task: Path, config: RunConfig
) -> None:
    levels = scripted(monkeypatch, 0.8, passed(2.0, "promotion"))
    run = api.optimize(task, config=config)
    assert run.best is None
    assert "promotion" not in levels


def test_a_run_goes_on_where_it_was_left_and_measures_nothing_twice(
    monkeypatch: pytest.MonkeyPatch, task: Path, config: RunConfig
) -> None:
    scripted(monkeypatch, 3.0, passed(2.5, "promotion"))
    first = api.optimize(task, config=config.model_copy(update={"budget": BudgetLimits(trials=1)}))
    task.unlink()  # the run keeps what it needs
    second = api.resume(first.info.id, budget=BudgetLimits(trials=3), config=config)
    measured = [e.candidate for e in second.events if isinstance(e, Measured) and e.level == "screening"]
    assert second.events[: len(first.events)] == first.events
    assert len(measured) == len(set(measured)) > 1


def test_a_run_s_beginning_must_name_one_run(monkeypatch: pytest.MonkeyPatch, task: Path, config: RunConfig) -> None:
    scripted(monkeypatch, 3.0, passed(2.5, "promotion"))
    tiny = config.model_copy(update={"budget": BudgetLimits(trials=1)})
    runs = [api.optimize(task, config=tiny) for _ in range(2)]
    with pytest.raises(UserError, match="beginning of 2 runs"):
        api.load_run(runs[0].info.id[:4], config)


def test_without_torch_the_verbs_say_what_to_install(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, config: RunConfig
) -> None:
    (tmp_path / "task.py").write_text(TASK)
    monkeypatch.setattr(sys.modules[Workbench.__module__], "find_spec", lambda name: None)
    with pytest.raises(ToolchainError, match=r"pip install 'kernelmill\[torch\]'"):
        api.show(tmp_path / "task.py", config=config)


def test_an_unknown_searcher_is_refused_before_anything_is_measured(
    monkeypatch: pytest.MonkeyPatch, task: Path, config: RunConfig
) -> None:
    levels = scripted(monkeypatch, 3.0, passed(2.5, "promotion"))
    with pytest.raises(UserError, match="no searcher named 'pucd'; there are: "):
        api.optimize(task, config=config.model_copy(update={"searcher": "pucd"}))
    assert levels == []
    assert api.runs(config) == []


@pytest.mark.slow
def test_doctor_looks_at_everything_that_a_run_needs(config: RunConfig) -> None:
    found = api.doctor(config)
    names = {finding.name for finding in found.findings}
    assert {"python", "torch", "language cpp", "cpu", "isa", "caches", "peaks", "load", "sandbox", "allocator"} <= names
    assert all(finding.remedy for finding in found.findings if finding.status == "missing")
