"""The native task shape: a decorated function or module with declared domain, workloads and contract.

    @task(
        inputs={"x": "float32[B, D]", "target": "int64[B] in [0, D)"},
        axes={"B": (1, 8192), "D": (16, 65536, 16)},
        workloads={"train": {"B": 4096, "D": 8192}},
    )
    def cross_entropy(x, target): ...

Imports nothing but the standard library: the oracle's cell imports it too.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

F = TypeVar("F", bound=Callable[..., Any])

_INPUT = re.compile(
    r"^\s*(?P<dtype>\w+)\s*\[(?P<shape>[^\]]*)\]"
    r"(?:\s+in\s+\[\s*(?P<low>[\w.+-]+)\s*,\s*(?P<high>[\w.+-]+)\s*\))?\s*$"
)
_DTYPES = ("float64", "float32", "float16", "bfloat16", "int64", "int32", "int16", "int8", "uint8", "bool")


@dataclass(frozen=True)
class Input:
    """One declared input: dtype, symbolic shape and, for integers, the half-open range of values."""

    dtype: str
    shape: tuple[str, ...]
    """Each dim is an axis name or a number."""
    low: str = "0"
    high: str = "2"


@dataclass(frozen=True)
class Declaration:
    """What `@task` attaches to a reference."""

    inputs: dict[str, Input]
    workloads: dict[str, dict[str, int]]
    axes: dict[str, tuple[int, int, int]] = field(default_factory=dict)
    init: tuple[Any, ...] = ()
    """Constructor arguments, where the reference is a module class."""
    scalars: dict[str, Any] = field(default_factory=dict)
    """Non-tensor arguments and their values."""
    contract: dict[str, Any] = field(default_factory=dict)


def parse_input(name: str, text: str) -> Input:
    """Read `float32[B, 1024]` or `int64[B] in [0, V)`.

    Raises:
        ValueError: It is neither; the message shows the two forms.
    """
    match = _INPUT.match(text)
    if not match or match["dtype"] not in _DTYPES:
        raise ValueError(
            f"input {name!r}: expected e.g. 'float32[B, 1024]' or 'int64[B] in [0, V)', got {text!r}; "
            f"dtypes: {', '.join(_DTYPES)}"
        )
    shape = tuple(part.strip() for part in match["shape"].split(",") if part.strip())
    if match["low"] is None:
        return Input(match["dtype"], shape)
    return Input(match["dtype"], shape, match["low"], match["high"])


def task(
    *,
    inputs: Mapping[str, str],
    workloads: Mapping[str, Mapping[str, int]],
    axes: Mapping[str, tuple[int, ...]] | None = None,
    init: tuple[Any, ...] = (),
    scalars: Mapping[str, Any] | None = None,
    **contract: Any,
) -> Callable[[F], F]:
    """Declare a function or `torch.nn.Module` class as a task.

    Args:
        inputs: Argument name -> `dtype[dims]`, with ` in [low, high)` for integers; a bound may be an axis.
        workloads: Workload name -> size of every axis. The first is the one that matters most.
        axes: Axis name -> (low, high) or (low, high, multiple): the domain that held-out shapes are drawn from.
            Without it the shapes are static.
        init: Constructor arguments of a module class.
        scalars: Non-tensor arguments and their values.
        contract: Fields of `kernelmill.schema.Contract`, e.g. `precision="fp32"`, `output_strides="same"`.

    Raises:
        ValueError: A declaration does not fit together; the message names it.
    """
    parsed = {name: parse_input(name, text) for name, text in inputs.items()}
    domain = {name: _axis(name, bounds) for name, bounds in (axes or {}).items()}
    named = {dim for spec in parsed.values() for dim in spec.shape if not dim.isdigit()}
    for workload, sizes in workloads.items():
        if missing := sorted(named - set(sizes)):
            raise ValueError(f"workload {workload!r} gives no size for axes {', '.join(missing)}")
    if not workloads:
        raise ValueError("a task needs at least one workload, e.g. workloads={'main': {'B': 1024}}")
    declaration = Declaration(
        parsed, {k: dict(v) for k, v in workloads.items()}, domain, init, dict(scalars or {}), dict(contract)
    )

    def attach(reference: F) -> F:
        reference.__kernelmill__ = declaration  # type: ignore[attr-defined]
        return reference

    return attach


def _axis(name: str, bounds: tuple[int, ...]) -> tuple[int, int, int]:
    if len(bounds) not in (2, 3) or not all(isinstance(b, int) for b in bounds):
        raise ValueError(f"axis {name!r}: expected (low, high) or (low, high, multiple), got {bounds!r}")
    low, high, *rest = bounds
    return low, high, rest[0] if rest else 1
