"""Who writes candidates."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from kernelmill.schema import Candidate, Evaluation, Request, Task


@dataclass(frozen=True)
class View:
    """All that an operator may see. There is no way from here to held-out results."""

    task: Task
    candidates: Mapping[str, Candidate] = field(default_factory=dict)
    evaluations: Mapping[str, Evaluation] = field(default_factory=dict)
    origin: Mapping[str, str] = field(default_factory=dict)
    """Candidate id -> request id."""
    requests: Mapping[str, Request] = field(default_factory=dict)
    device: Mapping[str, float] = field(default_factory=dict)
    """Measured peaks: `threads`, `bandwidth_bytes`, `peak_flops`, `llc_bytes`."""
    workdir: Path = Path()
    """Where an operator may keep files for this run."""


class Operator(ABC):
    """Answers a request with candidates."""

    @abstractmethod
    def propose(self, request: Request, view: View) -> Iterator[Candidate]:
        """At most `request.n` candidates. Fewer, or none, is an answer too.

        Deterministic given `request` and `view`, so that a resumed run goes the same way; chance comes
        from `random.Random(request.id)`.
        """

    def finished(self, view: View) -> str | None:
        """Why there is nothing more to gain, e.g. `98 % in aten.mm at 93 % of peak`, or None."""
        return None
