"""Tree search whose value is the best that came of a candidate, not the mean."""

from __future__ import annotations

import math
from collections.abc import Sequence
from random import Random

from typing_extensions import override

from kernelmill.schema import Closed, Event, Request
from kernelmill.search._patient import Patient

LEAST_SCALE = 1e-6
"""Least spread of the values, as in the published code; keeps the bonus alive while all are equal."""


class Puct(Patient):
    """PUCT with max backup, rank prior and lineage blocking, over a buffer of candidates that passed.

    Source: TTT-Discover (arXiv 2601.16175) and its code, commit 96df74f; the part that needs no training.
    For a candidate `s` with `n` requests closed on it or on its descendants, of `T` in all:
    `score(s) = Q(s) + c * scale * P(s) * sqrt(1 + T) / (1 + n(s))`; `Q` is the best score among its
    children once it has some, else its own; `P` falls linearly with the rank; `scale` is max - min.

    Args:
        c: Weight of exploration. 1 (code).
        group: Candidates asked for at once from one parent. 1 (ours; the code asks for 8 to 64).
        keep: Measure only this many of a group. None: all (code).
        children: Best children of one parent that stay in the buffer. 2 (code).
        capacity: Size of the buffer; roots are never evicted. 1000 (code).
        drafts: Roots to start from. 1 (ours; one task has one untransformed form).
        patience: Requests in a row without a better candidate before it stops. 100 (ours).
    """

    def __init__(  # noqa: PLR0913  a constant of the paper each, by keyword
        self,
        operator: str = "template",
        *,
        c: float = 1.0,
        group: int = 1,
        keep: int | None = None,
        children: int = 2,
        capacity: int = 1000,
        drafts: int = 1,
        patience: int = 100,
    ) -> None:
        super().__init__(operator, patience)
        if min(group, children, capacity, drafts) < 1 or c < 0:
            raise ValueError(f"group, children, capacity, drafts must be >= 1 and c >= 0, got {group}, {children}, ...")
        self.c = c
        self.group = group
        self.keep = keep
        self.children = children
        self.capacity = capacity
        self.drafts = drafts
        self.visits: dict[str, int] = {}
        self.reached: dict[str, float] = {}
        """Candidate id -> best score among what was made from it."""
        self.total = 0

    def apply(self, event: Event) -> None:
        """Fold one event; the backup happens when a request closes."""
        super().apply(event)
        if isinstance(event, Closed) and event.request in self.requests:
            self._back_up(self.requests[event.request])

    def _back_up(self, request: Request) -> None:
        if request.remeasure or not request.parents:
            return
        scores = [self.scores[c] for c in self.answers.get(request.id, ()) if c in self.scores]
        self.total += 1
        # A request that failed counts as a visit, but says nothing of what the parent can reach.
        for parent in request.parents if scores else ():
            self.reached[parent] = max(self.reached.get(parent, 0.0), *scores)
        for candidate in self._lineage(request.parents):
            self.visits[candidate] = self.visits.get(candidate, 0) + 1

    def _lineage(self, candidates: Sequence[str]) -> set[str]:
        """The candidates and all their ancestors."""
        found: set[str] = set()
        stack = list(candidates)
        while stack:
            candidate = stack.pop()
            if candidate not in found:
                found.add(candidate)
                stack.extend(self.parents(candidate))
        return found

    def buffer(self) -> list[str]:
        """Candidates worth another request, best first."""
        kept: list[str] = []
        per_parent: dict[tuple[str, ...], int] = {}
        for candidate in sorted(self.scores, key=lambda c: (-self.scores[c], c)):
            parents = self.parents(candidate)
            rank = per_parent[parents] = per_parent.get(parents, 0) + 1
            if not parents or (rank <= self.children and len(kept) < self.capacity):
                kept.append(candidate)
        return kept

    def _ranked(self) -> list[str]:
        """The buffer in the order in which it is to be expanded."""
        buffer = self.buffer()
        values = [self.scores[c] for c in buffer if self.parents(c)]
        scale = max(max(values) - min(values), LEAST_SCALE) if values else LEAST_SCALE
        prior_sum = len(buffer) * (len(buffer) + 1) / 2
        bonus = self.c * scale * math.sqrt(1 + self.total)

        def merit(rank: int, candidate: str) -> float:
            prior = (len(buffer) - rank) / prior_sum
            value = self.reached.get(candidate, self.scores[candidate])
            return value + bonus * prior / (1 + self.visits.get(candidate, 0))

        merits = {c: merit(i, c) for i, c in enumerate(buffer)}
        return sorted(buffer, key=lambda c: (-merits[c], c))

    @override
    def plan(self, room: int, rng: Random) -> Sequence[Request]:
        """One request per free lineage: nobody works on an ancestor or descendant of what is being worked on."""
        if room < 1 or self.done():
            return []
        roots = sum(not r.parents for r in self.requests.values())
        if roots < self.drafts:
            return [self._request((), i) for i in range(min(room, self.drafts - roots))]
        if not self.scores:
            return [] if self.open else [self.draft()]
        busy = {p for r in self.open for p in self.requests[r].parents}
        above_busy = self._lineage(tuple(busy))
        chosen: list[str] = []
        for candidate in self._ranked():
            if len(chosen) == room:
                break
            lineage = self._lineage((candidate,))
            if not lineage & busy and candidate not in above_busy:
                chosen.append(candidate)
                busy.add(candidate)
                above_busy |= lineage
        return [self._request((c,), i) for i, c in enumerate(chosen)]

    def _request(self, parents: tuple[str, ...], offset: int) -> Request:
        return Request(id=self.next_id(offset), operator=self.operator, parents=parents, n=self.group, keep=self.keep)
