from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812

from kernelmill.propose.embedded.ir import Graph, Node
from kernelmill.propose.embedded.plan import FusedKernel, TemplateKernel
from kernelmill.propose.embedded.program import plan
from kernelmill.propose.embedded.rewrites import REWRITES, always, apply_rewrites, claims, sites

from .graph_modules import cases, made
from .graph_oracle import compare, prepare, run_graph, run_program

CASES = cases()


def scaled_norm() -> nn.BatchNorm2d:
    norm = nn.BatchNorm2d(5)
    norm.running_mean, norm.running_var = torch.randn(5), torch.rand(5) + 0.5
    return norm


def applicable() -> dict[str, list[tuple[nn.Module, list[Any]]]]:
    """Rewrite -> modules in which it applies."""
    torch.manual_seed(1)
    x, image = torch.randn(6, 8), torch.randn(2, 4, 9, 9)
    line, volume = torch.randn(2, 4, 12), torch.randn(1, 4, 5, 6, 7)
    return {
        "sum-of-linear": [
            (made(lambda m, x: m(x).sum(1) * 2, nn.Linear(8, 5)), [x]),
            (made(lambda m, x: (m(x) / 2 * 3).mean(1, keepdim=True), nn.Linear(8, 5, bias=False)), [x]),
            (made(lambda m, x: m(x).mean(0), nn.Linear(8, 5)), [x]),
        ],
        "diagonal-product": [(made(lambda a, b: torch.diag(a) @ b, *[]), [torch.randn(6), x])],
        "associate-products": [
            (made(lambda a, b: (a @ b) @ b.T[:, :1]), [torch.randn(8, 6), x]),
            (made(lambda a, b: a[:1] @ (b @ a)), [torch.randn(8, 6), x]),
        ],
        "mean-of-transposed-convolution": [
            (made(lambda c, x: c(x).mean((2, 3)), nn.ConvTranspose2d(4, 5, 3, stride=2)), [image]),
            (made(lambda c, x: (c(x) * 3).sum((2, 3, 4)), nn.ConvTranspose3d(4, 5, 2, bias=False)), [volume]),
        ],
        "transposed-to-plain-convolution": [
            (made(lambda c, x: c(x).relu(), nn.ConvTranspose2d(4, 5, 3, padding=1)), [image]),
            (made(lambda c, x: c(x), nn.ConvTranspose1d(4, 5, 4, dilation=2)), [line]),
        ],
        "channels-last": [
            (made(lambda c, x: c(x).relu() * 2, nn.Conv2d(4, 5, 3)), [image]),
            (made(lambda c, x: F.max_pool2d(c(x).tanh(), 2), nn.Conv2d(4, 6, 3, groups=2)), [image]),
            (made(lambda c, x: torch.softmax(c(x), 1), nn.ConvTranspose3d(4, 5, 3)), [volume]),
        ],
        "dead-bias": [
            (made(lambda c, n, x: n(c(x)), nn.Conv2d(4, 5, 3), nn.InstanceNorm2d(5)), [image]),
            (made(lambda c, x: (y := c(x)) - y.mean((2, 3), keepdim=True), nn.Conv2d(4, 5, 3)), [image]),
        ],
        "fold-affine": [
            (made(lambda c, n, x: n(c(x)), nn.Conv2d(4, 5, 3), scaled_norm()), [image]),
            (made(lambda c, n, x: (1 - n(c(x)) / 3).relu(), nn.ConvTranspose2d(4, 5, 3), scaled_norm()), [image]),
            (made(lambda m, n, x: n(m(x)) * 2, nn.Linear(8, 5, bias=False), nn.BatchNorm1d(5)), [x]),
            (made(lambda m, x: m(x) * 2, nn.Linear(8, 5, bias=False)), [x]),
        ],
        "maximum-before-activation": [
            (made(lambda x: F.max_pool2d((x * 2 - 1).relu(), 2)), [image]),
            (made(lambda x: x.clamp(min=-0.5).amax(1)), [image]),
        ],
        "maximum-before-smooth-activation": [(made(lambda x: F.max_pool2d(x.tanh(), 3, 2, 1)), [image])],
    }


APPLICABLE = applicable()
PAIRS = [(name, i) for name, modules in APPLICABLE.items() for i in range(len(modules))]


def rewritten(module: nn.Module, args: list[Any], moves: list[str]) -> Graph:
    """The rewritten graph, after checking that it and its program still give what the module gives."""
    graph, arguments = prepare(module, args)
    graph = apply_rewrites(graph, moves)
    tensors = {n: a for n, a in zip(graph.inputs, arguments, strict=True) if isinstance(a, torch.Tensor)}
    with torch.no_grad():
        want = torch.utils._pytree.tree_leaves(module(*args))
        compare(run_graph(graph, tensors), want, 1e-4)
        compare(run_program(plan(graph), arguments), want, 1e-4)
        compare(run_program(plan(graph, strides="any"), arguments), want, 1e-4)
    return graph


def found(module: nn.Module, args: list[Any], name: str) -> list[str]:
    graph, _ = prepare(module, args)
    return [move for move in sites(graph) if move.startswith(f"{name}@")]


@pytest.mark.parametrize(("name", "index"), PAIRS)
def test_a_rewrite_is_found_and_keeps_the_result(name: str, index: int) -> None:
    module, args = APPLICABLE[name][index]
    (move,) = found(module, args, name)
    rewritten(module, args, [move])


def test_every_rewrite_has_a_module_it_applies_to() -> None:
    assert set(APPLICABLE) == set(REWRITES)


@pytest.mark.parametrize("name", [n for n in CASES if n not in ("bfloat16",)])
def test_every_site_in_every_module_keeps_the_result(name: str) -> None:
    graph, _ = prepare(*CASES[name])
    for move in sites(graph):
        rewritten(*CASES[name], [move])
    rewritten(*CASES[name], always(graph, algorithmic=True))


@pytest.mark.parametrize(("name", "index"), PAIRS)
def test_weights_are_read_anew_on_every_call(name: str, index: int) -> None:
    module, args = APPLICABLE[name][index]
    graph, _ = prepare(module, args)
    program = plan(apply_rewrites(graph, found(module, args, name)))
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.mul_(-1.5).add_(0.25)
        _, arguments = prepare(module, args)
        compare(run_program(program, arguments), torch.utils._pytree.tree_leaves(module(*args)), 1e-4)


REFUSED: dict[str, tuple[str, Callable[[], tuple[nn.Module, list[Any]]]]] = {
    "the sum is over a padded transposed convolution": (
        "mean-of-transposed-convolution",
        lambda: (
            made(lambda c, x: c(x).mean((2, 3)), nn.ConvTranspose2d(4, 5, 3, padding=1)),
            [torch.ones(1, 4, 5, 5)],
        ),
    ),
    "the product is read elsewhere too": (
        "sum-of-linear",
        lambda: (made(lambda m, x: (y := m(x)).sum(1, keepdim=True) + y, nn.Linear(8, 5)), [torch.ones(6, 8)]),
    ),
    "the transposed convolution has a stride": (
        "transposed-to-plain-convolution",
        lambda: (made(lambda c, x: c(x), nn.ConvTranspose2d(4, 5, 3, stride=2)), [torch.ones(1, 4, 5, 5)]),
    ),
    "a group of several channels is centred": (
        "dead-bias",
        lambda: (made(lambda c, n, x: n(c(x)), nn.Conv2d(4, 6, 3), nn.GroupNorm(2, 6)), [torch.ones(2, 4, 5, 5)]),
    ),
    "the factor is made from the convolution itself": (
        "fold-affine",
        lambda: (
            made(lambda c, x: (y := c(x)) * y.mean((2, 3), keepdim=True), nn.Conv2d(4, 5, 3)),
            [torch.ones(1, 4, 5, 5)],
        ),
    ),
    "the factor differs from sample to sample": (
        "fold-affine",
        lambda: (
            made(lambda c, x, s: c(x) * s, nn.Conv2d(4, 5, 3)),
            [torch.ones(2, 4, 5, 5), torch.ones(2, 5, 1, 1)],
        ),
    ),
    "the function falls": (
        "maximum-before-activation",
        lambda: (made(lambda x: (x * -2).amax(1)), [torch.ones(3, 4)]),
    ),
    "a minimum is taken of it": (
        "maximum-before-activation",
        lambda: (made(lambda x: x.relu().amin(1)), [torch.ones(3, 4)]),
    ),
    "the other order is cheaper already": (
        "associate-products",
        lambda: (made(lambda a, b, c: a @ (b @ c)), [torch.ones(9, 8), torch.ones(8, 7), torch.ones(7, 1)]),
    ),
    "the matrix is triangular, not diagonal": (
        "diagonal-product",
        lambda: (made(lambda a, b: torch.triu(a) @ b), [torch.ones(5, 5), torch.ones(5, 3)]),
    ),
}


@pytest.mark.parametrize("why", REFUSED)
def test_a_rewrite_does_not_apply_where(why: str) -> None:
    name, case = REFUSED[why]
    assert found(*case(), name) == []


def test_a_site_that_is_none_is_refused_with_those_that_are() -> None:
    graph, _ = prepare(*APPLICABLE["fold-affine"][0])
    with pytest.raises(ValueError, match=r"fold-affine does not apply at node 0; it applies at \[\d+\]"):
        apply_rewrites(graph, ["fold-affine@0"])
    with pytest.raises(ValueError, match="a rewrite is written name@node"):
        apply_rewrites(graph, ["faster@1"])


def test_claims_are_the_union() -> None:
    assert claims(["sum-of-linear@1", "diagonal-product@2", "sum-of-linear@9"]) == ("exact", "algorithmic")


def test_algorithmic_rewrites_are_not_in_a_first_candidate_unless_asked_for() -> None:
    graph, _ = prepare(*APPLICABLE["sum-of-linear"][0])
    assert always(graph) == []
    assert always(graph, algorithmic=True) != []


def test_a_sum_of_a_linear_layer_does_less_work() -> None:
    module, args = APPLICABLE["sum-of-linear"][0]
    graph, _ = prepare(module, args)
    after = rewritten(module, args, found(module, args, "sum-of-linear"))
    assert sum(map(multiplications, after.nodes)) * 5 == sum(map(multiplications, graph.nodes))


def multiplications(node: Node) -> int:
    """Of a matrix product without bias; 0 of anything else."""
    return math.prod(node.shape) if node.op in ("aten.mm.default", "aten.addmm.default") else 0


def test_a_convolution_with_channels_innermost_is_read_that_way() -> None:
    module, args = APPLICABLE["channels-last"][0]
    graph = rewritten(module, args, found(module, args, "channels-last"))
    layout, free = (s for s in plan(graph, strides="any").steps if isinstance(s, FusedKernel))
    assert [a.extent for a in free.axes] == [2 * 5 * 7 * 7], "result and operand share one order of memory"
    assert len(layout.axes) == 3, "the operand is turned over first"
    _, same = (s for s in plan(graph, strides="same").steps if isinstance(s, FusedKernel))
    assert len(same.axes) == 3


def test_the_activation_before_a_pool_moves_behind_it() -> None:
    module, args = APPLICABLE["maximum-before-activation"][0]
    graph, _ = prepare(module, args)
    steps = plan(apply_rewrites(graph, always(graph))).steps
    kernels = [type(s) for s in steps if isinstance(s, FusedKernel | TemplateKernel)]
    assert kernels == [TemplateKernel, FusedKernel]
