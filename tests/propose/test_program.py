from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kernelmill.languages._launch import parse
from kernelmill.propose.embedded.build import Builder
from kernelmill.propose.embedded.describe import describe
from kernelmill.propose.embedded.groups import Grouping, cuttable
from kernelmill.propose.embedded.ir import Graph, Node
from kernelmill.propose.embedded.plan import Allocate, FusedKernel, LaunchLine, Program, TemplateKernel
from kernelmill.propose.embedded.program import plan
from kernelmill.propose.embedded.tracing import trace

from .graph_modules import cases, made
from .graph_oracle import check, compare, prepare, run_graph, run_program
from .test_axes import graph_of, tensor

CASES = cases()
LOOSE = {"bfloat16": 1e-2}


def launch_text(program: Program) -> str:
    """A program as a launch block, kernels by their operands."""
    lines = [f"def launch({', '.join(program.arguments)}):"]
    lines += [f"    assert {name}.shape == {shape}" for name, shape in program.guards]
    for step in program.steps:
        if isinstance(step, Allocate):
            lines.append(f"    {step.name} = empty_strided({list(step.shape)}, {list(step.stride)}, {step.dtype})")
        elif isinstance(step, LaunchLine):
            lines.append(f"    {step.text}")
        elif isinstance(step, TemplateKernel):
            lines.append(f"    {step.name}({step.source}, {step.output})")
        else:
            lines.append(f"    {step.name}({', '.join(o.buffer for o in (*step.loads, *step.stores))})")
    return "/* launch\n" + "\n".join([*lines, f"    return {program.returns}"]) + "\n*/"


@pytest.mark.parametrize("name", CASES)
def test_a_program_gives_what_eager_gives_with_its_strides(name: str) -> None:
    check(*CASES[name], tolerance=LOOSE.get(name, 2e-5))


@pytest.mark.parametrize("name", CASES)
def test_a_program_with_free_strides_gives_the_same_values(name: str) -> None:
    check(*CASES[name], tolerance=LOOSE.get(name, 2e-5), strides="any")


@pytest.mark.parametrize("name", CASES)
def test_cutting_everything_changes_nothing_but_the_kernels(name: str) -> None:
    graph, _ = prepare(*CASES[name])
    cuts = frozenset(cuttable(graph, Grouping(graph).run()))
    check(*CASES[name], tolerance=LOOSE.get(name, 2e-5), cuts=cuts)


@pytest.mark.parametrize("name", [n for n in CASES if any(w in n for w in ("pool", "cumulative", "depthwise"))])
def test_templates_can_be_left_to_the_library(name: str) -> None:
    graph, _ = prepare(*CASES[name])
    calls = frozenset(n.id for n in graph.nodes if n.kind == "extern")
    program = check(*CASES[name], library=calls)
    assert not any(isinstance(s, TemplateKernel) for s in program.steps)


@pytest.mark.parametrize("name", sorted(CASES))
def test_every_launch_is_one_that_the_launch_language_takes(name: str) -> None:
    graph, _ = prepare(*CASES[name])
    (launch,) = parse(launch_text(plan(graph)))
    assert len(launch.arguments) == len(graph.inputs)


@pytest.mark.parametrize(
    ("name", "skeleton"),
    [("softmax of rows", "row"), ("softmax of columns", "column"), ("gelu", "elementwise"), ("group norm", "row")],
)
def test_the_skeleton_follows_the_memory(name: str, skeleton: str) -> None:
    kernels = [s for s in check(*CASES[name]).steps if isinstance(s, FusedKernel)]
    assert [k.skeleton for k in kernels] == [skeleton]


@pytest.mark.parametrize(
    ("name", "template"),
    [
        *[
            (n, "window")
            for n in ("max pool", "max pool 1d", "max pool 3d", "avg pool", "avg pool 3d", "adaptive pool")
        ],
        *[(n, "scan") for n in ("cumulative sum", "cumulative sum of rows", "reverse cumulative sum")],
    ],
)
def test_pools_and_scans_become_templates(name: str, template: str) -> None:
    program = check(*CASES[name])
    assert template in [s.template for s in program.steps if isinstance(s, TemplateKernel)]
    assert any(line.startswith(template) for line in describe(program))


def test_a_window_that_hangs_over_the_end_stays_a_library_call() -> None:
    program = check(*CASES["max pool with ceil"])
    assert not any(isinstance(s, TemplateKernel) for s in program.steps)


def test_nothing_to_fuse_gives_library_calls_only() -> None:
    program = check(made(lambda a, b: a @ b), [torch.randn(3, 4), torch.randn(4, 5)])
    assert all(isinstance(s, LaunchLine) for s in program.steps)


def test_adjacent_axes_that_all_operands_walk_alike_are_one() -> None:
    program = check(made(torch.relu), [torch.randn(2, 3, 4, 5)])
    (kernel,) = (s for s in program.steps if isinstance(s, FusedKernel))
    assert [a.extent for a in kernel.axes] == [120]


def test_an_argument_may_come_with_other_strides_than_it_was_traced_with() -> None:
    graph, _ = prepare(made(lambda x: x.exp().sum(1)), [torch.randn(4, 6)])
    x = torch.randn(6, 4).T
    compare(run_program(plan(graph), [x]), [x.exp().sum(1)], 1e-5)


def test_a_name_of_the_program_never_hides_an_argument() -> None:
    module = made(lambda a, b, c: (a + b).sum(0) * c)
    args = [torch.randn(3, 4), torch.randn(3, 4), torch.randn(4)]
    program = plan(trace(module, args, ["out", "k0", "t3"]))
    compare(run_program(program, args), [module(*args)], 1e-5)


def test_a_softmax_in_words() -> None:
    program = check(made(lambda x: torch.softmax(x, 1)), [torch.randn(8, 16)])
    (line,) = describe(program)
    assert line == "row kernel k0 P=[i0:8] R=[i1:16] reads p0 writes out: amax, sub, exp, sum, div"


SHAPES = ((4, 6), (6, 4), (24,), (2, 2, 6), (1, 6), (4, 1), (2, 3, 4))


def grow(build: Builder, values: list[Node], draw: Any) -> Node:
    """One more random node on top of those there are."""
    x = draw(st.sampled_from(values))
    kind = draw(st.sampled_from(["unary", "binary", "binary", "reduce", "reshape", "permute", "expand", "library"]))
    if kind == "binary":
        partners = [v for v in values if _fits(v.shape, x.shape)]
        return build.pointwise(draw(st.sampled_from(["add", "mul", "maximum"])), x, draw(st.sampled_from(partners)))
    if kind == "reduce" and x.shape:
        dims = draw(st.sets(st.integers(0, len(x.shape) - 1), min_size=1))
        return build.reduce(draw(st.sampled_from(["sum", "amax"])), x, dims, keep=draw(st.booleans()))
    if kind == "reshape":
        fitting = [s for s in SHAPES if torch.Size(s).numel() == torch.Size(x.shape).numel()]
        return build.reshape(x, draw(st.sampled_from([*fitting, x.shape])))
    if kind == "permute" and x.shape:
        return build.permute(x, draw(st.permutations(range(len(x.shape)))))
    if kind == "expand":
        return build.expand(x, tuple(3 if s == 1 else s for s in x.shape))
    if kind == "library":
        # Contiguous whatever its argument's strides, as `extern` says; that of `sin` has the argument's.
        return build.extern("aten.logcumsumexp.default", [x, -1], x.shape, "float32")
    return build.pointwise(draw(st.sampled_from(["tanh", "sigmoid", "neg"])), x)


def _fits(first: tuple[int, ...], second: tuple[int, ...]) -> bool:
    try:
        torch.broadcast_shapes(first, second)
    except RuntimeError:
        return False
    return True


@st.composite
def graphs(draw: Any) -> tuple[Graph, frozenset[int]]:
    build = Builder()
    shapes = draw(st.lists(st.sampled_from(SHAPES), min_size=1, max_size=3))
    values = [tensor(build, f"x{i}", *shape) for i, shape in enumerate(shapes)]
    for _ in range(draw(st.integers(1, 12))):
        values.append(grow(build, values, draw))
    outputs = draw(st.lists(st.sampled_from(values), min_size=1, max_size=3))
    cuts = draw(st.sets(st.sampled_from([v.id for v in values]), max_size=2))
    return graph_of(build, values[-1], *outputs), frozenset(cuts)


@settings(max_examples=300, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
@given(graphs())
def test_any_graph_gives_a_program_that_computes_it(case: tuple[Graph, frozenset[int]]) -> None:
    graph, cuts = case
    torch.manual_seed(0)
    inputs = {n.op: torch.randn(n.shape) for n in graph.nodes if n.kind == "input"}
    want = run_graph(graph, inputs)
    for strides in ("same", "any"):
        got = run_program(plan(graph, cuts, strides=strides), list(inputs.values()))
        compare(got, want, 1e-4)
        if strides == "same":
            for tensor_, steps in zip(got, graph.output_strides, strict=True):
                walked = [s for s, n in zip(tensor_.stride(), tensor_.shape, strict=True) if n > 1]
                assert walked == [s for s, n in zip(steps, tensor_.shape, strict=True) if n > 1]


def test_slices_are_read_where_they_lie() -> None:
    module = made(lambda u: u[1:-1, 1:-1] + u[:-2, 1:-1] * u[:6, ::2].sum())
    graph, _ = prepare(module, [torch.randn(8, 12)])
    steps = plan(graph).steps
    copies = [s for s in steps if isinstance(s, LaunchLine) and "contiguous" in s.text]
    kernels = [s for s in steps if isinstance(s, FusedKernel)]
    assert len(copies) == 1  # the argument, which is contiguous already: no work
    assert [o.strides for o in kernels[-1].loads] == [(12, 1), (12, 1), (0, 0)]


def test_the_same_slice_is_taken_once() -> None:
    graph, _ = prepare(made(lambda u: u[1:] * u[1:].exp() + u[1:].sum()), [torch.randn(4, 6)])
    assert sum("slice" in s.text for s in plan(graph).steps if isinstance(s, LaunchLine)) == 1
