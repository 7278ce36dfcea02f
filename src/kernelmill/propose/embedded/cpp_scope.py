"""Nested blocks of C++ in which values are computed once, as far outside as they can be."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from kernelmill.propose.embedded.cpp_ops import (
    BINARY,
    CLASSIFY,
    COMPARE,
    COMPUTE,
    FLOATING,
    INTEGER_WORDS,
    LOGICAL,
    STORAGE,
    UNARY,
    Number,
    Word,
    literal,
    promote,
)
from kernelmill.propose.embedded.ir import Arg, Ref
from kernelmill.propose.embedded.plan import FusedKernel, KernelValue, Operand

_RESERVED = re.compile(
    r"(v|i|inv|part|parts|total|lane|row|block|count|size|mean|top|shift|before|delta|turned)\d+|k\d+|vec_\w+|"
    r"(max|min)_nan|begin|end|stop|(tile|block)(_end)?|first|last|slice|row|to|from|at|j|n|od|oh|d|h|w|best|many|start|total|"
    r"auto|bool|break|case|char|class|const|continue|default|delete|do|double|else|enum|extern|false|float|for|"
    r"goto|if|inline|int|long|namespace|new|operator|private|public|register|return|short|signed|static|std|struct|"
    r"switch|template|this|true|typedef|union|unsigned|using|virtual|void|volatile|while|and|or|not|xor|INFINITY|NAN"
)


def pointer(buffer: str) -> str:
    """The C++ name of a launch buffer: the same, unless C++ or a printer's own names forbid it."""
    return f"{buffer}_" if _RESERVED.fullmatch(buffer) else buffer


@dataclass
class Body:
    """One fused kernel while it is printed: its values by node, and what they depend on."""

    kernel: FusedKernel
    reciprocal: bool = False
    """Whether to multiply by a hoisted reciprocal instead of dividing again and again."""
    sections: set[str] = field(default_factory=set)
    """Sections of the headers (`kernel_math.h`, `kernel_trig.h`) used so far."""

    def __post_init__(self) -> None:
        self.values: dict[int, KernelValue] = {v.node: v for v in self.kernel.values}
        self.loads: dict[int, Operand] = {o.node: o for o in self.kernel.loads}
        self._varies: dict[int, frozenset[str]] = {}

    def varies(self, node: int) -> frozenset[str]:
        """Names of the axes a value depends on."""
        if node not in self._varies:
            value = self.values[node]
            if value.kind == "load":
                found = self._moved(self.loads[node].strides)
            elif value.kind == "iota":
                found = self._moved(value.strides)
            else:
                found = frozenset[str]().union(*(self.varies(r.node) for r in refs(value)))
            if value.kind == "reduce":
                found -= {a.name for a in self.kernel.axes if a.reduced}
            self._varies[node] = found
        return self._varies[node]

    def _moved(self, strides: tuple[int, ...]) -> frozenset[str]:
        return frozenset(a.name for a, s in zip(self.kernel.axes, strides, strict=True) if s and a.extent > 1)

    def index(self, strides: Iterable[int]) -> str:
        """The offset of an element, in elements."""
        terms = [
            axis.name if stride == 1 else f"{axis.name} * {stride}"
            for axis, stride in zip(self.kernel.axes, strides, strict=True)
            if stride and axis.extent > 1
        ]
        return " + ".join(terms) or "0"

    def element(self, operand: Operand) -> str:
        """The lvalue of one element of an operand."""
        return f"{pointer(operand.buffer)}[{self.index(operand.strides)}]"

    def use(self, sections: Iterable[str]) -> None:
        """Note sections of the math header as needed."""
        self.sections.update(sections)

    def stored(self, operand: Operand, text: str) -> str:
        """The statement that stores a computed value."""
        return f"{self.element(operand)} = {convert(text, self.values[operand.node].dtype, operand.dtype)};"


def refs(value: KernelValue) -> list[Ref]:
    """The arguments that are other values."""
    return [a for a in value.args if isinstance(a, Ref)]


def convert(text: str, dtype: str, to: str) -> str:
    """The same value in another compute type."""
    if COMPUTE[dtype] == COMPUTE[to]:
        return text
    if to == "bool":
        return f"({text} != 0)"
    return f"({COMPUTE[to]}){text}"


class Scope:
    """A block. `get` computes a value in the outermost enclosing block where its axes and reductions are known."""

    def __init__(self, body: Body, axes: Iterable[str] = (), parent: Scope | None = None) -> None:
        self.body = body
        self.parent = parent
        self.axes: frozenset[str] = frozenset(axes) | (parent.axes if parent else frozenset())
        self.known: dict[int, str] = {}
        self.inverse: dict[int, str] = {}
        self.items: list[str | Scope] = []
        self.header: list[str] = []
        self.depth: int = parent.depth + 1 if parent else 0

    def line(self, text: str) -> None:
        """Append a statement."""
        self.items.append(text)

    def block(self, header: list[str], axes: Iterable[str] = ()) -> Scope:
        """Open a nested block; the last line of its header gets the brace. It closes when its parent goes on."""
        inner = Scope(self.body, axes, self)
        inner.header = header
        self.items.append(inner)
        return inner

    def text(self, indent: int = 0) -> list[str]:
        """The lines of this block's inside."""
        pad, lines = "  " * indent, []
        for item in self.items:
            if isinstance(item, str):
                lines.append(pad + item)
                continue
            *before, last = item.header
            opening = f"{last} {{" if last else "{"
            lines += [*(pad + line for line in before), pad + opening, *item.text(indent + 1), f"{pad}}}"]
        return lines

    def get(self, node: int) -> str:
        """The name, or the literal, of a value; computes it first where that was not done."""
        found = self._lookup(node)
        if found is not None:
            return found[0]
        value = self.body.values[node]
        if value.kind == "constant":
            return _literal(value.args[0], value.dtype)
        home = self._home(node)
        name = f"v{node}"
        home._declare(f"const {COMPUTE[value.dtype]} {name} = {home._expression(value)};")
        home.known[node] = name
        return name

    def argument(self, arg: Arg, dtype: str) -> str:
        """An argument as a value of the given dtype."""
        if not isinstance(arg, Ref):
            return _literal(arg, dtype)
        value = self.body.values[arg.node]
        if value.kind == "constant":
            return _literal(value.args[0], dtype)
        return convert(self.get(arg.node), value.dtype, dtype)

    def _lookup(self, node: int) -> tuple[str, Scope] | None:
        scope: Scope | None = self
        while scope is not None:
            if node in scope.known:
                return scope.known[node], scope
            scope = scope.parent
        return None

    def _chain(self) -> list[Scope]:
        """The blocks that this one is in, outermost first; not the file, which is outside of every function."""
        outer = self.parent._chain() if self.parent and self.parent.parent else []
        return [*outer, self]

    def _home(self, node: int) -> Scope:
        found = self._lookup(node)
        value, chain = self.body.values[node], self._chain()
        least = next(s for s in chain if self.body.varies(node) <= s.axes)
        if found is not None:
            return max(least, found[1], key=lambda s: s.depth)
        if value.kind == "reduce":
            raise ValueError(f"reduction v{node} of {self.body.kernel.name} is read before it is computed")
        return max((least, *(self._home(r.node) for r in refs(value))), key=lambda s: s.depth)

    def _declare(self, text: str) -> None:
        """Add a statement, ahead of the nested block that is being written, if any."""
        if self.items and isinstance(self.items[-1], Scope) and self.items[-1].is_open:
            self.items.insert(len(self.items) - 1, text)
        else:
            self.items.append(text)

    is_open = True

    def close(self) -> None:
        """Say that nothing more comes: later statements of the parent go behind this block."""
        self.is_open = False

    def _expression(self, value: KernelValue) -> str:
        body = self.body
        if value.kind == "load":
            return body.element(body.loads[value.node])
        if value.kind == "iota":
            return f"({COMPUTE[value.dtype]})({body.index(value.strides)})"
        return self._pointwise(value)

    def _pointwise(self, value: KernelValue) -> str:
        op, args, dtype = value.op, value.args, value.dtype
        if op == "where":
            condition, yes, no = self.argument(args[0], "bool"), self.argument(args[1], dtype), args[2]
            return f"{condition} ? {yes} : {self.argument(no, dtype)}"
        if op == "clamp":
            return self._clamp(value)
        if op == "div":
            return self._divide(value)
        if op == "cast":
            return self.argument(args[0], dtype)
        if op in LOGICAL or op == "logical_not":
            return self._spell((LOGICAL | UNARY)[op], args, "bool")
        if op in COMPARE or op in CLASSIFY:
            return self._spell((COMPARE | CLASSIFY)[op], args, self._common(args))
        if op in INTEGER_WORDS and dtype not in FLOATING:
            return self._spell(Word(INTEGER_WORDS[op]), args, dtype)
        words: Mapping[str, Word] = UNARY if len(args) == 1 else BINARY
        if op not in words:
            raise ValueError(f"{body_name(self)}: C++ has no word for the operation {op!r} of {len(args)} arguments")
        return self._spell(words[op], args, dtype)

    def _spell(self, word: Word, args: tuple[Arg, ...], dtype: str) -> str:
        texts = [self.argument(a, dtype) for a in args]
        if dtype == "float64" and word.double:
            return word.double.format(*texts)
        self.body.use(word.needs)
        return word.single.format(*texts)

    def _common(self, args: tuple[Arg, ...]) -> str:
        dtypes = [self.body.values[a.node].dtype for a in args if isinstance(a, Ref)]
        if any(isinstance(a, float) and not float(a).is_integer() for a in args) and not FLOATING & set(dtypes):
            dtypes.append("float32")
        return promote(dtypes)

    def _clamp(self, value: KernelValue) -> str:
        text = self.argument(value.args[0], value.dtype)
        for bound, section in zip(value.args[1:], ("max_nan", "min_nan"), strict=False):
            if bound is not None:
                self.body.use((section,))
                text = f"{section}({text}, {self.argument(bound, value.dtype)})"
        return text

    def _divide(self, value: KernelValue) -> str:
        top, bottom = value.args
        over = self.argument(top, value.dtype)
        if not isinstance(bottom, Ref):
            exact = bool(bottom) and math.isfinite(bottom) and abs(math.frexp(bottom)[0]) == 0.5
            if (exact or self.body.reciprocal) and bottom:
                return f"{over} * {_literal(1.0 / bottom, value.dtype)}"
        elif self.body.reciprocal and value.dtype in FLOATING:
            home = self._home(bottom.node)
            if home.depth < self.depth:
                return f"{over} * {home._inverse(bottom, value.dtype)}"
        return f"{over} / {self.argument(bottom, value.dtype)}"

    def _inverse(self, bottom: Ref, dtype: str) -> str:
        if bottom.node not in self.inverse:
            one = literal(1.0, dtype)
            under = self.argument(bottom, dtype)
            self._declare(f"const {COMPUTE[dtype]} inv{bottom.node} = {one} / {under};")
            self.inverse[bottom.node] = f"inv{bottom.node}"
        return self.inverse[bottom.node]


def body_name(scope: Scope) -> str:
    """The kernel's name, for messages."""
    return scope.body.kernel.name


def _literal(value: Number, dtype: str) -> str:
    text = literal(value, dtype)
    return f"({text})" if text.startswith("-") else text


def signature(kernel: FusedKernel) -> str:
    """The C declaration of a fused kernel: a pointer per buffer, loads first."""
    written = {o.buffer for o in kernel.stores}
    parameters: dict[str, str] = {}
    for operand in (*kernel.loads, *kernel.stores):
        constant = "" if operand.buffer in written else "const "
        name = pointer(operand.buffer)
        parameters.setdefault(operand.buffer, f"{constant}{STORAGE[operand.dtype]}* __restrict__ {name}")
    return f'extern "C" void {kernel.name}({", ".join(parameters.values())})'


def buffers(kernel: FusedKernel) -> tuple[str, ...]:
    """Launch buffers in the order of the C parameters."""
    return tuple(dict.fromkeys(o.buffer for o in (*kernel.loads, *kernel.stores)))
