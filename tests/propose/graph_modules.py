"""Small modules in the style of kernel benchmarks: name -> (module, arguments)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812


class Apply(nn.Module):
    """`function(*layers, *arguments)` as a module."""

    def __init__(self, function: Callable[..., Any], *layers: nn.Module) -> None:
        super().__init__()
        self.function = function
        self.layers = nn.ModuleList(layers)

    def forward(self, *args: Any) -> Any:
        return self.function(*self.layers, *args)


class WithState(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.randn(6, 1, 1))
        self.register_buffer("shift", torch.randn(6, 1, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.tanh(x * self.scale + self.shift)


def made(function: Callable[..., Any], *layers: nn.Module) -> nn.Module:
    return Apply(function, *layers).eval()


def cases() -> dict[str, tuple[nn.Module, list[Any]]]:
    torch.manual_seed(0)
    mat, cube, image = torch.randn(6, 10), torch.randn(3, 5, 8), torch.randn(2, 6, 8, 8)
    volume, labels = torch.randn(2, 4, 6, 6, 6), torch.randint(0, 10, (6,))
    square, other = torch.randn(7, 7), torch.randn(6, 10)
    norm = nn.BatchNorm2d(6)
    norm.running_mean, norm.running_var = torch.randn(6), torch.rand(6) + 0.5
    return {
        "relu": (made(torch.relu), [image]),
        "gelu": (made(F.gelu), [mat]),
        "tanh gelu": (made(lambda x: F.gelu(x, approximate="tanh")), [mat]),
        "elu": (made(F.elu), [mat]),
        "selu": (made(F.selu), [mat]),
        "softplus": (made(F.softplus), [mat * 30]),
        "mish": (made(F.mish), [mat]),
        "hardswish": (made(F.hardswish), [mat * 4]),
        "softmax of rows": (made(lambda x: F.softmax(x, -1)), [cube]),
        "softmax of columns": (made(lambda x: F.softmax(x, 1)), [cube]),
        "log softmax": (made(lambda x: F.log_softmax(x, 0)), [cube]),
        "logsumexp": (made(lambda x: torch.logsumexp(x, 1, keepdim=True)), [image]),
        "layer norm": (made(lambda n, x: n(x), nn.LayerNorm([8, 8])), [image]),
        "layer norm of rows": (made(lambda n, x: n(x), nn.LayerNorm(8)), [cube]),
        "group norm": (made(lambda n, x: n(x), nn.GroupNorm(3, 6)), [image]),
        "instance norm": (made(lambda n, x: n(x), nn.InstanceNorm2d(6)), [image]),
        "batch norm": (made(lambda n, x: n(x), norm), [image]),
        "rms norm": (made(lambda x: x * torch.rsqrt(x.pow(2).mean(1, keepdim=True) + 1e-5)), [image]),
        "l1 norm": (made(lambda x: x / x.abs().mean(1, keepdim=True)), [mat]),
        "frobenius norm": (made(lambda x: x / torch.norm(x)), [cube]),
        "cross entropy": (made(F.cross_entropy), [mat, labels]),
        "cross entropy with smoothing": (made(lambda x, t: F.cross_entropy(x, t, label_smoothing=0.1)), [mat, labels]),
        "mse": (made(F.mse_loss), [mat, other]),
        "huber": (made(F.smooth_l1_loss), [mat, other]),
        "hinge": (made(lambda x, y: torch.clamp(1 - x * y.sign(), min=0).mean()), [mat, other]),
        "kl": (made(lambda x, y: F.kl_div(x.softmax(1).log(), y.softmax(1), reduction="batchmean")), [mat, other]),
        "triplet": (made(lambda a, b: F.triplet_margin_loss(a, b, a + b)), [mat, other]),
        "cosine": (made(lambda a, b: (1 - F.cosine_similarity(a, b, dim=1)).mean()), [mat, other]),
        "argmax": (made(lambda x: torch.argmax(x, 1)), [cube]),
        "argmin over everything": (made(torch.argmin), [cube]),
        "maximum and its index": (made(lambda x: torch.max(x, 1)), [cube]),
        "minimum": (made(lambda x: torch.min(x, 2)[0]), [cube]),
        "product": (made(lambda x: torch.prod(x, 1)), [cube]),
        "variance": (made(lambda x: (torch.var(x, 1), torch.std(x, 2, correction=0))), [cube]),
        "any and all": (made(lambda x: ((x > 1).any(1), (x > -1).all(2))), [cube]),
        "cumulative sum": (made(lambda x: torch.cumsum(x, 1)), [cube]),
        "cumulative sum of rows": (made(lambda x: torch.cumsum(x * 2, -1) + 1), [cube]),
        "reverse cumulative sum": (made(lambda x: torch.cumsum(x.flip(1), 1).flip(1)), [mat]),
        "max pool": (made(lambda x: F.max_pool2d(x, 3, 2, 1)), [image]),
        "max pool 1d": (made(lambda x: F.max_pool1d(x, 3, 1, 1, dilation=2)), [cube]),
        "max pool 3d": (made(lambda x: F.max_pool3d(x, 2)), [volume]),
        "max pool with ceil": (made(lambda x: F.max_pool2d(x, 3, 2, ceil_mode=True)), [image]),
        "avg pool": (made(lambda x: F.avg_pool2d(x, 2, 2, 1, count_include_pad=False)), [image]),
        "avg pool 3d": (made(lambda x: F.avg_pool3d(x, 2, 2, 1)), [volume]),
        "adaptive pool": (made(lambda x: F.adaptive_avg_pool2d(x, (4, 2))), [image]),
        "linear, bias, activation": (made(lambda m, x: torch.sigmoid(m(x)) * 2, nn.Linear(10, 4)), [mat]),
        "linear over more dims": (made(lambda m, x: F.relu(m(x)).sum(1), nn.Linear(8, 4)), [cube]),
        "conv, norm, relu, pool": (
            made(lambda c, n, x: F.max_pool2d(F.relu(n(c(x))), 2), nn.Conv2d(6, 6, 3), norm),
            [image],
        ),
        "conv and squeeze": (
            made(lambda c, x: (y := c(x)) * torch.sigmoid(y.mean((2, 3), keepdim=True)), nn.Conv2d(6, 6, 3)),
            [image],
        ),
        "attention": (made(lambda x: F.scaled_dot_product_attention(x, x, x)), [torch.randn(1, 2, 4, 8)]),
        "sum with the transpose": (made(lambda x: x + x.T), [square]),
        "diagonal product": (made(lambda a, b: torch.diag(a) @ b), [torch.randn(7), square]),
        "upper triangle": (made(lambda a, b: torch.triu(a @ b)), [square, square.exp()]),
        "transposed result": (made(lambda x: torch.relu(x).transpose(1, 2)), [cube]),
        "transposed reduction": (made(lambda x: x.permute(0, 2, 1).reshape(3, 40).sum(0)), [cube]),
        "reshape that splits nothing": (
            made(lambda x: x.reshape(4, 15, 2) * x.reshape(15, 8).sum(1)[None, :, None]),
            [cube],
        ),
        "outer sum": (made(lambda a, b: a[:, None] + b[None, :]), [torch.randn(5), torch.randn(9)]),
        "broadcast column": (made(lambda a: (a - a.mean(0)) / a.std(0)), [mat]),
        "cat and slice": (made(lambda a, b: torch.cat([a, b * 2], 1)[:, 3:15].exp()), [mat, other]),
        "depthwise": (made(lambda c, x: c(x), nn.Conv2d(6, 12, (3, 5), (2, 1), (1, 2), groups=6)), [image]),
        "depthwise 1d": (made(lambda c, x: c(x.tanh()), nn.Conv1d(5, 5, 3, dilation=2, groups=5, bias=False)), [cube]),
        "largest": (made(lambda x: torch.topk(x.exp(), 3)[0]), [torch.randn(3, 2, 300)]),
        "smallest of few": (made(lambda x: torch.topk(x, 2, 1, largest=False)[0]), [mat]),
        "largest and where": (made(lambda x: torch.topk(x, 2)), [torch.randn(2, 300)]),
        "stencil": (
            made(lambda u: u[1:-1, 1:-1] + 0.2 * (u[:-2, 1:-1] + u[2:, 1:-1] - u[1:-1, ::2][:, :4].sum())),
            [square],
        ),
        "halves": (made(lambda x: (y := x.chunk(2, -1))[0] * torch.sigmoid(y[1])), [cube]),
        "halves of a result": (
            made(lambda m, x: (y := m(x).split([4, 2], -1))[0] * y[1][..., :1], nn.Linear(8, 6)),
            [cube],
        ),
        "every second element": (made(lambda x: (x[:, 1::2].exp().sum(-1), x[..., -3:])), [cube]),
        "rows apart": (made(lambda x: torch.stack([a - x[0, 0] for a in x.unbind(1)])), [cube]),
        "slice of a computed tensor": (made(lambda x: (x * 2)[1:] - x.relu()[:-1]), [mat]),
        "empty slice": (made(lambda x: (x[3:3], x[:, 2] + 1)), [mat]),
        "shuffled channels": (made(lambda x: x.view(2, 2, 3, 8, 8).transpose(1, 2).reshape(2, 6, 8, 8)), [image]),
        "arange": (made(lambda x: x * torch.arange(10)), [mat]),
        "constant result": (made(lambda x: (torch.zeros(3, 2), x[0:1] + torch.ones(1, 10))), [mat]),
        "the argument itself": (made(lambda x: x), [mat]),
        "a view of the argument": (made(lambda x: x.view(2, 30)), [mat]),
        "expanded result": (made(lambda x: x[:1].exp().expand(4, 10)), [mat]),
        "one element": (made(lambda x: x.sum() * 2), [mat]),
        "nothing in common": (made(lambda a, b: (a.exp(), b.sum(0))), [cube, mat]),
        "double precision": (made(lambda x: F.softmax(x, 1)), [mat.double()]),
        "integers": (made(lambda t: (t * 2 + 1).sum() - t.abs().max()), [labels]),
        "booleans": (made(lambda a, b: (a > b) & ~(a < 0)), [mat, other]),
        "bfloat16": (made(lambda a: F.softmax(a, 1)), [mat.bfloat16()]),
        "float16 sum": (made(lambda a: a.float().sum(1)), [mat.half()]),
        "in place on a copy": (made(lambda a: a.clone().mul_(2).add_(1).clamp_(min=0)), [mat]),
        "a scalar argument": (made(lambda a, p: a * p), [mat, 3]),
        "channels last input": (made(lambda x: x.exp() + 1), [image.to(memory_format=torch.channels_last)]),
        "sliced input": (made(lambda x: x.exp().sum(1)), [image[:, ::2, 1:5]]),
        "size one dims": (made(lambda x: torch.logsumexp(x, 1) + x.max(1)[0]), [torch.randn(4, 1, 3)]),
        "state": (WithState(), [image]),
    }
