"""The parent's view of a task: loading it, drawing inputs, asking the oracle. No torch here."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from kernelmill.errors import StageError, TaskError
from kernelmill.evaluate.arrays import STORAGE, UNIT_ROUNDOFF, Array, HostTensor, empty_tensor
from kernelmill.evaluate.cells import Cell, Server
from kernelmill.evaluate.exact import MOVES, Reach, reach
from kernelmill.evaluate.failures import CallTimeoutError
from kernelmill.evaluate.heap import ATTEMPTS
from kernelmill.evaluate.memory import read_memory
from kernelmill.evaluate.precision import excused_error
from kernelmill.evaluate.side import Side
from kernelmill.registry import Registry
from kernelmill.sandboxes._base import Policy
from kernelmill.schema import Axis, Contract, Scalar, Signature, Task, TensorSpec, Workload
from kernelmill.suites._base import Suite

suites: Registry[Suite] = Registry("kernelmill.suites", Suite)

MAX_SOURCE = 1 << 20

_DOING = {
    "reference": "its import",
    "construct": "its constructor (Model() or get_init_inputs)",
    "generate": "making its inputs (get_inputs)",
    "probe": "two calls of the reference (forward)",
    "leak": "calling the reference (forward)",
    "draw": "making its inputs (get_inputs)",
    "double": "a call of the reference in float64",
    "trace": "tracing the reference",
}
"""What a cell does on a command, for messages."""

PATIENT = {"leak": ATTEMPTS + 2, "double": 5, "trace": 5}
"""Commands that take longer than one call, and how many times as long they may."""

_OUTSIDE = ("FileNotFoundError", "PermissionError", "URLError", "gaierror", "ConnectionError", "ConnectionRefusedError")
"""What Python raises where a file or a network is out of reach."""


def read_task_file(path: Path) -> tuple[str, str]:
    """Text of a task file and the suite that reads it; nothing is executed.

    Raises:
        TaskError: Missing, not text, too large, does not parse, or no known format.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise TaskError(f"cannot read the task file {path}: {error.strerror}") from error
    if len(data) > MAX_SOURCE:
        raise TaskError(f"{path}: {len(data)} bytes; a task file has at most {MAX_SOURCE}")
    try:
        source = data.decode()
        names = [name for name in suites.names() if suites.get(name).recognises(source)]
    except UnicodeDecodeError as error:
        raise TaskError(f"{path}: not UTF-8 text (byte {error.start})") from error
    except (SyntaxError, ValueError) as error:
        line = getattr(error, "lineno", None)
        raise TaskError(f"{path}{f':{line}' if line else ''}: {error.__class__.__name__}: {error}") from error
    if not names:
        raise TaskError(
            f"{path}: no task found; define KernelBench's `class Model` with `get_inputs()`, "
            "or decorate a function or module with `kernelmill.task`"
        )
    return source, names[0] if "native" not in names else "native"


@dataclass(frozen=True)
class ReferencePolicy:
    """What a cell that runs the task file may do."""

    readable: tuple[Path, ...]
    writable: tuple[Path, ...] = ()
    memory_bytes: int = 12 * 2**30

    def policy(self, *, processes: bool) -> Policy:
        """For the oracle, or with `processes` for a baseline that compiles."""
        return Policy(
            readable=self.readable,
            writable=self.writable if processes else (),
            processes=processes,
            memory_bytes=self.memory_bytes,
            cpu_seconds=1800,
        )


class ReferenceCell:
    """The task file, loaded in a cell of its own and set up for one workload."""

    def __init__(
        self, server: Server, source: str, suite: str, path: str, policy: Policy, *, prepared: bool = False
    ) -> None:
        self.path = path
        self.limit_s = server.settings.reference_s
        self.cell: Cell = server.spawn(policy, prepared=prepared)
        self.cell.ask("role", module="kernelmill.evaluate.oracle")
        self.declared = self._ask("reference", source=source, suite=suite, name=Path(path).name)

    def _ask(self, do: str, **fields: Any) -> dict[str, Any]:
        limit_s = self.limit_s * PATIENT.get(do, 1)
        try:
            return self.cell.ask(do, limit_s, **fields)
        except CallTimeoutError as error:
            raise TaskError(
                f"{self.path}: {_DOING.get(do, do)} did not end within {limit_s:g} s, its process was killed; "
                "a smaller task is right, or a larger measure.reference_seconds"
            ) from error
        except StageError as error:
            what = "the reference cannot be traced" if do == "trace" else "the reference fails"
            raise TaskError(f"{self.path}: {what}: {_said(error)}") from error

    def setup(self, axes: dict[str, int], contract: Contract, mode: str = "eager", seed: int = 0) -> Signature:
        """Build it for one workload.

        Raises:
            TaskError: It raises, hangs, is not deterministic, changes its inputs unannounced, returns no tensors.
        """
        self.mode = mode
        self._ask("construct", axes=axes, seed=seed, training=contract.training)
        self._ask("generate")
        answer = self._ask("probe", mode=mode)
        self._refuse(answer, contract)
        self.signature = Signature(
            arguments=tuple(
                TensorSpec(**a["tensor"]) if "tensor" in a else Scalar(**_scalar(a["scalar"]))
                for a in answer["arguments"]
            ),
            state=tuple(TensorSpec(**s) for s in answer["state"]),
            outputs=tuple(
                TensorSpec(name=f"out{i}" if len(answer["outputs"]) > 1 else "out", role="output", **_output(o))
                for i, o in enumerate(answer["outputs"])
            ),
            output_tree="tensor" if answer["tree"] == 0 else json.dumps(answer["tree"]),
            tree_kinds=answer["kinds"],
            training=contract.training,
            init=json.dumps(answer["init"]) if answer["init_literal"] else "",
        )
        return self.signature

    def refuse_leaks(self) -> None:
        """Call it again, a few times, after `setup`.

        Raises:
            TaskError: Every call keeps memory; one that fills a cache in the first calls does not.
        """
        kept = self._ask("leak")["bytes"]
        if kept:
            raise TaskError(
                f"{self.path}: the reference leaks: each of {ATTEMPTS} more calls kept {kept} bytes; a call that keeps "
                "nothing is right (does it append to a list or a dict that outlives it?), or one that keeps it once"
            )

    def _refuse(self, answer: dict[str, Any], contract: Contract) -> None:
        for argument in answer["arguments"]:
            if "type" in argument:
                raise TaskError(
                    f"{self.path}: argument {argument['name']!r} is a {argument['type']}; "
                    "tensors, numbers and strings are right, and lists of numbers"
                )
        for number, output in enumerate(answer["outputs"]):
            if "type" in output:
                raise TaskError(
                    f"{self.path}: the reference returns a {output['type']} as output {number}; "
                    "dense tensors are right, and tuples and lists of them"
                )
            if output["dtype"] not in STORAGE:
                raise TaskError(
                    f"{self.path}: output {number} has dtype {output['dtype']}; known: {', '.join(STORAGE)}"
                )
        if not answer["outputs"]:
            raise TaskError(f"{self.path}: the reference returns nothing; at least one tensor is right")
        if not answer["deterministic"]:
            raise TaskError(
                f"{self.path}: the reference is not deterministic: two calls on the same inputs differ; "
                "seed or remove its randomness (dropout in train mode?)"
            )
        names = [a["tensor"]["name"] for a in answer["arguments"] if "tensor" in a]
        for position in answer["changed"]:
            if names[position] not in contract.mutates:
                raise TaskError(
                    f"{self.path}: the reference changes its input {names[position]!r} in place; "
                    f"declare it (mutates=({names[position]!r},)) or write it without"
                )

    def given(self, seed: int) -> list[HostTensor]:
        """Inputs from the task's own generator and a fresh state, in the order of `signature.tensors`."""
        answer = self._ask("draw", seed=seed)
        drawn = []
        for spec, found in zip(self.signature.tensors, answer["tensors"], strict=True):
            if tuple(found["shape"]) != spec.shape or found["dtype"] != spec.dtype:
                raise TaskError(
                    f"{self.path}: input {spec.name!r} is {found['dtype']}{found['shape']} with one seed and "
                    f"{spec.dtype}{list(spec.shape)} with another; shapes must not depend on chance"
                )
            tensor = empty_tensor(spec.model_copy(update={"stride": tuple(found["stride"])}))
            read_memory(self.cell.pid, found["address"], tensor.storage)
            drawn.append(tensor)
        return drawn

    def side(self, limit_s: float = 300.0) -> Side:
        """The reference as one side of a timing, or as the oracle."""
        # A call that compiles first takes minutes; any other is as long as those of the set-up.
        side = Side(self.cell, self.signature, limit_s if self.mode == "compile" else self.limit_s)
        side.trusted = True
        side.bind()
        self._ask("attach")
        return side

    def double(self, side: Side, shares: dict[str, float] | None = None, seed: int = 0) -> list[Array]:
        """fp64 results on what `side` has loaded, one float64 (or exact integer) array an output.

        Args:
            side: That of this cell.
            shares: Dtype -> by how much of itself each input of such a dtype is moved first, see `oracle`.
            seed: Which are moved up and which down.

        Raises:
            TaskError: The reference does not run in float64.
        """
        answer = self._ask("double", shares=shares, seed=seed)
        side.cell.returned = answer
        results = []
        for output in answer["outputs"]:
            spec = TensorSpec(name="out", role="output", **_output(output))
            tensor = empty_tensor(spec)
            read_memory(self.cell.pid, output["address"], tensor.storage)
            results.append(np.ascontiguousarray(tensor.view))
        return results

    def reaches(self, side: Side, contract: Contract, reduction: int) -> dict[int, Reach]:
        """Output -> least and largest fp64 answers where all that `side` has loaded is moved by an honest sum's error.

        Args:
            side: That of this cell.
            contract: Gives k and the precision of the error budget.
            reduction: Terms of the longest sum.

        Raises:
            TaskError: The reference does not take such inputs.
        """
        dtypes = {spec.dtype for spec in self.signature.tensors} & set(UNIT_ROUNDOFF)
        shares = {d: contract.error_factor * excused_error(d, reduction, contract.precision) for d in dtypes}
        if not shares:
            return {}
        moved = [{dtype: way * share for dtype, share in shares.items()} for way in (1, -1)]
        answers = [self.double(side, way, seed) for seed in MOVES for way in moved]
        return {number: reach(found, max(shares.values())) for number, found in enumerate(zip(*answers, strict=True))}

    def flops(self) -> float:
        """Matrix and convolution arithmetic of one call; 0 where it cannot be counted."""
        try:
            return float(self.cell.ask("cost", 120.0)["flops"])
        except StageError:
            return 0.0

    def trace(self, tracer: str) -> str:
        """JSON of the reference's graph; `tracer` is the module whose `trace_json` runs in the cell.

        Raises:
            TaskError: It cannot be traced.
        """
        return str(self._ask("trace", tracer=tracer)["graph"])

    def close(self) -> None:
        """End the cell."""
        self.cell.close()


def _said(error: StageError) -> str:
    """Its first line, and what a task file may not do where that is the reason."""
    lines = str(error).splitlines()
    hint = "; a task file has no network and reads no other file: make its data in the file itself"
    return lines[0] + (hint if any(sign in lines[0] for sign in _OUTSIDE) else "")


def _output(described: dict[str, Any]) -> dict[str, Any]:
    return {k: described[k] for k in ("shape", "stride", "dtype")}


def _scalar(described: dict[str, Any]) -> dict[str, Any]:
    value = described["value"]
    return {"name": described["name"], "value": tuple(value) if isinstance(value, list) else value}


def load_task(server: Server, path: Path, policy: ReferencePolicy, workloads: Sequence[str] = ()) -> Task:
    """Read a task file; its reference runs once per workload, confined.

    Args:
        workloads: Only these; empty for all.

    Raises:
        TaskError: The file or its reference is unusable; the message says what was wrong and what would be right.
    """
    source, suite = read_task_file(path)
    cell = ReferenceCell(server, source, suite, str(path), policy.policy(processes=False))
    try:
        declared = cell.declared
        contract = _contract(path, declared["contract"])
        unknown = sorted(set(workloads) - set(declared["workloads"]))
        if unknown:
            raise TaskError(f"{path}: no workload {unknown[0]!r}; there are: {', '.join(declared['workloads'])}")
        described = []
        for name, axes in declared["workloads"].items():
            if not workloads or name in workloads:
                described.append(Workload(name=name, axes=axes, signature=cell.setup(axes, contract)))
                cell.refuse_leaks()
        return Task(
            name=declared["name"] or path.stem,
            path=str(path),
            source=source,
            suite=suite,
            workloads=tuple(described),
            axes={n: Axis(low=low, high=high, multiple=m) for n, (low, high, m) in declared["axes"].items()},
            contract=contract,
            doc=declared["doc"],
        )
    finally:
        cell.close()


def _contract(path: Path, fields: dict[str, Any]) -> Contract:
    try:
        return Contract.model_validate(fields)
    except ValueError as error:
        lines = str(error).splitlines()
        raise TaskError(f"{path}: the contract is wrong: {' '.join(lines[1:3])}") from error
