"""Keeps memory between forward passes, for the command line only; Linux with glibc.

With glibc's defaults every pass gives its activations back to the kernel and maps them anew, which
costs up to half of the processor's time. Must run before torch is imported.
"""

import ctypes
import os
import sys

_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_MAX = -1, -2, -4
_LARGEST = 2**31 - 1


def keep_memory() -> None:
    """Let malloc keep what it has and use huge pages; does nothing where glibc is not the libc."""
    if not sys.platform.startswith("linux"):
        return
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_MMAP_MAX, 0)
        mallopt(_M_TRIM_THRESHOLD, _LARGEST)
        mallopt(_M_TOP_PAD, 64 * 2**20)
