"""What is not worth measuring."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import ClassVar

from kernelmill.schema import Candidate, Evaluation, Screened


class Gate(ABC):
    """Cheap screening before measurement."""

    cost_rank: ClassVar[int] = 0
    """Cheaper gates run first."""

    @abstractmethod
    def screen(
        self,
        candidate: Candidate,
        candidates: Mapping[str, Candidate],
        evaluations: Mapping[str, Evaluation],
    ) -> Screened:
        """Accept, reject, or reuse: `reason` of a reuse is the id of the measured twin."""
