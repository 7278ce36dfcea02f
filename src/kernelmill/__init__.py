"""KernelMill: a slow piece of PyTorch in, a faster kernel that you can believe out."""

__version__ = "0.1.0"
