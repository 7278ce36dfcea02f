"""The C++ printer, on modules that it must print, build and compute right."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.nn import functional

from kernelmill.propose.embedded.cpp_printer import CppPrinter, math_sections
from kernelmill.propose.embedded.ir import Ref
from kernelmill.propose.embedded.plan import FusedKernel, KernelValue, LoopAxis, Operand, Program
from kernelmill.propose.embedded.printer import chosen
from kernelmill.schema import Parameter
from tests.propose.printed import Apply, check, error, flat, graph_of, run

R = torch.randn
Case = tuple[Callable[..., Any], list[Any]]


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


CASES: dict[str, Callable[[], Case]] = {
    "bias_gelu": lambda: (lambda x, b: functional.gelu(x + b), [R(33, 130), R(130)]),
    "selu": lambda: (functional.selu, [R(70, 70) * 3]),
    "mish_chain": lambda: (lambda x: functional.mish(x) * torch.sigmoid(x) + torch.tanh(x), [R(9, 100)]),
    "where_and_compare": lambda: (lambda x, y: torch.where(x > y, x, y * 2) + (x != y), [R(40, 31), R(31)]),
    "integers": lambda: (lambda i: (i * 3 + 1) % 7, [torch.randint(-50, 50, (40, 9))]),
    "transposed_reader": lambda: (lambda x, y: x.T + y, [R(21, 34), R(34, 21)]),
    "scalar": lambda: (lambda x: x.sum() * 2, [R(5)]),
    "softmax": lambda: (lambda x: torch.softmax(x, -1), [R(17, 1500) * 5]),
    "log_softmax_of_dim_1": lambda: (lambda x: torch.log_softmax(x, 1), [R(3, 300, 17)]),
    "logsumexp": lambda: (lambda x: torch.logsumexp(x, 1), [R(30, 2100)]),
    "rms": lambda: (lambda x, w: x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6) * w, [R(6, 1030), R(1030)]),
    "argmax": lambda: (lambda x: torch.argmax(x, 1), [torch.randint(0, 40, (50, 2500)).float()]),
    "argmin_of_dim_0": lambda: (lambda x: torch.argmin(x, 0), [torch.randint(0, 9, (50, 25)).float()]),
    "whole_sum": lambda: (lambda x: x.sum(), [R(40, 5000)]),
    "frobenius": lambda: (lambda x: x / torch.norm(x), [R(8, 9000)]),
    "column_statistics": lambda: (lambda x: (x - x.mean(1, keepdim=True)) / x.std(1, keepdim=True), [R(4, 150, 70)]),
    "long_columns": lambda: (lambda x: x.sum(0), [R(20000, 33) + 10]),
    "column_extremes": lambda: (lambda x: x.amax(1) - x.amin(1), [R(5, 200, 37)]),
    "batch_statistics": lambda: (lambda x: x - x.mean((0, 2), keepdim=True), [R(7, 5, 300)]),
    "product": lambda: (lambda x: x.prod(1), [1 + 0.1 * R(9, 60)]),
    "cumsum": lambda: (lambda x: x.cumsum(1), [R(21, 5003)]),
    "cumsum_of_one_row": lambda: (lambda x: x.cumsum(0), [R(70001)]),
    "cumprod_of_dim_0": lambda: (lambda x: x.cumprod(0), [1 + 0.05 * R(60, 300)]),
    "max_pool": lambda: (lambda x: functional.max_pool2d(x, 3, 2, 1), [R(2, 3, 33, 30)]),
    "dilated_max_pool": lambda: (lambda x: functional.max_pool2d(x, 2, 1, 0, 3), [R(2, 3, 20, 21)]),
    "average_pool": lambda: (lambda x: functional.avg_pool2d(x, 3, 2, 1), [R(2, 3, 33, 30)]),
    "average_pool_without_padding": lambda: (
        lambda x: functional.avg_pool2d(x, 3, 2, 1, count_include_pad=False),
        [R(2, 3, 33, 30)],
    ),
    "average_pool_1d": lambda: (lambda x: functional.avg_pool1d(x, 4, 2), [R(2, 3, 50)]),
    "max_pool_3d": lambda: (lambda x: functional.max_pool3d(x, 2), [R(2, 3, 8, 9, 10)]),
}


@pytest.mark.parametrize("name", CASES)
def test_a_function_is_printed_and_computed_right(name: str) -> None:
    function, args = CASES[name]()
    check(Apply(function), args)


MODULES: dict[str, Callable[[], tuple[torch.nn.Module, list[Any]]]] = {
    "layer_norm": lambda: (torch.nn.LayerNorm(1500), [R(9, 1500) + 3]),
    "group_norm": lambda: (torch.nn.GroupNorm(4, 16), [R(3, 16, 9, 11)]),
    "instance_norm": lambda: (torch.nn.InstanceNorm2d(6), [R(3, 6, 19, 11)]),
    "batch_norm": lambda: (torch.nn.BatchNorm2d(6).eval(), [R(3, 6, 9, 11)]),
    "cross_entropy": lambda: (torch.nn.CrossEntropyLoss(), [R(70, 1100), torch.randint(0, 1100, (70,))]),
    "linear": lambda: (torch.nn.Sequential(torch.nn.Linear(30, 20), torch.nn.GELU()), [R(5, 30)]),
    "convolution": lambda: (torch.nn.Sequential(torch.nn.Conv2d(3, 5, 3), torch.nn.ReLU()), [R(2, 3, 12, 12)]),
}


@pytest.mark.parametrize("name", MODULES)
def test_a_module_is_printed_and_computed_right(name: str) -> None:
    check(*MODULES[name]())


KNOBS: list[tuple[str, dict[str, Any]]] = [
    ("softmax", {"keep": False, "reciprocal": False, "chunk": 256}),
    ("softmax", {"onepass": True, "chunk": 256}),
    ("column_statistics", {"lanes": 16, "reciprocal": False}),
    ("long_columns", {"split": True, "lanes": 16}),
    ("batch_statistics", {"lanes": 16}),
    ("frobenius", {"split": False}),
    ("frobenius", {"split": True, "chunk": 256}),
    ("bias_gelu", {"chunk": 1024, "stream": True, "unroll": True}),
    ("cumsum", {"split": True, "interleave": 4}),
    ("cumsum", {"interleave": 1}),
    ("dilated_max_pool", {"direct": True}),
]


@pytest.mark.parametrize(("name", "knobs"), KNOBS, ids=[f"{n}-{'-'.join(k)}" for n, k in KNOBS])
def test_knobs_do_not_change_what_is_computed(name: str, knobs: dict[str, Any]) -> None:
    function, args = CASES[name]()
    plain, turned = check(Apply(function), args), check(Apply(function), args, **knobs)
    assert plain.id != turned.id or set(knobs.values()) <= {p.default for p in plain.parameters} | {False}


def test_one_pass_moments_are_as_good_as_two() -> None:
    module = torch.nn.LayerNorm(3000)
    check(module, [R(5, 3000) * 2 + 100], onepass=True, chunk=256)


def test_a_row_of_minus_infinity_gives_what_eager_gives() -> None:
    x = R(4, 600)
    x[0] = -torch.inf
    x[1, :300] = -torch.inf
    x[2, 5] = torch.inf
    x[3, 7] = torch.nan
    for onepass in (False, True):
        check(Apply(lambda x: torch.softmax(x, 1)), [x], onepass=onepass, chunk=256)


def test_extremes_propagate_nan_and_first_index_wins() -> None:
    x = torch.randint(0, 5, (6, 1111)).float()
    x[2, 1000] = torch.nan
    candidate = check(Apply(lambda x: (x.amax(1), x.amin(1), x.relu(), x.clamp(1, 3))), [x])
    assert "max_nan" in candidate.source
    ties = x.nan_to_num()
    (index,) = run(check(Apply(lambda x: x.argmax(1)), [ties]), Apply(lambda x: x.argmax(1)), [ties])
    assert torch.equal(index, ties.argmax(1))


def test_only_the_math_that_a_kernel_uses_is_printed() -> None:
    source = check(Apply(lambda x: torch.exp(x) + 1), [R(10, 10)]).source
    assert "vec_exp(" in source
    assert "vec_erf" not in source
    assert "max_nan" not in source


def test_a_section_brings_what_it_needs() -> None:
    text = "\n".join(math_sections(["erf"]))
    assert text.index("to_bits") < text.index("vec_expm1_small") < text.index("vec_erf")


def test_half_precision_is_stored_and_computed_in_float() -> None:
    x = R(40, 33).to(torch.bfloat16)
    module = Apply(lambda x: (x.float() * 2 + 1).to(torch.bfloat16))
    candidate_output = _rendered(module, [x])
    assert torch.equal(candidate_output, module(x))
    y = torch.cat([R(400) * 10.0**e for e in range(-8, 6)]).to(torch.float16)
    module = Apply(lambda x: (x.float() * 1.7).to(torch.float16))
    assert torch.equal(_rendered(module, [y]), module(y))


def _rendered(module: torch.nn.Module, args: list[Any]) -> torch.Tensor:
    from kernelmill.propose.embedded.render import default_genome, render

    graph = graph_of(module, args)
    return flat(run(render([graph], default_genome([graph], "same"), CppPrinter()), module, args))[0]


def _kernel(values: tuple[KernelValue, ...]) -> Program:
    axes = (LoopAxis("i0", 8, reduced=False),)
    load, store = Operand(0, "class", "float32", (1,), False), Operand(1, "v1", "float32", (1,), False)
    return Program(("class",), (FusedKernel("k0", "elementwise", axes, (load,), (store,), values, 0),), "v1")


def test_names_that_c_plus_plus_reserves_are_changed() -> None:
    load = KernelValue(0, "load", "", (), "float32", 0, False)
    text = CppPrinter().print([_kernel((load, KernelValue(1, "pointwise", "neg", (Ref(0),), "float32", 0, False)))], {})
    assert "class_[i0]" in text
    assert "v1_[i0] = v1" in text
    assert "k0(class, v1)" in text


def test_an_unknown_operation_is_named_in_the_error() -> None:
    load = KernelValue(0, "load", "", (), "float32", 0, False)
    program = _kernel((load, KernelValue(1, "pointwise", "frobnicate", (Ref(0),), "float32", 0, False)))
    with pytest.raises(ValueError, match="k0: C\\+\\+ has no word for the operation 'frobnicate'"):
        CppPrinter().print([program], {})


def test_a_setting_that_is_not_on_offer_falls_back_to_the_default() -> None:
    knob = Parameter(name="chunk", values=(1, 2), default=2)
    assert chosen((knob,), {"chunk": 7, "other": 1}) == {"chunk": 2}
    assert chosen((knob,), {"chunk": 1}) == {"chunk": 1}


def test_sums_of_long_columns_are_as_accurate_as_double_accumulation() -> None:
    x = torch.rand(60000, 16)
    module = Apply(lambda x: x.sum(0))
    assert error(_rendered(module, [x]), x.double().sum(0)) < 1e-7
