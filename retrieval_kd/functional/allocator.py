"""Keep freed memory for the next tensor, where the C library would give it back."""

from __future__ import annotations

import ctypes
from functools import cache

# Of mallopt(3): how much free memory may stay at the end of the heap, and how many blocks are mapped one by one.
TRIM_THRESHOLD, MMAP_MAX = -1, -4


@cache
def reuse_memory() -> bool:
    """Once in a process: serve large tensors from the heap, and keep the heap; False where there is no glibc.

    By default each tensor of more than 32 MB is mapped anew and unmapped when freed, so that a training step on a CPU
    spends a fifth of its time on page faults.
    """
    try:
        mallopt = ctypes.CDLL("libc.so.6").mallopt
    except (OSError, AttributeError):
        return False
    return bool(mallopt(MMAP_MAX, 0)) and bool(mallopt(TRIM_THRESHOLD, 2**31 - 1))
