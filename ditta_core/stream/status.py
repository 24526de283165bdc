"""What a stream is doing, and why a frame was rejected."""

from __future__ import annotations

from dataclasses import dataclass

from ditta_core.types import AdaptationReport, State


@dataclass(frozen=True)
class StreamStatus:
    """A snapshot of the state machine.

    Attributes:
        state: what it is doing.
        generation: of the model that is serving, 0 for the base model.
        collected, warmup_frames: how far the warm-up clip is filled.
        progress: share of the running adaptation that is done, 0..1.
        losses: mean loss of each finished pass of the running or last adaptation.
        report: of the last adaptation that ended.
        message: the last noteworthy event.
        remembered: generations that are kept for the scenes they were adapted to.
    """

    state: State = State.BASE
    generation: int = 0
    collected: int = 0
    warmup_frames: int = 0
    progress: float = 0.0
    losses: tuple[float, ...] = ()
    report: AdaptationReport | None = None
    message: str = ""
    remembered: int = 0


class FrameRejected(ValueError):
    """The frame cannot be used; the message says why. The stream goes on with the next one."""
