"""RMS norm composed from tensor operations, as models write it."""

import torch

from kernelmill import task


@task(
    inputs={"x": "float32[R, C]", "weight": "float32[C]"},
    workloads={"main": {"R": 8192, "C": 1024}},
)
def rms_norm(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """RMS norm composed from tensor operations, as models write it."""
    return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6) * weight
