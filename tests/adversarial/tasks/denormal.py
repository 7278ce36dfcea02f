"""ReLU whose contract cares about subnormal numbers."""

import torch

from kernelmill import task


@task(
    inputs={"x": "float32[128, 256]"},
    workloads={"main": {}},
    families=("given", "normal", "denormal"),
)
def relu(x: torch.Tensor) -> torch.Tensor:
    return torch.relu(x)
