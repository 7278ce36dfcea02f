"""Softmax over rows: eager's own kernel is already one good pass."""

import torch

from kernelmill import task


@task(
    inputs={"x": "float32[R, C]"},
    workloads={"main": {"R": 4096, "C": 2048}},
)
def softmax(x: torch.Tensor) -> torch.Tensor:
    """Softmax over rows: eager's own kernel is already one good pass."""
    return torch.softmax(x, -1)
