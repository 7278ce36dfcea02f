"""Largest value and its place in each row: a tuple of two dtypes."""

import torch


class Model(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        values, places = torch.max(x, dim=-1)
        return values, places


def get_inputs() -> list[torch.Tensor]:
    return [torch.randn(256, 128)]


def get_init_inputs() -> list[object]:
    return []
