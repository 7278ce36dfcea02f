"""The C++ printer: one readable file of OpenMP kernels and the launch that calls them."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache
from importlib.resources import files
from math import prod
from typing import Protocol

from kernelmill.propose.embedded import (
    cpp_columns,
    cpp_depthwise,
    cpp_elementwise,
    cpp_rows,
    cpp_scan,
    cpp_topk,
    cpp_window,
)
from kernelmill.propose.embedded.cpp_loops import choices
from kernelmill.propose.embedded.cpp_scope import Body, buffers
from kernelmill.propose.embedded.plan import Allocate, FusedKernel, LaunchLine, Program, Step, TemplateKernel
from kernelmill.propose.embedded.printer import FILE, Kernel, Knobs, Printer, chosen, kernels
from kernelmill.schema import Parameter, Value

_INCLUDES = """#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <vector>
"""


class _Skeleton(Protocol):
    """What a module of one skeleton offers."""

    def knobs(self, kernel: FusedKernel) -> tuple[Parameter, ...]: ...

    def write(self, body: Body, setting: Mapping[str, Value]) -> list[str]: ...


_SKELETONS: dict[str, _Skeleton] = {"elementwise": cpp_elementwise, "row": cpp_rows, "column": cpp_columns}
_TEMPLATES: dict[str, Callable[[TemplateKernel], tuple[Parameter, ...]]] = {
    "window": cpp_window.knobs,
    "scan": cpp_scan.knobs,
    "depthwise": cpp_depthwise.knobs,
    "topk": cpp_topk.knobs,
}


class CppPrinter(Printer):
    """C++17 with OpenMP: plain loops that the compiler vectorises for whatever the machine has."""

    language = "cpp"

    def __init__(self, widths: tuple[int, ...] = ()) -> None:
        self.widths = widths
        """Vector widths in bits to choose between; empty: the compiler's choice."""

    def knobs(self, kernel: Kernel) -> tuple[Parameter, ...]:
        if isinstance(kernel, TemplateKernel):
            return _TEMPLATES[kernel.template](kernel)
        return _SKELETONS[kernel.skeleton].knobs(kernel)

    def file_knobs(self, programs: Sequence[Program]) -> tuple[Parameter, ...]:
        if not any(kernels(program) for program in programs):
            return ()
        unroll = choices("unroll", (False, True), default=False)
        return (choices("vector", (0, *self.widths), default=0), unroll) if self.widths else (unroll,)

    def print(self, programs: Sequence[Program], knobs: Knobs) -> str:
        sections: set[str] = set()
        texts: dict[str, str] = {}
        for program in programs:
            dtypes = {s.name: s.dtype for s in program.steps if isinstance(s, Allocate)}
            for kernel in kernels(program):
                setting = chosen(self.knobs(kernel), knobs.get(kernel.name, {}))
                if isinstance(kernel, TemplateKernel):
                    text, needs = _template(kernel, setting, dtypes[kernel.output])
                else:
                    text, needs = _fused(kernel, setting)
                texts[kernel.name] = text
                sections |= needs
        setting = chosen(self.file_knobs(programs), knobs.get(FILE, {}))
        launches = [_launch(program) for program in programs]
        parts = [_flags(setting), _INCLUDES, *math_sections(sections), *texts.values(), *launches]
        return "\n".join(p for p in parts if p)


def _flags(setting: dict[str, Value]) -> str:
    flags = [f"-mprefer-vector-width={setting['vector']}"] if setting.get("vector") else []
    flags += ["-funroll-loops"] if setting.get("unroll") else []
    return f"// flags: {' '.join(flags)}\n" if flags else ""


def _template(kernel: TemplateKernel, setting: dict[str, Value], dtype: str) -> tuple[str, set[str]]:
    if kernel.template == "window":
        return cpp_window.write(kernel, setting, dtype)
    if kernel.template == "depthwise":
        return cpp_depthwise.write(kernel, setting)
    if kernel.template == "topk":
        return cpp_topk.write(kernel, setting, dtype)
    return cpp_scan.write(kernel, setting, dtype)


def _fused(kernel: FusedKernel, setting: dict[str, Value]) -> tuple[str, set[str]]:
    body = Body(kernel, reciprocal=bool(setting.get("reciprocal")))
    lines = [*_comment(kernel), *_SKELETONS[kernel.skeleton].write(body, setting)]
    return "\n".join(lines) + "\n", body.sections


def _comment(kernel: FusedKernel) -> list[str]:
    """What the kernel does, for people: its axes, what it reads and writes, its operations by stage."""
    axes = ", ".join(f"{a.name}: {a.extent}{' (reduced)' if a.reduced else ''}" for a in kernel.axes)
    reads = ", ".join(dict.fromkeys(o.buffer for o in kernel.loads))
    writes = ", ".join(dict.fromkeys(o.buffer for o in kernel.stores))
    lines = [f"// {kernel.skeleton} kernel over {axes or 'nothing'}: reads {reads or 'nothing'}, writes {writes}"]
    for stage in range(kernel.stages + 1):
        ops = [v.op for v in kernel.values if v.stage == stage and v.kind in {"pointwise", "reduce"}]
        if ops:
            lines.append(f"//   {'after reduction ' + str(stage) if stage else 'first'}: {', '.join(ops)}")
    return lines


HEADERS = ("kernel_math.h", "kernel_trig.h")
"""Files of sections; what a section needs stands in its own file or in one before."""


@cache
def _sections() -> dict[str, tuple[tuple[str, ...], str]]:
    """Name -> (sections it needs, text) of the headers."""
    folder = files("kernelmill.propose.embedded")
    texts = [folder.joinpath(name).read_text() for name in HEADERS]
    found = {}
    for piece in [piece for text in texts for piece in re.split(r"^//: ", text, flags=re.MULTILINE)[1:]]:
        head, _, rest = piece.partition("\n")
        name, *needs = head.split()
        found[name] = (tuple(needs), rest.rstrip() + "\n")
    return found


def math_sections(names: Iterable[str]) -> list[str]:
    """The text of the named sections of our headers and of those they need, in the order of the headers.

    Raises:
        KeyError: There is no section of that name.
    """
    known, wanted, todo = _sections(), set[str](), list(names)
    while todo:
        name = todo.pop()
        if name not in wanted:
            wanted.add(name)
            todo.extend(known[name][0])
    return [text for name, (_, text) in known.items() if name in wanted]


def _launch(program: Program) -> str:
    lines = [f"def launch({', '.join(program.arguments)}):"]
    for name, shape in program.guards:
        lines.append(f"    assert {name}.shape == {_shape(shape)}")
    lines += [f"    {_statement(step)}" for step in program.steps]
    lines.append(f"    return {program.returns}")
    return "/* launch\n" + "\n".join(lines) + "\n*/\n"


def _shape(shape: tuple[int, ...]) -> str:
    return f"({shape[0]},)" if len(shape) == 1 else f"({', '.join(map(str, shape))})"


def _statement(step: Step) -> str:
    match step:
        case Allocate(name=name, shape=shape, stride=stride, dtype=dtype):
            if stride == contiguous(shape):
                return f"{name} = empty({list(shape)}, {dtype})"
            return f"{name} = empty_strided({list(shape)}, {list(stride)}, {dtype})"
        case LaunchLine(text=text):
            return text
        case FusedKernel():
            return f"{step.name}({', '.join(buffers(step))})"
    return f"{step.name}({', '.join((step.source, *step.others, step.output))})"


def contiguous(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Strides of a dense row-major tensor, as PyTorch counts them for empty dims too."""
    return tuple(prod(max(1, s) for s in shape[i + 1 :]) for i in range(len(shape)))
