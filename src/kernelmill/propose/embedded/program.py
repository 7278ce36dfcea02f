"""From a graph to a `Program`: kernels, library calls, views and allocations in an order that can be launched."""

from __future__ import annotations

from typing import Any, Literal

from kernelmill.propose.embedded.axes import Axes
from kernelmill.propose.embedded.build import contiguous_strides, is_slice
from kernelmill.propose.embedded.groups import Grouping, Unit
from kernelmill.propose.embedded.ir import Graph, Name, Node, Ref
from kernelmill.propose.embedded.kernels import Buffer, KernelMaker
from kernelmill.propose.embedded.layout import (
    before_permute,
    is_channels_last,
    is_contiguous,
    memory_order,
    same_strides,
    strides_in_order,
    view_strides,
)
from kernelmill.propose.embedded.names import Names
from kernelmill.propose.embedded.plan import Allocate, LaunchLine, Program, Step, TemplateKernel
from kernelmill.propose.embedded.templates import template_of


def plan(
    graph: Graph,
    cuts: frozenset[int] = frozenset(),
    *,
    strides: Literal["same", "any"] = "same",
    library: frozenset[int] = frozenset(),
) -> Program:
    """The program of that graph.

    Fusion is maximal except at `cuts`: the result of such a node goes through memory. `strides`: whether outputs get
    exactly the strides eager gives them. `library`: externs to call even where a template could replace them.
    """
    return _Planner(graph, library, same=strides == "same").run(Grouping(graph, cuts))


CONTIGUOUS = "aten.contiguous.default"

WRITTEN = frozenset({"float64", "float32", "float16", "bfloat16"})
"""Dtypes whose changes of layout are kernels."""


def literal(value: Any) -> str:
    """A literal as the launch writes it; its words for what Python has no literal for are `inf` and `nan`."""
    return str(value) if isinstance(value, float) else repr(value)


class _Planner:
    def __init__(self, graph: Graph, library: frozenset[int], *, same: bool) -> None:
        self.graph = graph
        self.same = same
        self.library = library
        self.steps: list[Step] = []
        self.names = Names(graph.inputs)
        self.raw: dict[int, str] = {n.id: n.op for n in graph.nodes if n.kind == "input"}
        """Node id -> name of a tensor with its value, whatever its strides."""
        self.known: dict[int, Buffer] = {}
        """The same where the strides are certain."""
        self.wanted: dict[int, tuple[int, ...]] = {}
        """Node id -> strides its buffer should get, because of an output."""
        self.kernels = 0

    def run(self, grouping: Grouping) -> Program:
        self._want_output_strides()
        for unit in grouping.run():
            if unit.axes is not None:
                self._kernel(grouping, unit, unit.axes)
            else:
                self._library(self.graph.by_id[unit.members[0]])
        results = [self._output(o, s) for o, s in zip(self.graph.outputs, self.graph.output_strides, strict=True)]
        returns = results[0] if len(results) == 1 else f"({', '.join(results)})"
        guards = tuple((n.op, n.shape) for n in self.graph.nodes if n.kind == "input")
        return Program(self.graph.inputs, tuple(self.steps), returns, guards)

    # -- names -----------------------------------------------------------------------------------

    def _kernel_name(self) -> str:
        self.kernels += 1
        return self.names.fresh(f"k{self.kernels - 1}")

    def _say(self, base: str, text: str) -> str:
        """A launch line `name = text`; gives back the name."""
        name = self.names.fresh(base)
        self.steps.append(LaunchLine(f"{name} = {text}"))
        return name

    # -- tensors ---------------------------------------------------------------------------------

    def name(self, node_id: int) -> str:
        """A tensor with that value, for library calls."""
        if node_id in self.known:
            return self.known[node_id].name
        if node_id not in self.raw:
            node = self.graph.by_id[node_id]
            if node.kind in ("constant", "iota"):
                return self._materialised(node).name
            self.raw[node_id] = self._say(f"v{node_id}", self._view_text(node, self.name(node.inputs[0])))
        return self.raw[node_id]

    def physical(self, node_id: int) -> Buffer:
        """A tensor with that value and certain strides, for kernels.

        What comes from outside (arguments, library results) is made contiguous in the order of memory it was traced
        with: no work where it already is.
        """
        if node_id not in self.known:
            node = self.graph.by_id[node_id]
            if node.kind in ("constant", "iota"):
                return self._materialised(node)
            self.known[node_id] = self._known_view(node) if node.kind == "view" else self._settled(node)
        return self.known[node_id]

    def _known_view(self, node: Node) -> Buffer:
        source = self.physical(node.inputs[0])
        strides = view_strides(node, self.graph.by_id[node.inputs[0]].shape, source.strides)
        name = self._say(f"v{node.id}", self._view_text(node, source.name))
        return Buffer(name, contiguous_strides(node.shape) if strides is None else strides)

    def _settled(self, node: Node) -> Buffer:
        order = memory_order(node.shape, node.stride or contiguous_strides(node.shape))
        source = self.name(node.id)
        if order is None or is_contiguous(node.shape, strides_in_order(node.shape, order)):
            return Buffer(self._say(f"p{node.id}", f"{source}.contiguous()"), contiguous_strides(node.shape))
        permuted = self._say(f"p{node.id}", f"{source}.permute({', '.join(map(str, order))})")
        dense = self._say(f"p{node.id}", f"{permuted}.contiguous()")
        back = ", ".join(str(order.index(d)) for d in range(len(order)))
        return Buffer(self._say(f"p{node.id}", f"{dense}.permute({back})"), strides_in_order(node.shape, order))

    @staticmethod
    def _view_text(node: Node, source: str) -> str:
        if node.op == "permute":
            return f"{source}.permute({', '.join(map(str, node.attrs['dims']))})"
        return f"{source}.{node.op}([{', '.join(map(str, node.shape))}])"

    def _allocate(self, node: Node, strides: tuple[int, ...]) -> Buffer:
        buffer = Buffer(self.names.fresh("out" if node.id in self.graph.outputs else f"t{node.id}"), strides)
        self.steps.append(Allocate(buffer.name, node.shape, strides, node.dtype))
        return buffer

    def _materialised(self, node: Node) -> Buffer:
        """A constant or an iota in memory."""
        if node.id not in self.known:
            self.known[node.id] = self._simple_kernel(node, contiguous_strides(node.shape))
        return self.known[node.id]

    def _simple_kernel(self, node: Node, strides: tuple[int, ...]) -> Buffer:
        """A kernel that writes one constant, iota, or copy of a tensor."""
        boundary = [node.id] if node.kind not in ("constant", "iota") else []
        axes = Axes(self.graph, boundary)
        axes.read(node.id)
        maker = KernelMaker(self.graph, axes, (), frozenset())
        loads = {k: self.physical(k) for k in maker.leaves}
        buffer = self._allocate(node, strides)
        self.steps.append(maker.make(self._kernel_name(), loads, {node.id: buffer}))
        return buffer

    def _laid_out(self, node: Node, strides: tuple[int, ...]) -> Buffer:
        """The source of a layout change in that layout: a third of the time that the library takes for it."""
        source = self.graph.by_id[node.inputs[0]]
        found = self.physical(source.id)
        return found if same_strides(node.shape, found.strides, strides) else self._simple_kernel(source, strides)

    # -- units -----------------------------------------------------------------------------------

    def _kernel(self, grouping: Grouping, unit: Unit, axes: Axes) -> None:
        maker = KernelMaker(self.graph, axes, unit.members, grouping.check(axes).reduced)
        loads = {k: self.physical(k) for k in maker.leaves}
        stores: dict[int, Buffer] = {}
        for member in unit.members:
            if grouping.leaves_group(member, axes.members):
                strides = self.wanted.get(member) or maker.natural_strides(member, loads)
                stores[member] = self._allocate(self.graph.by_id[member], strides)
        self.known.update(stores)
        self.steps.append(maker.make(self._kernel_name(), loads, stores))

    def _library(self, node: Node) -> None:
        if node.id in self.known:
            return
        if node.kind == "item":
            self.raw[node.id] = self._say(f"c{node.id}", f"{self.name(node.inputs[0])}[{node.args[1]}]")
            return
        if is_slice(node):
            self._slice(node)
            return
        if node.op == CONTIGUOUS and node.stride is not None and node.dtype in WRITTEN:
            self.known[node.id] = self._laid_out(node, node.stride)
            return
        found = None if node.id in self.library else template_of(self.graph, node)
        if found is not None:
            self._template(node, *found)
            return
        kwargs = [f"{k}={self._argument(v)}" for k, v in node.attrs.get("kwargs", {}).items()]
        args = ", ".join([*(self._argument(a) for a in node.args), *kwargs])
        self.raw[node.id] = self._say(f"c{node.id}", f"{node.op}({args})")

    def _slice(self, node: Node) -> None:
        """Part of a tensor whose strides are certain, so that kernels read it in place."""
        given = self.graph.by_id[node.inputs[0]]
        source = self.physical(given.id)
        strides = view_strides(node, given.shape, source.strides)
        dim, *bounds = node.args[1:]
        text = f"{node.op}({source.name}, {dim}, {', '.join(map(str, bounds))})"
        self.known[node.id] = Buffer(self._say(f"s{node.id}", text), strides or contiguous_strides(node.shape))

    def _argument(self, value: Any) -> str:
        if isinstance(value, Ref):
            return self.name(value.node)
        if isinstance(value, Name):
            return value.text
        if isinstance(value, list | tuple):
            return f"[{', '.join(self._argument(v) for v in value)}]"
        return literal(value)

    def _contiguous(self, node_id: int) -> Buffer:
        """A tensor with that value in row-major order."""
        source, node = self.physical(node_id), self.graph.by_id[node_id]
        if is_contiguous(node.shape, source.strides):
            return source
        return Buffer(self._say(f"p{node_id}", f"{source.name}.contiguous()"), contiguous_strides(node.shape))

    def _template(self, node: Node, template: Any, attrs: dict[str, Any]) -> None:
        result = node
        if node.dtype == "tuple":
            result = next(n for n in self.graph.nodes if n.kind == "item" and n.inputs[0] == node.id)
        strides, shape = contiguous_strides(result.shape), self.graph.by_id[node.inputs[0]].shape
        if template == "window" and is_channels_last(shape, self.physical(node.inputs[0]).strides):
            attrs = {**attrs, "channels": shape[1], "batch": shape[0]}
            source, others = self.physical(node.inputs[0]).name, list[str]()
            strides = strides_in_order(result.shape, (0, *range(2, len(shape)), 1))
        else:
            source, *others = (self._contiguous(i).name for i in node.inputs)
        buffer = self._allocate(result, strides)
        self.known[result.id] = buffer
        op = attrs.pop("op", node.op.removeprefix("aten.").split(".")[0])
        name = self._kernel_name()
        self.steps.append(TemplateKernel(name, template, op, source, buffer.name, attrs, tuple(others)))

    # -- outputs ---------------------------------------------------------------------------------

    def _want_output_strides(self) -> None:
        """Where an output is a kernel's result, or only permutes it: the strides the result should get."""
        if not self.same:
            return
        for output, strides in zip(self.graph.outputs, self.graph.output_strides, strict=True):
            node = self.graph.by_id[output]
            while node.kind == "view" and node.op == "permute":
                strides = before_permute(node.attrs["dims"], strides)
                node = self.graph.by_id[node.inputs[0]]
            if node.kind in ("pointwise", "reduce") and memory_order(node.shape, strides) is not None:
                self.wanted.setdefault(node.id, strides)

    def _output(self, node_id: int, strides: tuple[int, ...]) -> str:
        node, root = self.graph.by_id[node_id], self.graph.root(node_id)
        if 0 in strides and 0 not in node.shape:
            return self.name(node_id)
        if root.kind in ("input", "constant", "iota"):
            return self._simple_kernel(node, strides).name
        if root.kind in ("extern", "item") and root.id not in self.known:
            traced = self._traced_strides(node)
            if not self.same or (traced is not None and same_strides(node.shape, traced, strides)):
                return self.name(node_id)
        elif not self.same:
            return self.name(node_id)
        found = self.physical(node_id)
        if same_strides(node.shape, found.strides, strides):
            return found.name
        return self._simple_kernel(node, strides).name

    def _traced_strides(self, node: Node) -> tuple[int, ...] | None:
        """Strides that the views down to a library result give; None where one copies."""
        if node.kind != "view":
            return node.stride
        source = self.graph.by_id[node.inputs[0]]
        strides = self._traced_strides(source)
        return None if strides is None else view_strides(node, source.shape, strides)
