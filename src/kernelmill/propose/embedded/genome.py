"""What a printed candidate is made from: choices only, as pure data."""

from __future__ import annotations

from typing import Literal

from kernelmill.schema import Spec, Value


class Genome(Spec):
    """All choices behind one candidate; with the traced graph it determines the source."""

    rewrites: tuple[str, ...] = ()
    """As `name@node id`, in the order of application. Layouts of library calls are rewrites too."""
    cuts: tuple[int, ...] = ()
    """Ids of nodes whose result goes through memory although it could stay in a kernel; ascending."""
    library: tuple[int, ...] = ()
    """Ids of library calls that stay library calls although a template could replace them; ascending."""
    kernels: dict[str, dict[str, Value]] = {}
    """Kernel name -> knob -> value; `file` for the whole file. What is absent, or not on offer, has its default."""
    printer: str = "cpp"
    """Language it is printed in."""
    strides: Literal["same", "any"] = "any"
    """Whether outputs must have the strides that eager gives them."""

    def turned(self, kernel: str, knob: str, value: Value) -> Genome:
        """The same genome with one knob changed."""
        kernels = {**self.kernels, kernel: {**self.kernels.get(kernel, {}), knob: value}}
        return self.model_copy(update={"kernels": kernels})

    def at(self, point: dict[str, Value]) -> Genome:
        """The same genome with the knobs of a point `kernel.knob -> value`.

        Raises:
            ValueError: A name is not of the form `kernel.knob`.
        """
        genome = self
        for name, value in point.items():
            kernel, dot, knob = name.partition(".")
            if not dot:
                raise ValueError(f"a knob is named kernel.knob, e.g. k0.chunk, got {name!r}")
            genome = genome.turned(kernel, knob, value)
        return genome
