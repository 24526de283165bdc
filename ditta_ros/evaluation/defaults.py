"""What the arguments of `ditta evaluate` and its work share; nothing here imports torch."""

from __future__ import annotations

NODE = "node"
"""The method that is the running node, with --node."""

AUTO = "auto"
"""The longest side of the network input that is found for each video."""

QUICK_FRAMES, QUICK_LONG_SIDE = 50, 320
"""Number of frames of every video, and longest side of the network input in pixels, with --quick."""


class NothingAdaptedError(RuntimeError):
    """Every adaptation of a method failed, so that its numbers are not its own; they were written all the same."""
