"""Order of the checks, and what a verdict holds."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from kernelmill.evaluate.cells import CellSettings, Server
from kernelmill.evaluate.machine import QUIET, Reading, Usual, Watch
from kernelmill.evaluate.pipeline import Evaluator
from kernelmill.evaluate.reference import ReferencePolicy, load_task
from kernelmill.evaluate.settings import Settings
from kernelmill.evaluate.timing import Instruments
from kernelmill.languages.cpp import Cpp
from kernelmill.schema import Candidate, Failed, Passed

TASK = """
import torch

from kernelmill import task


@task(inputs={"x": "float32[B, N]"}, axes={"B": (1, 64), "N": (1, 256)},
      workloads={"wide": {"B": 32, "N": 128}, "tall": {"B": 64, "N": 16}})
def shifted(x):
    return torch.sigmoid(x) + 1
"""
KERNEL = """
extern "C" void kernel(const float* x, const int64_t* shape, const int64_t* stride,
                       float* out, const int64_t* out_shape, const int64_t* out_stride) {
    for (int64_t i = 0; i < shape[0] * shape[1]; i++) out[i] = 1.0f / (1.0f + std::exp(-x[i])) + 1.0f;
}
"""
LAUNCH = """
/* launch
def launch(x):
    assert x.shape == (32, 128)
    out = empty([32, 128], float32)
    work(x, x.shape, out)
    return out
*/
extern "C" void work(const float* x, const int64_t* shape, float* out) {
    for (int64_t i = 0; i < shape[0] * shape[1]; i++) out[i] = 1.0f / (1.0f + std::exp(-x[i])) + 1.0f;
}
"""


class Calm(Watch):
    def disturbance(
        self, before: Reading, after: Reading, wall_s: float, delay: float, usual: Usual = QUIET
    ) -> str | None:
        return None


@pytest.fixture(scope="module")
def evaluator(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Evaluator]:
    if reason := Cpp.missing():
        pytest.skip(reason)
    path = tmp_path_factory.mktemp("task") / "shifted.py"
    path.write_text(TASK)
    cells = CellSettings(threads=1, cores=tuple(sorted(os.sched_getaffinity(0))))
    server = Server(cells)
    policy = ReferencePolicy(readable=(), memory_bytes=2 * 2**30)
    settings = Settings(cells, policy, baselines=("eager",), llc="warm", llc_bytes=2**20, call_limit_s=5.0)
    task = load_task(server, path, policy)
    with Evaluator(task, server, settings, _instruments=Instruments(lambda: None, Calm())) as evaluator:
        yield evaluator
    server.close()


def cpp(source: str) -> Candidate:
    return Candidate(language="cpp", source=source)


def test_smoke_runs_every_workload_once_and_times_nothing(evaluator: Evaluator) -> None:
    found = evaluator.evaluate(cpp(KERNEL), "smoke")
    assert isinstance(found, Passed)
    assert [(r.workload, r.accuracy.cases, r.comparisons) for r in found.results] == [("wide", 1, ()), ("tall", 1, ())]
    assert found.speedup() is None
    assert found.tier == "T0"


def test_a_full_verdict_has_an_interval_a_profile_and_the_conditions(evaluator: Evaluator) -> None:
    found = evaluator.evaluate(cpp(KERNEL), "full")
    assert isinstance(found, Passed), found
    (comparison,) = found.results[0].comparisons
    assert comparison.interval.low <= comparison.interval.ratio <= comparison.interval.high
    assert comparison.interval.pairs == len(comparison.candidate_us) >= 8
    assert found.results[0].accuracy.cases >= 10
    assert "kernel" in found.results[0].profile
    assert found.conditions is not None
    assert found.conditions.threads == 1


def test_a_promotion_draws_other_shapes_and_alignments_with_a_seed_of_its_own(evaluator: Evaluator) -> None:
    found = evaluator.evaluate(cpp(KERNEL), "promotion")
    assert isinstance(found, Passed), found
    names = [r.workload for r in found.held_out]
    assert sum("off alignment" in name for name in names) == 2
    assert sum(name.startswith("B=") for name in names) == 4
    assert evaluator.seed_of_promotion != evaluator.reveal()


def test_a_guard_of_the_launch_leaves_a_workload_to_the_reference(evaluator: Evaluator) -> None:
    found = evaluator.evaluate(cpp(LAUNCH), "smoke")
    assert isinstance(found, Passed), found
    assert [r.specialised for r in found.results] == [False, True]
    assert found.tier == "T1"


def test_guards_that_refuse_everything_are_a_failure(evaluator: Evaluator) -> None:
    found = evaluator.evaluate(cpp(LAUNCH.replace("(32, 128)\n    out", "(3, 3)\n    out")), "smoke")
    assert isinstance(found, Failed)
    assert "refuse every workload" in found.message


def test_a_launch_that_does_not_parse_fails_at_build(evaluator: Evaluator) -> None:
    found = evaluator.evaluate(cpp(LAUNCH.replace("    return out", "    import os\n    return out")), "smoke")
    assert isinstance(found, Failed)
    assert found.stage == "build"


def test_a_failure_names_workload_and_case(evaluator: Evaluator) -> None:
    found = evaluator.evaluate(cpp(KERNEL.replace("+ 1.0f;", "+ (shape[0] == 64 ? 1.001f : 1.0f);")), "smoke")
    assert isinstance(found, Failed)
    assert found.workload == "tall"
    assert found.replay is not None
    assert found.replay.startswith("family=given index=0 seed=")
    assert evaluator.reveal() not in found.replay


def test_the_verdict_never_shows_the_seed(evaluator: Evaluator) -> None:
    found = evaluator.evaluate(cpp(KERNEL), "screening")
    assert evaluator.reveal() not in found.model_dump_json()


def test_no_cell_of_a_candidate_lives_after_its_verdict(evaluator: Evaluator) -> None:
    evaluator.evaluate(cpp(KERNEL), "screening")
    children = Path(f"/proc/{evaluator.server.process.pid}/task/{evaluator.server.process.pid}/children")
    trusted = len(children.read_text().split())
    for _ in range(3):
        evaluator.evaluate(cpp(KERNEL), "smoke")
    assert len(children.read_text().split()) <= trusted + 1
