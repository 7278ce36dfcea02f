"""From a PyTorch module to an `ir.Graph`. Runs where the reference may run: inside a sandboxed cell."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils import _pytree as pytree

from kernelmill.propose.embedded.decompositions import decompositions
from kernelmill.propose.embedded.ir import Graph, to_json
from kernelmill.propose.embedded.lower import lower
from kernelmill.propose.embedded.names import launch_names

aten = torch.ops.aten


def state_of(module: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Parameters, then buffers, by their dotted names, in the order of the launch."""
    state = {name: p.detach() for name, p in module.named_parameters()}
    state.update((name, b.detach()) for name, b in module.named_buffers() if b is not None)
    return state


def trace(module: torch.nn.Module, args: list[Any], argument_names: list[str]) -> Graph:
    """The graph of `module(*args)` for inputs of these shapes and dtypes.

    `args` are tensors and Python scalars in positional order; scalars become literals. No value of a tensor is looked
    at: the module runs on fake tensors.

    Raises ValueError where the module writes to its arguments or state, returns something that is not a tensor, or
    reads a tensor that is neither argument nor state; whatever the module itself raises passes through.
    """
    if len(args) != len(argument_names):
        raise ValueError(f"every argument needs a name, got {len(args)} arguments and {len(argument_names)} names")
    state = state_of(module)
    names = launch_names(argument_names, list(state))
    slots = [i for i, a in enumerate(args) if isinstance(a, torch.Tensor)]
    kinds: list[type] = []

    def run(tensors: list[torch.Tensor], weights: list[torch.Tensor]) -> list[Any]:
        full = list(args)
        for slot, tensor in zip(slots, tensors, strict=True):
            full[slot] = tensor
        result = torch.func.functional_call(module, dict(zip(state, weights, strict=True)), tuple(full))
        leaves = pytree.tree_leaves(result)
        kinds.extend(type(leaf) for leaf in leaves if not isinstance(leaf, torch.Tensor))
        return leaves

    traced = _make_fx(run, [args[i] for i in slots], list(state.values()))
    if kinds:
        raise ValueError(f"every output must be a tensor, got {kinds[0].__name__}")
    tensor_names = [names[i] for i in slots] + names[len(args) :]
    _refuse_mutation(traced, tensor_names)
    return lower(traced, names, tensor_names)


def _make_fx(run: Callable[..., Any], tensors: list[Any], weights: list[Any]) -> torch.fx.GraphModule:
    """Traced twice where a decomposition itself works in place: those run below the functionalisation."""
    inputs = ([t.detach() for t in tensors], weights)
    traced = _functional(run, decompositions(), inputs)
    if any(_mutates(node) for node in traced.graph.nodes):
        traced = _functional(traced, {}, inputs)
    return traced


def trace_json(module: torch.nn.Module, args: list[Any], argument_names: list[str]) -> str:
    """`trace` as text, for the process that asked."""
    return to_json(trace(module, args, argument_names))


def _functional(run: Callable[..., Any], table: dict[Any, Any], inputs: tuple[Any, Any]) -> torch.fx.GraphModule:
    functional = torch.func.functionalize(run, remove="mutations")
    with torch.no_grad():
        maker = make_fx(functional, decomposition_table=table, tracing_mode="fake", _allow_non_fake_inputs=True)
        traced: torch.fx.GraphModule = maker(*inputs)
    return traced


def _mutates(node: torch.fx.Node) -> bool:
    schema = getattr(node.target, "_schema", None)
    return schema is not None and bool(schema.is_mutable)


def _refuse_mutation(traced: torch.fx.GraphModule, names: list[str]) -> None:
    """Functionalisation ends with `copy_(argument, new value)` for every argument that was written to."""
    places = [n for n in traced.graph.nodes if n.op == "placeholder"]
    written = [
        names[places.index(n.args[0])] if n.args[0] in places else "a tensor it does not own"
        for n in traced.graph.nodes
        if n.op == "call_function" and n.target is aten.copy_.default
    ]
    if written:
        raise ValueError(
            f"the module writes to {', '.join(sorted(set(written)))} in place; "
            "only modules that leave arguments and state as they are can be rewritten (for BatchNorm: use eval mode)"
        )
    traced.graph.eliminate_dead_code()
