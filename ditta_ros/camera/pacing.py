"""Which images of a camera are segmented: all, none while it is paused, or so many per second."""

from __future__ import annotations

EARLY = 0.5
"""Share of a period by which an image may come too early: those of a camera do not come like clockwork."""


class Pacing:
    """Lets images pass at a largest rate in the mean, the first at once.

    Attributes:
        paused: Whether none passes; may be set by any thread.
    """

    def __init__(self) -> None:
        self.paused = False
        self._due = float("-inf")

    def passes(self, now: float, rate: float) -> bool:
        """Whether an image that comes now is segmented.

        Args:
            now: Seconds of a clock that never goes back.
            rate: Largest number of images per second; 0: no bound.
        """
        if self.paused or rate <= 0:
            return not self.paused
        period = 1 / rate
        if now < self._due - EARLY * period:
            return False
        # From the time at which it was due, not from now: of 30 images per second 20 pass then, and not 15.
        self._due = max(self._due, now - EARLY * period) + period
        return True
