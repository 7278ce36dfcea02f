"""Small questions about expressions of a launch: what literal is it, what is its dotted name."""

from __future__ import annotations

import ast
import re
from typing import Any, Final, Literal

DTYPES: Final = frozenset(
    {"float16", "bfloat16", "float32", "float64", "int8", "int16", "int32", "int64", "uint8", "bool", "complex64"}
)
FORMATS: Final = frozenset({"contiguous_format", "channels_last", "channels_last_3d", "strided"})
NUMBERS: Final = frozenset({"inf", "nan"})

ArgumentKind = Literal["tensor", "dims", "int", "float", "bool", "name"]
"""What a kernel gets: a pointer, an `int64_t` array, a scalar; `name`: whatever the named argument of the task is."""

ARITHMETIC: Final[dict[type[ast.operator], str]] = {
    ast.Add: "+",
    ast.Sub: "-",
    ast.Mult: "*",
    ast.Div: "/",
    ast.FloorDiv: "//",
    ast.Mod: "%",
}


def refusal(node: ast.AST, reason: str) -> ValueError:
    return ValueError(f"launch, line {getattr(node, 'lineno', '?')}: {reason}")


def show(node: ast.expr) -> str:
    """A short text of an expression for a message; never fails on deep ones."""
    try:
        return ast.unparse(node)[:80]
    except RecursionError:
        return type(node).__name__


def dotted(node: ast.expr) -> str:
    """`a.b.c` as text, or an empty string for any other expression."""
    parts: list[str] = []
    while isinstance(node, ast.Attribute):
        parts.append(node.attr)
        node = node.value
    return ".".join([node.id, *reversed(parts)]) if isinstance(node, ast.Name) else ""


def integer(node: ast.expr) -> int | None:
    """The value of an integer literal, perhaps negative."""
    sign = 1
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        sign, node = -1, node.operand
    return sign * node.value if isinstance(node, ast.Constant) and type(node.value) is int else None


def constant_text(node: ast.expr) -> str | None:
    """Python of a literal: number, bool, None, short string, dtype, memory format, inf, nan; None for the rest."""
    if isinstance(node, ast.Constant):
        plain = isinstance(node.value, (bool, int, float)) or node.value is None
        if plain or (isinstance(node.value, str) and re.fullmatch(r"[a-z_0-9:]{0,40}", node.value)):
            return repr(node.value)
        return None
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        number = isinstance(node.operand, ast.Constant) and type(node.operand.value) in (int, float)
        infinite = isinstance(node.operand, ast.Name) and node.operand.id in NUMBERS
        return f"-{constant_text(node.operand)}" if number or infinite else None
    name = dotted(node).removeprefix("torch.")
    if name in NUMBERS:
        return name
    return f"torch.{name}" if name in DTYPES | FORMATS else None


def literals(node: ast.expr) -> bool:
    """Whether it is a literal that is no dtype, or a list or tuple of such literals."""
    texts = [constant_text(item) for item in (node.elts if isinstance(node, (ast.List, ast.Tuple)) else [node])]
    return all(text is not None and not text.startswith("torch.") for text in texts)


def value_of(node: ast.expr) -> Any:
    """What an expression means for which `literals` holds."""
    if isinstance(node, (ast.List, ast.Tuple)):
        values = [value_of(item) for item in node.elts]
        return values if isinstance(node, ast.List) else tuple(values)
    if isinstance(node, ast.UnaryOp):
        return -value_of(node.operand)
    return node.value if isinstance(node, ast.Constant) else float(dotted(node).removeprefix("torch."))


def scalar_kind(node: ast.expr) -> ArgumentKind:
    """What C type a number goes as; a bare scalar argument was seen before, so a name inside arithmetic is an int."""
    leaves = [leaf for leaf in ast.walk(node) if isinstance(leaf, (ast.Constant, ast.Name))]
    if isinstance(node, ast.Constant) and isinstance(node.value, bool):
        return "bool"
    fractions = any(isinstance(leaf, ast.Constant) and isinstance(leaf.value, float) for leaf in leaves)
    fractions = fractions or any(isinstance(leaf, ast.Name) and leaf.id in NUMBERS for leaf in leaves)
    return "float" if fractions or any(isinstance(inner, ast.Div) for inner in ast.walk(node)) else "int"
