"""Mean cross-entropy over a vocabulary."""

import torch

from kernelmill import task


@task(
    inputs={"logits": "float32[R, V]", "target": "int64[R] in [0, V)"},
    workloads={"main": {"R": 2048, "V": 8192}},
)
def cross_entropy(logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Mean cross-entropy over a vocabulary."""
    return torch.nn.functional.cross_entropy(logits, target)
