from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn

from kernelmill.propose.embedded.cpp_depthwise import ACCUMULATORS, tile_of
from kernelmill.propose.embedded.cpp_printer import CppPrinter
from kernelmill.propose.embedded.render import render

from .printed import Apply, check, genome_with, graph_of, run

QUICK = settings(max_examples=12, deadline=None, suppress_health_check=list(HealthCheck))
INF, NAN = float("inf"), float("nan")


def depthwise(channels: int, multiplier: int, **geometry: Any) -> nn.Module:
    torch.manual_seed(1)
    return nn.Conv2d(channels, channels * multiplier, groups=channels, **geometry).eval()


@QUICK
@given(
    size=st.tuples(st.integers(5, 40), st.integers(5, 70)),
    kernel=st.tuples(st.integers(1, 5), st.integers(1, 5)),
    stride=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    padding=st.integers(0, 3),
    dilation=st.tuples(st.integers(1, 2), st.integers(1, 2)),
    knobs=st.fixed_dictionaries({"band": st.sampled_from([4, 16, 64]), "lanes": st.sampled_from([8, 16])}),
    multiplier=st.integers(1, 2),
)
def test_a_depthwise_convolution_of_any_geometry_is_eagers(
    size: tuple[int, int],
    kernel: tuple[int, int],
    stride: tuple[int, int],
    padding: int,
    dilation: tuple[int, int],
    knobs: dict[str, int],
    multiplier: int,
) -> None:
    spans = [(k - 1) * d + 1 for k, d in zip(kernel, dilation, strict=True)]
    if any(s + 2 * padding < span for s, span in zip(size, spans, strict=True)):
        return
    module = depthwise(
        3, multiplier, kernel_size=kernel, stride=stride, padding=padding, dilation=dilation, bias=padding > 1
    )
    candidate = check(module, [torch.randn(2, 3, *size)], **knobs)
    assert "depthwise convolution" in candidate.source


@pytest.mark.parametrize("stride", [2, 3])
@pytest.mark.parametrize("size", [1, 3])
@pytest.mark.parametrize("padding", [0, 1, 3])
def test_a_strided_depthwise_convolution_reads_every_phase(stride: int, size: int, padding: int) -> None:
    module = depthwise(3, 1, kernel_size=size, stride=(1, stride), padding=padding, bias=False)
    check(module, [torch.randn(2, 3, 5, 15)], band=4, lanes=8)


@pytest.mark.parametrize("width", [1, 7, 14, 28, 56, 64, 65, 112, 200])
def test_a_tile_uses_the_accumulators_and_covers_the_row(width: int) -> None:
    rows, vectors = tile_of(width, 8)
    assert rows * vectors <= ACCUMULATORS
    assert 2 * rows * vectors > ACCUMULATORS
    assert vectors * 8 * -(-width // (vectors * 8)) >= width


@pytest.mark.parametrize("largest", [True, False])
@pytest.mark.parametrize("lanes", [32, 64, 256])
@pytest.mark.parametrize("k", [1, 8, 20])
def test_the_extreme_values_are_those_of_eager_whatever_the_row_holds(k: int, lanes: int, largest: bool) -> None:
    torch.manual_seed(k)
    x = torch.randn(9, 300)
    x[1] = 0.5
    x[2] = -INF
    x[3, 7::2] = NAN
    x[4] = NAN
    x[5, ::3] = INF
    x[6] = x[6].sort()[0]
    x[7, 5:] = NAN
    module = Apply(lambda x: torch.topk(x, k, largest=largest)[0])

    graph = graph_of(module, [x])
    candidate = render([graph], genome_with(graph, lanes=lanes), CppPrinter())
    (got,) = run(candidate, module, [x])
    assert f"lane[{lanes}]" in candidate.source
    torch.testing.assert_close(got, module(x), rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("skeleton", ["row", "column", "elementwise"])
def test_a_tensor_of_one_element_is_read_once_inside_the_kernel(skeleton: str) -> None:
    dim = {"row": -1, "column": 1}.get(skeleton)
    scale = torch.randn(1)
    module = Apply(lambda x, s: x * s if dim is None else x.sum(dim) * s)
    check(module, [torch.randn(3, 40, 50), scale])


@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize("pool", [nn.MaxPool1d(8, 1, 4, dilation=3), nn.AvgPool1d(5, 1, 2, count_include_pad=False)])
def test_a_window_along_the_row_is_combined_tile_by_tile(pool: nn.Module, stride: int) -> None:
    torch.manual_seed(0)
    pool.stride = stride
    x = torch.randn(2, 3, 200)
    x[0, 0, 50] = NAN
    check(pool, [x])
