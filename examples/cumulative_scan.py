"""Running sums along rows, as in sampling from a distribution or in a linear recurrence."""

import torch

from kernelmill import task


@task(
    inputs={"x": "float32[R, N]"},
    workloads={"main": {"R": 2048, "N": 4096}},
)
def cumulative_scan(x):
    """Eager mode scans one row at a time."""
    return torch.cumsum(x, dim=-1)
