"""Independent attempts; the fastest wins."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random

from typing_extensions import override

from kernelmill.schema import Request
from kernelmill.search._base import Searcher, Stop


class BestOfN(Searcher):
    """`n` drafts without parents, in any order: the baseline every other searcher must beat."""

    def __init__(self, operator: str = "template", n: int = 8) -> None:
        super().__init__(operator)
        if n < 1:
            raise ValueError(f"n must be at least 1, got {n}")
        self.n = n

    @override
    def plan(self, room: int, rng: Random) -> Sequence[Request]:
        """As many drafts as there is room for."""
        left = min(room, self.n - len(self.requests))
        return [Request(id=self.next_id(i), operator=self.operator) for i in range(left)]

    def done(self) -> Stop | None:
        """When all attempts are closed."""
        if len(self.requests) >= self.n and not self.open:
            return Stop(f"all {self.n} attempts are made")
        return None
