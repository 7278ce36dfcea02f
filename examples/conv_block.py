"""A file in KernelBench's shape: a small convolution block with pooling, a norm and a hard activation."""

import torch
import torch.nn as nn


class Model(nn.Module):
    """Depthwise convolution, max pooling, instance norm, Mish, then the channel with the least response."""

    def __init__(self, channels, kernel_size):
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, kernel_size, padding=kernel_size // 2, groups=channels)
        self.pool = nn.MaxPool2d(2)
        self.norm = nn.InstanceNorm2d(channels, affine=True)

    def forward(self, x):
        x = self.pool(self.conv(x))
        x = torch.nn.functional.mish(self.norm(x))
        return torch.amin(x, dim=1, keepdim=True)


batch_size = 16
channels = 32
height = width = 128
kernel_size = 3


def get_inputs():
    return [torch.rand(batch_size, channels, height, width)]


def get_init_inputs():
    return [channels, kernel_size]
