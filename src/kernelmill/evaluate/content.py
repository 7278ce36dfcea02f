"""What kernels are fed: secret, reproducible, and never the same twice."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from itertools import accumulate

import numpy as np

from kernelmill.evaluate.arrays import Array, HostTensor, to_float64
from kernelmill.evaluate.families import Draw, Facts, draw_reals, draw_state, facts, real_dtype, real_storage, round_to
from kernelmill.schema import Contract, Family, Signature, TensorSpec

RING = 8
RING_BYTES = 512 * 2**20
"""All bases together stay below this, but for the two that are always kept."""

CHEAP_STATE_BYTES = 2**20
"""State up to this size is new in every timed call; larger state in every eighth."""

STATE_PERIOD = 8
SMALL = 65536
"""Tensors up to this many elements are rescaled in every call: rolling alone has too few outcomes."""


class ContentSource:
    """Arguments and state for every call of one workload, drawn from a secret seed.

    All tensors come in the order of `Signature.tensors`; the caller must not write to them. The same seed
    gives the same content; without it none of it can be predicted (Philox keyed by SHA-256).

    Args:
        signature: What the workload takes.
        given: At least one set of tensors from the task's own generator. It alone knows which integers are
            legal, so integer and boolean tensors always come from here.
        seed: The secret.
        contract: Its `families` limit nothing here; its `mutates` inputs are drawn like all others.

    Raises:
        ValueError: No set was given, or a set does not fit the signature.
    """

    def __init__(
        self, signature: Signature, given: Sequence[Sequence[HostTensor]], seed: bytes, contract: Contract
    ) -> None:
        specs = signature.tensors
        if not given or any(len(tensors) != len(specs) for tensors in given):
            counts = [len(tensors) for tensors in given]
            raise ValueError(f"content needs at least one set of {len(specs)} tensors, got sets of {counts}")
        self.signature = signature
        self.contract = contract
        self._given = [list(tensors) for tensors in given]
        self._seed = seed
        self._facts: list[Facts | None] = [
            facts([tensors[i] for tensors in given]) if real_dtype(spec.dtype) else None for i, spec in enumerate(specs)
        ]
        self._rollable = [_may_roll([tensors[i] for tensors in given]) for i in range(len(specs))]
        self._inputs = len(signature.inputs)
        size = sum(tensor.storage.nbytes for tensor in given[0][: self._inputs])
        self._ring = max(2, min(RING, RING_BYTES // max(1, size)))
        self._bases: dict[tuple[int, int], Array] = {}
        self._state: tuple[int, list[HostTensor]] = (-1, [])
        state_bytes = sum(tensor.storage.nbytes for tensor in given[0][self._inputs :])
        self._state_period = 1 if state_bytes <= CHEAP_STATE_BYTES else STATE_PERIOD

    def case(self, family: Family, index: int) -> list[HostTensor]:
        """One verification case. `given` keeps the generator's arguments; parameters are random in all families."""
        rng = self._rng("case", family, index)
        source = self._given[index % len(self._given)]
        verbatim = family == "given" and index < len(self._given)
        wide = self._widest(rng)
        drawn = []
        for i, (tensor, known) in enumerate(zip(source[: self._inputs], self._facts, strict=False)):
            if verbatim:
                drawn.append(tensor)
            elif known is None or known.kept or family == "given":
                drawn.append(self._rolled(i, tensor, rng))
            else:
                drawn.append(_drawn(tensor.spec, draw_reals(family, _draw(tensor, known, rng, wide=i == wide))))
        return drawn + self._draw_state(rng, family)

    def fresh(self, index: int) -> list[HostTensor]:
        """Content of one timed call, at the cost of a copy.

        A base from a ring is rolled by a secret odd offset and a few elements are replaced. A near twin
        (see `is_near`) is its predecessor but for one or two elements. State changes with every call where
        it is small, else every eighth call; unchanged state is the same objects.

        Two calls share content only where the task has nothing but integers that may not be rolled.
        """
        inputs = self._plain(index - 1 if self.is_near(index) else index)
        if self.is_near(index):
            _disturb(inputs, self._facts, self._rng("twin", index))
        return inputs + self._session_state(index // self._state_period)

    def is_near(self, index: int) -> bool:
        """Whether this call's arguments nearly equal the call's before: only a full comparison tells stale output."""
        return index % 2 == 1 and bool(self._rng("near", index).integers(2))

    def part(self, index: int) -> int | None:
        """Which `arrays.pieces` of large tensors are looked at; None, for all, in one call of four and after a twin."""
        rng = self._rng("part", index)
        return None if rng.integers(4) == 0 or self.is_near(index) else int(rng.integers(2**62))

    def replay(self, family: Family, index: int) -> str:
        """How to name a case in a message; the seed is named by its hash, so that it stays secret."""
        return f"family={family} index={index} seed={hashlib.sha256(self._seed).hexdigest()[:12]}"

    def _rng(self, *purpose: str | int) -> np.random.Generator:
        text = "/".join(str(part) for part in purpose).encode()
        key = hashlib.sha256(len(self._seed).to_bytes(8, "little") + self._seed + text).digest()[:16]
        return np.random.Generator(np.random.Philox(key=int.from_bytes(key, "little")))

    def _widest(self, rng: np.random.Generator) -> int:
        floats = [i for i, known in enumerate(self._facts[: self._inputs]) if known and not known.kept]
        return int(rng.choice(floats)) if floats else -1

    def _rolled(self, i: int, tensor: HostTensor, rng: np.random.Generator) -> HostTensor:
        if not self._rollable[i]:
            return tensor
        return HostTensor(tensor.spec, _roll(tensor.storage, _odd_offset(rng, tensor.storage.size)))

    def _draw_state(self, rng: np.random.Generator, family: Family) -> list[HostTensor]:
        state = []
        for tensor, known in zip(self._given[0][self._inputs :], self._facts[self._inputs :], strict=True):
            if known is None or known.kept:
                state.append(tensor)
            else:
                state.append(_drawn(tensor.spec, draw_state(_draw(tensor, known, rng), family)))
        return state

    def _session_state(self, epoch: int) -> list[HostTensor]:
        if self._state[0] != epoch:
            self._state = (epoch, self._draw_state(self._rng("state", epoch), "given"))
        return self._state[1]

    def _plain(self, index: int) -> list[HostTensor]:
        rng = self._rng("fresh", index)
        base = int(rng.integers(self._ring))
        given = self._given[base % len(self._given)]
        inputs = []
        for i, known in enumerate(self._facts[: self._inputs]):
            if known is None or known.kept or given[i].storage.size == 0:
                inputs.append(self._rolled(i, given[i], rng))
            else:
                inputs.append(HostTensor(given[i].spec, self._fresh_reals(i, base, known, rng)))
        return inputs

    def _fresh_reals(self, i: int, base: int, known: Facts, rng: np.random.Generator) -> Array:
        values = self._base(i, base)
        dtype = real_dtype(self.signature.tensors[i].dtype) or "float64"
        values = _shrunk(values, dtype, known, rng) if values.size <= SMALL else values
        rolled = _roll(values, _odd_offset(rng, values.size))
        where = rng.integers(rolled.size, size=min(8, rolled.size))
        low, high = known.hull
        rolled[where] = round_to(rng.uniform(low, high, where.size), dtype)
        return _as_dtype(rolled, self.signature.tensors[i])

    def _base(self, i: int, base: int) -> Array:
        """The first bases are what the generator gave; the others are those, moved within its range."""
        known = self._facts[i]
        assert known is not None
        given = real_storage(self._given[base % len(self._given)][i])
        if base < len(self._given):
            return given
        if (i, base) not in self._bases:
            dtype = real_dtype(self.signature.tensors[i].dtype) or "float64"
            self._bases[i, base] = _shrunk(given, dtype, known, self._rng("base", i, base))
        return self._bases[i, base]


def _draw(tensor: HostTensor, known: Facts, rng: np.random.Generator, *, wide: bool = True) -> Draw:
    row = tensor.spec.shape[-1] if tensor.spec.shape else 1
    return Draw(real_storage(tensor).size, row, real_dtype(tensor.spec.dtype) or "float64", known, rng, wide)


def _drawn(spec: TensorSpec, values: Array) -> HostTensor:
    return HostTensor(spec, _as_dtype(values, spec))


def _as_dtype(values: Array, spec: TensorSpec) -> Array:
    return values.view(spec.dtype) if spec.dtype.startswith("complex") else values


def _may_roll(tensors: Sequence[HostTensor]) -> bool:
    """Whether a flat roll keeps a tensor legal: any values but sorted rows (offsets, lengths) and boolean masks."""
    spec = tensors[0].spec
    if tensors[0].storage.size < 2 or (spec.dtype == "bool" and len(spec.shape) > 1):
        return False
    if real_dtype(spec.dtype) is not None or spec.dtype == "bool":
        return True
    return not all(bool(np.all(np.diff(tensor.view, axis=-1) >= 0)) for tensor in tensors)


def _odd_offset(rng: np.random.Generator, size: int) -> int:
    return int(rng.integers(size)) // 2 * 2 + 1 if size > 1 else 0


def _roll(values: Array, offset: int) -> Array:
    out = np.empty_like(values)
    offset %= max(1, values.size)
    out[: values.size - offset] = values[offset:]
    out[values.size - offset :] = values[:offset]
    return out


def _shrunk(values: Array, dtype: str, known: Facts, rng: np.random.Generator) -> Array:
    """Values drawn towards a random point of the generator's range, by at most half: they stay in the range."""
    low, high = known.hull
    point, factor = rng.uniform(low, high), rng.uniform(0.5, 1.0)
    wide = values.astype(np.float64 if dtype == "float64" else np.float32) if dtype != "bfloat16" else None
    reals: Array = to_float64(values, dtype) if wide is None else wide
    reals *= factor
    reals += point * (1 - factor)
    return round_to(np.clip(reals, low, high, out=reals), dtype)


def _disturb(inputs: list[HostTensor], known: Sequence[Facts | None], rng: np.random.Generator) -> None:
    """Make a near twin: same ends; one element changed, or two of them exchanged so that the sum stays."""
    sizes = [t.storage.size if f is not None and not f.kept else 0 for t, f in zip(inputs, known, strict=False)]
    if not sum(sizes):
        return
    i = int(np.searchsorted(list(accumulate(sizes)), rng.integers(sum(sizes)), side="right"))
    chosen = known[i]
    assert chosen is not None
    values = real_storage(inputs[i])
    first, second = (int(x) for x in rng.integers(1, max(2, values.size - 1), size=2) % values.size)
    if rng.integers(2) and values[first] != values[second]:
        values[first], values[second] = values[second].copy(), values[first].copy()
        return
    dtype = real_dtype(inputs[i].spec.dtype) or "float64"
    low, high = chosen.hull
    old = float(to_float64(values[first : first + 1], dtype)[0])
    middle = (low + high) / 2
    new = rng.uniform(middle, high) if old < middle else rng.uniform(low, middle)
    values[first : first + 1] = round_to(np.array([new]), dtype)
