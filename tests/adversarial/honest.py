"""Honest kernels that several twins share."""

SIGNATURE = """const float* x, const int64_t* shape, const int64_t* stride,
    float* out, const int64_t* out_shape, const int64_t* out_stride"""

SOFTMAX_CPP = (
    """
extern "C" void kernel(
    """
    + SIGNATURE
    + """) {
    const int64_t rows = shape[0], columns = shape[1];
    #pragma omp parallel for
    for (int64_t r = 0; r < rows; r++) {
        const float* from = x + r * columns;
        float* to = out + r * columns;
        float top = from[0];
        for (int64_t c = 1; c < columns; c++) top = from[c] > top ? from[c] : top;
        float sum = 0;
        for (int64_t c = 0; c < columns; c++) sum += to[c] = std::exp(from[c] - top);
        for (int64_t c = 0; c < columns; c++) to[c] /= sum;
    }
}
"""
)

RELU_CPP = (
    """
extern "C" void kernel(
    """
    + SIGNATURE
    + """) {
    const int64_t count = shape[0] * shape[1];
    for (int64_t i = 0; i < count; i++) out[i] = x[i] > 0 || x[i] != x[i] ? x[i] : 0.0f;
}
"""
)

SOFTMAX_PY = """
import torch


def custom_kernel(x):
    e = torch.exp(x - x.amax(dim=-1, keepdim=True))
    return e / e.sum(dim=-1, keepdim=True)
"""

RELU_PY = """
import torch


def custom_kernel(x):
    return torch.clamp(x, min=0)
"""

LOSS_PY = """
import torch


def custom_kernel(x, y):
    return (x - y).square().sum() / x.numel()
"""

HEAVY_PY = """
import torch


def custom_kernel(x):
    for _ in range(12):
        x = torch.sin(x) + 0.5 * torch.cos(x)
    return x
"""

HEAVY_CPP = (
    """
extern "C" void kernel(
    """
    + SIGNATURE
    + """) {
    const int64_t count = shape[0] * shape[1];
    #pragma omp parallel for
    for (int64_t i = 0; i < count; i++) {
        float v = x[i];
        for (int k = 0; k < 12; k++) v = std::sin(v) + 0.5f * std::cos(v);
        out[i] = v;
    }
}
"""
)

LINEAR_PY = """
import torch


class ModelNew(torch.nn.Module):
    def __init__(self, inputs, outputs):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.empty(outputs, inputs))
        self.bias = torch.nn.Parameter(torch.empty(outputs))

    def forward(self, x):
        return torch.addmm(self.bias, x, self.weight.t())
"""

LAYERNORM_PY = """
import torch


class ModelNew(torch.nn.Module):
    def __init__(self, n):
        super().__init__()
        self.norm = torch.nn.LayerNorm(n)

    def forward(self, x):
        mean = x.mean(dim=-1, keepdim=True)
        apart = x - mean
        scale = torch.rsqrt(apart.square().mean(dim=-1, keepdim=True) + self.norm.eps)
        return apart * scale * self.norm.weight + self.norm.bias
"""
