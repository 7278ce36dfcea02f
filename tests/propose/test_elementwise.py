"""Elementwise kernels: blocks that are streamed, blocks that are spared a costly function."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch.nn import functional

from kernelmill.propose.embedded.cpp_elementwise import knobs
from kernelmill.propose.embedded.cpp_printer import CppPrinter
from kernelmill.propose.embedded.cpp_sides import FAR, one_sided
from kernelmill.propose.embedded.cpp_turned import STREAM_FROM
from kernelmill.propose.embedded.plan import FusedKernel
from kernelmill.propose.embedded.printer import kernels
from kernelmill.propose.embedded.render import default_genome, parts_of, render
from tests.propose.printed import Apply, check, graph_of, run

ONE_SIDED: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "selu": functional.selu,
    "elu": lambda x: functional.elu(x, 0.7),
    "celu": lambda x: functional.celu(x, 1.3),
    "costly_where_true": lambda x: torch.where(x < 0, torch.exp(x), x + 1),
    "two_sides": lambda x: functional.elu(x) + torch.where(x >= 0, x, torch.tanh(x)),
}


def kernel_of(function: Callable[..., torch.Tensor], *args: torch.Tensor) -> FusedKernel:
    graph = graph_of(Apply(function), list(args))
    (part,) = parts_of([graph], default_genome([graph], "same"))
    (kernel,) = kernels(part.program)
    assert isinstance(kernel, FusedKernel)
    return kernel


def defaults(kernel: FusedKernel) -> dict[str, object]:
    return {p.name: p.default for p in knobs(kernel)}


def patches(*shape: int) -> torch.Tensor:
    """Blocks of one sign, blocks of both, every kind of special value; alone in a block, and among others."""
    torch.manual_seed(0)
    x = torch.randn(shape).abs().flatten()
    x[300:900] *= -1
    x[1000:1200:3] *= -1
    for position, special in enumerate((torch.nan, torch.inf, -torch.inf, 0.0, -0.0, -1e-40, 1e-40, -200.0)):
        x[1300 + 64 * position] = x[400 + 64 * position] = special
    return x.reshape(shape)


@pytest.mark.parametrize("name", ONE_SIDED)
@pytest.mark.parametrize("shape", [(2, 1024), (3, 683)], ids=["whole_blocks", "a_part_of_a_block"])
@pytest.mark.parametrize("stream", [False, True])
def test_a_block_is_spared_the_costly_side_only_where_no_lane_needs_it(
    name: str, shape: tuple[int, ...], stream: bool
) -> None:
    function = ONE_SIDED[name]
    x = patches(*shape)
    candidate = check(Apply(function), [x], skip=True, stream=stream)
    assert "if (some" in candidate.source
    (got,) = run(candidate, Apply(function), [x])
    whole, zero = function(x), x == 0
    assert torch.equal(torch.signbit(got[zero]), torch.signbit(whole[zero]))


def test_only_a_condition_on_the_sign_is_tested_by_default() -> None:
    x = torch.randn(64, 64)
    assert defaults(kernel_of(functional.elu, x))["skip"] is True
    assert defaults(kernel_of(functional.softplus, x))["skip"] is False  # few data exceed its threshold of 20
    assert "skip" not in defaults(kernel_of(functional.gelu, x))


def test_a_costly_condition_or_a_shared_costly_value_spares_nothing() -> None:
    x = torch.randn(64, 64)
    assert not one_sided(kernel_of(lambda x: torch.where(torch.exp(x) > 2, x, torch.tanh(x)), x))
    assert not one_sided(kernel_of(lambda x: torch.where(x > 0, x, torch.tanh(x)) + torch.tanh(x), x))
    assert not one_sided(kernel_of(lambda x: torch.where(x > 0, 0.0, torch.tanh(x)), x))


def test_big_outputs_of_cheap_functions_are_streamed_by_default() -> None:
    small, big = torch.zeros(64, 64), torch.empty(STREAM_FROM)
    assert defaults(kernel_of(torch.relu, small))["stream"] is False
    assert defaults(kernel_of(torch.relu, big))["stream"] is True
    assert defaults(kernel_of(torch.tanh, big))["stream"] is False
    assert defaults(kernel_of(functional.selu, big))["stream"] is True
    assert "stream" not in defaults(kernel_of(torch.relu, torch.empty(STREAM_FROM + 1)))


@pytest.mark.parametrize(
    ("function", "shapes"),
    [
        (lambda x: functional.hardswish(x), [(70, 64)]),
        (lambda x, y: (x + y, x * y), [(9, 5, 128), (5, 1)]),
        (lambda x, y: x.clamp(-0.5, 0.5) * y, [(7, 192), (192,)]),
    ],
    ids=["one", "two_outputs", "vector"],
)
def test_streamed_outputs_are_complete(function: Callable[..., torch.Tensor], shapes: list[tuple[int, ...]]) -> None:
    torch.manual_seed(0)
    candidate = check(Apply(function), [torch.randn(s) for s in shapes], stream=True)
    assert "stream_out<64>" in candidate.source


def test_a_streamed_output_may_start_anywhere_in_memory() -> None:
    graph = graph_of(Apply(torch.relu), [torch.zeros(64, 64)])
    text = render([graph], default_genome([graph], "same").turned("k0", "stream", True), CppPrinter()).source
    assert "((uintptr_t)to & 31) == 0" in text


@pytest.mark.parametrize("bound", [0.0, -0.0, 0.5])
def test_bounds_keep_nan_and_the_sign_of_zero(bound: float) -> None:
    x = patches(2, 1024)
    module = Apply(lambda x: (x.clamp(min=bound), x.clamp(max=bound), x.clamp(-abs(bound), abs(bound))))
    candidate = check(module, [x])
    for got, want in zip(run(candidate, module, [x]), module(x), strict=True):
        assert torch.equal(got.isnan(), want.isnan())
        assert torch.equal(got.nan_to_num(), want.nan_to_num())
        assert torch.equal(torch.signbit(got), torch.signbit(want))


FAR_ONES: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "sin": torch.sin,
    "cos": torch.cos,
    "tan": torch.tan,
    "fmod": lambda x: torch.fmod(x, 1.5),
    "remainder": lambda x: torch.remainder(x, -0.3),
}


@pytest.mark.parametrize("name", FAR)
@pytest.mark.parametrize("size", [1024, 700])
def test_a_function_of_far_arguments_is_left_to_the_library_block_by_block(name: str, size: int) -> None:
    torch.manual_seed(0)
    x = torch.randn(size) * 100
    x[200:210] = torch.logspace(4, 38, 10)
    x[300:306] = torch.tensor([torch.nan, torch.inf, -torch.inf, 0.0, -0.0, 1e-40])
    function = FAR_ONES[name]
    module = Apply(lambda x: function(x))
    graph = graph_of(module, [x])
    candidate = render([graph], default_genome([graph], "same"), CppPrinter())
    assert f"vec_{name}(" in candidate.source
    assert f"{'remainder_floor' if name == 'remainder' else 'std::' + name}(" in candidate.source
    (got,), want = run(candidate, module, [x]), function(x)
    assert torch.equal(got.isnan(), want.isnan())
    assert torch.allclose(got.nan_to_num(), want.nan_to_num(), rtol=2e-6, atol=3e-7)
    assert torch.equal(torch.signbit(got[303:305]), torch.signbit(want[303:305]))


def test_a_remainder_by_what_varies_has_the_special_cases_of_the_library() -> None:
    torch.manual_seed(0)
    special = torch.tensor([0.0, -0.0, 1.0, -1.0, 2.5, 1e-40, 3e38, torch.inf, -torch.inf, torch.nan])
    x, y = (t.flatten() for t in torch.meshgrid(special, special, indexing="ij"))
    x, y = torch.cat([x, torch.randn(500) * 50]), torch.cat([y, torch.randn(500)])
    module = Apply(lambda x, y: (torch.fmod(x, y), torch.remainder(x, y)))
    graph = graph_of(module, [x, y])
    got = run(render([graph], default_genome([graph], "same"), CppPrinter()), module, [x, y])
    # Double precision holds both exactly; in single precision PyTorch's own gives NaN where the quotient overflows.
    for mine, exact in zip(got, module(x.double(), y.double()), strict=True):
        assert torch.equal(mine.isnan(), exact.isnan())
        assert torch.equal(mine.nan_to_num(), exact.float().nan_to_num())


def test_a_value_outside_of_the_inner_loop_is_computed_once_by_the_library() -> None:
    source = check(Apply(lambda x, y: x * torch.sin(y)), [torch.randn(5, 64), torch.randn(5, 1)]).source
    assert "vec_sin" not in source
