from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kernelmill.propose.embedded.axes import Atom, Axes, Illegal, leaves
from kernelmill.propose.embedded.build import Builder, contiguous_strides
from kernelmill.propose.embedded.ir import Graph, Node


def graph_of(build: Builder, *outputs: Node) -> Graph:
    names = tuple(n.op for n in build.nodes if n.kind == "input")
    strides = tuple(contiguous_strides(o.shape) for o in outputs)
    return Graph(tuple(build.nodes), tuple(o.id for o in outputs), names, strides)


def tensor(build: Builder, name: str, *shape: int) -> Node:
    return build.add("input", name, (), shape, "float32", stride=contiguous_strides(shape))


def sizes(axes: Axes, node: Node) -> list[list[int]]:
    return [[a.size for a in dim] for dim in axes.loops(node.id)]


def test_a_broadcast_dim_has_no_loop() -> None:
    build = Builder()
    total = build.pointwise("add", tensor(build, "x", 4, 1), tensor(build, "y", 5))
    axes = Axes(graph_of(build, total))
    axes.add(total.id)
    assert sizes(axes, total) == [[4], [5]]


def test_group_norm_weights_come_out_as_plain_strides() -> None:
    build = Builder()
    x, weight = tensor(build, "x", 2, 6, 5), tensor(build, "w", 6)
    split = build.reshape(x, (2, 3, 2, 5))
    scaled = build.pointwise("mul", split, build.reshape(weight, (1, 3, 2, 1)))
    axes = Axes(graph_of(build, scaled))
    axes.add(scaled.id)
    steps = axes.strides(weight.id, (1,))
    batch, group, channel, place = (dim[0] for dim in axes.loops(scaled.id))
    assert steps == {group: 2, channel: 1}
    assert axes.strides(x.id, (30, 5, 1)) == {batch: 30, group: 10, channel: 5, place: 1}


def test_a_sum_with_the_own_transpose_walks_one_loop_twice() -> None:
    build = Builder()
    x = tensor(build, "x", 4, 4)
    both = build.pointwise("add", x, build.permute(x, [1, 0]))
    axes = Axes(graph_of(build, both))
    axes.add(both.id)
    first, second = axes.loops(both.id)
    assert first == second


def test_sizes_that_do_not_divide_are_illegal() -> None:
    axes = Axes(Graph((), (), (), ()))
    with pytest.raises(Illegal, match="4 does not split by 3"):
        axes.unify([Atom(4), Atom(3)], [Atom(3), Atom(4)])


def test_a_rollback_forgets_the_try() -> None:
    build = Builder()
    x, y = tensor(build, "x", 12), tensor(build, "y", 3, 4)
    first = build.pointwise("exp", x)
    second = build.pointwise("add", build.reshape(first, (3, 4)), y)
    axes = Axes(graph_of(build, second))
    axes.add(first.id)
    mark = axes.mark()
    axes.add(second.id)
    assert sizes(axes, first) == [[3, 4]]
    axes.rollback(mark)
    assert sizes(axes, first) == [[12]]
    assert axes.members == {first.id}


@given(st.lists(st.integers(2, 5), min_size=1, max_size=5), st.data())
def test_any_two_groupings_of_the_same_factors_have_common_loops(factors: list[int], data: st.DataObject) -> None:
    def grouping() -> list[Atom]:
        atoms, rest = [], list(factors)
        while rest:
            count = data.draw(st.integers(1, len(rest)))
            atoms.append(Atom(math.prod(rest[:count])))
            rest = rest[count:]
        return atoms

    first, second = grouping(), grouping()
    axes = Axes(Graph((), (), (), ()))
    try:
        axes.unify(first, second)
    except Illegal:
        return
    assert leaves(first) == leaves(second)
    assert math.prod(a.size for a in leaves(first)) == math.prod(factors)
