"""A program in words: what each step does."""

from __future__ import annotations

from kernelmill.propose.embedded.plan import FusedKernel, LaunchLine, Program, TemplateKernel

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
