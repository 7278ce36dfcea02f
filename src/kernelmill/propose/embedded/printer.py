"""The seam between plans and languages: a printer turns a `Program` into the text of one candidate."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import ClassVar

from kernelmill.propose.embedded.plan import FusedKernel, Program, TemplateKernel
from kernelmill.schema import Parameter, Value

Kernel = FusedKernel | TemplateKernel

Knobs = Mapping[str, Mapping[str, Value]]
"""Kernel name -> knob name -> value. Knobs of the whole file are under `file`; absent knobs have their default."""

FILE = "file"


class Printer(ABC):
    """One target language. Prints what a plan says and decides nothing but what its knobs say."""

    language: ClassVar[str]
    """Name of the plugin of `kernelmill.languages` that builds the text."""

    @abstractmethod
    def knobs(self, kernel: Kernel) -> tuple[Parameter, ...]:
        """What may be turned in one kernel; names without the kernel's. Knobs that change nothing are left out."""

    @abstractmethod
    def file_knobs(self, programs: Sequence[Program]) -> tuple[Parameter, ...]:
        """What may be turned for the whole file, e.g. the vector width."""

    @abstractmethod
    def print(self, programs: Sequence[Program], knobs: Knobs) -> str:
        """The candidate's source: of every program its launch, of kernels of one name one.

        Raises:
            ValueError: A program holds an operation or a dtype that this language has no words for.
        """


def kernels(program: Program) -> tuple[Kernel, ...]:
    """The kernels among a program's steps, in launch order."""
    return tuple(step for step in program.steps if isinstance(step, FusedKernel | TemplateKernel))


def chosen(parameters: tuple[Parameter, ...], values: Mapping[str, Value]) -> dict[str, Value]:
    """A full setting: the values given, defaults for the rest; values that are not on offer are ignored.

    A genome survives a structural move this way: knobs that lost their meaning do no harm.
    """
    return {p.name: values[p.name] if values.get(p.name) in p.values else p.default for p in parameters}
