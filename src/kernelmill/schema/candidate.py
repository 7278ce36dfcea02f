"""One implementation of a task."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from kernelmill.schema._spec import Spec, digest

Tier = Literal["T0", "T1", "T2"]
"""T0: device code only, KernelMill generates the launch. T1: declared launch. T2: arbitrary host code."""

Claim = Literal["exact", "reordered", "algorithmic"]
"""What a rewrite did: bit-for-bit the same, another order of the same sums, another asymptotic work."""

Value = bool | int | float | str
"""One value of a typed parameter."""


class Parameter(Spec):
    """A typed knob of a candidate that a tuner may turn without changing what is computed."""

    name: str
    values: tuple[Value, ...] = Field(min_length=1)
    default: Value
    ordered: bool = False
    """Whether neighbouring values behave alike, e.g. block sizes."""


class Candidate(Spec):
    """One implementation; immutable; named by its content."""

    language: str
    """The plugin of `kernelmill.languages` that builds it."""
    source: str
    claims: tuple[Claim, ...] = ()
    genome: str | None = None
    """JSON of the embedded proposer's genome, where it has one: pure data the source is rendered from."""
    parameters: tuple[Parameter, ...] = ()
    """Knobs a tuner may turn."""
    point: dict[str, Value] = {}
    """The knobs' present values; names absent here have their default."""
    note: str = ""
    """What is new compared with the parent, in one line, for people."""

    @property
    def id(self) -> str:
        """Content hash: the same source, language and point is the same candidate."""
        return digest(self.language, self.source, *(f"{k}={v!r}" for k, v in sorted(self.point.items())))
