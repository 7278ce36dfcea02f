"""What a run may spend: reserved before a request is issued, committed when its cost is known."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass

from kernelmill.errors import UserError
from kernelmill.schema import BudgetLimits


@dataclass(frozen=True)
class Cost:
    """An amount of everything that is limited. `seconds` are wall time of the run, not of a worker."""

    trials: int = 0
    """Candidates measured; reused measurements and infrastructure failures are free."""
    seconds: float = 0.0
    dollars: float = 0.0
    tokens: int = 0

    def __add__(self, other: Cost) -> Cost:
        return Cost(
            self.trials + other.trials,
            self.seconds + other.seconds,
            self.dollars + other.dollars,
            self.tokens + other.tokens,
        )


RESOURCES = ("trials", "seconds", "dollars", "tokens")


class Ledger:
    """Arithmetic of a budget; all time comes from `clock`.

    Trials are never overshot, since a request is cut down to what is left. Seconds, dollars and tokens
    are known only afterwards: the mean of the past is reserved, and what is already promised to open
    requests counts as spent, so that at most the last request of each worker goes beyond a limit.

    Args:
        limits: At least one is set.
        spent: What a resumed run had spent before.

    Raises:
        UserError: No limit is set, or one is not positive.
    """

    def __init__(
        self, limits: BudgetLimits, spent: Cost | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.limits = {name: float(v) for name in RESOURCES if (v := getattr(limits, name)) is not None}
        if not self.limits:
            raise UserError(f"a run needs a budget: set at least one of {', '.join(RESOURCES)}")
        if bad := {name: v for name, v in self.limits.items() if not v > 0}:
            raise UserError(f"a budget must be above 0, got {bad}")
        self._before = spent or Cost()
        self._clock = clock
        self._start = clock()
        self._committed = Cost()
        self._commits = 0
        self._reserved: dict[str, Cost] = {}
        self._kept_back_s = 0.0

    @property
    def spent(self) -> Cost:
        """Everything committed, and the time that has passed."""
        passed = Cost(seconds=self._clock() - self._start)
        return self._before + self._committed + passed

    @property
    def reserved(self) -> Cost:
        """What open requests may still cost."""
        return sum(self._reserved.values(), Cost())

    def left(self, resource: str) -> float:
        """What is neither spent nor reserved of one resource; infinite where it has no limit."""
        if resource not in self.limits:
            return math.inf
        used = getattr(self.spent, resource) + getattr(self.reserved, resource)
        return self.limits[resource] - float(used)

    def reserve(self, request: str, trials: int) -> int:
        """Set aside the cost of a request that measures up to `trials` candidates.

        Gives back how many of them it may measure; 0 where the budget has no place for it, and then
        nothing is set aside.
        """
        granted = int(min(trials, self.left("trials")))
        if granted < 1 or any(self.left(name) <= 0 for name in self.limits):
            return 0
        self._reserved[request] = Cost(
            trials=granted,
            dollars=self._committed.dollars / max(1, self._commits),
            tokens=self._committed.tokens // max(1, self._commits),
        )
        return granted

    def commit(self, request: str, cost: Cost) -> None:
        """A request is closed and cost this; its `seconds` are ignored, since the clock counts them."""
        self.release(request)
        self._committed += Cost(cost.trials, 0.0, cost.dollars, cost.tokens)
        self._commits += 1

    def release(self, request: str) -> None:
        """Give back what was set aside; nothing where nothing was."""
        self._reserved.pop(request, None)

    def keep_back(self, seconds: float) -> None:
        """Leave so much of the time to what follows the search, at most half of what there is."""
        self._kept_back_s = min(seconds, self.limits.get("seconds", math.inf) / 2)

    @property
    def spare_s(self) -> float:
        """Time left beside what was kept back."""
        return self.left("seconds") - self._kept_back_s

    def exhausted(self) -> str | None:
        """Which limit is reached, with the figures, or None. What requests have only reserved does not count."""
        spent = self.spent
        for name, limit in self.limits.items():
            used = getattr(spent, name)
            if used >= limit:
                return f"the budget of {limit:g} {name} is spent ({used:.3g})"
            if name == "seconds" and used + self._kept_back_s >= limit:
                return f"of the budget of {limit:g} seconds {used:.0f} are spent, promotion needs the rest"
        return None
