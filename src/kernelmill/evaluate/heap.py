"""How much memory this process holds, as its allocators count it. Standard library only."""

from __future__ import annotations

import ctypes
import gc
import sys
from collections.abc import Callable
from itertools import pairwise

SMALL_OBJECT = 16
"""Bytes of the smallest block of Python's own allocator, which has its memory not from malloc."""

LEAST_LEAK = 4096
"""Bytes a call: what is smaller is bookkeeping of Python's and torch's own."""

ATTEMPTS = 8
"""Calls that must all keep memory: one that fills a cache stops earlier."""

_FIELDS = ("arena", "ordblks", "smblks", "hblks", "hblkhd", "usmblks", "fsmblks", "uordblks", "fordblks", "keepcost")
"""Of glibc's `struct mallinfo2`, in order."""


class _Mallinfo2(ctypes.Structure):
    _fields_ = tuple((name, ctypes.c_size_t) for name in _FIELDS)


class _Mallinfo(ctypes.Structure):
    _fields_ = tuple((name, ctypes.c_uint) for name in _FIELDS)


def allocated_bytes() -> int:
    """What malloc has given out and not got back, torch's tensors among it, and Python's small objects at the least.

    Before glibc 2.33 the first part is modulo 2**32; where this is not glibc, it is absent.
    """
    libc = ctypes.CDLL(None)
    small = SMALL_OBJECT * sys.getallocatedblocks()
    for name, kind in (("mallinfo2", _Mallinfo2), ("mallinfo", _Mallinfo)):
        if hasattr(libc, name):
            function = getattr(libc, name)
            function.restype = kind
            found = function()
            return int(found.uordblks) + int(found.hblkhd) + small
    return small


def kept_by(action: Callable[[], object]) -> int:
    """Least bytes that any of `ATTEMPTS` runs kept; 0 as soon as one keeps next to nothing."""
    before = allocated_bytes()
    action()
    if allocated_bytes() - before < LEAST_LEAK:
        return 0
    # Cycles are no leak. Collecting them takes 0.1 s with torch loaded, so only where there is a suspicion.
    gc.collect()
    levels = [allocated_bytes()]
    for _ in range(ATTEMPTS):
        action()
        gc.collect()
        levels.append(allocated_bytes())
        if levels[-1] - levels[-2] < LEAST_LEAK:
            return 0
    return min(after - before for before, after in pairwise(levels))
