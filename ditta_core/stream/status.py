"""What a stream is doing, and why a frame was rejected."""

from __future__ import annotations

from dataclasses import dataclass

from ditta_core.stream.generations import Generation
from ditta_core.stream.warmup_clip import WarmupClip
from ditta_core.types import AdaptationReport, State


@dataclass(frozen=True)
class StreamStatus:
    """A snapshot of the state machine.

    Attributes:
        state: What the stream is doing besides segmenting.
        generation: Number of the generation that serves, 0 for the base model.
        collected: Number of frames in the warm-up clip.
        warmup_frames: Number of frames that fill the warm-up clip.
        progress: Share (0..1) of the running adaptation that is done.
        losses: Loss of every finished step of the running or last adaptation, or mean of every pass.
        report: Report of the last adaptation that ended.
        message: Last noteworthy event, one sentence for people; nothing is decided by it.
        remembered: Number of generations that are kept for the scenes they were adapted to.
        input_size: Network input (height, width) of the last frame; (0, 0) before the first.
        training: Whether the network is still trained on the clip, of which it has the statistics and serves.
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
    input_size: tuple[int, int] = (0, 0)
    training: bool = False


class FrameRejected(ValueError):
    """The frame cannot be used; the message says why. The stream goes on with the next one."""


def reason(error: Exception) -> str:
    """What a status says of an exception: a sentence where it has one for users."""
    return str(error) if isinstance(error, ValueError) else f"{type(error).__name__}: {error}"


def not_renewed(warmup: WarmupClip, reason: str) -> str:
    """What a status says of the generation that a warm-up was to update, and does not."""
    assert warmup.updates is not None
    return f"generation {warmup.updates.number} was not updated: {reason}"


def success(generation: Generation, before: Generation | None, verb: str = "updated", note: str = "") -> str:
    """What a status says of a new generation, and of the one that it takes the place of."""
    report = generation.report
    did = "adapted" if before is None else f"generation {before.number} {verb}"
    note = f"; {report.reason}" if report.refused else note
    if report.long_side is not None:
        note = f" at {report.long_side} pixels{note}"
    return f"{did} to {report.frames} frames in {report.seconds:.1f} s{note}"


def outcome(report: AdaptationReport) -> dict[str, object]:
    """What the status has of an adaptation that succeeded."""
    return {"progress": 1.0, "losses": report.losses, "report": report}
