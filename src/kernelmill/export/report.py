"""One HTML file that tells what a run found; it needs no network and can be mailed."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path

from jinja2 import Environment, StrictUndefined

from kernelmill import __version__
from kernelmill.devices._base import Description, Peaks
from kernelmill.export import charts
from kernelmill.export.folding import Story, Trial, fold
from kernelmill.export.words import baseline_name, baselines, bounded, duration, headline, is_gain, roofline, times
from kernelmill.schema import Candidate, Event, Passed, RunInfo, Task, WorkloadResult

ROWS = 400
"""Candidates shown in the table at most; the rest are counted."""


@dataclass(frozen=True)
class Report:
    """What a report is made from."""

    task: Task
    run: RunInfo
    events: Sequence[Event]
    winner: Candidate | None = None
    """The promoted candidate; None: the best of the log is shown, and said to be unpromoted."""
    promotion: Passed | None = None
    """Its evaluation at promotion, from the evidence blob of the log."""
    description: Description | None = None
    peaks: Peaks | None = None
    commands: Mapping[str, str] = field(default_factory=dict)
    """What to do next: purpose -> command line."""


def write_report(path: Path, report: Report) -> None:
    """Write the report of a run."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(render(report), encoding="utf-8")


def render(report: Report) -> str:
    """The report as HTML text."""
    story = fold(report.events)
    candidate, evaluation = _result(report, story)
    promoted = report.promotion is not None or story.promoted is not None
    environment = Environment(undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, autoescape=True)
    environment.filters |= {"duration": duration, "times": times}
    templates = files("kernelmill.export").joinpath("templates")
    text = templates.joinpath("report.html.j2").read_text(encoding="utf-8")
    return environment.from_string(text).render(
        css=templates.joinpath("report.css").read_text(encoding="utf-8"),
        task=report.task,
        run=report.run,
        story=story,
        version=__version__,
        headline=headline(evaluation),
        gain=is_gain(evaluation),
        promoted=promoted,
        evaluation=evaluation,
        candidate=candidate,
        facts=_facts(report, story, evaluation),
        charts=_charts(story, evaluation, candidate),
        checks=[_check(r, held=False) for r in evaluation.results] + [_check(r, held=True) for r in evaluation.held_out]
        if evaluation
        else [],
        trials=[_trial(t, candidate) for t in story.trials.values()][:ROWS],
        hidden=max(0, len(story.trials) - ROWS),
        failures=_failures(story),
        claims=_claims(story),
        conditions=_conditions(report, evaluation),
        lines=candidate.source.splitlines() if candidate else [],
        reference=report.task.source.splitlines(),
        commands=report.commands or _commands(report, candidate),
    )


def _result(report: Report, story: Story) -> tuple[Candidate | None, Passed | None]:
    best = story.best
    candidate = report.winner or (best.candidate if best else None)
    if report.promotion is not None:
        return candidate, report.promotion
    trial = story.trials.get(candidate.id) if candidate else None
    return candidate, trial.evaluation if trial and isinstance(trial.evaluation, Passed) else None


def _facts(report: Report, story: Story, evaluation: Passed | None) -> list[tuple[str, str, str]]:
    """Figure, what it is, and a note, for the strip under the headline."""
    facts = []
    found = baselines(evaluation) if evaluation else []
    for name, interval in found[:2]:
        facts.append(
            (times(interval.ratio), f"over {baseline_name(name)}", f"95 %: {bounded(interval).split(' ', 1)[1]}")
        )
    reached = roofline(evaluation) if evaluation else None
    if reached:
        facts.append(
            (f"{reached[0]:.0%}".replace("%", " %"), f"of the {reached[1]} roofline", "measured on this machine")
        )
    if evaluation:
        worst = max(evaluation.results, key=lambda r: r.accuracy.error / (r.accuracy.budget or math.inf))
        facts.append((worst.accuracy.precision, "effective precision", f"error {worst.accuracy.error:.1e}"))
    passed = sum(1 for t in story.trials.values() if t.outcome == "passed")
    limits = ", ".join(f"{k} {v:g}" for k, v in report.run.limits.model_dump().items() if v is not None)
    facts.append((f"{passed}/{len(story.trials)}", "candidates passed", f"budget: {limits or 'none'}"))
    return facts


def _charts(story: Story, evaluation: Passed | None, candidate: Candidate | None) -> dict[str, str]:
    drawn = {}
    if evaluation:
        rows = [charts.Row(baseline_name(n), i.ratio, i.low, i.high) for n, i in baselines(evaluation)]
        if len(evaluation.results) > 1:
            rows += [
                charts.Row(
                    f"{r.workload} / {baseline_name(c.baseline)}", c.interval.ratio, c.interval.low, c.interval.high
                )
                for r in evaluation.results
                if (c := r.best_baseline) is not None
            ]
        if rows:
            drawn["intervals"] = charts.intervals(rows)
        for result in evaluation.results:
            if result.time_us and result.floor_us:
                drawn[f"floor {result.workload}"] = charts.floor_bar(result.time_us, result.floor_us)
    points, best = [], 0.0
    for trial in story.trials.values():
        if trial.ratio is not None:
            label = f"#{trial.number} {trial.candidate.note or trial.candidate.id}"
            points.append(charts.Point(trial.number, trial.ratio, label, trial.ratio > best))
            best = max(best, trial.ratio)
    if points:
        drawn["progress"] = charts.progress(points, "trial")
    if len(story.trials) > 1:
        parents = {name: trial.parent for name, trial in list(story.trials.items())[:ROWS]}
        ratios = {name: t.ratio for name, t in story.trials.items() if t.ratio is not None}
        drawn["lineage"] = charts.lineage(parents, candidate.id if candidate else None, ratios)
    return drawn


def _check(result: WorkloadResult, held: bool) -> dict[str, str]:  # noqa: FBT001 - named at both calls
    accuracy, best = result.accuracy, result.best_baseline
    return {
        "workload": result.workload,
        "kind": "held out" if held else "reference answers" if result.specialised else "given",
        "cases": str(accuracy.cases),
        "skipped": ", ".join(accuracy.skipped),
        "error": f"{accuracy.error:.2g}",
        "native": f"{accuracy.native_error:.2g}",
        "budget": f"{accuracy.budget:.2g}",
        "precision": accuracy.precision,
        "time": duration(result.time_us) if result.time_us else "",
        "ratio": bounded(best.interval) if best else "",
    }


def _trial(trial: Trial, winner: Candidate | None) -> dict[str, str]:
    request = trial.request
    return {
        "number": str(trial.number),
        "id": trial.candidate.id,
        "note": trial.candidate.note,
        "operator": request.operator if request else "",
        "action": (request.action or "") if request else "",
        "claims": ", ".join(trial.candidate.claims),
        "outcome": trial.outcome + (" (reused)" if trial.reused else ""),
        "detail": trial.detail,
        "ratio": times(trial.ratio) if trial.ratio is not None else "",
        "tone": "win" if winner and trial.candidate.id == winner.id else "ok" if trial.outcome == "passed" else "no",
    }


def _failures(story: Story) -> list[tuple[str, int]]:
    counted: dict[str, int] = {}
    for trial in story.trials.values():
        if trial.outcome != "passed":
            counted[trial.outcome] = counted.get(trial.outcome, 0) + 1
    return sorted(counted.items(), key=lambda pair: -pair[1])


def _claims(story: Story) -> list[tuple[str, str, str]]:
    """The fastest without and with an `algorithmic` claim."""
    found = []
    for claimed, text in ((False, "same algorithm"), (True, "with an algorithmic rewrite")):
        trial = story.fastest(claimed)
        if trial is not None and isinstance(trial.evaluation, Passed):
            interval = trial.evaluation.speedup()
            found.append((text, bounded(interval) if interval else "", trial.candidate.note or trial.candidate.id))
    return found


def _conditions(report: Report, evaluation: Passed | None) -> list[tuple[str, str]]:
    rows: list[tuple[str, str]] = []
    if report.description:
        caches = ", ".join(f"{k.upper()} {v // 1024} KiB" for k, v in report.description.cache_bytes.items())
        rows += [
            ("device", report.description.name),
            ("caches", caches),
            ("vector ISA", " ".join(report.description.isa)),
        ]
    if report.peaks:
        rows.append(
            (
                "measured peaks",
                f"copy {report.peaks.copy_bytes / 1e9:.1f} GB/s, FMA {report.peaks.fma_flops / 1e9:.0f} GFLOP/s",
            )
        )
    if evaluation and evaluation.conditions:
        c = evaluation.conditions
        rows += [
            ("cores", f"{c.threads} threads on cores {', '.join(map(str, c.cores))}"),
            ("last-level cache", f"{c.llc} before each timed call"),
            ("allocator", c.allocator),
            ("load, steal", f"{c.load:.2f}, {c.steal:.1%}".replace("%", " %")),
            ("sandbox", c.sandbox),
        ]
    if evaluation:
        interval = evaluation.speedup()
        if interval:
            rows.append(("pairs", f"{interval.pairs} kept, {interval.dropped} dropped as contaminated"))
        rows += [("tier", evaluation.tier), ("level", evaluation.level), ("labels", ", ".join(evaluation.labels))]
    rows += [(key, value) for key, value in report.run.environment.items()]
    return [(key, value) for key, value in rows if value]


def _commands(report: Report, candidate: Candidate | None) -> dict[str, str]:
    name = Path(report.run.task_path).name or "task.py"
    commands = {"look at every event": f"kernelmill report {report.run.id}"}
    if candidate:
        commands["verify it again on this machine"] = f"kernelmill evaluate {name} best/kernel.cpp"
    commands["search on where this stopped"] = f"kernelmill resume {report.run.id}"
    return commands
