"""Row kernels: whatever the length of a row and the knobs, what eager computes."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.nn import functional

from kernelmill.propose.embedded.cpp_printer import CppPrinter
from kernelmill.propose.embedded.render import render
from tests.propose.printed import Apply, check, genome_with, graph_of

R = torch.randn


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


def source(function: Callable[..., Any], *args: torch.Tensor, **knobs: Any) -> str:
    graph = graph_of(Apply(function), list(args))
    return render([graph], genome_with(graph, **knobs), CppPrinter()).source


def everything(x: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """Sums, products, extremes and outputs of every sweep."""
    scaled = x / (1 + x.abs().sum(-1, keepdim=True))
    return scaled, scaled.exp().prod(-1), x.amax(-1), x.amin(-1), torch.softmax(x, -1)


@pytest.mark.parametrize(
    ("length", "lanes"), [(31, 64), (64, 32), (328, 64), (1000, 16), (2049, 32), (2049, 64), (96, 0)]
)
def test_rows_of_any_length_are_summed_in_lanes(length: int, lanes: int) -> None:
    check(Apply(everything), [R(7, length)], lanes=lanes, stream=True, ahead=True, chunk=256)


@pytest.mark.parametrize("knobs", [{"chunk": 256}, {"keep": False}, {"onepass": True}, {"ahead": False}])
def test_streamed_softmax_is_that_of_eager_whatever_else_is_turned(knobs: dict[str, Any]) -> None:
    x = R(9, 1096) * 5
    x[1], x[2, 1095], x[3, 3] = -torch.inf, torch.nan, torch.inf
    check(Apply(lambda x: torch.softmax(x, -1)), [x], **({"stream": True} | knobs))


def test_lanes_lose_no_nan_and_no_extreme_of_the_last_elements() -> None:
    x = R(6, 1100)
    x[0, 1099], x[1, 1098], x[2, 5] = torch.nan, 50.0, torch.nan
    check(Apply(lambda x: (x.amax(1), x.amin(1), x.sum(1))), [x], lanes=64)


def test_lanes_hold_integers_doubles_and_several_sums_of_one_sweep() -> None:
    check(Apply(lambda x: (x.sum(1), x.amax(1))), [torch.randint(-9, 9, (5, 333))])
    check(Apply(lambda x: torch.softmax(x, 1)), [R(5, 333).double()])
    check(Apply(lambda x, y: functional.cosine_similarity(x, y, dim=1)), [R(6, 700), R(6, 700)])


def test_threads_that_share_a_row_use_lanes_only_where_they_divide_it() -> None:
    for length in (70016, 70003):
        check(Apply(lambda x: x / x.norm()), [R(length)], split=True, chunk=1024)


def test_only_outputs_whose_rows_are_aligned_are_streamed() -> None:
    assert "stream_out" in source(functional.log_softmax, R(512, 1024))
    assert "stream_out" not in source(functional.log_softmax, R(512, 1023))
    assert "stream_out" not in source(functional.log_softmax, R(512, 1024).bfloat16())


def test_small_outputs_stay_in_the_cache_by_default() -> None:
    assert "stream_out" not in source(functional.log_softmax, R(16, 1024))


def test_what_a_thread_streamed_is_complete_before_the_team_parts() -> None:
    lines = source(functional.log_softmax, R(512, 1024)).splitlines()
    end = next(n for n, line in enumerate(lines) if line.strip() == "stream_done();")
    assert lines[end - 1] == "    }"
    assert lines[end + 1 : end + 3] == ["  }", "}"]


def test_each_line_of_the_next_row_is_fetched_once_and_none_by_the_first_sweep() -> None:
    text = source(lambda x: functional.layer_norm(x, (1024,)), R(512, 1024), lanes=64)
    assert text.index("reduction(+:") < text.index("__builtin_prefetch")
    offsets = [int(n) for n in re.findall(r"__builtin_prefetch\(\w+ \+ i0 \* 1024 \+ at \+ (\d+)\)", text)]
    assert offsets == [1024, 1040, 1056, 1072]


def test_one_sweep_and_inputs_without_a_next_row_are_not_fetched() -> None:
    assert "prefetch" not in source(lambda x: x.sum(1), R(512, 1024))
    assert "prefetch" not in source(lambda x: x / x.norm(), R(100000))


def test_exponentials_computed_once_are_not_kept() -> None:
    text = source(lambda x: torch.softmax(x, 1), R(512, 1024), onepass=True)
    assert re.search(r"float row\d+\[", text) is None
    assert re.search(r"float row\d+\[", source(lambda x: torch.softmax(x, 1), R(512, 1024))) is not None
