"""Exact GELU of a biased input."""

import torch

from kernelmill import task


@task(
    inputs={"x": "float32[R, C]", "bias": "float32[C]"},
    workloads={"main": {"R": 8192, "C": 1024}},
)
def gelu_bias(x: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    """Exact GELU of a biased input."""
    return torch.nn.functional.gelu(x + bias)
