"""A searcher of searchers: structure first, knobs next, then whichever gained most of late."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping, Sequence
from random import Random
from typing import Any

from kernelmill.schema import Asked, Closed, Event, Request
from kernelmill.search._base import Searcher, Stop
from kernelmill.search._patient import Patient

EXPLORE = 0.02
"""Bonus in log speed-up for a member not asked for long: a gain of 2 % is worth looking for (ours)."""


class Portfolio(Patient):
    """Runs several searchers over one shared set of candidates.

    All members see all events, so that a tuner works on what a tree search found and the reverse. The
    first `lead` requests go to the first member; then to the one with the largest mean gain (log
    speed-up over the best so far) of its last `window` requests plus an exploration bonus (UCB1).
    A request's `group` names the member.

    Args:
        members: Names of searchers, in order. `puct`, then `tune`.
        options: Member name -> keyword arguments of its class.
        lead: Requests of the first member before the others may ask. 8 (ours).
        window: Requests that count as recent. 8 (ours).
        patience: Requests in a row without a better candidate before it stops. 150 (ours).
    """

    def __init__(
        self,
        operator: str = "template",
        *,
        members: Sequence[str] = ("puct", "tune"),
        options: Mapping[str, Mapping[str, Any]] | None = None,
        lead: int = 8,
        window: int = 8,
        patience: int = 150,
    ) -> None:
        from kernelmill.search import make_searcher

        super().__init__(operator, patience)
        if not members or len(set(members)) != len(members) or "portfolio" in members:
            raise ValueError(f"members must be different searchers other than portfolio, got {tuple(members)}")
        if unknown := set(options or {}) - set(members):
            raise ValueError(f"options for {sorted(unknown)[0]!r}, which is not among the members {tuple(members)}")
        self.members: dict[str, Searcher] = {
            name: make_searcher(name, operator, **dict((options or {}).get(name, {}))) for name in members
        }
        self.lead = lead
        self.gains: dict[str, deque[float]] = {name: deque(maxlen=window) for name in members}
        self.closed: dict[str, int] = dict.fromkeys(members, 0)
        self.before: dict[str, float] = {}
        """Open request id -> best score when it was asked."""

    def apply(self, event: Event) -> None:
        """Fold one event, here and in every member."""
        super().apply(event)
        for member in self.members.values():
            member.apply(event)
        match event:
            case Asked(request=request):
                self.before[request.id] = self.record
            case Closed(request=request_id) if request_id in self.before:
                self._credit(self.requests[request_id], self.before.pop(request_id))

    def _credit(self, request: Request, before: float) -> None:
        if request.group not in self.members:
            return
        reached = max((self.scores.get(c, 0.0) for c in self.answers.get(request.id, ())), default=0.0)
        # What the first candidate gains over nothing is no merit of the member that asked for it.
        gain = math.log(reached / before) if before and reached > before else 0.0
        self.gains[request.group].append(gain)
        self.closed[request.group] += 1

    def _merit(self, name: str) -> float:
        gains = self.gains[name]
        waiting = sum(self.requests[r].group == name for r in self.open)
        if not gains and not waiting:
            return math.inf
        tried = self.closed[name] + waiting
        total = 1 + sum(self.closed.values()) + len(self.open)
        return sum(gains) / max(1, len(gains)) + EXPLORE * math.sqrt(math.log(total) / tried)

    def _order(self) -> list[str]:
        """Members in the order in which they may ask."""
        names = list(self.members)
        if len(self.requests) < self.lead:
            return names
        return sorted(names, key=lambda n: (-self._merit(n), names.index(n)))

    def plan(self, room: int, rng: Random) -> Sequence[Request]:
        """What the member in turn wants; the others fill what it leaves free."""
        planned: list[Request] = []
        if self.done():
            return planned
        for name in self._order():
            member = self.members[name]
            if len(planned) < room and not member.done():
                for request in member.plan(room - len(planned), rng):
                    update = {"id": self.next_id(len(planned)), "group": name}
                    planned.append(request.model_copy(update=update))
        return planned

    def done(self) -> Stop | None:
        """When every member is, or patience has run out."""
        stops = {name: member.done() for name, member in self.members.items()}
        if all(stops.values()):
            return Stop("; ".join(f"{name}: {stop.reason}" for name, stop in stops.items() if stop))
        return super().done()
