from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from kernelmill.propose.embedded.ir import COMPUTE_DTYPES, Graph, from_json, to_json
from kernelmill.propose.embedded.tracing import trace

from .graph_modules import cases, made
from .graph_oracle import compare, prepare, run_graph

CASES = cases()


def tensors(graph: Graph, arguments: list[Any]) -> dict[str, torch.Tensor]:
    return {n: a for n, a in zip(graph.inputs, arguments, strict=True) if isinstance(a, torch.Tensor)}


def externs(graph: Graph) -> set[str]:
    return {n.op.split(".")[1] for n in graph.nodes if n.kind == "extern"}


@pytest.mark.parametrize("name", CASES)
def test_the_graph_computes_what_the_module_does(name: str) -> None:
    module, args = CASES[name]
    graph, arguments = prepare(module, args)
    with torch.no_grad():
        want = torch.utils._pytree.tree_leaves(module(*args))
        compare(run_graph(graph, tensors(graph, arguments)), want, 1e-2 if name == "bfloat16" else 2e-5)


@pytest.mark.parametrize("name", CASES)
def test_a_graph_survives_json(name: str) -> None:
    graph, _ = prepare(*CASES[name])
    assert to_json(from_json(to_json(graph))) == to_json(graph)


@pytest.mark.parametrize(
    "name",
    [
        *[
            "gelu",
            "selu",
            "mish",
            "softmax of rows",
            "layer norm",
            "group norm",
            "instance norm",
            "batch norm",
            "hinge",
        ],
        *["cross entropy", "argmax", "maximum and its index", "variance", "kl", "triplet", "logsumexp", "any and all"],
    ],
)
def test_everything_of_these_can_fuse(name: str) -> None:
    graph, _ = prepare(*CASES[name])
    assert externs(graph) == set()


@pytest.mark.parametrize(
    ("name", "call"),
    [
        ("max pool", "max_pool2d_with_indices"),
        ("conv, norm, relu, pool", "convolution"),
        ("linear, bias, activation", "addmm"),
        ("attention", "_scaled_dot_product_flash_attention_for_cpu"),
        ("cumulative sum", "cumsum"),
    ],
)
def test_library_calls_worth_having_stay_whole(name: str, call: str) -> None:
    graph, _ = prepare(*CASES[name])
    assert call in externs(graph)


def test_state_comes_after_the_arguments_with_underscores_for_dots() -> None:
    graph, _ = prepare(*CASES["conv, norm, relu, pool"])
    assert graph.inputs[:3] == ("x0", "layers_0_weight", "layers_0_bias")
    assert "layers_1_running_var" in graph.inputs


def test_names_that_cpp_or_the_launch_would_misread_are_changed() -> None:
    graph = trace(made(lambda a, b: a + b), [torch.ones(2), torch.ones(2)], ["double", "aten"])
    assert graph.inputs == ("double_1", "aten_1")


def test_scalars_are_literals() -> None:
    graph = trace(made(lambda x, p: x * p), [torch.ones(3), 2.5], ["x", "p"])
    assert [n.op for n in graph.nodes if n.kind == "input"] == ["x"]


def test_writing_to_an_argument_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match="writes to victim in place"):
        trace(made(lambda x: x.mul_(2)), [torch.ones(3)], ["victim"])


def test_batch_norm_in_train_mode_is_refused_because_it_writes_its_statistics() -> None:
    with pytest.raises(ValueError, match="running_mean"):
        trace(nn.BatchNorm1d(3).train(), [torch.randn(4, 3)], ["x"])


def test_dropout_in_train_mode_is_not_dropped() -> None:
    graph = trace(nn.Dropout(0.5).train(), [torch.ones(8)], ["x"])
    assert any("bernoulli" in op or "dropout" in op for op in externs(graph))


def test_dropout_in_eval_mode_is_nothing() -> None:
    graph = trace(nn.Dropout(0.5).eval(), [torch.ones(8)], ["x"])
    assert [n.kind for n in graph.nodes] == ["input"]


def test_a_result_that_is_no_tensor_is_refused() -> None:
    with pytest.raises(ValueError, match="every output must be a tensor, got int"):
        trace(made(lambda x: (x, 3)), [torch.ones(3)], ["x"])


def test_a_tensor_that_nobody_passes_is_refused() -> None:
    hidden = torch.randn(4)
    with pytest.raises(ValueError, match="register it as a buffer"):
        trace(made(lambda x: x + hidden), [torch.ones(4)], ["x"])


def test_as_many_names_as_arguments() -> None:
    with pytest.raises(ValueError, match="1 arguments and 2 names"):
        trace(made(torch.relu), [torch.ones(3)], ["x", "y"])


def test_half_precision_is_only_loaded_stored_and_cast() -> None:
    graph, _ = prepare(*CASES["bfloat16"])
    for node in graph.nodes:
        if node.kind in ("pointwise", "reduce") and node.op != "cast":
            assert node.dtype in COMPUTE_DTYPES


def test_integer_division_stays_with_the_library_that_raises_on_zero() -> None:
    graph = trace(made(lambda x: x // 3), [torch.arange(5)], ["x"])
    assert externs(graph)


def test_empty_tensors_stay_with_the_library() -> None:
    graph = trace(made(torch.relu), [torch.ones(0, 3)], ["x"])
    assert externs(graph) == {"relu"}


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_the_position_of_a_nan_or_infinity_is_found_as_eager_finds_it(value: float) -> None:
    x = torch.randn(3, 6)
    x[1, 2] = x[1, 4] = value
    module = made(lambda x: (torch.argmax(x, 1), torch.argmin(x, 1), torch.amax(x, 1)))
    graph, arguments = prepare(module, [x])
    compare(run_graph(graph, tensors(graph, arguments)), list(module(x)), 0)


def test_the_first_of_equal_maxima_wins() -> None:
    x = torch.tensor([[1.0, 5.0, 5.0], [2.0, 2.0, 1.0]])
    module = made(lambda x: torch.argmax(x, 1))
    graph, arguments = prepare(module, [x])
    assert run_graph(graph, tensors(graph, arguments))[0].tolist() == [1, 0]
