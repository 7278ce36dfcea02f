"""The library operators that a declared launch may call: functional, deterministic, no files, no callables.

The loader checks every one again against torch's own schema, so that a name that means something else in
another version of torch is refused there.
"""

from __future__ import annotations

from typing import Final

_POINTWISE: Final = """
abs acos acosh add addcdiv addcmul alias asin asinh atan atan2 atanh bitwise_and bitwise_left_shift bitwise_not
bitwise_or bitwise_right_shift bitwise_xor ceil celu clamp clamp_max clamp_min clone copysign cos cosh deg2rad div
elu eq erf erfc erfinv exp exp2 expm1 floor floor_divide fmax fmin fmod frac ge gelu glu gt hardshrink hardsigmoid
hardswish hardtanh heaviside hypot isfinite isinf isnan le leaky_relu lerp lgamma log log10 log1p log2 log_sigmoid
logaddexp logaddexp2 logical_and logical_not logical_or logical_xor logit lt masked_fill maximum minimum mish mul
nan_to_num ne neg positive pow prelu rad2deg reciprocal relu relu6 remainder round rsqrt rsub selu sgn sigmoid sign
signbit silu sin sinc sinh softplus softshrink sqrt square sub tan tanh threshold trunc where xlogy
"""

_REDUCE: Final = """
all amax amin aminmax any argmax argmin count_nonzero cummax cummin cumprod cumsum diff dist frobenius_norm
linalg_vector_norm log_softmax _log_softmax logcumsumexp logsumexp max mean median min mode mse_loss nanmean
nansum nll_loss_forward nll_loss2d_forward norm prod smooth_l1_loss huber_loss softmax _softmax std std_mean sum
trace var var_mean
"""

_SHAPE: Final = """
as_strided broadcast_to cat chunk constant_pad_nd diag diag_embed diagonal expand flatten flip im2col col2im
movedim narrow pad permute pixel_shuffle pixel_unshuffle reflection_pad1d reflection_pad2d reflection_pad3d repeat
repeat_interleave replication_pad1d replication_pad2d replication_pad3d reshape roll rot90 select select_scatter
diagonal_scatter slice slice_scatter split split_with_sizes squeeze stack t tile transpose tril triu unbind
unflatten unfold unsqueeze view _reshape_alias _unsafe_view contiguous _to_copy to
"""

_INDEX: Final = """
bincount bucketize embedding gather index index_add index_copy index_fill index_put index_select isin kthvalue
masked_select nonzero one_hot scatter scatter_add scatter_reduce searchsorted sort take take_along_dim topk argsort
"""

_CREATE: Final = """
arange eye full full_like linspace logspace new_full new_ones new_zeros ones ones_like scalar_tensor zeros zeros_like
"""

_LINEAR: Final = """
addbmm addmm addmv addr baddbmm bilinear bmm cdist _cdist_forward dot einsum inner linalg_cross linear
matmul mm mv outer _pdist_forward _trilinear vdot linalg_cholesky_ex linalg_inv_ex linalg_solve_triangular
cholesky_solve _fft_c2c _fft_c2r _fft_r2c view_as_real view_as_complex real imag complex
"""

_NETWORK: Final = """
_adaptive_avg_pool2d _adaptive_avg_pool3d adaptive_avg_pool1d adaptive_max_pool2d adaptive_max_pool3d avg_pool1d
avg_pool2d avg_pool3d affine_grid_generator convolution conv1d conv2d conv3d conv_transpose1d conv_transpose2d
conv_transpose3d _embedding_bag grid_sampler_2d grid_sampler_3d gru instance_norm lstm rnn_tanh rnn_relu max_pool1d
max_pool2d max_pool3d max_pool2d_with_indices max_pool3d_with_indices mkldnn_convolution
_native_batch_norm_legit_no_training native_channel_shuffle channel_shuffle native_group_norm native_layer_norm
layer_norm group_norm rms_norm _scaled_dot_product_flash_attention_for_cpu _scaled_dot_product_attention_math
scaled_dot_product_attention upsample_bicubic2d upsample_bilinear2d upsample_linear1d upsample_nearest1d
upsample_nearest2d upsample_nearest3d upsample_trilinear3d
"""

ATEN_OPERATORS: Final = frozenset(f"{_POINTWISE} {_REDUCE} {_SHAPE} {_INDEX} {_CREATE} {_LINEAR} {_NETWORK}".split())
"""Names without the overload, e.g. `convolution`."""
