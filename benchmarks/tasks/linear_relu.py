"""Matrix product, bias, ReLU."""

import torch

from kernelmill import task


@task(
    inputs={"a": "float32[N, N]", "b": "float32[N, N]", "bias": "float32[N]"},
    workloads={"main": {"N": 1024}},
)
def linear_relu(a: torch.Tensor, b: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    """Matrix product, bias, ReLU."""
    return torch.relu(a @ b + bias)
