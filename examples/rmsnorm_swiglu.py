"""The glue of a transformer block: residual add, RMS norm, then a SwiGLU gate over the two halves."""

import torch

from kernelmill import task


@task(
    inputs={"x": "float32[T, D]", "residual": "float32[T, D]", "weight": "float32[D]", "gate": "float32[T, D]"},
    workloads={"prefill": {"T": 2048, "D": 1024}},
)
def rmsnorm_swiglu(x, residual, weight, gate):
    """Four passes over memory in eager mode; one is enough."""
    hidden = x + residual
    normed = hidden * torch.rsqrt(hidden.pow(2).mean(-1, keepdim=True) + 1e-6) * weight
    return torch.nn.functional.silu(gate) * normed, hidden
