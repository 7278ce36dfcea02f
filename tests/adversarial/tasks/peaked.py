"""Softmax of rows that spread: most probabilities are below one in a million."""

import torch


class Model(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.softmax(x, dim=-1)


def get_inputs() -> list[torch.Tensor]:
    return [5.0 * torch.randn(128, 512)]


def get_init_inputs() -> list[object]:
    return []
