"""Depthwise convolution with a large kernel."""

import torch

from kernelmill import task


@task(
    inputs={"x": "float32[N, C, H, H]", "weight": "float32[C, 1, K, K]"},
    workloads={"main": {"N": 8, "C": 64, "H": 64, "K": 13}},
)
def depthwise_conv(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """Depthwise convolution with a large kernel."""
    return torch.nn.functional.conv2d(x, weight, padding=weight.shape[-1] // 2, groups=weight.shape[0])
