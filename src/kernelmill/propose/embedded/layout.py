"""Strides: of views, of permuted allocations, and when two of them are the same memory."""

from __future__ import annotations

from collections.abc import Sequence

from kernelmill.propose.embedded.build import contiguous_strides, is_slice
from kernelmill.propose.embedded.ir import Node

Ints = tuple[int, ...]


def strides_in_order(shape: Sequence[int], order: Sequence[int]) -> Ints:
    """Strides of a dense tensor whose memory has the dims in `order`, outermost first."""
    strides = [0] * len(shape)
    step = 1
    for dim in reversed(order):
        strides[dim] = step
        step *= shape[dim]
    return tuple(strides)


def is_channels_last(shape: Sequence[int], strides: Sequence[int]) -> bool:
    """Whether a batch of images or volumes is dense with its channels innermost, and not row-major as well."""
    order = (0, *range(2, len(shape)), 1)
    dense = len(shape) in (4, 5) and same_strides(shape, strides, strides_in_order(shape, order))
    return dense and not is_contiguous(shape, strides)


def memory_order(shape: Sequence[int], strides: Sequence[int]) -> Ints | None:
    """The dims outermost first if the tensor is dense in memory, else None. Dims of size 1 come where they stand."""
    real = [d for d in range(len(shape)) if shape[d] != 1]
    order = sorted(real, key=lambda d: -strides[d])
    dense = strides_in_order([shape[d] for d in order], range(len(order)))
    if any(strides[d] != want for d, want in zip(order, dense, strict=True)):
        return None
    return tuple([d for d in range(len(shape)) if shape[d] == 1] + order)


def same_strides(shape: Sequence[int], first: Sequence[int], second: Sequence[int]) -> bool:
    """Whether both walk memory alike: strides of dims of size 1 do not count."""
    return all(size == 1 or a == b for size, a, b in zip(shape, first, second, strict=True))


def reshape_strides(shape: Sequence[int], strides: Sequence[int], target: Sequence[int]) -> Ints | None:
    """Strides of the view, or None where a reshape has to copy.

    Runs of dims that are contiguous among themselves are matched against runs of the new dims.
    """
    runs = _runs(shape, strides)
    result: list[int] = []
    sizes = list(target)
    while sizes and runs:
        size, step = runs.pop()
        while size > 1:
            if not sizes or size % sizes[-1]:
                return None
            last = sizes.pop()
            result.append(step)
            step *= last
            size //= last
    if any(s != 1 for s in sizes):
        return None
    result += [1] * len(sizes)
    return tuple(reversed(result))


def _runs(shape: Sequence[int], strides: Sequence[int]) -> list[Ints]:
    """(size, innermost stride) of maximal runs of dims that could be one dim."""
    runs: list[Ints] = []
    for size, step in zip(shape, strides, strict=True):
        if size == 1:
            continue
        if runs and runs[-1][1] == size * step:
            runs[-1] = (runs[-1][0] * size, step)
        else:
            runs.append((size, step))
    return runs


def view_strides(view: Node, shape: Sequence[int], strides: Sequence[int]) -> Ints | None:
    """Strides of a view, or of a slice, of a tensor of that shape and strides; None where a reshape has to copy."""
    if is_slice(view):
        return tuple(s * view.args[4] if d == view.args[1] else s for d, s in enumerate(strides))
    if view.op == "permute":
        return tuple(strides[d] for d in view.attrs["dims"])
    if view.op == "expand":
        offset = len(view.shape) - len(shape)
        return tuple(
            strides[i - offset] if i >= offset and shape[i - offset] == size else 0 for i, size in enumerate(view.shape)
        )
    return reshape_strides(shape, strides, view.shape)


def before_permute(dims: Sequence[int], strides: Sequence[int]) -> Ints:
    """Strides a tensor must have so that `permute(dims)` of it has these."""
    found = [0] * len(strides)
    for new, old in enumerate(dims):
        found[old] = strides[new]
    return tuple(found)


def is_contiguous(shape: Sequence[int], strides: Sequence[int]) -> bool:
    """Row-major without gaps."""
    return same_strides(shape, strides, contiguous_strides(shape))
