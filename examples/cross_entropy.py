"""Language-model loss over a vocabulary: log-softmax and the pick of one logit per token."""

import torch

from kernelmill import task


@task(
    inputs={"logits": "float32[T, V]", "target": "int64[T] in [0, V)"},
    workloads={"train": {"T": 1024, "V": 16384}},
)
def cross_entropy(logits, target):
    """The loss of every token; eager writes the whole log-softmax to memory to read one number a row."""
    return torch.nn.functional.cross_entropy(logits, target, reduction="none")
