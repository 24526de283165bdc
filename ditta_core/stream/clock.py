"""Seconds of a stream whose stamps may jump."""

from __future__ import annotations

MAX_STEP = 1.0  # seconds that one frame may advance the clock: a gap in the stamps confirms nothing
ASSUMED_PERIOD = 0.1  # seconds between the first frames where their stamps do not advance


class StreamClock:
    """Seconds of a stream, by the stamps of its frames where they advance, else by the number of its frames.

    Attributes:
        seconds: Seconds since the clock was made; the first frame counts as one period.
    """

    def __init__(self) -> None:
        self.seconds = 0.0
        self._step = ASSUMED_PERIOD
        self._stamp: int | None = None

    def advance(self, stamp: int) -> None:
        """Take in a frame with its stamp in nanoseconds: on by ``MAX_STEP`` at most, else by the last step again."""
        elapsed = (stamp - self._stamp) / 1e9 if self._stamp is not None else 0.0
        if elapsed > 0:
            self._step = min(elapsed, MAX_STEP)
        self.seconds += self._step
        self._stamp = stamp
