"""What a kernel must look like in C++ for the launch that calls it, and the compile-time check of that."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from kernelmill.languages._launch import KernelArgument, Launch, Step, resolve

C_TYPES: Final = {
    "float16": "float16",
    "bfloat16": "bfloat16",
    "float32": "float",
    "float64": "double",
    "int8": "int8_t",
    "int16": "int16_t",
    "int32": "int32_t",
    "int64": "int64_t",
    "uint8": "uint8_t",
    "bool": "bool",
    "complex64": "std::complex<float>",
    "complex128": "std::complex<double>",
}
_SCALARS: Final = {"int": "int64_t", "float": "double", "bool": "bool", "dims": "const int64_t*"}


@dataclass(frozen=True)
class Slot:
    """One parameter of a kernel."""

    name: str
    type: str | None
    """C++ type; None for a pointer to elements whose type the launch does not tell."""

    @property
    def text(self) -> str:
        """As a parameter declaration."""
        return f"{self.type or 'const auto*'} {self.name}"


def slots(launch: Launch, scalars: Mapping[str, str], signature: Mapping[str, Any]) -> dict[str, tuple[Slot, ...]]:
    """Kernel name -> its parameters, from the first call of it.

    Args:
        launch: The parsed launch.
        scalars: What `_launch.scalar_kinds` gives.
        signature: `schema.Signature` as JSON.
    """
    given = zip(launch.arguments, [*signature["arguments"], *signature["state"]], strict=True)
    types = {name: f"const {C_TYPES[item['dtype']]}*" for name, item in given if "dtype" in item}
    found: dict[str, tuple[Slot, ...]] = {}
    for step in launch.steps:
        if step.kind == "allocate" and step.dtype in C_TYPES:
            types[step.target] = f"{C_TYPES[step.dtype]}*"
        elif step.kind == "kernel" and step.target not in found:
            found[step.target] = _slots(step, scalars, types)
    return found


def _slots(step: Step, scalars: Mapping[str, str], types: Mapping[str, str]) -> tuple[Slot, ...]:
    return tuple(_slot(a, i, scalars, types) for i, a in enumerate(step.arguments))


def _slot(argument: KernelArgument, index: int, scalars: Mapping[str, str], types: Mapping[str, str]) -> Slot:
    kind = resolve(argument, scalars)
    if kind == "tensor":
        return Slot(argument.text, types.get(argument.text))
    if kind == "dims":
        return Slot(argument.text.removeprefix("dims(").rstrip("()").replace(".", "_"), _SCALARS[kind])
    return Slot(argument.text if argument.text.isidentifier() else f"a{index}", _SCALARS[kind])


def prototype(name: str, parameters: tuple[Slot, ...]) -> str:
    """The declaration of a kernel, one line."""
    return f'extern "C" void {name}({", ".join(slot.text for slot in parameters)})'


def checks(kernels: Mapping[str, tuple[Slot, ...]]) -> str:
    """C++ that fails to compile, with a readable message, where a kernel does not take what the launch passes."""
    lines: list[str] = []
    for name, parameters in kernels.items():
        wanted = prototype(name, parameters).replace('"', "'")
        shape = f"kernelmill::signature<decltype({name})>"
        lines.append(
            f"static_assert({shape}::arity == {len(parameters)}, "
            f'"{name} must take the {len(parameters)} arguments that the launch passes: {wanted}");'
        )
        lines.append(f'static_assert({shape}::returns_void, "{name} must return void");')
        for i, slot in enumerate(parameters):
            kind = slot.type or "kernelmill::any_pointer"
            told = slot.type or "a pointer"
            lines.append(
                f"static_assert(kernelmill::parameter_fits<decltype({name}), {i}, {kind}>(), "
                f'"{name}: parameter {i + 1} ({slot.name}) must be {told}");'
            )
    return "\n".join(lines) + "\n"
