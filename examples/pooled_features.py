"""Pooling and reductions that libraries serve badly on a CPU."""

import torch

from kernelmill import task


@task(
    inputs={"x": "float32[N, C, H, H]"},
    workloads={"main": {"N": 8, "C": 32, "H": 128}},
)
def pooled_features(x):
    """A 4x4 max pool with stride 2, then the spread of every channel."""
    pooled = torch.nn.functional.max_pool2d(x, 4, 2)
    return pooled, x.amax((2, 3)) - x.amin((2, 3))
