"""Kernels whose outputs lie across their loops, and copies from one layout to another."""

from __future__ import annotations

import pytest
import torch

from kernelmill.propose.embedded.cpp_printer import CppPrinter
from kernelmill.propose.embedded.cpp_turned import TILE
from kernelmill.propose.embedded.genome import Genome
from kernelmill.propose.embedded.moves import neighbours
from kernelmill.propose.embedded.render import default_genome, render
from tests.propose.printed import Apply, check, graph_of, run


def turned(x: torch.Tensor) -> torch.Tensor:
    """The same values in memory of another order, so that a kernel with row-major output reads across."""
    order = [0, *range(2, x.dim()), 1]
    back = [order.index(d) for d in range(x.dim())]
    return x.permute(order).contiguous().permute(back)


SHAPES = [(2, 128, 8, 16), (3, 70, 9, 15), (2, 5, 67), (1, 64, 4), (2, 64, 64, 3, 3)]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("stream", [False, True])
def test_row_major_results_of_channels_last_operands_are_turned_in_tiles(shape: tuple[int, ...], stream: bool) -> None:
    torch.manual_seed(0)
    x, bias = turned(torch.randn(shape)), torch.randn(shape[1]).reshape(-1, *[1] * (len(shape) - 2))
    candidate = check(Apply(lambda x, bias: ((x + bias) * 0.5).contiguous()), [x, bias], stream=stream)
    assert "turned" in candidate.source
    whole = torch.Size(shape[2:]).numel() % TILE == 0
    assert ("stream_out" in candidate.source) == (stream and whole)


def test_one_result_may_lie_across_and_another_along_the_loops() -> None:
    torch.manual_seed(1)
    x = turned(torch.randn(2, 48, 9, 13))
    candidate = check(Apply(lambda x: ((x * 2).contiguous(), x + 1, (x > 0).contiguous())), [x])
    assert candidate.source.count("alignas(64) ") == 2  # one tile of floats, one of bools


def test_nan_and_infinities_are_carried_over() -> None:
    x = torch.randn(2, 8, 70)
    x[0, 1, 3], x[1, 7, 69], x[0, 0, 0] = torch.nan, torch.inf, -torch.inf
    module = Apply(lambda x: (x + 0).contiguous())
    candidate = check(module, [turned(x)])
    (got,) = run(candidate, module, [turned(x)])
    assert torch.equal(got.nan_to_num(), x.nan_to_num())


@pytest.mark.parametrize("convolution", [torch.nn.Conv2d, torch.nn.Conv3d, torch.nn.ConvTranspose2d])
@pytest.mark.parametrize("strides", ["same", "any"])
def test_a_channels_last_convolution_gets_its_input_from_a_kernel_of_ours(convolution: type, strides: str) -> None:
    torch.manual_seed(2)
    module = convolution(6, 10, 3).eval()
    sizes = (9, 11, 7)[: module.weight.dim() - 2]
    x = torch.randn(2, 6, *sizes)
    graph = graph_of(module, [x])
    start: Genome = default_genome([graph], strides)
    move = next(m for m in neighbours([graph], start, CppPrinter()) if m.name.startswith("apply channels-last"))
    candidate = render([graph], move.genome, CppPrinter())
    assert "memory_format" not in candidate.source
    (got,) = run(candidate, module, [x])
    torch.testing.assert_close(got, module(x))


def test_an_operand_that_has_the_layout_already_is_not_copied() -> None:
    class Two(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = torch.nn.Conv2d(4, 8, 3), torch.nn.Conv2d(8, 4, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            result: torch.Tensor = self.second(torch.relu(self.first(x)))
            return result

    module, x = Two().eval(), torch.randn(2, 4, 12, 12)
    graph = graph_of(module, [x])
    genome = default_genome([graph], "any")
    for _ in range(2):
        moves = neighbours([graph], genome, CppPrinter())
        genome = next(m.genome for m in moves if m.name.startswith("apply channels-last"))
    candidate = render([graph], genome, CppPrinter())
    assert candidate.source.count('extern "C"') == 2  # the input's copy, and the ReLU that keeps the layout
    (got,) = run(candidate, module, [x])
    torch.testing.assert_close(got, module(x))


@pytest.mark.parametrize("shape", [(2, 16, 64), (2, 70, 9, 15), (3, 5, 131)], ids=str)
@pytest.mark.parametrize("stream", [False, True])
def test_normalised_columns_are_turned_in_tiles(shape: tuple[int, ...], stream: bool) -> None:
    torch.manual_seed(3)
    space = tuple(range(2, len(shape)))

    def normalised(x: torch.Tensor) -> torch.Tensor:
        centred = x - x.mean(space, keepdim=True)
        return (centred * torch.rsqrt((centred * centred).mean(space, keepdim=True) + 1e-5)).contiguous()

    candidate = check(Apply(normalised), [turned(torch.randn(shape))], stream=stream)
    assert "column kernel" in candidate.source and "turned" in candidate.source


def test_a_split_reduction_stores_as_it_goes() -> None:
    torch.manual_seed(4)
    candidate = check(Apply(lambda x: torch.softmax(x, 0).t().contiguous()), [torch.randn(512, 64)], split=True)
    assert "slice" in candidate.source and "turned" not in candidate.source


def test_functions_with_a_cheap_side_keep_their_blocks() -> None:
    candidate = check(Apply(lambda x: torch.sin(x).contiguous()), [turned(torch.randn(2, 8, 70))])
    assert "vec_sin" in candidate.source and "turned" not in candidate.source
