"""From an FX graph of ATen calls to the intermediate representation."""

from __future__ import annotations

import operator
from typing import Any

import torch
from torch import fx

from kernelmill.propose.embedded.build import Builder, finish
from kernelmill.propose.embedded.ir import STORAGE_DTYPES, Graph, Name, Node, Ref
from kernelmill.propose.embedded.lower_call import Call
from kernelmill.propose.embedded.lower_ops import HANDLERS

_DROPPED_KWARGS = frozenset({"device", "layout", "pin_memory", "memory_format"})


def dtype_name(dtype: torch.dtype) -> str:
    """`float32` for `torch.float32`."""
    return str(dtype).removeprefix("torch.")


def lower(traced: fx.GraphModule, names: list[str], tensor_names: list[str]) -> Graph:
    """The graph of a traced module whose placeholders are `tensor_names`; `names` also has the scalar arguments."""
    return _Lowering(traced).run(names, tensor_names)


class _Lowering:
    def __init__(self, traced: fx.GraphModule) -> None:
        self.traced = traced
        self.build = Builder()
        self.env: dict[fx.Node, Any] = {}

    def run(self, names: list[str], tensor_names: list[str]) -> Graph:
        unused = iter(tensor_names)
        outputs: list[fx.Node] = []
        for node in self.traced.graph.nodes:
            if node.op == "placeholder":
                self.env[node] = self._input(next(unused), node)
            elif node.op == "get_attr":
                self.env[node] = self._attribute(node)
            elif node.op == "call_function":
                self.env[node] = self._call(node)
            else:
                outputs = list(fx.node.map_arg(node.args[0], lambda n: n))
        values = [self.env[n] for n in outputs]
        strides = tuple(tuple(n.meta["val"].stride()) for n in outputs)
        draft = Graph((), tuple(v.id for v in values), tuple(names), strides)
        return finish(draft, self.build.nodes)

    def _input(self, name: str, node: fx.Node) -> Node:
        value = node.meta["val"]
        return self.build.add("input", name, (), value.shape, dtype_name(value.dtype), stride=value.stride())

    def _attribute(self, node: fx.Node) -> Node:
        tensor = getattr(self.traced, str(node.target))
        if tensor.numel() != 1:
            raise ValueError(
                f"the module reads a tensor of shape {tuple(tensor.shape)} that is neither an argument, a parameter "
                "nor a buffer; register it as a buffer"
            )
        return self.build.constant(tensor.item(), tuple(tensor.shape), dtype_name(tensor.dtype))

    def _call(self, node: fx.Node) -> Any:
        if node.target is operator.getitem:
            return self._item(node)
        args, kwargs = fx.node.map_arg((node.args, node.kwargs), lambda n: self.env[n])
        name = node.target.__name__.split(".")[0]  # type: ignore[union-attr]
        handler = HANDLERS.get(name)
        if handler is not None and self._fusible(node, name):
            result = handler(self.build, Call(node, args, kwargs))
            if result is not None:
                return result
        return self._extern(node)

    def _item(self, node: fx.Node) -> Node:
        source, index = self.env[node.args[0]], node.args[1]  # type: ignore[index]
        if isinstance(source, tuple):
            found: Node = source[index]  # type: ignore[index]
            return found
        value = node.meta["val"]
        return self.build.add(
            "item", "item", (source, index), value.shape, dtype_name(value.dtype), stride=value.stride()
        )

    def _fusible(self, node: fx.Node, name: str) -> bool:
        """Whether kernels can hold every tensor of this call: no empty tensors, only dtypes they know."""
        values = [n.meta["val"] for n in node.all_input_nodes]
        result = node.meta["val"]
        values += list(result) if isinstance(result, list | tuple) else [result]
        return all(
            v is None or (v.numel() > 0 and dtype_name(v.dtype) in STORAGE_DTYPES and v.layout is torch.strided)
            for v in values
        )

    def _extern(self, node: fx.Node) -> Node:
        def argument(value: Any) -> Any:
            if isinstance(value, fx.Node):
                found = self.env[value]
                if isinstance(found, tuple):
                    raise ValueError(f"{node.target} reads all results of {value.target} at once")
                return Ref(found.id)
            if isinstance(value, torch.dtype):
                return Name(dtype_name(value))
            if isinstance(value, list | tuple):
                return [argument(v) for v in value]
            return value

        args = [argument(a) for a in node.args]
        kwargs = {k: argument(v) for k, v in node.kwargs.items() if k not in _DROPPED_KWARGS}
        target = node.target
        op = f"{target.namespace}.{target.__name__}"  # type: ignore[union-attr]
        value = node.meta["val"]
        if not isinstance(value, torch.Tensor):
            return self.build.add("extern", op, args, (), "tuple", kwargs=kwargs)
        return self.build.add(
            "extern", op, args, value.shape, dtype_name(value.dtype), stride=value.stride(), kwargs=kwargs
        )
