"""An exported kernel as a torch operator: traceable, and differentiable where its contract says so."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import torch

NAMESPACE = "kernelmill"

Operator = Callable[[Sequence[torch.Tensor], int], list[torch.Tensor]]


class Host(Protocol):
    """What an operator needs from its export."""

    name: str
    differentiable: bool
    variants: list[Any]

    def forward(self, tensors: Sequence[torch.Tensor], index: int) -> list[torch.Tensor]: ...

    def reference(self, tensors: Sequence[torch.Tensor], index: int) -> list[torch.Tensor]: ...


def register(host: Host) -> Operator:
    """Register `kernelmill::<name>(Tensor[] tensors, int variant) -> Tensor[]` and give it back.

    Its outputs have the layout that eager gives them, so the fake kernel is exact. Gradients are those of the
    reference, which runs again in the backward pass; without `differentiable` a backward pass raises RuntimeError.
    """
    name = _free_name(host.name)
    forward = torch.library.custom_op(
        f"{NAMESPACE}::{name}", host.forward, mutates_args=(), schema="(Tensor[] tensors, int variant) -> Tensor[]"
    )

    def fake(_: Sequence[torch.Tensor], variant: int) -> list[torch.Tensor]:
        return [
            torch.empty_strided(layout.shape, layout.stride, dtype=layout.dtype, device="cpu")
            for layout in host.variants[variant].outputs
        ]

    forward.register_fake(fake)
    backward = _backward(host) if host.differentiable else _refusal(host, name)
    forward.register_autograd(backward, setup_context=_remember)
    return getattr(torch.ops, NAMESPACE).__getattr__(name)  # type: ignore[no-any-return]


def _free_name(name: str) -> str:
    """The name, or one not yet taken where the same export was loaded from two places in this process."""
    while hasattr(getattr(torch.ops, NAMESPACE), name):
        name += "_again"
    return name


def _remember(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:  # noqa: ARG001 - torch passes it by name
    tensors, variant = inputs
    ctx.save_for_backward(*tensors)
    ctx.variant = variant


def _refusal(host: Host, name: str) -> Callable[..., Any]:
    """A backward that raises when it runs; an operator, so that torch.compile may trace one that never runs."""

    def refuse(*_: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        raise RuntimeError(
            f"{host.name} is inference only: its task's contract is not differentiable, so a gradient was asked for "
            "that was never verified. Call it under torch.inference_mode(), or detach its result, or use the reference "
            "module for training, or set differentiable=True in the contract and export again."
        )

    operator = torch.library.custom_op(
        f"{NAMESPACE}::{name}_backward",
        refuse,
        mutates_args=(),
        schema="(Tensor[] grads, Tensor[] tensors) -> Tensor[]",
    )
    operator.register_fake(lambda _, tensors: [torch.empty_like(t) for t in tensors])

    def backward(ctx: Any, grads: Sequence[torch.Tensor | None]) -> tuple[Any, None]:
        # It takes the gradients so that torch.compile cannot move it into the forward pass.
        found = operator([g for g in grads if g is not None], list(ctx.saved_tensors))
        return [g if g.dtype.is_floating_point else None for g in found], None

    return backward


def _backward(host: Host) -> Callable[..., Any]:
    def backward(ctx: Any, grads: Sequence[torch.Tensor | None]) -> tuple[Any, None]:
        if torch.is_grad_enabled():
            raise RuntimeError(f"{host.name} has first derivatives only: create_graph=True is not supported")
        leaves = [t.detach().requires_grad_(t.dtype.is_floating_point) for t in ctx.saved_tensors]
        with torch.enable_grad():
            outputs = host.reference(leaves, ctx.variant)
        pairs = [(o, g) for o, g in zip(outputs, grads, strict=True) if o.requires_grad and g is not None]
        wanted = [leaf for leaf in leaves if leaf.requires_grad]
        if not pairs or not wanted:
            return [None] * len(leaves), None
        found = iter(torch.autograd.grad([o for o, _ in pairs], wanted, [g for _, g in pairs], allow_unused=True))
        return [next(found) if leaf.requires_grad else None for leaf in leaves], None

    return backward
