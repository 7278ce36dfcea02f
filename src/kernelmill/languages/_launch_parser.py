"""Reads the declared launch: a straight-line Python function in a comment of a kernel file, never executed as is.

Everything is an allow-list: an expression that is not named here is refused with its line and the reason.
Imports only the standard library.
"""

from __future__ import annotations

import ast
import keyword
import re
import textwrap
import warnings
from typing import Final, Literal

from kernelmill.languages._aten import ATEN_OPERATORS
from kernelmill.languages._launch_model import Guard, KernelArgument, Launch, Step
from kernelmill.languages._launch_syntax import (
    ARITHMETIC,
    DTYPES,
    FORMATS,
    NUMBERS,
    ArgumentKind,
    constant_text,
    dotted,
    integer,
    literals,
    refusal,
    scalar_kind,
    show,
    value_of,
)

VIEWS: Final = frozenset(
    {"permute", "view", "reshape", "expand", "unsqueeze", "squeeze", "transpose", "contiguous", "flatten", "as_strided"}
    | {"t", "unflatten", "narrow"}
)
RESERVED: Final = DTYPES | FORMATS | NUMBERS | {"aten", "torch", "empty", "empty_strided", "tick", "refuse", "dims"}
"""Names that mean something in a launch and so cannot be an argument or a variable."""

MAX_CHARACTERS: Final = 200_000
MAX_DEPTH: Final = 12
MAX_BLOCKS: Final = 64
_OPENING: Final = re.compile(r"^[ \t]*/\*[ \t]*launch[ \t]*\r?\n", re.MULTILINE)


def parse(source: str) -> tuple[Launch, ...]:
    """The launches that a kernel file declares, in the order of the file; empty where it has no launch block.

    Raises:
        ValueError: A block is not a straight-line launch, or can never be chosen since one before it takes all that
            it takes; the message has the line in the file and the reason.
    """
    if len(source) > MAX_CHARACTERS:
        raise ValueError(f"the source has {len(source)} characters; at most {MAX_CHARACTERS} are allowed")
    openings = list(_OPENING.finditer(source))
    if len(openings) > MAX_BLOCKS:
        raise ValueError(f"a file has at most {MAX_BLOCKS} launch blocks; found {len(openings)}")
    launches = tuple(_block(source, opening) for opening in openings)
    for place, later in enumerate(launches):
        for earlier in launches[:place]:
            if earlier.conditions <= later.conditions:
                raise ValueError(_never_chosen(earlier, later))
    return launches


def _block(source: str, opening: re.Match[str]) -> Launch:
    line = source.count("\n", 0, opening.start()) + 1
    end = source.find("*/", opening.end())
    if end < 0:
        raise ValueError(f"the launch block of line {line} has no end, `*/`")
    return _Parser(line).launch(_tree(textwrap.dedent(source[opening.end() : end]), line))


def _never_chosen(earlier: Launch, later: Launch) -> str:
    taken = "takes every call that this one takes" if earlier.guards else "has no guards, so it takes every call"
    return (
        f"the launch block of line {later.line} can never be chosen: the one of line {earlier.line} comes first and "
        f"{taken}; give the earlier block an assert that fails where the later one is meant"
    )


def _tree(text: str, line: int) -> ast.Module:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return ast.parse("\n" * line + text)
    except SyntaxError as exc:
        raise ValueError(f"launch, line {exc.lineno}: {exc.msg}: {(exc.text or '').strip()[:200]}") from exc
    except (RecursionError, MemoryError) as exc:
        raise ValueError("launch: nested too deeply to parse") from exc


class _Parser:
    """Walks one launch; knows which names exist so far."""

    def __init__(self, line: int) -> None:
        self.line = line
        self.arguments: tuple[str, ...] = ()
        self.names: set[str] = set()
        self.kernels: dict[str, tuple[ArgumentKind, ...]] = {}
        self.scalars: set[str] = set()
        self.operators: list[str] = []

    def launch(self, tree: ast.Module) -> Launch:
        if len(tree.body) != 1 or not isinstance(tree.body[0], ast.FunctionDef):
            raise ValueError("launch: the block must hold exactly one function, `def launch(...):`")
        function = tree.body[0]
        self._signature(function)
        body = function.body
        if isinstance(body[0], ast.Expr) and isinstance(body[0].value, ast.Constant):
            body = body[1:]
        guards: list[Guard] = []
        steps: list[Step] = []
        for node in body[:-1]:
            if isinstance(node, ast.Assert) and steps:
                raise refusal(node, "asserts come first: they look at the arguments, before anything is computed")
            if isinstance(node, ast.Assert):
                guards.append(self._guard(node))
            else:
                steps.append(self._step(node))
        if not body or not isinstance(body[-1], ast.Return):
            raise ValueError("launch: the last statement must be `return name` or `return (name, ...)`")
        returns = self._returns(body[-1])
        return Launch(self.line, self.arguments, tuple(guards), tuple(steps), returns, frozenset(self.scalars))

    def _signature(self, function: ast.FunctionDef) -> None:
        a = function.args
        if function.name != "launch":
            raise refusal(function, f"the function must be named `launch`, got {function.name!r}")
        if a.vararg or a.kwarg or a.kwonlyargs or a.posonlyargs or a.defaults or function.decorator_list:
            raise refusal(function, "launch takes plain positional arguments: no defaults, *, ** or decorators")
        if function.returns or any(arg.annotation for arg in a.args):
            raise refusal(function, "launch has no annotations")
        for arg in a.args:
            self._define(arg.arg, function)
        self.arguments = tuple(arg.arg for arg in a.args)

    def _define(self, name: str, node: ast.stmt) -> None:
        if name in RESERVED or not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]{0,99}", name) or name.startswith("__"):
            raise refusal(node, f"{name!r} cannot be a name here; take a plain ASCII name that is not reserved")
        if name in self.kernels:
            raise refusal(node, f"{name!r} is a kernel and cannot be a variable too")
        self.names.add(name)

    def _guard(self, node: ast.Assert) -> Guard:
        test = node.test
        if not (
            isinstance(test, ast.Compare)
            and isinstance(test.ops[0], ast.Eq)
            and len(test.ops) == 1
            and literals(test.comparators[0])
        ):
            raise refusal(node, "a guard reads `assert x.shape == (1, 2)`: ==, and a literal on the right")
        wanted = test.comparators[0]
        right = ast.unparse(wanted)
        left = test.left.value if isinstance(test.left, ast.Subscript) else test.left
        if isinstance(left, ast.Attribute) and isinstance(left.value, ast.Name) and left.attr in {"shape", "stride"}:
            name = self._known(left.value)
            text = f"{name}.{left.attr}" + ("()" if left.attr == "stride" else "")
            kind: Literal["shape", "stride"] = "shape" if left.attr == "shape" else "stride"
            position, index = self.arguments.index(name), None
            if isinstance(test.left, ast.Subscript):
                index = int(self._index(test.left))
                text = f"{text}[{index}]"
            elif not isinstance(wanted, ast.Tuple):
                raise refusal(node, f"a shape or stride is compared with a tuple, got {right[:80]}")
            return Guard(text, right, node.lineno, position, kind, index, value_of(wanted))
        if isinstance(left, ast.Name) and left is test.left and left.id in self.arguments:
            position = self.arguments.index(left.id)
            return Guard(left.id, right, node.lineno, position, "value", None, value_of(wanted))
        raise refusal(node, "a guard looks at `x.shape`, `x.shape[0]`, `x.stride` or a scalar argument")

    def _step(self, node: ast.stmt) -> Step:
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Call):
            return self._kernel(node.value)
        if not isinstance(node, ast.Assign) or len(node.targets) != 1 or not isinstance(node.targets[0], ast.Name):
            raise refusal(node, "a statement is `name = ...`, `kernel(...)`, `assert ...` or the final `return`")
        self.operators = []
        value, target = node.value, node.targets[0].id
        allocation = isinstance(value, ast.Call) and dotted(value.func) in {"empty", "empty_strided"}
        text = self._value(value, 0)
        self._define(target, node)
        if allocation:
            return Step("allocate", node.lineno, target, text, dtype=text.rstrip(")").rsplit(".", 1)[-1])
        kind: Literal["library", "view"] = "library" if self.operators else "view"
        return Step(kind, node.lineno, target, text, tuple(self.operators))

    def _kernel(self, call: ast.Call) -> Step:
        name = dotted(call.func)
        if not name.isidentifier() or name in self.names or name in RESERVED or keyword.iskeyword(name):
            raise refusal(call, f"{show(call.func)!r} is not a kernel; kernels are plain names of this file")
        if call.keywords:
            raise refusal(call, f"kernel {name} takes positional arguments only")
        arguments = tuple(self._kernel_argument(a) for a in call.args)
        kinds = tuple(a.kind for a in arguments)
        if self.kernels.setdefault(name, kinds) != kinds:
            raise refusal(call, f"kernel {name} was called before with other kinds of arguments: {self.kernels[name]}")
        return Step("kernel", call.lineno, name, "", arguments=arguments)

    def _kernel_argument(self, node: ast.expr) -> KernelArgument:
        if isinstance(node, ast.Name) and node.id in self.names:
            return KernelArgument(node.id, "name" if node.id in self.arguments else "tensor")
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.attr in {"shape", "stride"}:
            self._known(node.value)
            call = "()" if node.attr == "stride" else ""
            return KernelArgument(f"dims({node.value.id}.{node.attr}{call})", "dims")
        return KernelArgument(self._scalar(node, 0), scalar_kind(node))

    def _returns(self, node: ast.Return) -> tuple[str, ...]:
        items = node.value.elts if isinstance(node.value, (ast.Tuple, ast.List)) else [node.value]
        for item in items:
            if not isinstance(item, ast.Name):
                raise refusal(node, "launch returns names of tensors: `return out` or `return (out, s1)`")
            self._known(item)
        return tuple(item.id for item in items if isinstance(item, ast.Name))

    def _known(self, node: ast.Name) -> str:
        if node.id not in self.names:
            known = ", ".join(sorted(self.names)) or "none"
            raise refusal(node, f"unknown name {node.id!r}; there are: {known[:300]}")
        return node.id

    def _index(self, node: ast.Subscript) -> str:
        index = integer(node.slice)
        if index is None:
            raise refusal(node, "an index is one integer literal")
        return str(index)

    def _value(self, node: ast.expr, depth: int) -> str:
        """Python of a tensor-valued expression."""
        if depth > MAX_DEPTH:
            raise refusal(node, "nested too deeply; give the intermediate results names")
        if isinstance(node, ast.Name):
            return self._known(node)
        if isinstance(node, ast.Subscript):
            return f"{self._value(node.value, depth + 1)}[{self._index(node)}]"
        if not isinstance(node, ast.Call):
            raise refusal(node, f"{show(node)!r} is neither a library call, a view nor a kernel")
        path = dotted(node.func)
        if path in {"empty", "empty_strided"}:
            return self._allocation(node, path)
        if path.startswith("aten."):
            return f"{self._operator(node, path)}({self._arguments(node, depth)})"
        if isinstance(node.func, ast.Attribute) and node.func.attr in VIEWS:
            return f"{self._value(node.func.value, depth + 1)}.{node.func.attr}({self._arguments(node, depth)})"
        raise refusal(
            node,
            f"{show(node.func)!r} is not allowed; there are aten.<operator>.<overload>, empty, "
            f"empty_strided, and the views {', '.join(sorted(VIEWS))}",
        )

    def _operator(self, node: ast.Call, path: str) -> str:
        parts = path.split(".")
        if len(parts) != 3:
            raise refusal(node, f"write aten.<operator>.<overload>, e.g. aten.mm.default; got {path[:80]!r}")
        if parts[1] not in ATEN_OPERATORS or "out" in parts[2].split("_") or parts[2].startswith("_"):
            raise refusal(node, f"{path[:80]} is not among the library operators a launch may call")
        self.operators.append(path)
        return path

    def _allocation(self, node: ast.Call, path: str) -> str:
        wanted = 2 if path == "empty" else 3
        if len(node.args) != wanted or node.keywords:
            raise refusal(node, "write empty([sizes], dtype) or empty_strided([sizes], [strides], dtype)")
        for sizes in node.args[:-1]:
            if not isinstance(sizes, (ast.List, ast.Tuple)):
                raise refusal(node, f"sizes and strides are lists of integers, got {show(sizes)!r}")
        dtype = dotted(node.args[-1]).removeprefix("torch.")
        if dtype not in DTYPES:
            raise refusal(node, f"unknown dtype {show(node.args[-1])!r}; there are: {', '.join(sorted(DTYPES))}")
        sizes_text = [self._literal_or_scalar(a, 0) for a in node.args[:-1]]
        return f"{path}({', '.join(sizes_text)}, torch.{dtype})"

    def _arguments(self, node: ast.Call, depth: int) -> str:
        texts = [self._argument(a, depth + 1) for a in node.args]
        for item in node.keywords:
            if item.arg is None or not re.fullmatch(r"[a-z][a-z0-9_]*", item.arg) or item.arg == "out":
                raise refusal(node, f"keyword {item.arg or '**'!r} is not allowed")
            texts.append(f"{item.arg}={self._argument(item.value, depth + 1)}")
        return ", ".join(texts)

    def _argument(self, node: ast.expr, depth: int) -> str:
        if isinstance(node, (ast.Call, ast.Name)) and constant_text(node) is None:
            return self._value(node, depth)
        return self._literal_or_scalar(node, depth)

    def _literal_or_scalar(self, node: ast.expr, depth: int) -> str:
        if depth > MAX_DEPTH:
            raise refusal(node, "nested too deeply")
        if isinstance(node, (ast.List, ast.Tuple)):
            return "[" + ", ".join(self._argument(item, depth + 1) for item in node.elts) + "]"
        constant = constant_text(node)
        return constant if constant is not None else self._scalar(node, depth)

    def _scalar(self, node: ast.expr, depth: int) -> str:
        """Python of a number made of literals, sizes and scalar arguments."""
        if depth > MAX_DEPTH:
            raise refusal(node, "arithmetic nested too deeply")
        constant = constant_text(node)
        if constant is not None and not constant.startswith(("'", "torch.", "None")):
            return constant
        if isinstance(node, ast.Name) and node.id in self.arguments:
            self.scalars.add(node.id)
            return node.id
        if isinstance(node, ast.Subscript) and isinstance(node.value, ast.Attribute):
            owner = node.value.value
            if isinstance(owner, ast.Name) and node.value.attr in {"shape", "stride"}:
                call = "()" if node.value.attr == "stride" else ""
                return f"{self._known(owner)}.{node.value.attr}{call}[{self._index(node)}]"
        if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
            return f"-{self._scalar(node.operand, depth + 1)}"
        symbol = ARITHMETIC.get(type(node.op)) if isinstance(node, ast.BinOp) else None
        if isinstance(node, ast.BinOp) and symbol:
            return f"({self._scalar(node.left, depth + 1)} {symbol} {self._scalar(node.right, depth + 1)})"
        raise refusal(
            node, f"{show(node)!r} is not a number: allowed are literals, x.shape[0], scalar arguments, + - * // / %"
        )
