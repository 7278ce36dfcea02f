"""The run-time half of an exported kernel. Copied beside every `module.py`; needs torch and nothing of kernelmill.

A call goes to the kernel where everything it was verified for holds (shapes, dtypes, strides, device, scalar
values, hyper-parameters, mode), and to the reference everywhere else; both are counted.
"""

from __future__ import annotations

import json
import logging
import threading
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

logger = logging.getLogger("kernelmill.export")

ALIGNMENT_BYTES = 64
"""Verified inputs started on such a boundary, as all of torch's own CPU allocations do."""

TURNED = 4096
"""One integer or boolean in so many may differ in a shadow check: rounding decides those next to a threshold."""

Variant = Any
"""A `_variants.Variant`; files of an export find each other by path, so types cannot be imported."""

REASONS = 64
"""Reasons counted apart, so that a caller with ever new shapes does not fill the memory."""


def flatten(value: Any) -> list[torch.Tensor]:
    """The tensors of nested tuples and lists, in order."""
    if isinstance(value, torch.Tensor):
        return [value]
    if isinstance(value, (list, tuple)):
        return [tensor for item in value for tensor in flatten(item)]
    raise TypeError(f"an output is a {type(value).__name__}; a tensor was expected")


class Entry:
    """The reference inside `reference.py`: a class derived from `torch.nn.Module`, or a function."""

    def __init__(self, module: ModuleType, name: str, training: bool) -> None:  # noqa: FBT001 - a plain file, no API
        self.target: Any = getattr(module, name)
        self._module = module
        self._training = training
        self.is_class = isinstance(self.target, type)
        self._lock = threading.Lock()
        self._built: dict[str, torch.nn.Module] = {}
        self._configurations: dict[str, Any] = {}

    def configuration(self, init: str) -> Any:
        """Hyper-parameters of the verified reference, see `configuration`."""
        self._build(init)
        return self._configurations[init]

    def call(self, variant: Variant, arguments: Sequence[Any], state: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """What the reference gives, as a flat list."""
        if not self.is_class:
            return flatten(self.target(*arguments))
        named = {layout.name: tensor for layout, tensor in zip(variant.state, state, strict=True)}
        return flatten(torch.func.functional_call(self._build(variant.init), named, tuple(arguments)))

    def _build(self, init: str) -> torch.nn.Module:
        with self._lock:
            if init not in self._built:
                with torch.random.fork_rng(devices=[]):
                    built = self.target(*(json.loads(init) or getattr(self._module, "get_init_inputs", list)()))
                    built.train(self._training)
                self._configurations[init] = configuration(built)
                # Parameters and buffers always come from the caller, so keep none of ours.
                self._built[init] = built.to("meta")
            return self._built[init]


def configuration(module: torch.nn.Module) -> tuple[Any, ...]:
    """All that a module computes with beside its state: classes and plain attributes, comparable by value."""
    own = vars(torch.nn.Module()).keys()
    return tuple(
        (
            name,
            tuple(t.__qualname__ for t in type(part).__mro__ if not getattr(t, "_kernelmill_export", False)),
            tuple((k, _plain(v)) for k, v in sorted(vars(part).items()) if k not in own and "_kernelmill" not in k),
        )
        for name, part in module.named_modules()
    )


def _plain(value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        wave = torch.arange(value.numel(), dtype=torch.float64).cos().reshape(value.shape)
        return ("tensor", tuple(value.shape), str(value.dtype), repr(float((value.double() * wave).sum())))
    if isinstance(value, (list, tuple)):
        return tuple(_plain(item) for item in value)
    if isinstance(value, dict):
        return tuple((repr(k), _plain(v)) for k, v in value.items())
    if isinstance(value, (bool, int, float, complex, str, type(None), torch.dtype, torch.device)):
        return repr(value)
    return getattr(value, "__qualname__", type(value).__qualname__)


def mode_matters(module: torch.nn.Module, source: str) -> bool:
    """Whether train and eval mode may differ: a layer known for it, or the word in the reference's own text."""
    nn = torch.nn
    layers = (
        nn.modules.dropout._DropoutNd,
        nn.modules.batchnorm._NormBase,
        nn.RReLU,
        nn.RNNBase,
        nn.MultiheadAttention,
    )
    return "training" in source or any(isinstance(part, layers) for part in module.modules())


class Counts:
    """Who answered how many calls, and why it was not the kernel. Safe from many threads."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._lock = threading.Lock()
        self._counter: Counter[str] = Counter()

    def add(self, reason: str) -> None:
        """Count one call; a reason beside `kernel` is logged the first time."""
        with self._lock:
            if len(self._counter) > REASONS and reason not in self._counter:
                reason = "further reasons"
            self._counter[reason] += 1
            first = self._counter[reason] == 1
        if first and reason not in ("kernel", "shadow"):
            logger.warning("%s: the reference answers: %s", self.name, reason)

    def snapshot(self) -> dict[str, int]:
        """Calls by who answered: `kernel`, `shadow` (checked ones), or the reason of a fall-back."""
        with self._lock:
            return dict(self._counter)


class Exported:
    """One exported kernel: its variants, its torch operator, and the choice between kernel and reference.

    Args:
        spec: What `module.py` declares.
        folder: Where the exported files lie.
        part: Imports a file of the export: `_native`, `_loader`, `_operators`, `reference`.
    """

    def __init__(self, spec: dict[str, Any], folder: Path, part: Callable[[str], ModuleType]) -> None:
        self.spec = spec
        self.folder = folder
        self._part = part
        self.name: str = spec["name"]
        self.differentiable: bool = spec["differentiable"]
        self.variants: list[Variant] = [part("_variants").Variant(v) for v in spec["variants"]]
        self.counts = Counts(self.name)
        self.reference_source = (folder / "reference.py").read_text(encoding="utf-8")
        self.entry = Entry(part("reference"), spec["entry"], spec["training"])
        self.state_names = [layout.name for layout in self.variants[0].state]
        self.shadow_every = 0
        self._lock = threading.Lock()
        self._serial = threading.Lock() if spec["serial"] else None
        self._held: dict[int, list[Any]] = {}
        self._kernels: dict[int, Callable[[list[Any], list[Any]], Any] | str] = {}
        self.op = part("_operators").register(self)

    def select(self, arguments: Sequence[Any], state: Sequence[Any], accepted: Sequence[int]) -> int | str:
        """Index of the variant that was verified for exactly this call, or why there is none."""
        transformed = None if torch.compiler.is_compiling() else _transformation()
        if transformed:
            return transformed
        if torch.is_autocast_enabled("cpu"):
            return "autocast is on, verified was without"
        why = "hyper-parameters differ from the verified reference"
        for index in accepted:
            variant = self.variants[index]
            if len(arguments) != len(variant.arguments):
                why = f"{len(arguments)} arguments, verified were {len(variant.arguments)}"
                continue
            mismatch = variant.mismatch(arguments, state)
            if mismatch is None:
                return index
            why = mismatch
        return why

    def matching(self, module: torch.nn.Module) -> tuple[int, ...]:
        """Variants whose verified reference has the hyper-parameters of this module."""
        mine = configuration(module)
        return tuple(i for i, v in enumerate(self.variants) if self.entry.configuration(v.init) == mine)

    def mode_matters(self, module: torch.nn.Module) -> bool:
        """Whether train and eval mode may differ for this module."""
        return mode_matters(module, self.reference_source)

    def positional(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[Any] | None:
        """All arguments in order; None where they are not those of the verified call."""
        names = self.variants[0].names
        if len(args) + len(kwargs) != len(names):
            return None
        values = list(args)
        for name in names[len(args) :]:
            if name not in kwargs:
                return None
            values.append(kwargs[name])
        return values

    def launch(self, index: int, arguments: Sequence[Any], state: Sequence[Any]) -> Any:
        """The verified kernel's answer, through the registered operator where somebody traces or differentiates."""
        tensors = [value for value in [*arguments, *state] if isinstance(value, torch.Tensor)]
        variant = self.variants[index]
        if not torch.compiler.is_compiling() and _plain_eager(tensors):
            return variant.nested(self.forward(tensors, index))
        return variant.nested(self.op(tensors, index))

    def forward(self, tensors: Sequence[torch.Tensor], index: int) -> list[torch.Tensor]:
        """Body of the operator: the kernel, or the reference where the kernel cannot run on this machine."""
        variant = self.variants[index]
        kernel = self._kernel(index)
        arguments, state = variant.split([_aligned(t.detach() if t.requires_grad else t) for t in tensors])
        if isinstance(kernel, str):
            self.counts.add(kernel)
            flat = self.entry.call(variant, arguments, state)
        elif self._serial is not None:
            with self._serial:
                flat = flatten(kernel(arguments, state))
                # A loader may tell by identity whether it was called with this state before, so it must stay alive.
                self._held[index] = state
        else:
            flat = flatten(kernel(arguments, state))
        if not isinstance(kernel, str):
            self.counts.add("kernel")
            flat = self._shadowed(index, flat, arguments, state)
        return _as_declared(flat, variant, tensors)

    def reference(self, tensors: Sequence[torch.Tensor], index: int) -> list[torch.Tensor]:
        """The reference's answer to a verified call, as a flat list; carries gradients."""
        variant = self.variants[index]
        return self.entry.call(variant, *variant.split(tensors))

    def _kernel(self, index: int) -> Callable[[list[Any], list[Any]], Any] | str:
        found = self._kernels.get(index)
        if found is None:
            with self._lock:
                if index not in self._kernels:
                    variant = self.variants[index]
                    native, loader = self._part("_native"), self._part("_loader")
                    self._kernels[index] = native.open(self.folder, self.spec, variant, loader)
                found = self._kernels[index]
        return found

    def _shadowed(self, index: int, flat: list[Any], arguments: list[Any], state: list[Any]) -> list[Any]:
        if not self.shadow_every or self.counts.snapshot()["kernel"] % self.shadow_every:
            return flat
        self.counts.add("shadow")
        variant = self.variants[index]
        expected = self.entry.call(variant, arguments, state)
        wrong = next((w for g, e in zip(flat, expected, strict=True) if (w := _differs(g, e, variant.tolerance))), None)
        if wrong is None:
            return flat
        self._kernels[index] = f"a shadow check failed: {wrong}"
        return expected


def _transformation() -> str | None:
    """What of torch.func or of forward-mode differentiation transforms this call, or None.

    The operator has no rule for those: vmap would fail in it, and a tangent would be lost without a word.
    """
    if getattr(torch.autograd.forward_ad, "_current_level", -1) >= 0:
        return "forward-mode differentiation is on, the kernel has none"
    if _TRANSFORMS is None or _TRANSFORMS() is None:
        return None
    kinds = {level.key().name.lower() for level in torch._C._functorch.get_interpreter_stack()} - {"functionalize"}
    return (
        f"torch.func transforms the call ({', '.join(sorted(kinds))}), the kernel has no rule for that"
        if kinds
        else None
    )


_DISPATCH_MODES = getattr(torch._C, "_len_torch_dispatch_stack", None)
_TRANSFORMS = getattr(getattr(torch._C, "_functorch", None), "peek_interpreter_stack", None)


def _plain_eager(tensors: Sequence[torch.Tensor]) -> bool:
    """Whether nobody traces, transforms or differentiates, so that the operator's own cost (tens of us) can be saved.

    Where this torch does not say, the answer is no.
    """
    if torch.is_grad_enabled() and any(t.requires_grad for t in tensors):
        return False
    if _DISPATCH_MODES is None or _TRANSFORMS is None or torch._C._get_tracing_state() is not None:
        return False
    return _DISPATCH_MODES() == 0 and _TRANSFORMS() is None and all(type(t) in _PLAIN for t in tensors)


_PLAIN = (torch.Tensor, torch.nn.Parameter, torch.nn.Buffer if hasattr(torch.nn, "Buffer") else torch.Tensor)


def _aligned(tensor: torch.Tensor) -> torch.Tensor:
    if tensor.is_neg() or tensor.is_conj():
        tensor = tensor.resolve_conj().resolve_neg()
    if tensor.data_ptr() % ALIGNMENT_BYTES == 0:
        return tensor
    return torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype).copy_(tensor)


def _as_declared(flat: list[torch.Tensor], variant: Variant, tensors: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    """Outputs with eager's strides and memory of their own, as an operator must return them."""
    taken = {t.untyped_storage().data_ptr() for t in tensors if t.numel()}
    declared = []
    for got, layout in zip(flat, variant.outputs, strict=True):
        fresh = got.untyped_storage().data_ptr() not in taken
        if not fresh or got.dtype is not layout.dtype or layout.mismatch(got) is not None:
            got = layout.empty().copy_(got)
        if got.numel():
            taken.add(got.untyped_storage().data_ptr())
        declared.append(got)
    return declared


def _differs(got: torch.Tensor, expected: torch.Tensor, tolerance: float) -> str | None:
    """How an output differs from the reference beyond the verified error budget, or None."""
    if tuple(got.shape) != tuple(expected.shape):
        return f"shape {tuple(got.shape)}, expected {tuple(expected.shape)}"
    if not expected.dtype.is_floating_point:
        wrong = int((got != expected).sum())
        return None if wrong <= expected.numel() // TURNED else f"{wrong} of {expected.numel()} integers differ"
    finite = expected.isfinite()
    if not torch.equal(finite, got.isfinite()):
        return "non-finite values in other places"
    want = expected[finite].double()
    if not want.numel():
        return None
    error = float((got[finite].double() - want).abs().max())
    scale = float(want.square().mean().sqrt())
    return (
        None if error <= tolerance * scale else f"error {error:.3g} at rms {scale:.3g}, allowed {tolerance:.3g} x rms"
    )
