"""Seconds of a stream whose stamps may jump."""

from __future__ import annotations

MAX_STEP = 1.0
"""Seconds that one frame may advance the clock: a gap in the stamps confirms nothing."""
ASSUMED_PERIOD = 0.1
"""Seconds between frames whose stamps do not advance."""


class StreamClock:
    """Seconds of a stream, by its stamps where they advance and else by the number of its frames.

    Attributes:
        seconds: since the clock was made; the first frame counts as one period.
    """

    def __init__(self) -> None:
        self.seconds = 0.0
        self.step = ASSUMED_PERIOD
        self.stamp: int | None = None

    def advance(self, stamp: int) -> None:
        """A frame, with its stamp in nanoseconds: on by ``MAX_STEP`` at the most, or by the last step."""
        elapsed = (stamp - self.stamp) / 1e9 if self.stamp is not None else 0.0
        if elapsed > 0:
            self.step = min(elapsed, MAX_STEP)
        self.seconds += self.step
        self.stamp = stamp
