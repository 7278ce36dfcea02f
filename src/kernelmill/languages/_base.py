"""A kernel language: source becomes something the child can load."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from importlib.resources import files
from typing import ClassVar

from kernelmill.schema import Candidate, Parameter, Signature, Tier


@dataclass(frozen=True)
class Artifact:
    """What `build` gives and the child loads; travels as JSON.

    `loader` names a module that imports only the standard library, numpy and torch and has
    `load(payload: dict, signature: dict) -> Callable[[list, list], object]`: the callable takes the
    positional arguments and the state tensors and returns what the reference returns.
    """

    loader: str
    payload: dict[str, str]
    readable: tuple[str, ...] = ()
    """Paths that the child must be able to read."""
    labels: tuple[str, ...] = ()
    """Observations for the verdict, e.g. `calls:aten.convolution.default`."""
    seconds: float = field(default=0.0, compare=False)
    """Build time; 0 where the cache had it."""


class Language(ABC):
    """One kernel language. A file in this folder is a plugin; `<name>.md` beside it is its guide for writers."""

    suffix: ClassVar[str]

    @classmethod
    @abstractmethod
    def missing(cls) -> str | None:
        """What this machine lacks to build and run it, with the remedy, or None."""

    @abstractmethod
    def build(self, candidate: Candidate, signature: Signature) -> Artifact:
        """Compile in a sandbox of its own.

        Raises:
            BuildError: The source is wrong; the message is what a writer needs, trimmed.
            ToolchainError: The compiler is missing or failed by itself.
        """

    @abstractmethod
    def tier(self, candidate: Candidate) -> Tier:
        """How much of the host side the candidate controls."""

    @abstractmethod
    def template(self, signature: Signature) -> str:
        """The skeleton a writer fills in for this signature."""

    def parameters(self, source: str) -> tuple[Parameter, ...]:
        """The knobs that a source declares by itself. Raises BuildError where a declaration cannot be read."""
        return ()

    def guide(self) -> str:
        """How to write this language for KernelMill; goes into prompts."""
        name = type(self).__module__.rsplit(".", 1)[-1]
        return files("kernelmill.languages").joinpath(f"{name}.md").read_text()
