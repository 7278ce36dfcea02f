"""What happens during one optimization: requests and events. All of a run's state is a fold of its events."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from kernelmill.schema._spec import Spec
from kernelmill.schema.candidate import Candidate, Value
from kernelmill.schema.evaluation import Evaluation, Level


class Request(Spec):
    """What the searcher wants next, with the provenance that credit needs."""

    id: str
    operator: str
    """The plugin of `kernelmill.propose` that answers."""
    parents: tuple[str, ...] = ()
    """Candidate ids."""
    n: int = 1
    """Candidates wanted."""
    keep: int | None = None
    """Measure only this many of them, chosen by the gates."""
    action: str | None = None
    """What to change, in the operator's own words: a move, a bottleneck, a target."""
    point: dict[str, Value] | None = None
    """Parameter point, for a tuner."""
    context: tuple[str, ...] = ()
    """Ids of context items."""
    arm: str | None = None
    prompt: str | None = None
    group: str | None = None
    tag: str | None = None
    """Free for the searcher's own credit assignment."""
    remeasure: bool = False
    """Measure the one parent again instead of asking the operator: less noise, no new candidate."""


class Asked(Spec):
    kind: Literal["asked"] = "asked"
    request: Request


class Proposed(Spec):
    kind: Literal["proposed"] = "proposed"
    request: str
    candidate: Candidate


class Screened(Spec):
    """A gate spoke before measurement."""

    kind: Literal["screened"] = "screened"
    candidate: str
    gate: str
    verdict: Literal["accept", "reject", "reuse"]
    reason: str = ""


class Measured(Spec):
    kind: Literal["measured"] = "measured"
    candidate: str
    level: Level
    evaluation: Evaluation
    reused: bool = False
    """The measurement was taken from an identical candidate; nothing ran."""


class Closed(Spec):
    """All candidates of a request are done."""

    kind: Literal["closed"] = "closed"
    request: str
    seconds: float = 0.0
    """Wall time from asked to closed."""
    elapsed: float = 0.0
    """Seconds the run had been at work by then; pauses between stop and resume do not count."""
    dollars: float = 0.0
    """What the operator's answer cost."""
    tokens: int = 0
    """Tokens the operator's answer took, prompt and reply."""
    error: str = ""
    """Why the operator gave nothing, where it gave nothing."""


class Promoted(Spec):
    """A candidate went through promotion; searchers see only whether it held."""

    kind: Literal["promoted"] = "promoted"
    candidate: str
    held: bool
    evidence: str = ""
    """Blob that holds the promotion's evaluation as JSON; never shown to searchers or operators."""


class Lost(Spec):
    """The infrastructure failed; no verdict, no score. The work may be tried again."""

    kind: Literal["lost"] = "lost"
    candidate: str
    reason: str


class Stopped(Spec):
    kind: Literal["stopped"] = "stopped"
    reason: str


Event = Annotated[
    Asked | Proposed | Screened | Measured | Closed | Promoted | Lost | Stopped, Field(discriminator="kind")
]


class BudgetLimits(Spec):
    """What a run may spend; None is no limit. At least one is always set."""

    trials: int | None = None
    seconds: float | None = None
    dollars: float | None = None
    tokens: int | None = None


class RunInfo(Spec):
    """The head of a run: what is needed to show and to resume it."""

    id: str
    task: str
    """Task id (content hash)."""
    task_name: str
    task_path: str
    language: str
    searcher: str
    seed: int
    limits: BudgetLimits
    created: str
    """UTC, ISO 8601."""
    options: dict[str, str] = {}
    environment: dict[str, str] = {}
    """Versions and machine, for the evidence."""
