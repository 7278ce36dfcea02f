"""Words of C++ for the pointwise operations and dtypes of the IR."""

from __future__ import annotations

import math
from dataclasses import dataclass

STORAGE = {
    "float64": "double",
    "float32": "float",
    "float16": "float16",
    "bfloat16": "bfloat16",
    "int64": "int64_t",
    "int32": "int32_t",
    "int16": "int16_t",
    "int8": "int8_t",
    "uint8": "uint8_t",
    "bool": "bool",
}
"""C type of a tensor element. The half-precision types are those of the language's header; they convert to float."""

COMPUTE = {**STORAGE, "float16": "float", "bfloat16": "float"}
"""C type in which a value is computed."""

Number = bool | int | float

FLOATING = frozenset({"float64", "float32", "float16", "bfloat16"})


@dataclass(frozen=True)
class Word:
    """How an operation is spelt: `{0}`, `{1}`... are its arguments."""

    single: str
    """For float and for integers."""
    double: str = ""
    """For double; the same as `single` where empty."""
    needs: tuple[str, ...] = ()
    """Sections of `kernel_math.h` that `single` uses."""


def _std(name: str, arity: int = 1) -> Word:
    return Word(f"std::{name}({', '.join(f'{{{i}}}' for i in range(arity))})")


def _own(name: str, std: str) -> Word:
    return Word(f"vec_{name}({{0}})", std, (name,))


UNARY: dict[str, Word] = {
    "neg": Word("-{0}"),
    "abs": _std("abs"),
    "exp": _own("exp", "std::exp({0})"),
    "exp2": _own("exp2", "std::exp2({0})"),
    "expm1": _own("expm1", "std::expm1({0})"),
    "log": _own("log", "std::log({0})"),
    "log2": _own("log2", "std::log2({0})"),
    "log10": _own("log10", "std::log10({0})"),
    "log1p": _own("log1p", "std::log1p({0})"),
    "sqrt": _std("sqrt"),
    "rsqrt": Word("1.0f / std::sqrt({0})", "1.0 / std::sqrt({0})"),
    "reciprocal": Word("1.0f / {0}", "1.0 / {0}"),
    "sigmoid": Word("1.0f / (1.0f + vec_exp(-{0}))", "1.0 / (1.0 + std::exp(-{0}))", ("exp",)),
    "tanh": _own("tanh", "std::tanh({0})"),
    "erf": _own("erf", "std::erf({0})"),
    "erfc": _own("erfc", "std::erfc({0})"),
    "sin": _std("sin"),
    "cos": _std("cos"),
    "tan": _std("tan"),
    "sin_near": Word("vec_sin({0})", needs=("sin",)),
    "cos_near": Word("vec_cos({0})", needs=("cos",)),
    "tan_near": Word("vec_tan({0})", needs=("tan",)),
    "asin": _own("asin", "std::asin({0})"),
    "acos": _own("acos", "std::acos({0})"),
    "atan": _own("atan", "std::atan({0})"),
    "sinh": _own("sinh", "std::sinh({0})"),
    "cosh": _own("cosh", "std::cosh({0})"),
    "asinh": _own("asinh", "std::asinh({0})"),
    "acosh": _own("acosh", "std::acosh({0})"),
    "atanh": _own("atanh", "std::atanh({0})"),
    "lgamma": _std("lgamma"),
    "floor": _std("floor"),
    "ceil": _std("ceil"),
    "round": _std("nearbyint"),
    "trunc": _std("trunc"),
    "sign": Word("sign_of({0})", needs=("sign",)),
    "relu": Word("{0} < 0 ? 0 : {0}"),
    "logical_not": Word("!{0}"),
    "bitwise_not": Word("~{0}"),
    "clone": Word("{0}"),
    "alias": Word("{0}"),
    "cast": Word("{0}"),
}
"""Result and arguments have the value's own dtype, except for `logical_not`."""

CLASSIFY: dict[str, Word] = {
    "isnan": Word("{0} != {0}"),
    "isinf": Word("std::abs({0}) == INFINITY"),
    "isfinite": Word("std::abs({0}) < INFINITY"),
}
"""Questions to one argument; the answer is a bool."""

COMPARE: dict[str, Word] = {
    "gt": Word("{0} > {1}"),
    "lt": Word("{0} < {1}"),
    "ge": Word("{0} >= {1}"),
    "le": Word("{0} <= {1}"),
    "eq": Word("{0} == {1}"),
    "ne": Word("{0} != {1}"),
}
"""Arguments are compared in their common dtype; the answer is a bool."""

BINARY: dict[str, Word] = {
    "add": Word("{0} + {1}"),
    "sub": Word("{0} - {1}"),
    "mul": Word("{0} * {1}"),
    "div": Word("{0} / {1}"),
    "maximum": Word("max_nan({0}, {1})", needs=("max_nan",)),
    "minimum": Word("min_nan({0}, {1})", needs=("min_nan",)),
    "clamp_min": Word("max_nan({0}, {1})", needs=("max_nan",)),
    "clamp_max": Word("min_nan({0}, {1})", needs=("min_nan",)),
    "pow": Word("vec_pow({0}, {1})", "std::pow({0}, {1})", ("pow",)),
    "fmod": _std("fmod", 2),
    "remainder": Word("remainder_floor({0}, {1})", needs=("remainder",)),
    "fmod_near": Word("vec_fmod({0}, {1})", needs=("fmod",)),
    "remainder_near": Word("vec_remainder({0}, {1})", needs=("remainder_near",)),
    "atan2": _std("atan2", 2),
    "hypot": _std("hypot", 2),
    "copysign": _std("copysign", 2),
    "fmax": _std("fmax", 2),
    "fmin": _std("fmin", 2),
    "bitwise_and": Word("{0} & {1}"),
    "bitwise_or": Word("{0} | {1}"),
    "bitwise_xor": Word("{0} ^ {1}"),
}
"""Result and arguments have the value's own dtype."""

LOGICAL: dict[str, Word] = {
    "logical_and": Word("{0} && {1}"),
    "logical_or": Word("{0} || {1}"),
    "logical_xor": Word("{0} != {1}"),
}
"""Arguments are read as bools, and so is the answer."""

INTEGER_WORDS = {"floor": "{0}", "ceil": "{0}", "round": "{0}", "trunc": "{0}", "fmod": "{0} % {1}"}
"""Operations that mean something else for integers."""

_HEAVY_NAMES = """
exp exp2 expm1 log log2 log10 log1p tanh erf erfc sigmoid pow sin cos tan sin_near cos_near tan_near asin acos atan
sinh cosh asinh acosh atanh
"""
HEAVY = frozenset(_HEAVY_NAMES.split())
"""Operations worth storing rather than computing twice."""


def literal(value: Number, dtype: str) -> str:
    """A C++ literal of the given dtype's compute type.

    Raises:
        ValueError: The value cannot be of that dtype.
    """
    if dtype == "bool":
        return "true" if value else "false"
    if dtype in FLOATING:
        return _floating(float(value), "" if dtype == "float64" else "f")
    if isinstance(value, float) and not value.is_integer():
        raise ValueError(f"a literal of dtype {dtype} must be whole, got {value!r}")
    whole = int(value)
    if whole == -(2**63):
        return "INT64_MIN"
    return f"INT64_C({whole})" if abs(whole) >= 2**31 else str(whole)


def _floating(value: float, suffix: str) -> str:
    if math.isnan(value):
        return "NAN"
    if math.isinf(value):
        return "INFINITY" if value > 0 else "-INFINITY"
    if suffix and abs(value) > 3.4028235677973366e38:  # rounds to infinity in single precision
        return "INFINITY" if value > 0 else "-INFINITY"
    return f"{value!r}{suffix}"


def promote(dtypes: list[str]) -> str:
    """The dtype in which values of these dtypes meet, as in PyTorch for tensors of the same rank."""
    order = ["bool", "uint8", "int8", "int16", "int32", "int64", "float16", "bfloat16", "float32", "float64"]
    found = set(dtypes)
    if {"float16", "bfloat16"} <= found:
        return "float64" if "float64" in found else "float32"
    if "uint8" in found and max(order.index(d) for d in found) == order.index("int8"):
        return "int16"
    return max(found, key=order.index)
