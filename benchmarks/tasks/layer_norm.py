"""Layer norm with weight and bias."""

import torch

from kernelmill import task


@task(
    inputs={"x": "float32[R, C]", "weight": "float32[C]", "bias": "float32[C]"},
    workloads={"main": {"R": 8192, "C": 1024}},
)
def layer_norm(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    """Layer norm with weight and bias."""
    return torch.nn.functional.layer_norm(x, weight.shape, weight, bias)
