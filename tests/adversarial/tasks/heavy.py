"""Some milliseconds of arithmetic on each element, so that time is worth stealing."""

import torch


class Model(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for _ in range(12):
            x = torch.sin(x) + 0.5 * torch.cos(x)
        return x


def get_inputs() -> list[torch.Tensor]:
    return [torch.randn(256, 512)]


def get_init_inputs() -> list[object]:
    return []
