"""Integers and booleans that a rounded number decides: other orders of a sum pass, other precisions do not."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from kernelmill.errors import TaskError
from kernelmill.evaluate import exact
from kernelmill.evaluate.cells import CellSettings, Server
from kernelmill.evaluate.checks import Case, accuracy, meaningless
from kernelmill.evaluate.pipeline import Evaluator
from kernelmill.evaluate.precision import excused_error
from kernelmill.evaluate.reference import ReferencePolicy, load_task
from kernelmill.evaluate.settings import Settings
from kernelmill.schema import Candidate, Contract, Evaluation, Failed, Passed
from tests.evaluate.fakes import tensor

TERMS = 256
SHARE = 4 * excused_error("float32", TERMS)
RNG = np.random.default_rng(5)


def near_zero(rows: int = 4096) -> np.ndarray:
    """Rows whose sums are within some five times what rounding may make of them."""
    values = RNG.standard_normal((rows, TERMS)).astype(np.float32)
    target = RNG.uniform(-1, 1, rows) * 5 * SHARE * TERMS**0.5
    for column in (0, 1):  # the second makes good what the first one rounds
        values[:, column] += (target - values.astype(np.float64).sum(1)).astype(np.float32)
    return values


ROWS = near_zero()
SUMS = ROWS.astype(np.float64).sum(1)
TRUTH = SUMS > 0
NATIVE = tensor(ROWS.sum(1) > 0, dtype="bool")


def moved() -> list[np.ndarray]:
    """What the fp64 reference says where inputs are moved both ways, twice."""
    signs = [RNG.choice([-1.0, 1.0], ROWS.shape) for _ in exact.MOVES]
    return [(ROWS * (1 + way * SHARE * s)).sum(1) > 0 for s in signs for way in (1, -1)]


REACH = exact.reach(moved(), SHARE)


def judge(found: np.ndarray, asked: Callable[[], dict[int, exact.Reach]] = lambda: {0: REACH}) -> Failed | None:
    return accuracy([tensor(found, dtype="bool")], Contract(), Case([TRUTH], [NATIVE], "x", TERMS, asked))[1]


def one_by_one() -> np.ndarray:
    total = np.zeros(len(ROWS), np.float32)
    for column in ROWS.T:
        total += column
    return total


def test_another_order_of_the_sum_passes_though_elements_near_the_threshold_differ() -> None:
    found = one_by_one() > 0
    assert ((found != TRUTH) & (found != NATIVE.view)).sum() > 0
    assert judge(found) is None
    assert judge(found, dict) is not None, "without asking it would be refused"


def test_a_sum_of_coarser_operands_is_refused_and_few_wrong_elements_get_a_hint() -> None:
    bits = ROWS.view(np.uint32)
    coarse = ((bits + 0x8000) & 0xFFFF0000).view(np.float32)  # bfloat16
    failed = judge(coarse.astype(np.float64).sum(1) > 0)
    assert failed is not None
    assert "elements are wrong; first at [" in failed.message
    far = int(np.abs(SUMS).argmax())
    one = TRUTH.copy()
    one[far] = not one[far]
    failed = judge(one)
    assert failed is not None
    assert f"1 of 4096 bool elements are wrong; first at [{far}]" in failed.message
    assert "so few may be rounding of what is compared" in failed.message


def test_all_that_rounding_may_decide_at_once_is_not_rounding() -> None:
    turned = REACH.low != REACH.high
    assert judge(np.where(turned, ~TRUTH, TRUTH)) is not None
    constant = np.where(turned, True, TRUTH)
    assert judge(constant) is not None


def test_an_index_must_be_one_that_moved_inputs_give() -> None:
    right = np.array([3, 7, 1])
    reach = exact.reach([right, np.array([3, 9, 1])], SHARE)
    for index, fine in ((7, True), (9, True), (2, False), (10, False)):
        found = tensor(np.array([3, index, 1]), dtype="int64")
        case = Case([right], [tensor(right, dtype="int64")], reach=lambda: {0: reach})
        assert (accuracy([found], Contract(), case)[1] is None) is fine


def test_nothing_is_asked_where_all_agree() -> None:
    def never() -> dict[int, exact.Reach]:
        raise AssertionError

    assert judge(TRUTH, never) is None


def test_a_case_that_the_reference_itself_rounds_otherwise_says_nothing_but_a_count_does() -> None:
    noise = TRUTH.copy()
    noise[::4] = ~noise[::4]
    assert "the reference's own rounding decides 25% of the output" in (
        meaningless([TRUTH], [tensor(noise, dtype="bool")]) or ""
    )
    assert meaningless([np.array(1000)], [tensor(np.array(1003), dtype="int64")]) is None
    floating = RNG.standard_normal(8)
    both = [tensor(noise, dtype="bool"), tensor(floating.astype(np.float32))]
    assert meaningless([TRUTH, floating], both) is None, "the other output says something"


# ------------------------------------------------------------------------------------------------- with processes

TASK = """
import torch


class Model(torch.nn.Module):
    def forward(self, x):
        return BODY


def get_inputs():
    return [torch.randn(4096, 64, dtype=torch.float16)]
"""
CANDIDATE = """
import torch


class ModelNew(torch.nn.Module):
    def forward(self, x):
        return BODY
"""
Judge = Callable[[str, str], Evaluation]


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    server = Server(CellSettings(threads=1, cores=tuple(sorted(os.sched_getaffinity(0)))))
    yield server
    server.close()


@pytest.fixture
def evaluate(server: Server, tmp_path: Path) -> Judge:
    """Bodies of the reference and of a candidate -> the verdict."""

    def verdict(reference: str, candidate: str) -> Evaluation:
        path = tmp_path / "task.py"
        path.write_text(TASK.replace("BODY", reference))
        policy = ReferencePolicy(readable=(), memory_bytes=2 * 2**30)
        settings = Settings(server.settings, policy, baselines=("eager",), llc="warm", llc_bytes=2**20)
        with Evaluator(load_task(server, path, policy), server, settings, seed=b"a" * 32) as evaluator:
            return evaluator.evaluate(
                Candidate(language="python", source=CANDIDATE.replace("BODY", candidate)), "smoke"
            )

    return verdict


def test_a_threshold_may_be_missed_by_rounding_and_by_no_more(evaluate: Judge) -> None:
    # Sums of 64 terms in half precision have a spread of 8, and elements below 0.03 depend on its rounding.
    reference = "x.sum(-1) > 0"
    assert isinstance(evaluate(reference, "x.float().sum(-1) > 0.01"), Passed)
    failed = evaluate(reference, "x.float().sum(-1) > 0.5")
    assert isinstance(failed, Failed)
    assert (failed.stage, "bool elements are wrong" in failed.message) == ("numerics", True)


def test_ties_of_whole_numbers_are_never_excused(evaluate: Judge) -> None:
    reference = "(x.round() * 2).argmax(-1)"
    assert isinstance(evaluate(reference, reference), Passed)
    assert isinstance(evaluate("x.round().clamp(-1, 1).argmax(-1)", "63 - x.round().flip(-1).argmax(-1)"), Failed)


def test_a_task_whose_own_inputs_say_nothing_is_refused(evaluate: Judge) -> None:
    with pytest.raises(TaskError, match="no kernel can be judged: given: the reference is finite in 0% of output 0"):
        evaluate("x / 0 * 0", "x")
