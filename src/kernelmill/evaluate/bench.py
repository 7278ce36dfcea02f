"""All that is trusted about one workload: oracle, baselines, secret content."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import cache, cached_property

from kernelmill.errors import InfraError, StageError, TaskError
from kernelmill.evaluate.arrays import HostTensor
from kernelmill.evaluate.cells import Server
from kernelmill.evaluate.checks import Case, meaningless
from kernelmill.evaluate.content import ContentSource
from kernelmill.evaluate.exact import EXACT_FAMILIES, Reach
from kernelmill.evaluate.precision import reduction_estimate
from kernelmill.evaluate.reference import ReferenceCell, ReferencePolicy
from kernelmill.evaluate.side import Side
from kernelmill.schema import Family, Signature, Task, Workload

GIVEN_SETS = 2
"""Draws of the task's own generator that content is made from."""

CACHE_BYTES = 2 * 2**30
"""Verification cases kept with their answers, over all candidates of a run."""


@dataclass(frozen=True)
class Truth:
    """One verification case and its right answer."""

    family: Family
    tensors: list[HostTensor]
    """Arguments, then state."""
    case: Case
    """Its right answer."""
    skip: str | None
    """Why the case says nothing about a candidate, or None."""
    seconds: float = 0.0
    """What the answer took."""

    @property
    def nbytes(self) -> int:
        """Memory it takes."""
        held = [t.storage for t in (*self.tensors, *self.case.native)]
        return sum(a.nbytes for a in (*held, *self.case.oracle))


@dataclass
class WorkloadBench:
    """One workload, its oracle and its baselines, each in a cell of its own.

    Everything derives from `seed`; a promotion makes new benches with a new one.
    """

    server: Server
    task: Task
    workload: Workload
    policy: ReferencePolicy
    seed: bytes
    limit_s: float = 300.0
    known_flops: dict[str, float] = field(default_factory=dict)
    """Workload -> arithmetic of one call, where an earlier bench has counted it."""
    _truths: dict[tuple[Family, int], Truth] = field(default_factory=dict)
    _baselines: dict[str, Side] = field(default_factory=dict)
    _starting: dict[str, Future[Side]] = field(default_factory=dict)
    _cells: list[ReferenceCell] = field(default_factory=list)
    _broken: set[str] = field(default_factory=set)
    notes: set[str] = field(default_factory=set)
    """What was observed about the task and its baselines, for the labels of a verdict."""

    def _reference(self, mode: str, *, prepared: bool = False) -> ReferenceCell:
        compiles = mode == "compile"
        policy, task = self.policy.policy(processes=compiles), self.task
        prepared = prepared or compiles
        cell = ReferenceCell(self.server, task.source, task.suite, task.path, policy, prepared=prepared)
        self._cells.append(cell)
        cell.setup(self.workload.axes, self.task.contract, mode)
        return cell

    def trace(self, tracer: str) -> str:
        """The graph as JSON; `tracer` is the module that makes it. Raises TaskError.

        In a prepared cell: what tracing imports makes a temporary folder in torch 2.6, and cells may not write.
        """
        with self._prepared() as cell:
            return cell.trace(tracer)

    @contextmanager
    def _prepared(self) -> Iterator[ReferenceCell]:
        cell = self._reference("eager", prepared=True)
        try:
            yield cell
        finally:
            cell.close()
            self._cells.remove(cell)

    @cached_property
    def oracle(self) -> ReferenceCell:
        """The cell that knows the answers."""
        return self._reference("eager")

    @cached_property
    def _oracle_side(self) -> Side:
        return self.oracle.side(self.limit_s)

    @property
    def signature(self) -> Signature:
        """What the workload takes and returns."""
        return self.workload.signature

    @cached_property
    def content(self) -> ContentSource:
        """Secret inputs."""
        numbers = [self.secret_number(f"given{i}") for i in range(GIVEN_SETS)]
        given = [self.oracle.given(number) for number in numbers]
        return ContentSource(self.signature, given, self._derive("content"), self.task.contract)

    def _derive(self, purpose: str) -> bytes:
        return hashlib.sha256(self.seed + f"/{self.workload.name}/{purpose}".encode()).digest()

    def secret_number(self, purpose: str) -> int:
        """32 bits that follow from the secret seed: the same for the same purpose, and not to be foreseen."""
        return int.from_bytes(self._derive(purpose)[:4], "little")

    @cached_property
    def reduction(self) -> int:
        """Terms of the longest sum, for the error budget."""
        return reduction_estimate(self.signature)

    @property
    def flops(self) -> float:
        """Matrix and convolution arithmetic of one call, one multiply-add counted as 2."""
        if self.workload.name not in self.known_flops:
            # In a prepared cell: counting imports what takes 2 s elsewhere.
            with self._prepared() as cell:
                self.known_flops[self.workload.name] = cell.flops()
        return self.known_flops[self.workload.name]

    @property
    def answer_s(self) -> float:
        """Seconds for one verification case's answer."""
        return self.truth("given", 0).seconds

    @cached_property
    def aliased_outputs(self) -> frozenset[str]:
        """Outputs that the reference itself returns as views of an input."""
        outputs = self._native(self.content.case("given", 0))
        named = zip(self.signature.outputs, outputs, strict=True)
        return frozenset(spec.name for spec, output in named if self._oracle_side.aliases(output))

    def truth(self, family: Family, index: int) -> Truth:
        """A verification case, from the cache where it was asked for before.

        Raises:
            TaskError: The reference fails on its own generator's inputs.
        """
        key = (family, index)
        if key not in self._truths:
            truth = self._work_out(family, index)
            if sum(t.nbytes for t in self._truths.values()) + truth.nbytes > CACHE_BYTES:
                return truth
            self._truths[key] = truth
        return self._truths[key]

    def _work_out(self, family: Family, index: int, *, again: bool = True) -> Truth:
        tensors = self.content.case(family, index)
        replay = self.content.replay(family, index)
        side, start = self._oracle_side, time.monotonic()
        try:
            side.load(tensors)
            side.call()
            native = side.outputs(keep=True)
            oracle = self.oracle.double(side)
        except (StageError, TaskError) as error:
            if side.cell.ended:
                # Killed from outside, or by this case; with the dead process all later cases would be skipped.
                self._drop_oracle()
                if again:
                    return self._work_out(family, index, again=False)
            if family == "given":
                raise TaskError(f"{self.task.path}: the reference fails on its own inputs: {error}") from error
            return Truth(family, tensors, Case([], [], replay), f"the reference raises: {error}")
        reach = self._reach(tensors) if family not in EXACT_FAMILIES else dict
        case = Case(oracle, native, replay, self.reduction, reach)
        return Truth(family, tensors, case, meaningless(oracle, native), time.monotonic() - start)

    def _drop_oracle(self) -> None:
        """Forget a process that has ended; the next question starts another."""
        self._cells.remove(self.oracle)
        self.oracle.close()
        del self.oracle, self._oracle_side

    def _native(self, tensors: list[HostTensor]) -> list[HostTensor]:
        side = self._oracle_side
        try:
            side.load(tensors)
            side.call()
            return side.outputs()
        except StageError as error:
            raise InfraError(f"the reference fails where it did not before: {error}") from error

    def answer(self, tensors: list[HostTensor], replay: str) -> Case:
        """The right answer on any content.

        Raises:
            InfraError: The reference does not run, which is not the candidate's fault.
        """
        native = self._native(tensors)
        try:
            return Case(self.oracle.double(self._oracle_side), native, replay, self.reduction, self._reach(tensors))
        except TaskError as error:
            raise InfraError(str(error)) from error

    def _reach(self, tensors: list[HostTensor]) -> Callable[[], dict[int, Reach]]:
        """What asks, once, what rounding may make of integers and booleans; nothing where the reference raises then."""

        @cache
        def ask() -> dict[int, Reach]:
            side = self._oracle_side
            try:
                side.load(tensors)
                return self.oracle.reaches(side, self.task.contract, self.reduction)
            except (StageError, TaskError) as error:
                if side.cell.ended:
                    raise InfraError(f"the reference fails where it did not before: {error}") from error
                return {}

        return ask

    def begin(self, names: Sequence[str]) -> None:
        """Start baselines beside whatever else is done before they are asked for: compiling takes 2 to 9 s."""
        first = self.content.case("given", 0)
        for name in names:
            if name not in self._baselines | self._starting and name not in self._broken:
                executor = ThreadPoolExecutor(1)
                self._starting[name] = executor.submit(self._start, name, first)
                executor.shutdown(wait=False)

    def baseline(self, name: str) -> Side:
        """A baseline's side, warmed; started here where `begin` has not.

        Raises:
            StageError: It does not run.
            TaskError: It cannot be set up.
        """
        if name not in self._baselines:
            started = self._starting.pop(name, None)
            side = started.result() if started else self._start(name, self.content.case("given", 0))
            self._baselines[name] = side
        return self._baselines[name]

    def _start(self, name: str, first: Sequence[HostTensor]) -> Side:
        side = self._reference(name).side(self.limit_s)
        side.load(first)
        side.call()
        side.cell.freeze()
        return side

    def works(self, name: str) -> bool:
        """Whether a baseline runs; where it does not, a note says why."""
        if name in self._broken:
            return False
        try:
            self.baseline(name)
        except (StageError, TaskError) as error:
            if name == "eager":
                raise
            self._broken.add(name)
            self.notes.add(f"no {name} baseline: {str(error)[:120]}")
            return False
        return True

    def describe(self, axes: dict[str, int]) -> Signature:
        """The signature at other sizes. Raises TaskError where the reference does not take them."""
        cell = ReferenceCell(
            self.server, self.task.source, self.task.suite, self.task.path, self.policy.policy(processes=False)
        )
        try:
            return cell.setup(axes, self.task.contract)
        finally:
            cell.close()

    @property
    def layers(self) -> list[list[str]]:
        """Sandbox layers of the cells that run."""
        return [cell.cell.layers for cell in self._cells]

    def close(self) -> None:
        """End all cells."""
        for cell in self._cells:
            cell.close()
        for starting in self._starting.values():
            with suppress(StageError, TaskError, InfraError):  # of a cell that was just closed
                starting.result()
        for cell in self._cells:
            cell.close()
