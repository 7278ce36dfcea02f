from __future__ import annotations

import pytest

from kernelmill.propose.embedded.build import Builder
from kernelmill.propose.embedded.groups import Grouping, Unit, cuttable
from kernelmill.propose.embedded.ir import Graph, Node

from .graph_modules import cases
from .graph_oracle import prepare
from .test_axes import graph_of, tensor

CASES = cases()


def kernels(graph: Graph, cuts: frozenset[int] = frozenset()) -> list[Unit]:
    return [u for u in Grouping(graph, cuts).run() if u.axes is not None]


@pytest.mark.parametrize(
    ("name", "count"),
    [
        ("softmax of rows", 1),
        ("layer norm", 1),
        ("group norm", 1),
        ("cosine", 2),
        ("cross entropy", 2),
        ("mse", 1),
        ("argmax", 1),
        ("conv, norm, relu, pool", 1),
        ("conv and squeeze", 1),
        ("nothing in common", 2),
    ],
)
def test_fusion_is_maximal(name: str, count: int) -> None:
    graph, _ = prepare(*CASES[name])
    assert len(kernels(graph)) == count


@pytest.mark.parametrize("name", CASES)
def test_every_computing_node_is_in_exactly_one_unit_and_after_what_it_reads(name: str) -> None:
    graph, _ = prepare(*CASES[name])
    done: set[int] = set()
    for unit in Grouping(graph).run():
        assert not done & set(unit.members)
        for member in unit.members:
            roots = {graph.root(i).id for i in graph.by_id[member].inputs}
            outside = {r for r in roots if graph.by_id[r].kind in ("pointwise", "reduce", "extern", "item")}
            assert outside <= done | set(unit.members)
        done |= set(unit.members)
    assert done == {n.id for n in graph.nodes if n.kind in ("pointwise", "reduce", "extern", "item")}


def test_a_cut_sends_the_value_through_memory() -> None:
    build = Builder()
    x = tensor(build, "x", 4, 5)
    first = build.pointwise("exp", x)
    second = build.pointwise("add", first, 1.0)
    graph = graph_of(build, second)
    assert len(kernels(graph)) == 1
    assert cuttable(graph, kernels(graph)) == (first.id,)
    assert [u.members for u in kernels(graph, frozenset({first.id}))] == [[first.id], [second.id]]


@pytest.mark.parametrize("name", ["layer norm", "cross entropy", "triplet", "argmax", "conv and squeeze"])
def test_no_cut_value_is_read_in_its_own_kernel(name: str) -> None:
    graph, _ = prepare(*CASES[name])
    for cut in cuttable(graph, kernels(graph)):
        for unit in kernels(graph, frozenset({cut})):
            if cut in unit.members:
                read = {graph.root(i).id for m in unit.members for i in graph.by_id[m].inputs}
                assert cut not in read


def test_two_kernels_with_a_library_call_between_them_do_not_become_one() -> None:
    build = Builder()
    x = tensor(build, "x", 4, 4)
    before = build.pointwise("exp", x)
    product = build.extern("aten.mm.default", [before, before], (4, 4), "float32")
    after = build.pointwise("add", before, product)
    units = Grouping(graph_of(build, after)).run()
    assert [u.members for u in units] == [[before.id], [product.id], [after.id]]


def test_a_value_of_fewer_loops_that_is_needed_outside_gets_its_own_kernel() -> None:
    build = Builder()
    x, w = tensor(build, "x", 4, 5), tensor(build, "w", 5)
    root = build.pointwise("sqrt", w)
    scaled = build.pointwise("mul", x, root)
    assert len(kernels(graph_of(build, scaled))) == 1
    assert len(kernels(graph_of(build, scaled, root))) == 2


def long_chain(length: int) -> Graph:
    build = Builder()
    x, rows = tensor(build, "x", 8, 16), tensor(build, "rows", 8, 1)
    value: Node = x
    for i in range(length):
        other = build.reduce("sum", value, [1], keep=True) if i % 7 == 3 else rows
        value = build.pointwise("add", value, build.pointwise("mul", other, float(i + 1)))
    return graph_of(build, value)


def test_a_graph_of_two_hundred_nodes_is_grouped() -> None:
    graph = long_chain(100)
    assert len(graph.nodes) > 200
    assert len(kernels(graph)) < 10
