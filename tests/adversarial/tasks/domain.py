"""Scaled ReLU with declared axes: other shapes of the domain are drawn when a candidate is promoted."""

import torch

from kernelmill import task


@task(
    inputs={"x": "float32[B, N]", "w": "float32[N]"},
    axes={"B": (1, 64), "N": (1, 512)},
    workloads={"main": {"B": 64, "N": 256}},
)
def scaled_relu(x: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
    return torch.relu(x * w)
