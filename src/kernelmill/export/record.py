"""A run as its log tells it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import TypeAdapter

from kernelmill.export.folding import fold
from kernelmill.export.words import bounded, headline
from kernelmill.schema import (
    Candidate,
    Evaluation,
    Event,
    Failed,
    Inconclusive,
    Interval,
    Passed,
    Promoted,
    RunInfo,
    Stopped,
)
from kernelmill.stores import Store

_EVALUATION: TypeAdapter[Evaluation] = TypeAdapter(Evaluation)


@dataclass(frozen=True)
class Run:
    """A run as far as it has come. All of it is read from the run's log."""

    info: RunInfo
    folder: Path
    """`best/` (the export), `report.html`, the traced graphs."""
    events: tuple[Event, ...]
    best: Candidate | None = None
    """The fastest candidate that held at promotion: faster than every baseline, on data search never saw."""
    evaluation: Passed | None = None
    """What promotion measured of it; these are the figures to quote."""
    why_not: str = ""
    """Where nothing held: what the promotion that came nearest said, or why there was none."""
    no_gain: Passed | None = None
    """Where nothing held: what was measured of the fastest candidate that was right, but no faster."""

    @property
    def speedup(self) -> Interval | None:
        """Of the best candidate over the fastest baseline, geometric mean over the workloads."""
        return self.evaluation.speedup() if self.evaluation else None

    @property
    def stopped(self) -> str:
        """Why it stopped; empty while it is running or where it was killed."""
        last = self.events[-1] if self.events else None
        return last.reason if isinstance(last, Stopped) else ""

    @property
    def interrupted(self) -> bool:
        """Whether it can go on where it was left: Ctrl-C, or killed."""
        return self.stopped in ("", "interrupted")

    @property
    def passed(self) -> int:
        """Candidates that were right, whatever their speed."""
        return sum(isinstance(trial.evaluation, Passed) for trial in fold(self.events).trials.values())

    @property
    def undecided(self) -> bool:
        """Whether the machine, not the candidates, is why there is no result: nothing could be timed."""
        outcomes = {trial.outcome for trial in fold(self.events).trials.values()}
        return self.best is None and "passed" not in outcomes and bool(outcomes & {"inconclusive", "lost"})

    @property
    def headline(self) -> str:
        """The result in one sentence."""
        if self.evaluation:
            return headline(self.evaluation)
        kind = "No result yet" if self.interrupted else "No verdict" if self.undecided else "No gain"
        return f"{kind}: {self.why_not}"

    @property
    def best_folder(self) -> Path:
        """Where the best candidate is exported to."""
        return self.folder / "best"

    @property
    def module(self) -> Path | None:
        """The drop-in module, once it is written."""
        path = self.best_folder / "module.py"
        return path if path.is_file() else None

    @property
    def report(self) -> Path:
        """The report, once it is written."""
        return self.folder / "report.html"


def read_run(store: Store, info: RunInfo, folder: Path) -> Run:
    """A run from its log. Raises UserError where the log or its evidence is damaged."""
    events = tuple(store.events(info.id))
    story = fold(events)
    held: list[tuple[Candidate, Passed]] = []
    refused: list[Evaluation | None] = []
    for event in events:
        if isinstance(event, Promoted) and event.candidate in story.trials:
            evaluation = _EVALUATION.validate_json(store.get(event.evidence)) if event.evidence else None
            if event.held and isinstance(evaluation, Passed):
                held.append((story.trials[event.candidate].candidate, evaluation))
            elif not event.held:
                refused.append(evaluation)
    if not held:
        nearest = max(refused, key=_reached, default=None)
        no_gain = nearest if isinstance(nearest, Passed) else None
        why_not = _refusal(nearest) if refused else _why_nothing(events)
        return Run(info, folder, events, why_not=why_not, no_gain=no_gain)
    best, evaluation = max(held, key=lambda pair: i.low if (i := pair[1].speedup()) else 0.0)
    return Run(info, folder, events, best, evaluation)


def _reached(evaluation: Evaluation | None) -> float:
    """The speed-up that a refused candidate was measured with; 0 where it was not."""
    interval = evaluation.speedup() if isinstance(evaluation, Passed) else None
    return interval.ratio if interval else 0.0


def _refusal(evaluation: Evaluation | None) -> str:
    """Why a promotion refused a candidate."""
    match evaluation:
        case Failed(stage=stage, message=message):
            return f"the best candidate did not hold at promotion ({stage}: {message.splitlines()[0]})"
        case Inconclusive(reason=reason):
            return f"the best candidate is right, but the machine was too noisy to time it ({reason})"
        case Passed() if (interval := evaluation.speedup()) is not None:
            return f"the best candidate is right and reaches {bounded(interval)} of the fastest baseline's speed"
    return "the best candidate did not hold at promotion"


def _why_nothing(events: Sequence[Event]) -> str:
    """Why there was no promotion at all."""
    story = fold(events)
    if not story.trials:
        return story.errors[-1] if story.errors else story.stopped or "nothing was tried yet"
    outcomes = [trial.outcome for trial in story.trials.values()]
    if outcomes.count("not measured") == len(outcomes):
        return "no candidate was measured yet"
    if "passed" in outcomes:
        return "no candidate was promoted yet"
    worst = max(sorted(set(outcomes)), key=outcomes.count)
    if worst in ("inconclusive", "lost"):
        details = [trial.detail for trial in story.trials.values() if trial.outcome == worst]
        return f"the machine let none of {len(outcomes)} candidates be timed; the last: {details[-1]}"
    return f"none of {len(outcomes)} candidates passed; most ended with: {worst}"
