"""The declared launch of a kernel file: parsed, made for a file that declares none, printed for the child.

What `to_python` prints runs with a handful of names and no builtins: `aten`, `torch`, `empty`, `empty_strided`,
`dims`, `refuse`, `tick`, `inf`, `nan` and the kernels. Imports only the standard library.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, Final

from kernelmill.languages._launch_model import Guard, KernelArgument, Launch, Step
from kernelmill.languages._launch_parser import RESERVED, parse

__all__ = [
    "Guard",
    "KernelArgument",
    "Launch",
    "Step",
    "default_launch",
    "kernel_kinds",
    "launch_for",
    "parse",
    "resolve",
    "scalar_kinds",
    "to_python",
]

_SCALAR_KINDS: Final = {bool: "bool", int: "int", float: "float"}


def launch_for(launches: Sequence[Launch], signature: Mapping[str, Any]) -> Launch:
    """The first launch whose guards hold for a signature; where none does, the first, whose guards refuse the call.

    Args:
        launches: At least one.
        signature: `schema.Signature` as JSON.
    """
    given = [*signature["arguments"], *signature["state"]]
    return next((launch for launch in launches if all(g.holds(given) for g in launch.guards)), launches[0])


def scalar_kinds(launch: Launch, signature: Mapping[str, Any]) -> dict[str, str]:
    """Launch name of every scalar argument -> `int`, `float`, `bool` or `other`.

    Args:
        launch: The parsed launch.
        signature: `schema.Signature` as JSON.

    Raises:
        ValueError: The launch takes another number of arguments than the task has, or calculates with a tensor.
    """
    wanted = [*signature["arguments"], *signature["state"]]
    if len(launch.arguments) != len(wanted):
        names = ", ".join(str(item["name"]) for item in wanted)
        raise ValueError(
            f"launch takes {len(launch.arguments)} arguments ({', '.join(launch.arguments)}), but the task has "
            f"{len(wanted)}, its positional arguments and then its state: {names}"
        )
    kinds = {
        name: _SCALAR_KINDS.get(type(item["value"]), "other")
        for name, item in zip(launch.arguments, wanted, strict=True)
        if "value" in item
    }
    for name in sorted(launch.scalars_used):
        if kinds.get(name, "other") == "other":
            raise ValueError(f"launch calculates with {name!r}, which is not a number in this task")
    return kinds


def default_launch(signature: Mapping[str, Any]) -> Launch:
    """The launch of a file that declares none: allocate the outputs as eager strides them, call `kernel` once.

    `kernel` gets pointer, sizes and strides of every tensor argument and the value of every number among the
    arguments, in order, then of every state tensor, then of every output. None, strings and tuples are not passed.

    Args:
        signature: `schema.Signature` as JSON.
    """
    taken: set[str] = set()
    names = [_fresh(item["name"], taken) for item in [*signature["arguments"], *signature["state"]]]
    outputs = [_fresh(item["name"] or "out", taken) for item in signature["outputs"]]
    passed: list[str] = []
    for name, item in zip(names, [*signature["arguments"], *signature["state"]], strict=True):
        if "value" not in item:
            passed.append(f"{name}, {name}.shape, {name}.stride")
        elif type(item["value"]) in _SCALAR_KINDS:
            passed.append(name)
    passed += [f"{name}, {name}.shape, {name}.stride" for name in outputs]
    lines = [f"def launch({', '.join(names)}):"]
    for name, item in zip(outputs, signature["outputs"], strict=True):
        lines.append(f"    {name} = empty_strided({list(item['shape'])}, {list(item['stride'])}, {item['dtype']})")
    lines += [f"    kernel({', '.join(passed)})", f"    return ({', '.join(outputs)},)"]
    (launch,) = parse("/* launch\n" + "\n".join(lines) + "\n*/")
    return launch


def _fresh(name: str, taken: set[str]) -> str:
    """A C and launch identifier for a name: dots become underscores; made unique among those taken."""
    plain = re.sub(r"[^A-Za-z0-9_]", "_", name).lstrip("_") or "value"
    plain = f"t{plain}" if plain[0].isdigit() else plain
    while plain in taken or plain in RESERVED or plain in {"kernel", "launch"}:
        plain += "_"
    taken.add(plain)
    return plain


def to_python(launch: Launch, scalars: Mapping[str, str] | None = None) -> str:
    """Source of two functions, `launch` and `launch_profiled`, of the task's arguments and then its state.

    The second calls `tick(label)` after every step, `label` being `Step.label`. Both return a tuple of tensors.

    Args:
        launch: The parsed launch.
        scalars: What `scalar_kinds` gives; every other argument is a tensor.
    """
    return _function(launch, scalars or {}, "launch", ticks=False) + _function(
        launch, scalars or {}, "launch_profiled", ticks=True
    )


def _function(launch: Launch, scalars: Mapping[str, str], name: str, *, ticks: bool) -> str:
    lines = [f"def {name}({', '.join(launch.arguments)}):"]
    for guard in launch.guards:
        lines.append(f"    if {guard.value} != {guard.expected}:")
        lines.append(f"        refuse({guard.value!r}, {guard.value}, {guard.expected})")
    for step in launch.steps:
        lines.append(f"    {_statement(step, scalars)}")
        if ticks:
            lines.append(f"    tick({step.label!r})")
    lines.append(f"    return ({', '.join(launch.returns)},)")
    return "\n".join(lines) + "\n"


def _statement(step: Step, scalars: Mapping[str, str]) -> str:
    if step.kind != "kernel":
        return f"{step.target} = {step.text}"
    return f"{step.target}({', '.join(_passed(a, scalars) for a in step.arguments)})"


def _passed(argument: KernelArgument, scalars: Mapping[str, str]) -> str:
    kind = resolve(argument, scalars)
    return f"{argument.text}.data_ptr()" if kind == "tensor" else argument.text


def resolve(argument: KernelArgument, scalars: Mapping[str, str]) -> str:
    """What a kernel argument is in this task: `tensor`, `dims`, `int`, `float` or `bool`.

    Raises:
        ValueError: It is an argument that cannot be passed to C: a string, a tuple or None.
    """
    if argument.kind != "name":
        return argument.kind
    kind = scalars.get(argument.text, "tensor")
    if kind == "other":
        raise ValueError(f"launch passes {argument.text!r} to a kernel, but its value here is no number and no tensor")
    return kind


def kernel_kinds(launch: Launch, scalars: Mapping[str, str]) -> dict[str, Sequence[str]]:
    """Kernel name -> kinds of its arguments, for the foreign-function interface."""
    return {s.target: [resolve(a, scalars) for a in s.arguments] for s in launch.steps if s.kind == "kernel"}
