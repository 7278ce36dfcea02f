"""An implementation bound to one workload in its own cell."""

from __future__ import annotations

import json
import secrets
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from kernelmill.errors import BuildError, LaunchError, stage
from kernelmill.evaluate.arrays import STORAGE, Array, HostTensor, empty_tensor, pieces, storage_size
from kernelmill.evaluate.cells import Call, Cell
from kernelmill.evaluate.child_memory import ZONE
from kernelmill.evaluate.failures import IntegrityError, SpecialisedError, StructureError
from kernelmill.evaluate.memory import as_bytes, read_memory, write_memory
from kernelmill.languages._base import Artifact
from kernelmill.schema import Scalar, Signature, TensorSpec

CHUNK = 1 << 20
"""Bytes moved at a time where the parent only looks: stays in the cache."""


@dataclass(frozen=True)
class _Slot:
    """A buffer of the cell that the parent owns."""

    address: int
    size: int
    zone: Array = field(default_factory=lambda: np.frombuffer(secrets.token_bytes(ZONE), np.uint8))
    """Content of its red zones. Each has its own: out[n] = x[n] past both ends would copy one like the other."""


class Side:
    """An implementation bound to one workload in its own cell: write inputs, call, read outputs.

    Satisfies `timing.Side`. Every input and every buffer of a declared launch stands between red zones,
    which are checked after each snapshot; outputs of a declared launch are poisoned before each call.
    """

    def __init__(self, cell: Cell, signature: Signature, limit_s: float = 60.0, mutates: Sequence[str] = ()) -> None:
        self.cell = cell
        self.signature = signature
        self.limit_s = limit_s
        self.mutates = frozenset(mutates)
        self.slots: list[_Slot] = []
        self.arena: list[_Slot] = []
        self.loaded: list[HostTensor] = []
        self.sizes: list[int] = []
        self.trusted = False
        """Whether it is the reference, whose inputs and red zones need no look after every call."""
        self._snapshots: dict[int, HostTensor] = {}
        self._poison = np.full(CHUNK, 0xFF, np.uint8)
        self._scratch = np.empty(CHUNK, np.uint8)

    @property
    def pid(self) -> int:
        """Process id, for the machine's counters."""
        return self.cell.pid

    def load_artifact(self, artifact: Artifact, limit_s: float = 60.0) -> None:
        """Load a built candidate. Raises BuildError with what its code said."""
        try:
            self.cell.ask(
                "load",
                limit_s,
                loader=artifact.loader,
                payload=artifact.payload,
                signature=self.signature.model_dump(mode="json"),
            )
        except (LaunchError, SpecialisedError) as error:
            raise BuildError(f"it does not load: {error}") from error

    def bind(self, offset: int = 0) -> None:
        """Make the input and state buffers in the cell, `offset` bytes off their natural alignment."""
        args = [_bind_spec(a, offset) for a in self.signature.arguments]
        state = [_bind_spec(s, offset) for s in self.signature.state]
        answer = self.cell.ask("bind", args=args, state=state)
        with stage(IntegrityError):
            self.slots = [_Slot(int(t["address"]), int(t["bytes"])) for t in answer["tensors"]]
        if len(self.slots) != len(self.signature.tensors):
            count = len(self.signature.tensors)
            raise IntegrityError(f"the process bound {len(self.slots)} tensors, the task has {count}")
        for slot in self.slots:
            self._write_zones(slot)
        self.loaded = []

    def load(self, tensors: Sequence[HostTensor]) -> None:
        """Write arguments, then state, in place; poison what the launch will write. The process stays frozen."""
        self.cell.freeze()
        for position, (slot, tensor) in enumerate(zip(self.slots, tensors, strict=True)):
            if position < len(self.loaded) and self.loaded[position] is tensor:
                continue
            write_memory(self.pid, slot.address, tensor.storage)
        self.loaded = list(tensors)
        for slot in self.arena:
            self._fill(slot)

    def _fill(self, slot: _Slot) -> None:
        for start in range(0, slot.size, CHUNK):
            count = min(CHUNK, slot.size - start)
            write_memory(self.pid, slot.address + start, self._poison[:count])

    def _write_zones(self, slot: _Slot) -> None:
        write_memory(self.pid, slot.address - ZONE, slot.zone)
        write_memory(self.pid, slot.address + slot.size, slot.zone)

    def call(self) -> Call:
        """One call; from its return on the process is frozen, so that nothing is finished later."""
        call = self.cell.call(self.limit_s)
        self.cell.freeze()
        return call

    def null_call(self) -> float:
        """Seconds of the same handshake that runs nothing."""
        seconds = self.cell.null_call()
        self.cell.freeze()
        return seconds

    def outputs(self, part: int | None = None, *, keep: bool = False) -> list[HostTensor]:
        """What the last call returned, copied out of the frozen process's memory.

        Without `keep` it is valid until outputs are asked for again: fresh memory costs more than the copy. With
        `part` only those `pieces` of large outputs are copied, and of large inputs looked at.

        Raises:
            StructureError: Other count, nesting or type than the reference's.
            IntegrityError: A red zone or an input was written to; an output is an input.
        """
        answer = self.cell.returned
        if "error" in answer:
            raise StructureError(f"the result cannot be looked at: {answer['error']}")
        with stage(StructureError):  # whatever is wrong with the answer, its sender is not to be trusted
            self._check_tree(answer)
            found = [self._snapshot(i, o, part, keep=keep) for i, o in enumerate(answer["outputs"])]
        if self.trusted:
            return found
        self._check_inputs(part)
        self._check_zones([*self.slots, *self.arena])
        return found

    def learn_arena(self) -> None:
        """After a first call: take charge of the buffers its launch allocated."""
        answer = self.cell.ask("arena")
        with stage(IntegrityError):
            self.arena = [_Slot(int(t["address"]), int(t["bytes"])) for t in answer["tensors"]]
        for slot in self.arena:
            self._write_zones(slot)

    def forget(self) -> None:
        """Fill the process's free heap with NaN bytes of the outputs' sizes."""
        self.cell.ask("forget", sizes=self.sizes)

    def _check_tree(self, answer: dict[str, Any]) -> None:
        tree = "tensor" if answer["tree"] == 0 else json.dumps(answer["tree"])
        if tree != self.signature.output_tree:
            raise StructureError(f"the result is nested as {tree}; the reference returns {self.signature.output_tree}")
        for number, output in enumerate(answer["outputs"]):
            if "type" in output:
                raise StructureError(
                    f"output {number} is a {output['type']} {output['value']}; a plain torch.Tensor on the CPU is right"
                )
            if output["flags"]:
                raise StructureError(f"output {number} is a lazy {output['flags']} view; resolve it before returning")

    def _snapshot(self, number: int, output: dict[str, Any], part: int | None, *, keep: bool) -> HostTensor:
        spec = TensorSpec(
            name="out", shape=output["shape"], dtype=output["dtype"], stride=output["stride"], role="output"
        )
        if any(s < 0 for s in spec.stride):
            raise StructureError(f"an output has negative strides {spec.stride}")
        count = storage_size(spec.shape, spec.stride)
        if count > 1 << 34:
            raise StructureError(f"an output spans {count} elements; at most {1 << 34} are read")
        tensor = self._snapshots.get(number)
        if keep or tensor is None or tensor.spec != spec:
            tensor = empty_tensor(spec)
        if not keep:
            self._snapshots[number] = tensor
        item = tensor.storage.itemsize
        for piece in pieces(count, item, part):
            read_memory(self.pid, output["address"] + piece.start * item, tensor.storage[piece])
        return replace(tensor, address=output["address"])

    def aliases(self, tensor: HostTensor) -> str | None:
        """Name of the input whose memory an output shares, or None."""
        low, high = tensor.address, tensor.address + tensor.storage.nbytes
        for slot, spec in zip(self.slots, self.signature.tensors, strict=True):
            if low < slot.address + slot.size and slot.address < high:
                return spec.name
        return None

    def _check_inputs(self, part: int | None) -> None:
        for slot, tensor in zip(self.slots, self.loaded, strict=True):
            if tensor.spec.name not in self.mutates:
                for piece in pieces(tensor.storage.nbytes, 1, part):
                    self._check_input(slot, tensor, piece)

    def _check_input(self, slot: _Slot, tensor: HostTensor, piece: slice) -> None:
        written = as_bytes(tensor.storage)
        for start in range(piece.start, piece.stop, CHUNK):
            wanted = written[start : min(start + CHUNK, piece.stop)]
            seen = self._scratch[: wanted.size]
            read_memory(self.pid, slot.address + start, seen)
            if not _equal(seen, wanted):
                self._refuse_change(tensor, start, seen != wanted, seen)

    def _refuse_change(self, tensor: HostTensor, start: int, differs: Array, seen: Array) -> None:
        item = tensor.storage.itemsize
        where = (start + int(np.flatnonzero(differs)[0])) // item
        now = seen[where * item - start :][:item].view(tensor.storage.dtype)[0]
        raise IntegrityError(
            f"input {tensor.spec.name!r} was changed: element {where} of its storage was "
            f"{tensor.storage[where]}, is {now}; inputs are read-only unless the contract says `mutates`"
        )

    def _check_zones(self, slots: Sequence[_Slot]) -> None:
        seen = np.empty(ZONE, np.uint8)
        for number, slot in enumerate(slots):
            for where, address in (("before", slot.address - ZONE), ("after", slot.address + slot.size)):
                read_memory(self.pid, address, seen)
                if not np.array_equal(seen, slot.zone):
                    at = int(np.flatnonzero(seen != slot.zone)[0])
                    distance = ZONE - at if where == "before" else at
                    raise IntegrityError(
                        f"out-of-bounds write {distance} bytes {where} buffer {self._buffer_name(number)} "
                        f"of {slot.size} bytes"
                    )

    def _buffer_name(self, number: int) -> str:
        tensors = self.signature.tensors
        return repr(tensors[number].name) if number < len(tensors) else f"#{number - len(tensors)} of the launch"


def _equal(x: Array, y: Array) -> bool:
    """Whether two byte arrays are the same."""
    wide = x.size // 8 * 8
    return bool(
        np.array_equal(x[:wide].view(np.uint64), y[:wide].view(np.uint64)) and np.array_equal(x[wide:], y[wide:])
    )


def _bind_spec(argument: TensorSpec | Scalar, offset: int) -> dict[str, Any]:
    if isinstance(argument, Scalar):
        return {"value": argument.value}
    item = np.dtype(STORAGE[argument.dtype]).itemsize
    return {
        "shape": list(argument.shape),
        "stride": list(argument.stride),
        "dtype": argument.dtype,
        "offset": offset * item,
    }
