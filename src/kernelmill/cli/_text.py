"""Results as text for people, as plain data for programs, and as an exit code."""

from __future__ import annotations

import math
import os.path
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from kernelmill.errors import BudgetError, InfraError
from kernelmill.export.folding import Trial, fold
from kernelmill.export.record import Run
from kernelmill.export.words import baseline_name, bounded, duration, headline
from kernelmill.optimize.card import Card, WorkloadCard
from kernelmill.optimize.diagnosis import Diagnosis
from kernelmill.schema import Contract, Evaluation, Failed, Inconclusive, Passed, Scalar, TensorSpec, WorkloadResult

NEGATIVE = 1
TAMPERING = 7
INTERRUPTED = 130


def evaluation_code(found: Evaluation) -> int:
    """0 right and not slower, 1 wrong, slower or undecided, 7 tampering."""
    match found:
        case Failed(stage="integrity"):
            return TAMPERING
        case Passed():
            interval = found.speedup()
            return NEGATIVE if interval is not None and interval.high < 1.0 else 0
    return NEGATIVE


def evaluation_text(found: Evaluation, *, verbose: bool = False) -> str:
    """A verdict with its evidence."""
    match found:
        case Failed():
            where = f" on {found.workload}" if found.workload else ""
            clause = f"\ncontract clause: {found.clause}" if found.clause else ""
            replay = f"\nreplay: {found.replay}" if found.replay else ""
            return f"FAILED at {found.stage}{where}: {found.message}{clause}{replay}"
        case Inconclusive():
            return f"UNDECIDED: {found.reason}"
        case Passed():
            lines = [f"PASSED ({found.level}, {found.tier}): {headline(found)}"]
            lines += [line for result in found.results for line in _result_lines(result, verbose=verbose)]
            lines += [f"  held out {r.workload}: {_accuracy(r)}" for r in found.held_out]
            return "\n".join(lines + _conditions(found))


def _result_lines(result: WorkloadResult, *, verbose: bool) -> list[str]:
    if result.specialised:
        return [f"  {result.workload}: not taken by the kernel; the reference answers"]
    time = f"{duration(result.time_us)}" if result.time_us else "not timed"
    floor = f", floor {duration(result.floor_us)} ({result.floor_bound})" if result.floor_us else ""
    lines = [f"  {result.workload}: {time}{floor}; {_accuracy(result)}"]
    for c in sorted(result.comparisons, key=lambda c: c.interval.ratio):
        pairs = f"{c.interval.pairs} pairs, {c.interval.dropped} dropped"
        lines.append(f"    {bounded(c.interval)} against {baseline_name(c.baseline)} ({pairs})")
    if verbose:
        lines += [f"    step {step}: {duration(us)}" for step, us in result.profile.items()]
    return lines


def _accuracy(result: WorkloadResult) -> str:
    if result.specialised:
        return "not taken by the kernel"
    a = result.accuracy
    skipped = f", skipped: {'; '.join(a.skipped)}" if a.skipped else ""
    return f"{a.precision} accuracy, error {a.error:.1e} of {a.budget:.1e} allowed on {a.cases} cases{skipped}"


def _conditions(found: Passed) -> list[str]:
    labels = [f"  notes: {', '.join(found.labels)}"] if found.labels else []
    c = found.conditions
    if c is None:
        return labels
    return [
        *labels,
        f"  measured with {c.threads} threads on cores {' '.join(map(str, c.cores))}, {c.llc} cache, "
        f"{c.allocator} allocator, load {c.load:.2f}, steal {c.steal:.1%}",
        f"  sandbox: {c.sandbox}",
    ]


def card_text(card: Card) -> str:
    """A task for people."""
    task = card.task
    lines = [f"{task.name} ({task.suite}, {brief(Path(task.path))})"]
    if task.doc:
        lines += ["", *(f"  {line}".rstrip() for line in task.doc.splitlines())]
    for workload in card.workloads:
        lines += ["", *_workload_lines(workload)]
    lines += ["", "contract:", *(f"  {clause}" for clause in _clauses(task.contract))]
    domain = [f"{n} from {a.low} to {a.high} in steps of {a.multiple}" for n, a in task.axes.items()]
    lines.append(f"  held-out shapes: {', '.join(domain) if domain else 'none, the shapes are static'}")
    if card.program:
        lines += ["", "program that would be generated first:", *(f"  {step}" for step in card.program)]
    return "\n".join([*lines, "", "to implement:", "", card.template.rstrip()])


def _workload_lines(card: WorkloadCard) -> list[str]:
    signature = card.workload.signature
    sizes = ", ".join(f"{k}={v}" for k, v in card.workload.axes.items())
    lines = [f"workload {card.workload.name}{f' ({sizes})' if sizes else ''}:"]
    for part in (*signature.arguments, *signature.state, *signature.outputs):
        if isinstance(part, Scalar):
            lines.append(f"  argument {part.name} = {part.value!r}")
        else:
            lines.append(f"  {part.role} {_tensor(part)}")
    flops = f", {card.flops / 1e9:.3g} GFLOP in products" if card.flops else ""
    lines.append(f"  moves at least {size(card.bytes_moved)}{flops}")
    if card.floor:
        lines.append(f"  cannot take less than {duration(card.floor.time_us)} here ({card.floor.bound} bound)")
    return lines


def _tensor(spec: TensorSpec) -> str:
    return f"{spec.name}: {spec.dtype}{list(spec.shape)}, strides {list(spec.stride)}"


def _clauses(contract: Contract) -> list[str]:
    """Every clause in words."""
    level = "the reference's own" if contract.precision == "native" else contract.precision
    return [
        f"precision: {level}; at most {contract.error_factor:g} times the reference's own error from fp64",
        f"output_strides: {'those of eager' if contract.output_strides == 'same' else 'any'}",
        f"may_alias: outputs {'may' if contract.may_alias else 'may not'} share memory with inputs",
        f"mutates: {', '.join(contract.mutates) or 'nothing; inputs are read-only'}",
        f"algorithmic: rewrites that change the asymptotic work are {'welcome' if contract.algorithmic else 'refused'}",
        f"differentiable: {'gradients are needed' if contract.differentiable else 'inference only'}",
        f"training: the module runs in {'train' if contract.training else 'eval'} mode",
        f"families: right on inputs that are {', '.join(contract.families)}",
    ]


def card_data(card: Card) -> dict[str, Any]:
    """The same for programs."""
    return {
        "task": card.task.model_dump(mode="json"),
        "workloads": [
            {
                "name": w.workload.name,
                "bytes_moved": w.bytes_moved,
                "flops": w.flops,
                "floor_us": w.floor.time_us if w.floor else None,
                "floor_bound": w.floor.bound if w.floor else None,
            }
            for w in card.workloads
        ],
        "template": card.template,
        "program": card.program,
    }


def run_code(run: Run) -> int:
    """0 a gain, 1 none, 5 nothing could be timed, 6 nothing was right before the budget ended, 130 interrupted."""
    if run.interrupted:
        return INTERRUPTED
    if run.best is not None:
        return 0
    if run.undecided:
        return InfraError.exit_code
    return NEGATIVE if run.passed else BudgetError.exit_code


def run_text(run: Run) -> str:
    """A run's result and what to do next."""
    lines = [run.headline]
    if run.best is not None:
        lines.append(f"  kernel: {run.best.note or run.best.id} ({run.best.language})")
    if run.evaluation is not None:
        lines += [line for result in run.evaluation.results for line in _result_lines(result, verbose=False)]
        lines += [f"  {label}" for label in run.evaluation.labels if label.startswith("no ")]
        lines.append(f"  held: {_held(run.evaluation)}, fresh process, fresh seed")
    lines.append(f"  stopped: {run.stopped or 'it was cut off'}")
    if run.module:
        lines.append(f"  module: {brief(run.module)}")
    if run.report.is_file():
        lines.append(f"  report: {brief(run.report)}")
    if run.interrupted:
        lines.append(f"  go on: kernelmill runs resume {run.info.id}")
    return "\n".join(lines)


def _held(found: Passed) -> str:
    taken = sum(not r.specialised for r in found.held_out)
    rest = len(found.held_out) - taken
    if not rest:
        return f"{taken} held-out cases"
    return (
        f"{taken} of {len(found.held_out)} held-out cases, the reference answers {rest} that the kernel does not take"
    )


def run_data(run: Run) -> dict[str, Any]:
    """The same for programs."""
    return {
        "run": run.info.model_dump(mode="json"),
        "exit_code": run_code(run),
        "headline": run.headline,
        "stopped": run.stopped,
        "speedup": run.speedup.model_dump() if run.speedup else None,
        "best": run.best.id if run.best else None,
        "evaluation": run.evaluation.model_dump(mode="json") if run.evaluation else None,
        "folder": str(run.folder),
        "module": str(run.module) if run.module else None,
        "report": str(run.report) if run.report.is_file() else None,
    }


def _without_speedup(run: Run) -> str:
    if run.undecided:
        return "no verdict"
    return "nothing promoted yet" if run.interrupted else "no gain"


def runs_text(found: Sequence[Run]) -> str:
    """One line a run."""
    rows = [("run", "searcher", "candidates", "right", "seconds", "result")]
    for run in found:
        story = fold(run.events)
        result = bounded(run.speedup) if run.speedup else _without_speedup(run)
        rows.append(
            (
                run.info.id,
                run.info.searcher,
                str(len(story.trials)),
                str(run.passed),
                f"{story.seconds:.0f}",
                f"{result}{' (interrupted)' if run.interrupted else ''}",
            )
        )
    return table(rows) if found else "no runs here yet; start one: kernelmill optimize TASK.py"


def trials_text(run: Run) -> str:
    """One line a candidate."""
    rows: list[Sequence[str]] = [("#", "candidate", "outcome", "speed-up", "what")]
    rows += [_trial_row(trial) for trial in fold(run.events).trials.values()]
    return table(rows)


def _trial_row(trial: Trial) -> tuple[str, ...]:
    interval = trial.evaluation.speedup() if isinstance(trial.evaluation, Passed) else None
    detail = trial.detail.splitlines()[0][:80] if trial.detail else ""
    what = f"{trial.candidate.note}: {detail}" if detail else trial.candidate.note
    return str(trial.number), trial.candidate.id, trial.outcome, bounded(interval) if interval else "", what


def trials_data(run: Run) -> list[dict[str, Any]]:
    """The same for programs."""
    return [
        {
            "number": t.number,
            "candidate": t.candidate.id,
            "outcome": t.outcome,
            "detail": t.detail,
            "ratio": t.ratio,
            "parent": t.parent,
            "note": t.candidate.note,
            "held": t.held,
        }
        for t in fold(run.events).trials.values()
    ]


def diagnosis_text(found: Diagnosis, *, verbose: bool = False) -> str:
    """A diagnosis, what to do about it, and which attacks on the sandbox were stopped."""
    lines = [table([(f.name, f.status, f.text) for f in found.findings])]
    open_doors = [p for p in found.probes if not p.blocked]
    if found.probes:
        lines.append(
            f"\n{len(found.probes) - len(open_doors)} of {len(found.probes)} attacks on the sandbox were stopped"
        )
    lines += [f"  {'stopped' if p.blocked else 'OPEN'}: {p.name}" for p in found.probes if verbose or not p.blocked]
    remedies = [f"  {f.name}: {f.remedy}" for f in found.findings if f.remedy]
    if remedies:
        lines += ["\nto mend:", *remedies]
    lines.append("\nready" if found.able else "\nnot ready: something above is missing")
    return "\n".join(lines)


def table(rows: Sequence[Sequence[str]]) -> str:
    """Columns aligned with spaces; the last one is as long as it is."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]) - 1)]
    return "\n".join(
        "  ".join([*(cell.ljust(width) for cell, width in zip(row, widths, strict=False)), row[-1]]).rstrip()
        for row in rows
    )


def brief(path: Path) -> str:
    """A path as short as it can be typed here: relative in this folder, with `~` in the home folder."""
    whole = path.absolute()
    for folder, prefix in ((Path.cwd(), ""), (Path(os.path.expanduser("~")), "~/")):
        if whole.is_relative_to(folder):
            return f"{prefix}{whole.relative_to(folder)}"
    return str(whole)


def size(count: int) -> str:
    """Bytes in the unit that fits."""
    power = min(3, int(math.log2(count) // 10)) if count else 0
    return f"{count / 2 ** (10 * power):.3g} {('bytes', 'KiB', 'MiB', 'GiB')[power]}"
