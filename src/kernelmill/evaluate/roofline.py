"""The least time a device can take, and how near a kernel comes to it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from kernelmill.devices._base import Description, Peaks
from kernelmill.evaluate.arrays import STORAGE
from kernelmill.schema import Signature, TensorSpec

IMPLAUSIBLE = 0.9
"""Measured peaks are themselves measurements, good to some percent; faster than this times the floor is no record."""

_FAST_HALVES = ("amx", "avx512_bf16", "avx512_fp16", "sme", "bf16", "asimdhp")


@dataclass(frozen=True)
class Floor:
    """Least time and what sets it."""

    time_us: float
    bound: Literal["memory", "compute"]


@dataclass(frozen=True)
class Rates:
    """What limits a kernel on this device with a number of threads."""

    memory_bytes: float
    """Bandwidth of memory, bytes/s, the highest of all measured mixes."""
    cache_bytes: float
    """Bandwidth of the last-level cache, bytes/s."""
    cache_size: int
    """Size of the last-level cache in bytes; 0 where unknown."""
    flops: float
    """FLOP/s of the widest unit for the dtype; infinite where no measured rate bounds it."""


def floor_us(flops: float, bytes_moved: float, peak_flops: float, peak_bytes: float) -> float:
    """Least time a kernel can take on a device, in microseconds.

    Args:
        flops: Arithmetic the kernel must do, counting one fused multiply-add as 2.
        bytes_moved: Bytes that must cross memory at least once: inputs + outputs.
        peak_flops: Peak of the unit and dtype in use, in FLOP/s (dense, no sparsity).
        peak_bytes: Peak memory bandwidth, in bytes/s.

    Raises:
        ValueError: A peak is not positive.

    Source: Williams, Waterman & Patterson, "Roofline", CACM 52(4), 2009.
    """
    if not (peak_flops > 0 and peak_bytes > 0):
        raise ValueError(f"peaks must be positive, got {peak_flops} FLOP/s and {peak_bytes} bytes/s")
    return max(flops / peak_flops, bytes_moved / peak_bytes) * 1e6


def bytes_of(spec: TensorSpec) -> int:
    """Bytes of a tensor's distinct elements; a broadcast dim (stride 0) counts once."""
    count = 1
    for size, step in zip(spec.shape, spec.stride, strict=True):
        count *= 1 if step == 0 and size > 1 else size
    return count * np.dtype(STORAGE[spec.dtype]).itemsize


def bytes_moved(signature: Signature) -> int:
    """Bytes a kernel must move: every element of inputs, state and outputs once."""
    return sum(bytes_of(spec) for spec in (*signature.tensors, *signature.outputs))


def rates(peaks: Peaks, device: Description, threads: int, dtype: str = "float32") -> Rates:
    """Limits with a number of threads: what so many single threads can do, at most what all together can.

    fp64 vectors have half of the measured fp32 rate. Where the device has matrix units or half-precision
    arithmetic, whose rate is not measured, 16-bit dtypes have no compute bound.
    """
    share = min(1.0, threads * peaks.copy_bytes_one / peaks.copy_bytes)
    flops = min(peaks.fma_flops, threads * peaks.fma_flops_one)
    if dtype == "float64":
        flops /= 2
    elif dtype != "float32" and any(unit.startswith(_FAST_HALVES) for unit in device.isa):
        flops = float("inf")
    return Rates(
        memory_bytes=max(peaks.copy_bytes, peaks.triad_bytes, peaks.read_bytes) * share,
        cache_bytes=peaks.llc_read_bytes * min(1.0, 2 * threads / max(1, len(device.cores))),
        cache_size=device.cache_bytes.get("l3", device.cache_bytes.get("l2", 0)),
        flops=flops,
    )


def floor(signature: Signature, flops: float, limits: Rates, llc: Literal["cold", "warm"] = "cold") -> Floor:
    """Least time of one workload.

    A working set that fits the last-level cache is bounded by that cache's bandwidth. A larger one moves
    through memory what the cache cannot hold: cold, up to a cache full of outputs may still lie there when the
    kernel returns; warm, that holds for inputs too.

    Args:
        signature: Gives the bytes.
        flops: Arithmetic that no rewrite avoids, 0 where unknown.
        limits: See `rates`.
        llc: State of the last-level cache before the call.
    """
    total = bytes_moved(signature)
    written = sum(bytes_of(spec) for spec in signature.outputs)
    held = min(total if llc == "warm" or total <= limits.cache_size else written, limits.cache_size)
    memory_s = held / max(limits.cache_bytes, limits.memory_bytes) + (total - held) / limits.memory_bytes
    compute_s = flops / limits.flops
    return Floor(max(memory_s, compute_s) * 1e6, "memory" if memory_s >= compute_s else "compute")


def implausible(time_us: float, least: Floor) -> str | None:
    """What to say where a kernel is faster than the device can be, or None."""
    if time_us >= IMPLAUSIBLE * least.time_us:
        return None
    return (
        f"it takes {time_us:.3g} us; this device cannot do it in less than {least.time_us:.3g} us ({least.bound}); "
        "faster than the limit means that work was left out"
    )
