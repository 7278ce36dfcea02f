"""A transposed sum whose contract fixes the strides of the output."""

import torch

from kernelmill import task


@task(inputs={"x": "float32[96, 64]"}, workloads={"main": {}}, output_strides="same")
def transposed(x: torch.Tensor) -> torch.Tensor:
    return (x + 1.0).t().contiguous()
