"""One incumbent; whatever is strictly faster takes its place."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random

from typing_extensions import override

from kernelmill.schema import Request
from kernelmill.search._patient import Patient


class OnePlusOne(Patient):
    """The (1+1) search of Metal-Sci (arXiv 2605.09708): improve the incumbent, keep strict improvements.

    One request at a time; more workers do not help it.
    """

    @override
    def plan(self, room: int, rng: Random) -> Sequence[Request]:
        """The incumbent's next change."""
        if self.open or room < 1 or self.done():
            return []
        incumbent = self.best()
        if incumbent is None:
            return [self.draft()]
        return [Request(id=self.next_id(), operator=self.operator, parents=(incumbent,))]
