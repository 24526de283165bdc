"""Does a frame follow the last one? What does not is an outlier, until several in a row say that the stream changed."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from ditta_core.stream.status import FrameRejected
from ditta_core.types import Frame, quoted

CONFIRMATION = 3
"""Frames in a row that show a change to be one. Until then a damaged header costs a frame, never what was learned."""
LATE_CONFIRMATION = 10
"""Late frames in a row, in order among themselves, that are no late ones: a short clip is looped, or the last stamp was
wrong and they go on from the one before it."""


class Break(Enum):
    """How a stream can break off."""

    SOURCE = "source"
    """Another resolution or frame_id: it is another camera's."""
    CLOCK = "clock"
    """The clock was set back, as in a bag that is looped."""
    AHEAD = "ahead"
    """Single frames were stamped too late; the stream goes on as before them."""


@dataclass(frozen=True)
class Discontinuity:
    """A break that is confirmed.

    Attributes:
        kind: What broke off.
        reason: The same for people, without a full stop.
    """

    kind: Break
    reason: str


@dataclass(frozen=True)
class Source:
    """Where a frame comes from.

    Attributes:
        frame_id: Name of the camera's coordinate frame.
        size: Height and width in pixels.
    """

    frame_id: str
    size: tuple[int, int]

    def change_to(self, other: Source) -> str:
        """What is different in another one; empty for nothing."""
        if other.size != self.size:
            return f"the resolution changed from {self.size} to {other.size} (height, width)"
        if other.frame_id != self.frame_id:
            return f"the frame_id changed from {quoted(self.frame_id)} to {quoted(other.frame_id)}"
        return ""


class SourceCheck:
    """Holds a stream to one source; it changes where :data:`CONFIRMATION` frames in a row have the same other one."""

    def __init__(self) -> None:
        self._source: Source | None = None
        self._other: Source | None = None
        self._count = 0

    def check(self, source: Source) -> str:
        """Take in the source of a frame.

        Returns:
            What changed with this frame; empty for nothing.

        Raises:
            FrameRejected: It is another one than that of the stream, and not confirmed.
        """
        change = self._source.change_to(source) if self._source is not None else ""
        if self._source is not None and change:
            self._count = self._count + 1 if source == self._other else 1
            self._other = source
            if self._count < CONFIRMATION:
                raise FrameRejected(
                    f"expected a frame of the same camera, but {change}; {CONFIRMATION} in a row change the stream; "
                    f"give every camera a topic of its own"
                )
        self._source, self._other, self._count = source, None, 0
        return change


class ClockCheck:
    """Holds the stamps of a stream in order.

    A gap is nothing special: the camera was switched off. But where the next frames come from before the gap, what lay
    behind it were outliers; after that a jump ahead has to be confirmed as one back has to be.
    """

    def __init__(self) -> None:
        self._last: int | None = None
        self._before_gap: int | None = None  # the last stamp before a gap, until enough frames came after it
        self._after_gap = 0
        self._distrusted = False  # whether frames were stamped ahead already
        self._other: int | None = None  # the last of the frames that would make the clock jump
        self._count = 0
        self._before_last: int | None = None
        self._late: int | None = None  # the last of the late frames in a row
        self._late_begin = 0
        self._late_count = 0

    def restart(self, stamp: int) -> None:
        """Go on from here, whatever was before."""
        self._last, self._before_gap, self._other, self._late = stamp, None, None, None
        self._before_last = None

    def check(self, stamp: int, max_jump: float) -> Discontinuity | None:
        """Take in the stamp of a frame in nanoseconds.

        Args:
            stamp: The stamp.
            max_jump: Seconds by which a frame may be late; what advances by more is a gap.

        Returns:
            A break that this frame confirms; None for none.

        Raises:
            FrameRejected: The frame is late, or the clock jumped and nothing confirms it yet.
        """
        if self._last is None:
            self.restart(stamp)
            return None
        ahead, jump = stamp - self._last, round(max_jump * 1e9)
        loops = ahead < 0 and self._other is not None and abs(stamp - self._other) <= jump  # and soon is where it was
        if -ahead > jump or loops:
            if self._before_gap is not None and self._before_gap <= stamp:
                self.restart(stamp)
                self._distrusted = True
                return Discontinuity(Break.AHEAD, f"frames were stamped {-ahead / 1e9:.3f} s ahead; the stream goes on")
            reason = f"the clock jumped back by {-ahead / 1e9:.3f} s"
            self._confirm(stamp, jump, reason)
            return Discontinuity(Break.CLOCK, reason)
        if ahead > jump and self._distrusted:
            self._confirm(stamp, jump, f"the clock jumped ahead by {ahead / 1e9:.3f} s")
            self._distrusted = False
            return None
        self._other = None
        if ahead < 0:
            in_order = self._late is not None and stamp >= self._late
            if not in_order:
                self._late_begin, self._late_count = stamp, 0
            self._late, self._late_count = stamp, self._late_count + 1
            if self._late_count >= LATE_CONFIRMATION:
                wrong = (self._last - self._late_begin) / 1e9
                follows = self._before_last is not None and self._before_last <= self._late_begin
                self.restart(stamp)
                if follows:  # what came between was one frame with a damaged header
                    return Discontinuity(Break.AHEAD, f"a frame was stamped {wrong:.3f} s ahead; the stream goes on")
                return Discontinuity(Break.CLOCK, f"the clock jumped back by {-ahead / 1e9:.3f} s")
            raise FrameRejected(
                f"expected a frame not older than the last one, but got one {-ahead / 1e9:.3f} s older; check that "
                f"images of one camera only arrive, in order ({LATE_CONFIRMATION} in a row change the stream)"
            )
        self._late = None
        if ahead > jump and self._before_gap is None:
            self._before_gap, self._after_gap = self._last, 0
        self._after_gap += 1
        if self._after_gap >= CONFIRMATION:
            self._before_gap = None
        self._before_last, self._last = self._last, stamp
        return None

    def _confirm(self, stamp: int, jump: int, reason: str) -> None:
        """Take in a stamp that would make the clock jump; go on from there once enough in a row do so.

        Raises:
            FrameRejected: They are too few.
        """
        self._count = self._count + 1 if self._other is not None and stamp >= self._other - jump else 1
        self._other = stamp
        if self._count < CONFIRMATION:
            raise FrameRejected(
                f"expected a frame that follows the last one, but {reason}; {CONFIRMATION} in a row change the stream"
            )
        self.restart(stamp)


class Continuity:
    """Whether every frame of a stream follows the last one."""

    def __init__(self) -> None:
        self._source = SourceCheck()
        self._clock = ClockCheck()

    def check(self, frame: Frame, max_jump: float) -> Discontinuity | None:
        """Take in a frame.

        Args:
            frame: The next frame.
            max_jump: Seconds by which its stamp may be older than the last one, where it is merely late.

        Returns:
            A break that this frame confirms; None for none.

        Raises:
            FrameRejected: It does not follow the last one, and nothing confirms it yet.
        """
        change = self._source.check(Source(frame.frame_id, frame.size))
        if change:
            self._clock.restart(frame.stamp)
            return Discontinuity(Break.SOURCE, change)
        return self._clock.check(frame.stamp, max_jump)
