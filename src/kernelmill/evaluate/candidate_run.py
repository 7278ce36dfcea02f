"""One candidate on one workload: verify, then time."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from kernelmill.errors import InfraError, LaunchError, StageError, TaskError, stage
from kernelmill.evaluate import timing
from kernelmill.evaluate.agreement import agree, tolerance
from kernelmill.evaluate.arrays import HostTensor
from kernelmill.evaluate.bench import Truth, WorkloadBench
from kernelmill.evaluate.cells import Call, candidate_policy
from kernelmill.evaluate.checks import accuracy, structure
from kernelmill.evaluate.failures import SpecialisedError
from kernelmill.evaluate.precision import coarsest
from kernelmill.evaluate.roofline import Floor, floor
from kernelmill.evaluate.settings import Settings
from kernelmill.evaluate.side import Side
from kernelmill.languages._base import Artifact
from kernelmill.schema import Accuracy, Comparison, Contract, Failed, Family, Inconclusive, Tier, WorkloadResult

AUDIT = 3
"""One in so many timed calls, in secret, is followed by a verification case that looks like any other call."""

T = TypeVar("T")
Cases = Iterable[tuple[Family, int]]


class Rejected(Exception):  # noqa: N818 - a verdict on its way out, not an error
    """A check said no."""

    def __init__(self, failed: Failed) -> None:
        super().__init__(failed.message)
        self.failed = failed


@dataclass
class CandidateRun:
    """A candidate's cell on one workload, from loading to the last timed call."""

    bench: WorkloadBench
    artifact: Artifact
    tier: Tier
    settings: Settings
    offset: int = 0
    """Elements by which inputs are off their natural alignment."""

    def __post_init__(self) -> None:
        policy = candidate_policy(self.artifact, self.settings.cells)
        cell = self.bench.server.spawn(policy)
        self.side = Side(cell, self.bench.signature, self.settings.call_limit_s, self.contract.mutates)
        self.worst: Accuracy | None = None
        self.given: Accuracy | None = None
        """The same on the task's own inputs, whose distribution timed calls have."""
        self.alike = False
        """Whether outputs are laid out as the reference's, without gaps: large ones can be compared piece by piece."""
        self.skipped: list[str] = []
        self.verified: list[tuple[Truth, Accuracy]] = []
        """Cases that were right, for audits between timed calls."""

    @property
    def contract(self) -> Contract:
        """The task's rules."""
        return self.bench.task.contract

    def start(self) -> None:
        """Load and bind. Raises BuildError."""
        self.side.load_artifact(self.artifact, self.settings.load_limit_s)
        if self.tier == "T2":
            self.side.cell.ask("tighten")
        self.side.bind(self.offset)

    def verify(self, cases: Cases) -> None:
        """Compare with the oracle on verification cases. Raises Rejected, StageError."""
        for family, index in cases:
            truth = self.bench.truth(family, index)
            if truth.skip:
                self.skipped.append(f"{family}: {truth.skip}")
                continue
            self.verified.append((truth, self._check(truth, self.run(truth.tensors, truth.case.replay))))

    def require_verdict(self) -> None:
        """After `verify`.

        Raises:
            TaskError: The task's own inputs say nothing, so any kernel would pass.
        """
        if self.given is None:
            raise TaskError(f"{self.bench.task.path}: no kernel can be judged: {self.skipped[0]}")

    def run(self, tensors: Sequence[HostTensor], replay: str) -> list[HostTensor]:
        """One call on poisoned memory; its outputs, structure checked."""
        try:
            self._poison()
            outputs = self._call(tensors)
            if not self.side.sizes:
                # What the launch allocates is known after a first call; only then has it poison and red zones.
                self._learn(outputs)
                self._poison()
                outputs = self._call(tensors)
        except SpecialisedError:
            raise
        except StageError as error:
            raise Rejected(self.failed(error, replay)) from error
        self._check_structure(outputs, replay)
        return outputs

    def _call(self, tensors: Sequence[HostTensor]) -> list[HostTensor]:
        self.side.load(tensors)
        self.side.call()
        return self.side.outputs()

    def failed(self, error: StageError, replay: str) -> Failed:
        """A stage's error as the verdict."""
        return Failed(stage=error.stage, message=str(error), workload=self.bench.workload.name, replay=replay)  # type: ignore[arg-type]

    def _poison(self) -> None:
        if self.tier == "T2" and self.side.sizes:
            self.side.forget()

    def _learn(self, outputs: Sequence[HostTensor]) -> None:
        self.side.sizes = [o.storage.nbytes for o in outputs]
        self.side.learn_arena()

    def _check_structure(self, outputs: Sequence[HostTensor], replay: str) -> None:
        failed = structure(self.bench.signature.outputs, [o.spec for o in outputs], self.contract)
        if failed is None and not self.contract.may_alias:
            failed = self._aliasing(outputs)
        if failed:
            raise Rejected(failed.model_copy(update={"workload": self.bench.workload.name, "replay": replay}))

    def _aliasing(self, outputs: Sequence[HostTensor]) -> Failed | None:
        for number, output in enumerate(outputs):
            shared = self.side.aliases(output)
            if shared and not self._reference_aliases(number):
                message = f"output {number} shares memory with input {shared!r}; return a tensor of its own"
                return Failed(stage="integrity", clause="may_alias", message=message)
        return None

    def _reference_aliases(self, number: int) -> bool:
        return self.bench.signature.outputs[number].name in self.bench.aliased_outputs

    def _check(self, truth: Truth, outputs: Sequence[HostTensor]) -> Accuracy:
        self.alike = all(
            ours.spec.stride == right.spec.stride and ours.storage.size == ours.spec.numel
            for ours, right in zip(outputs, truth.case.native, strict=True)
        )
        seen, failed = accuracy(outputs, self.contract, truth.case)
        if failed:
            raise Rejected(failed.model_copy(update={"workload": self.bench.workload.name}))
        self.worst = seen if self.worst is None else _worse(self.worst, seen)
        if truth.family == "given":
            self.given = seen if self.given is None else _worse(self.given, seen)
        return seen

    def compare(
        self, limits: timing.Limits, names: Sequence[str], instruments: timing.Instruments
    ) -> dict[str, Comparison]:
        """Time against baselines. Raises Rejected, Undecided, StageError."""
        baselines: dict[str, timing.Side] = {name: _Trusted(name, self.bench.baseline(name)) for name in names}
        try:
            found = timing.compare(self.side, baselines, self, self._verify_timed, limits, instruments)
        except StageError as error:
            raise Rejected(self.failed(error, "a timed call")) from error
        if isinstance(found, Failed):
            raise Rejected(found.model_copy(update={"workload": self.bench.workload.name}))
        if isinstance(found, Inconclusive):
            raise Undecided(found.reason)
        return found

    def _verify_timed(
        self, tensors: Sequence[HostTensor], ours: list[HostTensor], native: list[HostTensor], index: int
    ) -> Failed | None:
        self._check_structure(ours, f"timed call {index}")
        if self.given is None:
            return None
        doubt = agree(ours, native, tolerance(self.given, self.contract), self.part(index))
        if doubt is None:
            return self._audit(index)
        if self.part(index) is not None:
            ours = self.side.outputs()
        # The baseline may be the inaccurate side: only the oracle rejects.
        _, failed = accuracy(ours, self.contract, self.bench.answer(list(tensors), f"timed call {index}"))
        if failed is None:
            return None
        return failed.model_copy(update={"stage": "integrity", "message": f"a timed call is wrong: {failed.message}"})

    def fresh(self, index: int) -> Sequence[HostTensor]:
        """Content of one timed call."""
        return self.bench.content.fresh(index)

    def part(self, index: int) -> int | None:
        """What of large tensors is looked at after a timed call."""
        return self.bench.content.part(index) if self.alike else None

    def _audit(self, index: int) -> Failed | None:
        """Now and then run a verification case again, with nothing but its content to tell it from timed calls.

        Timed content has the distribution of the task's own inputs. Without audits, a candidate that counts its
        calls could leave out what only other distributions need (ReLU of numbers that are all positive).
        """
        secret = self.bench.secret_number(f"audit{index}")
        if secret % AUDIT or not self.verified:
            return None
        truth, seen = self.verified[(secret >> 8) % len(self.verified)]
        outputs = self._call(truth.tensors)
        self._check_structure(outputs, truth.case.replay)
        if agree(outputs, truth.case.native, tolerance(seen, self.contract)) is None:
            return None
        _, failed = accuracy(outputs, self.contract, truth.case)
        if failed is None:
            return None
        message = f"a verification case that was right is wrong between timed calls: {failed.message}"
        return failed.model_copy(update={"stage": "integrity", "message": message})

    def floor(self) -> Floor | None:
        """What this device needs at least, matrix arithmetic included."""
        if self.settings.rates is None:
            return None
        return floor(self.bench.signature, self.bench.flops, self.settings.rates, self.settings.llc)

    def memory_floor(self) -> Floor | None:
        """The part of the floor that no rewrite avoids."""
        if self.settings.rates is None:
            return None
        return floor(self.bench.signature, 0.0, self.settings.rates, self.settings.llc)

    def profile(self) -> dict[str, float]:
        """Median microseconds of each step of a declared launch, on the child's clock."""
        answer = self.side.cell.ask("profile", self.settings.call_limit_s * 5, repeats=5)
        with stage(LaunchError):
            return {str(name): float(seconds) * 1e6 for name, seconds in answer["steps"].items()}

    def result(self, comparisons: dict[str, Comparison]) -> WorkloadResult:
        """What was found so far."""
        least = self.floor()
        times = sorted(t for c in comparisons.values() for t in c.candidate_us)
        seen = self.worst or Accuracy(error=0, native_error=0, budget=0, precision="none", cases=1)
        return WorkloadResult(
            workload=self.bench.workload.name,
            accuracy=seen.model_copy(update={"skipped": tuple(self.skipped)}),
            comparisons=tuple(comparisons.values()),
            time_us=times[len(times) // 2] if times else None,
            floor_us=least.time_us if least else None,
            floor_bound=least.bound if least else None,
        )

    def close(self) -> None:
        """End the cell."""
        self.side.cell.close()


class _Trusted:
    """A baseline's side: where it fails, that is the machine's fault and not the candidate's."""

    def __init__(self, name: str, side: Side) -> None:
        self.name, self.side = name, side
        self.pid = side.pid

    def load(self, tensors: Sequence[HostTensor]) -> None:
        """Write its inputs. Raises InfraError."""
        self._guarded(lambda: self.side.load(tensors))

    def null_call(self) -> float:
        """Seconds of its handshake. Raises InfraError."""
        return self._guarded(self.side.null_call)

    def call(self) -> Call:
        """One call of the baseline. Raises InfraError."""
        return self._guarded(self.side.call)

    def outputs(self, part: int | None = None) -> list[HostTensor]:
        """Its outputs. Raises InfraError."""
        return self._guarded(lambda: self.side.outputs(part))

    def _guarded(self, action: Callable[[], T]) -> T:
        try:
            return action()
        except StageError as error:
            raise InfraError(f"the {self.name} baseline failed: {error}") from error


class Undecided(Exception):  # noqa: N818 - an outcome on its way out, not an error
    """The machine did not let us say."""


def _worse(first: Accuracy, second: Accuracy) -> Accuracy:
    """The accuracy nearer to its budget, with both cases counted."""

    def share(a: Accuracy) -> float:
        return a.error / a.budget if a.budget else a.error

    worst = max(first, second, key=share)
    return worst.model_copy(
        update={"cases": first.cases + second.cases, "precision": coarsest([first.precision, second.precision])}
    )
