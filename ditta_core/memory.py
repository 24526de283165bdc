"""Memory that is no longer needed."""

from __future__ import annotations

import ctypes
import gc

import torch


def return_memory() -> None:
    """Give back to the system what has been freed, after work that takes much and is not done again at once.

    The allocators keep it for the next time: after SAM 2 at 512 pixels that is 640 MB instead of 310, after compiling
    ESPNetv2 at 640×480 650 MB instead of 490, in processes that run for hours.
    """
    gc.collect()
    if torch.cuda.is_initialized():
        torch.cuda.empty_cache()
    trim_heap()


def trim_heap() -> None:
    """Let the C library alone give back what it holds free, which takes a moment and stops no other thread."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # of glibc; other C libraries have none
    if trim is not None:
        trim(0)
