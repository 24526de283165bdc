"""Memory that is no longer needed."""

from __future__ import annotations

import ctypes
import gc
import sys
from collections.abc import Mapping


def return_memory() -> None:
    """Give back to the system what has been freed, after work that takes much and is not done again at once.

    The allocators would keep it for the next time: docs/ablations.md#memory-given-back.
    """
    gc.collect()
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_initialized():
        torch.cuda.empty_cache()
    trim_heap()


def trim_heap() -> None:
    """Let the C library alone give back what it holds free, which takes a moment and stops no other thread."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # of glibc; other C libraries have none
    if trim is not None:
        trim(0)


LARGE_BLOCK = 16 * 2**20
"""Bytes from which a block gets pages of its own, which the system has back when it is freed."""
_M_MMAP_THRESHOLD = -3  # of malloc.h


def keep_large_blocks_apart() -> None:
    """Have the C library give back large blocks at once; of the whole process, for one that runs for long.

    By itself it raises that limit with every large block that is freed, and from then on such blocks leave holes
    between small ones: docs/ablations.md#memory-given-back.
    """
    option = getattr(ctypes.CDLL(None), "mallopt", None)  # of glibc; other C libraries have none
    if option is not None:
        option(_M_MMAP_THRESHOLD, LARGE_BLOCK)


TUNABLES = "GLIBC_TUNABLES"
"""Variable with settings of glibc, separated by colons; other C libraries do not read it."""


def frugal_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """An environment for a process that computes for a while, and holds as little meanwhile as goes without much time.

    Blocks from 2 MB on get pages of their own, and all memory that is large enough gets huge pages, which makes up for
    most of the time that fresh pages take: docs/ablations.md#memory-given-back.
    """
    frugal = "glibc.malloc.mmap_threshold=2097152:glibc.malloc.hugetlb=1"
    given = environment.get(TUNABLES)
    return {**environment, TUNABLES: f"{given}:{frugal}" if given else frugal}


def postpone_collections() -> None:
    """Look for no garbage until :func:`end_imports`: imports make hundreds of thousands of objects, and all stay."""
    gc.disable()


def end_imports() -> None:
    """Collect garbage from now on, and never look at what is there already.

    Else the imports take a fourth more time, and each collection holds up the stream for 0.1 s.
    """
    gc.freeze()
    gc.enable()
