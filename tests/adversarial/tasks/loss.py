"""Mean squared error: a scalar."""

import torch


class Model(torch.nn.Module):
    def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return torch.mean((x - y) ** 2)


def get_inputs() -> list[torch.Tensor]:
    return [torch.rand(256, 256), torch.rand(256, 256)]


def get_init_inputs() -> list[object]:
    return []
