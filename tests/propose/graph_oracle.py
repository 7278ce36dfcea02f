"""Executes graphs and programs with PyTorch, literally: kernels read and write memory by the strides they claim."""

from __future__ import annotations

import math
from typing import Any

import torch

from kernelmill.propose.embedded.ir import Graph, Name, Node, Ref
from kernelmill.propose.embedded.names import launch_names
from kernelmill.propose.embedded.plan import Allocate, FusedKernel, LaunchLine, Operand, Program, TemplateKernel
from kernelmill.propose.embedded.program import plan
from kernelmill.propose.embedded.tracing import state_of, trace

LAUNCH_NAMES = ("float32", "float64", "int64", "int32", "bool", "channels_last", "channels_last_3d")


def dtype(name: str) -> torch.dtype:
    found = getattr(torch, name)
    assert isinstance(found, torch.dtype)
    return found


def apply(op: str, args: list[Any], result: str) -> torch.Tensor:
    """One pointwise operator, as `ir` defines it."""
    if op == "cast":
        return args[0].to(dtype(result))
    if op == "where":
        return torch.where(*args)
    args = [a if isinstance(a, torch.Tensor) else torch.tensor(a, dtype=_partner(args)) for a in args]
    names = {"relu": torch.relu, "mul": torch.mul}
    value = names.get(op, getattr(torch, op, None))(*args)
    assert value.dtype == dtype(result), (op, value.dtype, result)
    return value


def _partner(args: list[Any]) -> torch.dtype:
    return next(a.dtype for a in args if isinstance(a, torch.Tensor))


def reduce(op: str, x: torch.Tensor, dims: list[int]) -> torch.Tensor:
    if op == "sum":
        return x.sum(dims, keepdim=True, dtype=x.dtype)
    if op == "prod":
        for d in dims:
            x = x.prod(d, keepdim=True, dtype=x.dtype)
        return x
    return getattr(torch, op)(x, dims, keepdim=True)


def library(op: str) -> Any:
    found: Any = torch.ops
    for part in op.split("."):
        found = getattr(found, part)
    return found


def run_graph(graph: Graph, tensors: dict[str, torch.Tensor]) -> list[torch.Tensor]:
    """The outputs of a graph, node by node."""
    env: dict[int, Any] = {}

    def get(arg: Any) -> Any:
        if isinstance(arg, Ref):
            return env[arg.node]
        if isinstance(arg, Name):
            return getattr(torch, arg.text)
        return [get(a) for a in arg] if isinstance(arg, list | tuple) else arg

    for node in graph.nodes:
        env[node.id] = _evaluate(node, get, tensors)
        if isinstance(env[node.id], torch.Tensor):
            assert tuple(env[node.id].shape) == node.shape, (node, env[node.id].shape)
            assert env[node.id].dtype == dtype(node.dtype), (node, env[node.id].dtype)
    return [env[o] for o in graph.outputs]


def _evaluate(node: Node, get: Any, tensors: dict[str, torch.Tensor]) -> Any:
    args = [get(a) for a in node.args]
    if node.kind == "input":
        return tensors[node.op]
    if node.kind == "constant":
        return torch.full(node.shape, args[0], dtype=dtype(node.dtype))
    if node.kind == "iota":
        return torch.arange(math.prod(node.shape), dtype=dtype(node.dtype)).reshape(node.shape)
    if node.kind == "pointwise":
        return apply(node.op, args, node.dtype)
    if node.kind == "reduce":
        return reduce(node.op, args[0], node.attrs["dims"])
    if node.kind == "view":
        return args[0].permute(node.attrs["dims"]) if node.op == "permute" else getattr(args[0], node.op)(node.shape)
    if node.kind == "item":
        return args[0][args[1]]
    return library(node.op)(*args, **{k: get(v) for k, v in node.attrs["kwargs"].items()})


def _walk(operand: Operand, kernel: FusedKernel, tensor: torch.Tensor) -> torch.Tensor:
    """The operand's memory along the kernel's axes; size 1 where it does not move."""
    sizes = [a.extent if s else 1 for a, s in zip(kernel.axes, operand.strides, strict=True)]
    assert tensor.dtype == dtype(operand.dtype)
    return tensor.as_strided(sizes, operand.strides, tensor.storage_offset())


def run_kernel(kernel: FusedKernel, env: dict[str, Any]) -> None:
    loads = {o.node: _walk(o, kernel, env[o.buffer]) for o in kernel.loads}
    extents = [a.extent for a in kernel.axes]
    over = [i for i, a in enumerate(kernel.axes) if a.reduced]
    values: dict[int, torch.Tensor] = {}
    for value in kernel.values:
        args = [values[a.node] if isinstance(a, Ref) else a for a in value.args]
        if value.kind == "load":
            result = loads[value.node]
        elif value.kind == "constant":
            result = torch.full([1] * len(extents), args[0], dtype=dtype(value.dtype))
        elif value.kind == "iota":
            result = torch.zeros([1] * len(extents), dtype=torch.int64)
            for i, step in enumerate(value.strides):
                shape = [-1 if i == j else 1 for j in range(len(extents))]
                result = result + (torch.arange(extents[i]) * step).reshape(shape) if step else result
        elif value.kind == "reduce":
            full = [args[0].shape[i] if i not in over else extents[i] for i in range(len(extents))]
            result = reduce(value.op, args[0].expand(full), over)
        else:
            result = apply(value.op, args, value.dtype)
        _check_claims(value, result, over, values)
        values[value.node] = result
    for store in kernel.stores:
        target = _walk(store, kernel, env[store.buffer])
        target.copy_(values[store.node].expand(target.shape))
    assert kernel.skeleton == ("elementwise" if not over else "row" if kernel.axes[-1].reduced else "column")
    assert kernel.stages == max((v.stage for v in kernel.values), default=0)


def _check_claims(value: Any, result: torch.Tensor, over: list[int], values: dict[int, torch.Tensor]) -> None:
    assert result.dtype == dtype(value.dtype), (value, result.dtype)
    if not value.full:
        assert all(result.shape[i] == 1 for i in over), value


def run_template(kernel: TemplateKernel, env: dict[str, Any]) -> None:
    x, out, a = env[kernel.source], env[kernel.output], kernel.attrs
    channels = a.get("channels") if kernel.template == "window" else None
    assert all(t.movedim(1, -1).is_contiguous() if channels else t.is_contiguous() for t in (x, out))
    if kernel.template == "scan":
        flat = x.reshape(a["rows"], a["length"], a["inner"])
        out.copy_(getattr(torch, kernel.op)(flat, 1).reshape(out.shape))
        return
    if kernel.template == "topk":
        out.copy_(torch.topk(x, a["k"], largest=kernel.op == "largest")[0])
        return
    if kernel.template == "depthwise":
        weight, *bias = (
            env[name].reshape(-1, 1, *a["kernel"]) if i == 0 else env[name] for i, name in enumerate(kernel.others)
        )
        x = x.reshape(a["batch"], -1, *a["size"])
        geometry = (a["stride"], a["padding"], a["dilation"], a["channels"] // a["multiplier"])
        out.copy_(torch.conv2d(x, weight, *(bias or [None]), *geometry).reshape(out.shape))
        return
    flat = x.reshape(a["batch"], channels, *a["size"]) if channels else x.reshape(1, a["batch"], *a["size"])
    geometry = (a["kernel"], a["stride"], a["padding"])
    if kernel.op == "max":
        result = torch.nn.functional.max_pool3d(flat, *geometry, dilation=a["dilation"])
    elif a["count_include_pad"]:
        result = torch.nn.functional.avg_pool3d(flat, *geometry, divisor_override=a["divisor"])
    else:
        result = torch.nn.functional.avg_pool3d(flat, *geometry, count_include_pad=False)
    assert list(result.shape[2:]) == a["out_size"]
    out.copy_(result.reshape(out.shape))


def run_program(program: Program, arguments: list[Any]) -> list[torch.Tensor]:
    """What the launch of that program returns, kernels evaluated by the strides they claim."""
    env: dict[str, Any] = dict(zip(program.arguments, arguments, strict=True))
    for name, shape in program.guards:
        assert tuple(env[name].shape) == shape
    env |= {"aten": torch.ops.aten, "torch": torch}
    for step in program.steps:
        if isinstance(step, Allocate):
            assert step.name not in env
            env[step.name] = torch.empty_strided(step.shape, step.stride, dtype=dtype(step.dtype))
            if env[step.name].is_floating_point():
                env[step.name].fill_(float("nan"))
        elif isinstance(step, LaunchLine):
            name, _, text = step.text.partition(" = ")
            assert name not in env
            names = {n: getattr(torch, n) for n in LAUNCH_NAMES} | {"inf": math.inf, "nan": math.nan}
            env[name] = eval(text, names, env)
        elif isinstance(step, FusedKernel):
            run_kernel(step, env)
        else:
            run_template(step, env)
    result = eval(program.returns, {}, env)
    return list(result) if isinstance(result, tuple) else [result]


TRACED: dict[torch.nn.Module, Graph] = {}
"""Graphs by module: every module here is called with arguments of one kind, and tracing is most of a test's time."""


def prepare(module: torch.nn.Module, args: list[Any]) -> tuple[Graph, list[Any]]:
    """The graph of a module and the arguments of its launch."""
    names = [f"x{i}" for i in range(len(args))]
    if module not in TRACED:
        TRACED[module] = trace(module, args, names)
    graph, state = TRACED[module], state_of(module)
    assert graph.inputs == tuple(launch_names(names, list(state)))
    return graph, [*args, *state.values()]


def check(module: torch.nn.Module, args: list[Any], tolerance: float = 2e-5, **options: Any) -> Program:
    """Trace, plan, execute and compare with eager, values and strides; gives back the program."""
    graph, arguments = prepare(module, args)
    with torch.no_grad():
        want = torch.utils._pytree.tree_leaves(module(*args))
        tensors = {n: a for n, a in zip(graph.inputs, arguments, strict=True) if isinstance(a, torch.Tensor)}
        compare(run_graph(graph, tensors), want, tolerance)
        program = plan(graph, **options)
        got = run_program(program, arguments)
    compare(got, want, tolerance)
    if options.get("strides", "same") == "same":
        assert [walked(a) for a in got] == [walked(b) for b in want]
    return program


def walked(tensor: torch.Tensor) -> list[int]:
    """Strides of the dims that have more than one place."""
    return [s for s, n in zip(tensor.stride(), tensor.shape, strict=True) if n > 1]


def compare(got: list[torch.Tensor], want: list[torch.Tensor], tolerance: float) -> None:
    assert len(got) == len(want)
    for a, b in zip(got, want, strict=True):
        assert a.dtype == b.dtype and a.shape == b.shape, (a.dtype, a.shape, b.dtype, b.shape)
        torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance, equal_nan=True)
