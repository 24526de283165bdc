"""Which frames of a stream the warm-up clip takes: those that show something new, while there is time for it."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ditta_core.flow import FlowEstimator
from ditta_core.stream.clock import StreamClock

VIEW_SIDE = 256
"""Longest side in pixels of the copies that are compared: 0.6 ms a frame on one core."""
NEW_MOTION = 1 / 256
"""Share of the longest side by which something must have moved since the last frame taken: one pixel of such a copy."""
NEW_SHARE = 0.1
"""Share of the view that must have moved by as much. A camera that stands still reaches at most 0.5 pixels at this
share under noise of σ = 5 and 0.8 at σ = 10; CamVid's clip at 15 Hz, whose camera drives, at least 3.3. The median
tells the same two apart but is deaf to what passes before a standing camera. In heavy noise and in the dark flow finds
motion everywhere, and the first frames are taken as they come."""
SMALLEST_CLIP = 6
"""Frames that are collected in any case, if as many are asked for: the statistics are taken of five, and the teacher
``flow`` averages a frame with three on either side."""


class NoveltyGate:
    """Passes over frames of a camera that stands still, for a number of seconds of the stream.

    A robot that is switched on stands, and the first frames of its stream are one view many times over. Where the
    camera moves, every frame is new, and the clip is made of the first frames.
    """

    def __init__(self) -> None:
        self.flow = FlowEstimator("ultrafast", VIEW_SIDE)
        self.begin()

    def begin(self) -> None:
        """A clip begins with the next frame."""
        self.clock = StreamClock()
        self.started: float | None = None
        self.seen = 0
        self.taken: NDArray[np.uint8] | None = None

    def admits(self, image: NDArray[np.uint8], stamp: int, budget: float, blank: bool = False) -> bool:
        """Whether the clip takes this frame: the first, every one that shows something new, and all after the budget.

        Args:
            image: RGB uint8 [H, W, 3], of one size since :meth:`begin`.
            stamp: nanoseconds; a gap counts as one second at the most.
            budget: seconds; 0 takes every frame.
            blank: the frame shows nothing at all and is not taken in any case.
        """
        self.seen += 1
        self.clock.advance(stamp)
        if self.started is None:
            self.started = self.clock.seconds
        if blank or self.spent(budget):
            return not blank
        view = self.flow.prepare(image)
        if self.taken is not None:
            motion = np.linalg.norm(self.flow.flow(self.taken, view), axis=2)
            if np.quantile(motion, 1 - NEW_SHARE) < NEW_MOTION * max(view.shape):
                return False
        self.taken = view
        return True

    def spent(self, budget: float) -> bool:
        """Whether the seconds are over that a clip may be waited for."""
        return self.started is not None and self.clock.seconds - self.started >= budget
