"""Softmax of rows; the inputs are not negative, as in many benchmarks."""

import torch


class Model(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.softmax(x, dim=-1)


def get_inputs() -> list[torch.Tensor]:
    return [torch.rand(128, 512)]


def get_init_inputs() -> list[object]:
    return []
