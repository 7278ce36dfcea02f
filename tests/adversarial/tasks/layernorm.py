"""Layer norm whose weights are 1 and 0 after construction: skipping them is right until they are drawn anew."""

import torch


class Model(torch.nn.Module):
    def __init__(self, n: int) -> None:
        super().__init__()
        self.norm = torch.nn.LayerNorm(n)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.norm(x)


def get_inputs() -> list[torch.Tensor]:
    return [torch.randn(128, 256)]


def get_init_inputs() -> list[object]:
    return [256]
