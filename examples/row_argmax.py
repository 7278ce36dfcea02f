"""Greedy decoding's last step: the most likely token of every row, and its value."""

import torch

from kernelmill import task


@task(
    inputs={"logits": "float32[B, V]"},
    workloads={"decode": {"B": 2048, "V": 4096}},
)
def row_argmax(logits):
    """The first index wins a tie, as in eager mode."""
    return torch.argmax(logits, dim=-1), torch.amax(logits, dim=-1)
