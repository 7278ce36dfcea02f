"""What a report shows, folded from a run's events."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from kernelmill.schema import (
    Asked,
    Candidate,
    Closed,
    Evaluation,
    Event,
    Failed,
    Lost,
    Measured,
    Passed,
    Promoted,
    Proposed,
    Request,
    Screened,
    Stopped,
)

_LEVELS = ("smoke", "screening", "full", "promotion")


@dataclass
class Trial:
    """One candidate's way through the run."""

    number: int
    candidate: Candidate
    request: Request | None
    evaluation: Evaluation | None = None
    reused: bool = False
    outcome: str = "not measured"
    """`passed`, the failed stage, `inconclusive`, `lost`, or what a gate said."""
    detail: str = ""
    held: bool | None = None
    """Whether it held at promotion; None: never promoted."""

    @property
    def ratio(self) -> float | None:
        """Speed-up over the best baseline where it passed and was timed."""
        interval = self.evaluation.speedup() if isinstance(self.evaluation, Passed) else None
        return interval.ratio if interval else None

    @property
    def parent(self) -> str | None:
        """Id of the first parent."""
        return self.request.parents[0] if self.request and self.request.parents else None


@dataclass
class Story:
    """A whole run."""

    trials: dict[str, Trial] = field(default_factory=dict)
    requests: dict[str, Request] = field(default_factory=dict)
    lost: int = 0
    seconds: float = 0.0
    """Sum over requests."""
    stopped: str = ""
    errors: list[str] = field(default_factory=list)
    """What operators said when they gave nothing."""

    @property
    def promoted(self) -> Trial | None:
        """The last candidate that held at promotion."""
        held = [t for t in self.trials.values() if t.held and isinstance(t.evaluation, Passed)]
        return max(held, key=lambda t: (t.ratio or 0.0, t.number), default=None)

    @property
    def best(self) -> Trial | None:
        """The promoted winner, else the fastest that passed and was not refused at promotion."""
        passed = [t for t in self.trials.values() if isinstance(t.evaluation, Passed) and t.held is not False]
        return self.promoted or max(passed, key=lambda t: (t.ratio or 0.0, t.number), default=None)

    def fastest(self, claimed: bool) -> Trial | None:  # noqa: FBT001 - named at both calls
        """The fastest that passed, among candidates with or without an `algorithmic` claim."""
        found = [
            t
            for t in self.trials.values()
            if t.ratio is not None and t.held is not False and ("algorithmic" in t.candidate.claims) is claimed
        ]
        return max(found, key=lambda t: t.ratio or 0.0, default=None)


def fold(events: Sequence[Event]) -> Story:
    """The story that a log tells."""
    story = Story()
    for event in events:
        match event:
            case Asked(request=request):
                story.requests[request.id] = request
            case Proposed(request=request_id, candidate=candidate):
                number = len(story.trials) + 1
                story.trials.setdefault(candidate.id, Trial(number, candidate, story.requests.get(request_id)))
            case Closed(seconds=seconds, error=error):
                story.seconds += seconds
                if error:
                    story.errors.append(error)
            case Stopped(reason=reason):
                story.stopped = reason
            case _:
                _about_candidate(story, event)
    return story


def _about_candidate(story: Story, event: Event) -> None:
    trial = story.trials.get(getattr(event, "candidate", ""))
    if trial is None:
        return
    match event:
        case Screened(verdict=verdict, gate=gate, reason=reason) if verdict != "accept":
            trial.outcome, trial.detail = f"{verdict} by {gate}", reason
        case Measured(evaluation=evaluation, reused=reused):
            _measured(trial, evaluation)
            trial.reused = reused
        case Promoted(held=held):
            trial.held = held
            if not held:
                trial.outcome = "refused at promotion"
        case Lost(reason=reason):
            story.lost += 1
            if trial.evaluation is None:
                trial.outcome, trial.detail = "lost", reason


def _measured(trial: Trial, evaluation: Evaluation) -> None:
    """The deepest passing level stays; a later failure replaces it, a later shallower pass does not."""
    if isinstance(evaluation, Passed) and _depth(evaluation) < _depth(trial.evaluation):
        return
    trial.evaluation = evaluation
    if isinstance(evaluation, Passed):
        trial.outcome, trial.detail = "passed", ""
    elif isinstance(evaluation, Failed):
        trial.outcome, trial.detail = evaluation.stage, evaluation.message
    else:
        trial.outcome, trial.detail = "inconclusive", evaluation.reason


def _depth(evaluation: Evaluation | None) -> int:
    return _LEVELS.index(evaluation.level) if isinstance(evaluation, Passed) else -1
