"""Is it right, is it honest, how fast: the order of the checks, and the verdict.

build -> load -> structure -> numerics (public cases) -> timed calls, each verified -> held-out.
The order is part of what a number means; checks are not plugins.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from random import Random
from types import TracebackType

from kernelmill.errors import BuildError, InfraError, StageError
from kernelmill.evaluate import machine, timing
from kernelmill.evaluate.bench import WorkloadBench
from kernelmill.evaluate.candidate_run import CandidateRun, Cases, Rejected, Undecided
from kernelmill.evaluate.cells import Server
from kernelmill.evaluate.failures import SpecialisedError
from kernelmill.evaluate.held_out import held_out_workloads
from kernelmill.evaluate.roofline import bytes_moved
from kernelmill.evaluate.settings import Settings
from kernelmill.languages._base import Language
from kernelmill.registry import Registry
from kernelmill.schema import (
    Accuracy,
    Candidate,
    Comparison,
    Conditions,
    Evaluation,
    Failed,
    Inconclusive,
    Level,
    Passed,
    Task,
    Workload,
    WorkloadResult,
)

languages: Registry[Language] = Registry("kernelmill.languages", Language)

COMPETITIVE = 1.15
"""A baseline this much slower than the best is left out of screening."""

LARGE_BYTES = 96 * 2**20
"""Inputs, state and outputs of a workload whose verification cases are few."""

SLOW_ANSWER_S = 0.3
"""The same for a workload whose oracle takes this long for one case."""

SECOND_MEASUREMENT = 10_000
"""Index of the first content of a comparison that is made again in the same process."""

LIMITS = {
    "screening": timing.Limits.screening,
    "full": timing.Limits.full,
    "promotion": timing.Limits.promotion,
}


@dataclass
class Evaluator:
    """Judges candidates of one task. A context manager: it owns processes.

    Not thread-safe: a measurement owns the machine.
    """

    task: Task
    server: Server
    settings: Settings
    seed: bytes = field(default_factory=lambda: secrets.token_bytes(32))
    _benches: dict[str, WorkloadBench] = field(default_factory=dict)
    _slow: dict[str, set[str]] = field(default_factory=dict)
    """Workload -> baselines that are out of the race."""
    _languages: dict[str, Language] = field(default_factory=dict)
    _instruments: timing.Instruments | None = None
    _flops: dict[str, float] = field(default_factory=dict)
    """Workload -> arithmetic of one call; the same whatever the seed."""

    def __enter__(self) -> Evaluator:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End all cells of this evaluator."""
        for bench in self._benches.values():
            bench.close()
        self._benches.clear()
        self._slow.clear()

    def reveal(self) -> str:
        """The secret seed in hexadecimal, for the evidence. Call it when no candidate will be judged any more."""
        return self.seed.hex()

    def bench(self, workload: Workload) -> WorkloadBench:
        """Oracle, baselines and content of a workload."""
        if workload.name not in self._benches:
            self._benches[workload.name] = WorkloadBench(
                self.server, self.task, workload, self.settings.reference, self.seed, known_flops=self._flops
            )
        return self._benches[workload.name]

    def _language(self, candidate: Candidate) -> Language:
        if candidate.language not in self._languages:
            self._languages[candidate.language] = languages.get(candidate.language)()
        return self._languages[candidate.language]

    def begin(self) -> None:
        """Start what the first measurement needs beside what is done before it."""
        self.bench(self.task.workloads[0]).begin(self.settings.baselines)

    def trace(self, tracer: str, workload: Workload | None = None) -> str:
        """A workload's graph as JSON, the first's by default; `tracer` is the module that makes it.

        Raises:
            TaskError: The reference cannot be traced.
        """
        return self.bench(workload or self.task.workloads[0]).trace(tracer)

    def evaluate(self, candidate: Candidate, level: Level = "full") -> Evaluation:
        """One candidate's verdict.

        Args:
            level: `smoke` one case, no timing. `screening` some cases, a few pairs. `full` all families, tight
                intervals. `promotion` all of it on a fresh seed in fresh processes, and held-out workloads.

        Raises:
            InfraError: The machine failed, not the candidate; try again.
            TaskError: The reference fails.
        """
        start = time.monotonic()
        try:
            outcome = self._promote(candidate) if level == "promotion" else self._judge(candidate, level)
        except InfraError:
            self.close()  # whichever process was lost, the next attempt starts all anew
            raise
        return outcome.model_copy(update={"seconds": time.monotonic() - start})

    def _promote(self, candidate: Candidate) -> Evaluation:
        fresh = Evaluator(self.task, self.server, self.settings, _instruments=self._instruments, _flops=self._flops)
        with fresh:
            self.seed_of_promotion = fresh.reveal()
            return fresh._judge(candidate, "promotion")

    def _judge(self, candidate: Candidate, level: Level) -> Evaluation:
        plugin = self._language(candidate)
        results: list[WorkloadResult] = []
        labels: set[str] = {f"claim:{claim}" for claim in candidate.claims}
        before = machine.CpuTimes.read()
        try:
            tier = plugin.tier(candidate)
            for workload in self.task.workloads:
                artifact = plugin.build(candidate, workload.signature)
                labels.update(artifact.labels)
                run = CandidateRun(self.bench(workload), artifact, tier, self.settings)
                results.append(self._workload(run, level))
            if all(r.specialised for r in results):
                message = "the candidate's own guards refuse every workload of the task"
                return Failed(stage="launch", message=message)
            held_out = self._held_out(candidate) if level == "promotion" else ()
        except BuildError as error:
            return Failed(stage="build", message=str(error))
        except Rejected as rejected:
            return rejected.failed
        except Undecided as undecided:
            return Inconclusive(reason=str(undecided), results=tuple(results))
        return Passed(
            level=level,
            tier=tier,
            results=tuple(results),
            held_out=tuple(held_out),
            conditions=self._conditions(before),
            labels=tuple(sorted(labels | self._notes())),
        )

    def _workload(self, run: CandidateRun, level: Level) -> WorkloadResult:
        try:
            if level != "smoke":
                run.bench.begin(self._raced(run.bench, level))
            run.start()
            run.verify(self._cases(level, run.bench))
            run.require_verdict()
            comparisons = self._compare(run, level)
            found = run.result(comparisons)
            if level != "smoke":
                found = found.model_copy(update={"profile": run.profile()})
            return found
        except SpecialisedError:
            accuracy = Accuracy(error=0, native_error=0, budget=0, precision="none", cases=1)
            return WorkloadResult(workload=run.bench.workload.name, accuracy=accuracy, specialised=True)
        except StageError as error:
            raise Rejected(run.failed(error, "profiling")) from error
        finally:
            run.close()

    def _cases(self, level: Level, bench: WorkloadBench) -> Cases:
        """Verification cases; on a workload so large that a case takes a second, each family once."""
        families = self.task.contract.families
        if level == "smoke":
            return [("given", 0)]
        large = bytes_moved(bench.signature) > LARGE_BYTES or bench.answer_s > SLOW_ANSWER_S
        if level == "screening":
            few = [("given", 0), *((f, 0) for f in families[1:3])]
            return few[:2] if large else [("given", 2), *few]
        repeats = 2 if level == "promotion" and not large else 1
        given = 2 if large else 4
        return [("given", i) for i in range(given)] + [(f, i) for f in families if f != "given" for i in range(repeats)]

    def _compare(self, run: CandidateRun, level: Level) -> dict[str, Comparison]:
        if level == "smoke":
            return {}
        name = run.bench.workload.name
        names = self._baselines(run.bench, level)
        found = self._timed(run, level, names)
        if level == "full" or name not in self._slow:
            self._slow[name] = _beaten(found)
        return found

    def _timed(self, run: CandidateRun, level: Level, names: Sequence[str]) -> dict[str, Comparison]:
        """Timed against the floor; where it beats that, the floor is measured again before the candidate is blamed."""
        try:
            return run.compare(self._limits(run, level), names, self.instruments)
        except Rejected as rejected:
            if rejected.failed.stage != "implausible" or self.settings.remeasure is None:
                raise
        self.settings = replace(self.settings, rates=self.settings.remeasure(), remeasure=None)
        run.settings = self.settings
        limits = replace(self._limits(run, level), first=SECOND_MEASUREMENT)
        return run.compare(limits, names, self.instruments)

    def _limits(self, run: CandidateRun, level: Level) -> timing.Limits:
        limits = LIMITS[level](self.settings.budget_s)
        return replace(limits, floor=run.memory_floor(), llc=self.settings.llc)

    def _baselines(self, bench: WorkloadBench, level: Level) -> Sequence[str]:
        working = [n for n in self._raced(bench, level) if bench.works(n)]
        return working or [n for n in self.settings.baselines if bench.works(n)]

    def _raced(self, bench: WorkloadBench, level: Level) -> Sequence[str]:
        """All baselines; for screening only those in the race."""
        beaten = self._slow.get(bench.workload.name, set()) if level == "screening" else set()
        return [n for n in self.settings.baselines if n not in beaten]

    @property
    def instruments(self) -> timing.Instruments:
        """Cache flusher and machine counters, made once."""
        if self._instruments is None:
            self._instruments = timing.Instruments.for_cache(self.settings.llc_bytes)
        return self._instruments

    def _held_out(self, candidate: Candidate) -> list[WorkloadResult]:
        """Cases that no search has seen: other alignments, and other shapes where the task declares a domain."""
        plugin = self._language(candidate)
        tier = plugin.tier(candidate)
        results = []
        for held in held_out_workloads(self, Random(self.seed)):
            artifact = plugin.build(candidate, held.bench.signature)
            run = CandidateRun(held.bench, artifact, tier, self.settings, held.offset)
            try:
                results.append(self._held_out_result(run, held.name, held.cases))
            finally:
                run.close()
        return results

    def _held_out_result(self, run: CandidateRun, name: str, cases: Cases) -> WorkloadResult:
        try:
            run.start()
            run.verify(cases)
        except SpecialisedError:
            accuracy = Accuracy(error=0, native_error=0, budget=0, precision="none", cases=1)
            return WorkloadResult(workload=name, accuracy=accuracy, specialised=True)
        except Rejected as rejected:
            failed = rejected.failed
            message = f"held-out {name}: {failed.stage}: {failed.message}"
            raise Rejected(failed.model_copy(update={"stage": "held_out", "message": message})) from rejected
        return run.result({}).model_copy(update={"workload": name})

    def _notes(self) -> set[str]:
        return {note for bench in self._benches.values() for note in bench.notes}

    def _conditions(self, before: machine.CpuTimes) -> Conditions:
        after = machine.CpuTimes.read()
        cells = self.settings.cells
        layers = [layers for bench in self._benches.values() for layers in bench.layers][:1]
        return Conditions(
            threads=cells.threads,
            cores=cells.cores,
            llc=self.settings.llc,
            load=machine.load(),
            steal=machine.steal_share(before, after),
            allocator="neutral" if self.server.neutral_allocator else "default",
            sandbox=f"guard: {' '.join(layers[0])}" if layers and layers[0] else "off",
        )


def _beaten(found: dict[str, Comparison]) -> set[str]:
    """Baselines that are clearly not the fastest; against those the candidate's speed-up is larger."""
    least = min(c.interval.ratio for c in found.values())
    return {name for name, c in found.items() if c.interval.low > least * COMPETITIVE}
