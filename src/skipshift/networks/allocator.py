"""Tuning of glibc's memory allocator on Linux, for the command line only.

With glibc's defaults every forward pass returns its activations to the kernel and maps them again,
which costs up to half of the CPU time. Must run before torch is imported.
"""

import ctypes
import os
import sys

_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_MAX = -1, -2, -4
_LARGEST = 2**31 - 1


def keep_memory() -> None:
    """Make malloc keep freed memory and use huge pages; does nothing without glibc."""
    if not sys.platform.startswith("linux"):
        return
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_MMAP_MAX, 0)
        mallopt(_M_TRIM_THRESHOLD, _LARGEST)
        mallopt(_M_TOP_PAD, 64 * 2**20)
