"""Which ATen operators are taken apart while tracing, and which stay whole."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import torch
from torch._decomp import core_aten_decompositions, get_decompositions

aten = torch.ops.aten

_ALSO_NAMES = """
_softmax _log_softmax native_layer_norm native_batch_norm _native_batch_norm_legit_no_training
_native_batch_norm_legit gelu hardtanh leaky_relu elu addmv linalg_vector_norm _fused_rms_norm
"""
_ALSO = _ALSO_NAMES.split()
"""Operators that core ATen keeps whole but that fuse once they are pointwise operators and reductions."""

_WHOLE_NAMES = """
pool scaled_dot_product baddbmm cdist euclidean_dist upsample grid_sampler native_dropout bernoulli rand
embedding unfold im2col col2im lstm gru rnn unique index_put scatter _unsafe_index pixel bilinear trilinear
cumulative interpolate affine_grid repeat_interleave ctc_loss bucketize
"""
_WHOLE = _WHOLE_NAMES.split()
"""Parts of names of operators whose library call beats what their decomposition would become, or is not
the same random stream."""


@lru_cache(maxsize=1)
def decompositions() -> dict[Any, Callable[..., Any]]:
    """The table for `make_fx`: core ATen, normalisations and activations, minus what must stay a library call."""
    table = dict(core_aten_decompositions())
    packets = [getattr(aten, name) for name in _ALSO if hasattr(aten, name)]
    table.update(get_decompositions(packets))
    kept = {op: f for op, f in table.items() if not any(part in str(op) for part in _WHOLE)}
    kept[aten.native_group_norm.default] = _group_norm
    return kept


def _group_norm(
    x: torch.Tensor,
    weight: torch.Tensor | None,
    bias: torch.Tensor | None,
    *sizes: Any,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """`native_group_norm(x, weight, bias, N, C, HxW, groups, eps)` with statistics over two separate dims.

    PyTorch's own decomposition flattens channels and space before it applies the weights, which hides the channel.
    """
    batch, channels, space, groups, eps = sizes
    split = x.reshape(batch, groups, channels // groups, space)
    var, mean = torch.var_mean(split, dim=[2, 3], correction=0, keepdim=True)
    scale = torch.rsqrt(var + eps)
    result = (split - mean) * scale
    if weight is not None:
        result = result * weight.reshape(1, groups, channels // groups, 1)
    if bias is not None:
        result = result + bias.reshape(1, groups, channels // groups, 1)
    return result.reshape(x.shape), mean.reshape(batch, groups), scale.reshape(batch, groups)
