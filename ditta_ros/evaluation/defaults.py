"""Defaults of `ditta evaluate`."""

from __future__ import annotations

NODE = "node"
"""The method that is the running node, with --live."""

LONG_SIDE = 480
"""Of the network input in pixels, as the node has it."""

QUICK_FRAMES, QUICK_LONG_SIDE = 50, 320
