"""Declarations of native tasks."""

from __future__ import annotations

import pytest
import torch

from kernelmill.suites.native import Native
from kernelmill.task import Input, parse_input, task
from kernelmill.testing.suite import executed

SOURCE = """
import torch
from kernelmill import task

@task(
    inputs={"x": "float32[N, 4]", "index": "int64[N] in [0, N)", "mask": "bool[N]"},
    axes={"N": (1, 64)},
    workloads={"a": {"N": 8}, "b": {"N": 3}},
    scalars={"scale": 2.0},
    precision="fp32",
)
def pick(x, index, mask, scale):
    return torch.where(mask[:, None], x[index] * scale, x)
"""


def test_integers_stay_in_their_range_and_scalars_keep_their_value() -> None:
    module = executed(SOURCE)
    x, index, mask, scale = Native().inputs(module, {"N": 8})
    assert x.shape == (8, 4)
    assert int(index.min()) >= 0 and int(index.max()) < 8
    assert mask.dtype is torch.bool
    assert scale == 2.0


def test_contract_and_domain_are_read_from_the_decorator() -> None:
    declared = Native().reference(executed(SOURCE))
    assert declared.axes == {"N": (1, 64, 1)}
    assert declared.contract == {"precision": "fp32"}
    assert list(declared.workloads) == ["a", "b"]


def test_an_input_that_the_function_does_not_take_is_named() -> None:
    with pytest.raises(ValueError, match=r"pick takes .* but the task declares .*extra"):
        Native().reference(executed(SOURCE.replace('"mask": "bool[N]"}', '"mask": "bool[N]", "extra": "bool[N]"}')))


def test_two_tasks_in_one_file_are_refused() -> None:
    module = executed(SOURCE)
    module.again = task(inputs={}, workloads={"a": {}})(lambda: None)  # type: ignore[attr-defined]
    with pytest.raises(ValueError, match="this one has 2"):
        Native().reference(module)


@pytest.mark.parametrize("text", ["float31[N]", "float32 N", "float32[N] in [0, 4", "int64[N] in 0..4", ""])
def test_a_malformed_input_says_what_would_be_right(text: str) -> None:
    with pytest.raises(ValueError, match=r"expected e\.g\. 'float32\[B, 1024\]'"):
        parse_input("x", text)


def test_numbers_and_axes_may_be_mixed_in_a_shape() -> None:
    assert parse_input("x", "int32[B, 16] in [-4, V)") == Input("int32", ("B", "16"), "-4", "V")


def test_a_workload_without_a_size_is_refused_where_it_is_declared() -> None:
    with pytest.raises(ValueError, match="gives no size for axes D"):
        task(inputs={"x": "float32[B, D]"}, workloads={"main": {"B": 4}})
