"""What a kernel runs on, with peaks measured on this very machine."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass


@dataclass(frozen=True)
class Peaks:
    """Measured limits of a device."""

    copy_bytes: float
    """Read plus write bandwidth of a copy with all threads, bytes/s."""
    triad_bytes: float
    """Bandwidth of a[i] = b[i] + s * c[i] with all threads, bytes/s."""
    read_bytes: float
    """Read-only bandwidth with all threads, bytes/s."""
    copy_bytes_one: float
    """Copy bandwidth of one thread, bytes/s."""
    fma_flops: float
    """fp32 fused multiply-adds with all threads, FLOP/s, one FMA counted as 2."""
    fma_flops_one: float
    """The same with one thread."""
    llc_read_bytes: float
    """Read bandwidth from the last-level cache with all threads, bytes/s."""


@dataclass(frozen=True)
class Description:
    """What is here."""

    name: str
    cores: tuple[int, ...]
    """Logical CPUs this process may use."""
    isa: tuple[str, ...]
    """Vector extensions, e.g. `avx2`, `avx512f`, `neon`."""
    cache_bytes: dict[str, int]
    """`l1d`, `l2`, `l3` in bytes, where the system says so."""
    memory_bytes: int


class Device(ABC):
    """One kind of device."""

    @abstractmethod
    def describe(self) -> Description:
        """What is here, without measuring."""

    @abstractmethod
    def peaks(self, refresh: bool = False) -> Peaks:  # noqa: FBT001, FBT002
        """Measured limits, from the cache where this machine was measured before."""
