"""Which elements are above their row's mean: booleans that every order of adding rounds differently."""

import torch


class Model(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x > x.mean(-1, keepdim=True)


def get_inputs() -> list[torch.Tensor]:
    return [torch.rand(2048, 1024)]


def get_init_inputs() -> list[object]:
    return []
