"""A program in words and in numbers: what each step does, what it must move, what it computes."""

from __future__ import annotations

import math

from kernelmill.propose.embedded.ir import Graph, Node, Ref
from kernelmill.propose.embedded.plan import Allocate, FusedKernel, LaunchLine, Operand, Program, TemplateKernel

ITEM_BYTES = {"float64": 8, "int64": 8, "float32": 4, "int32": 4, "float16": 2, "bfloat16": 2, "int16": 2}
"""Size of an element; what is not here has one byte."""

SHOWN_OPS = 12
"""Operations named in one line before the rest is only counted."""


def describe(program: Program) -> list[str]:
    """One line per step that does something; allocations and views that copy nothing are left out."""
    lines = []
    for step in program.steps:
        if isinstance(step, FusedKernel):
            lines.append(_kernel(step))
        elif isinstance(step, TemplateKernel):
            lines.append(_template(step))
        elif isinstance(step, LaunchLine) and "aten." in step.text:
            lines.append(f"library {step.text}")
    return lines


def _kernel(kernel: FusedKernel) -> str:
    parallel = ",".join(f"{a.name}:{a.extent}" for a in kernel.axes if not a.reduced)
    reduced = ",".join(f"{a.name}:{a.extent}" for a in kernel.axes if a.reduced)
    loops = f"P=[{parallel}]" + (f" R=[{reduced}]" if reduced else "")
    reads = " ".join(o.buffer for o in kernel.loads) or "nothing"
    ops = [v.op for v in kernel.values if v.kind in ("pointwise", "reduce")]
    shown = ", ".join(ops[:SHOWN_OPS]) + (f" and {len(ops) - SHOWN_OPS} more" if len(ops) > SHOWN_OPS else "")
    writes = " ".join(o.buffer for o in kernel.stores)
    return f"{kernel.skeleton} kernel {kernel.name} {loops} reads {reads} writes {writes}: {shown or 'copy'}"


def _template(kernel: TemplateKernel) -> str:
    a = kernel.attrs
    if kernel.template == "scan":
        shape = f"rows={a['rows']} length={a['length']} inner={a['inner']}"
    elif kernel.template == "topk":
        shape = f"rows={a['rows']} length={a['length']} k={a['k']}"
    else:
        shape = f"batch={a['batch']} {a['size']} -> {a['out_size']} window {a['kernel']} stride {a['stride']}"
    return f"{kernel.template} kernel {kernel.name} {shape} reads {kernel.source} writes {kernel.output}: {kernel.op}"


def item_bytes(dtype: str) -> int:
    """Bytes of one element."""
    return ITEM_BYTES.get(dtype, 1)


def traffic(program: Program) -> dict[str, int]:
    """Kernel name -> bytes it must move at least: every element it reads once, every element it writes once."""
    sizes = {s.name: math.prod(s.shape) * item_bytes(s.dtype) for s in program.steps if isinstance(s, Allocate)}
    found: dict[str, int] = {}
    for step in program.steps:
        if isinstance(step, FusedKernel):
            found[step.name] = sum(_operand_bytes(step, o) for o in (*step.loads, *step.stores))
        elif isinstance(step, TemplateKernel):
            written = sizes[step.output]
            found[step.name] = written + _template_bytes(step, written)
    return found


def _operand_bytes(kernel: FusedKernel, operand: Operand) -> int:
    walked = math.prod(a.extent for a, s in zip(kernel.axes, operand.strides, strict=True) if s)
    return walked * item_bytes(operand.dtype)


def _template_bytes(kernel: TemplateKernel, written: int) -> int:
    """Bytes that a template reads."""
    a = kernel.attrs
    match kernel.template:
        case "scan":
            return written
        case "topk":
            return written // int(a["k"]) * int(a["length"])
        case "depthwise":
            return _window_bytes(kernel, written) // int(a["multiplier"])
    return _window_bytes(kernel, written)


def _window_bytes(kernel: TemplateKernel, written: int) -> int:
    """Bytes of the input: it has the output's element size."""
    positions: int = math.prod(kernel.attrs["size"])
    outputs: int = math.prod(kernel.attrs["out_size"])
    return positions * written // outputs


def flops(program: Program) -> dict[str, int]:
    """Kernel name -> operations it computes, one per pointwise operator or reduced element, transcendental or not."""
    found: dict[str, int] = {}
    for step in program.steps:
        if isinstance(step, FusedKernel):
            kept = math.prod(a.extent for a in step.axes if not a.reduced)
            whole = math.prod(a.extent for a in step.axes)
            counted = [v for v in step.values if v.kind in ("pointwise", "reduce")]
            found[step.name] = sum(whole if v.full or v.kind == "reduce" else kept for v in counted)
        elif isinstance(step, TemplateKernel):
            a = step.attrs
            if step.template in ("scan", "topk"):
                found[step.name] = a["rows"] * a["length"] * a.get("inner", 1)
            else:
                outputs = a["batch"] * a.get("channels", 1) * math.prod(a["out_size"])
                twice = 2 if step.template == "depthwise" else 1  # a multiplication and an addition
                found[step.name] = twice * outputs * math.prod(a["kernel"])
    return found


def library_flops(graph: Graph) -> dict[int, int]:
    """Node id -> multiplications and additions of each matrix product and convolution of the graph."""
    found: dict[int, int] = {}
    for node in graph.nodes:
        shapes = [graph.by_id[a.node].shape for a in node.args if isinstance(a, Ref)]
        name = node.op.split(".")[1] if node.kind == "extern" and "." in node.op else ""
        if name in ("mm", "bmm", "addmm", "baddbmm"):
            found[node.id] = 2 * math.prod(node.shape) * shapes[-2][-1]
        elif name == "convolution":
            found[node.id] = _convolution_flops(node, shapes)
    return found


def _convolution_flops(node: Node, shapes: list[tuple[int, ...]]) -> int:
    """Every output element, or for a transposed convolution every input element, meets one filter."""
    x, weight = shapes[:2]
    return 2 * (math.prod(x) if node.args[6] else math.prod(node.shape)) * math.prod(weight[1:])
