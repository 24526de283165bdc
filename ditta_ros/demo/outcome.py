"""What came out of the demo: figures, pictures, and the files that show them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ditta_core.datasets.base import VideoSequence
from ditta_core.evaluation.measurement import GroundTruth, Measurement
from ditta_core.evaluation.scores import Scores
from ditta_core.report.demo_page import (
    Accuracy,
    BothStreams,
    DemoSummary,
    Latency,
    PassQuality,
    PhaseLatencies,
    Timeline,
    draw_timeline,
    write_html,
)
from ditta_core.report.pictures import OverlayVideo, Still, jpeg
from ditta_core.segmentation.base import SegmentationModel
from ditta_core.stream.config import StreamConfig
from ditta_core.types import State
from ditta_core.versions import software_versions
from ditta_ros.demo.comparison import FrameByFrame, Panels, compare, write_overlay
from ditta_ros.demo.players import MeasuredPass
from ditta_ros.process.children import ReplayError
from ditta_ros.replay.recording import Played, PublishedFrame, Recording

_STILLS = 3
"""Number of pictures of a video without labels."""

Progress = Callable[[int, str], AbstractContextManager[Any]]
"""A progress bar of so many steps, with what it shows."""


@dataclass(frozen=True)
class Outcome:
    """What was played, and what the node made of it.

    Attributes:
        sequence: What the camera saw.
        clean: The same before anything was done to the images.
        measured: Passes that are measured, in order.
        skipped: Number of frames at the beginning of a pass that are not measured.
        config: How the node segmented the stream.
        configuration: Options of the run, for the report.
    """

    sequence: VideoSequence
    clean: VideoSequence
    model: SegmentationModel
    recording: Recording
    played: Played
    measured: list[MeasuredPass]
    skipped: int
    config: StreamConfig
    configuration: Mapping[str, Any]

    def frames(self, passed: MeasuredPass) -> list[PublishedFrame]:
        """The frames of a measured pass that were answered."""
        return [
            frame
            for frame in self.played.frames
            if frame.round == passed.round and frame.index >= self.skipped and self.answered(frame) is not None
        ]

    def answered(self, frame: PublishedFrame) -> State | None:
        """The state of the node when the mask of a frame arrived; None without a mask."""
        played = self.played
        return played.history.at(played.arrivals[frame.stamp]) if frame.stamp in played.arrivals else None

    @property
    def unadapted_size(self) -> tuple[int, int]:
        """Network input (height, width) at which the unadapted model served."""
        messages = [message for message in self.played.messages if message.input_height]
        first = next((message for message in messages if message.generation == 0), messages[-1])
        return first.input_height, first.input_width


@dataclass(frozen=True)
class ComparedPass:
    """A measured pass, its answered frames, and what was measured of both streams on them."""

    passed: MeasuredPass
    frames: list[PublishedFrame]
    measured: BothStreams[Measurement]

    @property
    def quality(self) -> PassQuality:
        """Its figures."""
        return PassQuality(self.passed.name, *_qualities([self]))


def write_outcome(outcome: Outcome, out: Path, progress: Progress) -> DemoSummary:
    """Compare with the unadapted model, and write everything that the demo shows.

    Raises:
        ReplayError: no frame of a measured pass was answered.
    """
    sequence, model, recording = outcome.sequence, outcome.model, outcome.recording
    source = FrameByFrame(sequence, model, outcome.unadapted_size)
    ground_truth, note = None, ""
    try:
        ground_truth = GroundTruth(outcome.clean, model.classes)
    except ValueError as error:
        note = f"not compared with the labels: {error}"
    compared = []
    print("comparing the masks with those of the unadapted model", flush=True)
    with progress(sum(len(outcome.frames(passed)) for passed in outcome.measured), "comparing") as bar:
        for passed in outcome.measured:
            frames = outcome.frames(passed)
            if not frames:
                raise ReplayError(f"expected masks for the last pass of {passed.name}, but no frame of it was answered")
            measured = BothStreams(*compare(frames, recording, source, outcome.clean, ground_truth))
            bar.update(len(frames))
            compared.append(ComparedPass(passed, frames, measured))
    panels = Panels(recording, source)
    rounds = {0, *(number for passed in outcome.measured for number in range(passed.begin, passed.round + 1))}
    if len(compared) == 1:  # the first round, and the measured one
        rounds = {0, compared[0].passed.round}
    shown = [frame for frame in outcome.played.frames if frame.round in rounds]
    with (
        progress(len(shown), "drawing") as bar,
        OverlayVideo(out / "overlay.mp4", sequence.frame_rate) as video,
    ):
        write_overlay(shown, outcome.answered, panels, video, bar.update)
    stills = _stills(outcome, compared, panels)
    (out / "preview.jpg").write_bytes(jpeg(stills[0 if len(compared) > 1 else len(stills) // 2].image))
    summary = _summarize(outcome, compared)
    timeline_file = out / "timeline.png"
    draw_timeline(_timeline(outcome, compared), timeline_file)
    write_html(summary, timeline_file, stills, model.classes, out / "report.html")
    (out / "summary.json").write_text(summary.to_json(), encoding="utf-8")
    if note:
        print(note)
    return summary


def _stills(outcome: Outcome, compared: list[ComparedPass], panels: Panels) -> list[Still]:
    """Of each pass with labels the labelled frame that gained most, with its figures; else frames at even distances."""
    stills = []
    for each in compared:
        gains = {
            place: (before, after)
            for place, (before, after) in enumerate(
                zip(each.measured.source.frame_miou, each.measured.ditta.frame_miou, strict=True)
            )
            if before is not None and after is not None
        }
        if gains:
            places = [max(gains, key=lambda place: gains[place][1] - gains[place][0])]
        else:
            places = [round(place) for place in np.linspace(0, len(each.frames) - 1, _STILLS + 2)[1:-1]]
        for place in places:
            frame = each.frames[place]
            state = outcome.answered(frame)
            assert state is not None
            caption = f"{each.passed.name}: {outcome.sequence.origin(frame.index)}"
            if place in gains:
                before, after = gains[place]
                caption += f", mIoU {before:.1f} frame by frame, {after:.1f} with DiTTA"
            stills.append(Still(panels.draw(frame, state), caption))
    return stills


def _qualities(compared: list[ComparedPass]) -> tuple[BothStreams[float | None], BothStreams[Accuracy] | None, int]:
    """Consistency and accuracy of passes taken together, and the number of their frames with labels."""
    source = Scores.of([each.measured.source for each in compared])
    ditta = Scores.of([each.measured.ditta for each in compared])
    labelled = sum(each.measured.ditta.labelled for each in compared)
    accuracy = BothStreams(Accuracy.of(source), Accuracy.of(ditta)) if labelled else None
    return BothStreams(source.consistency, ditta.consistency), accuracy, labelled


def _summarize(outcome: Outcome, compared: list[ComparedPass]) -> DemoSummary:
    """All numbers of the run."""
    played, sequence, size = outcome.played, outcome.sequence, outcome.unadapted_size
    latencies: dict[State, list[float]] = {state: [] for state in State}
    for mask in played.masks:
        latencies[played.history.at(mask.time)].append(1e3 * (mask.time - played.published[mask.stamp]))
    end = played.messages[-1]
    height, width = sequence.image(0).shape[:2]
    consistency, accuracy, _ = _qualities(compared)
    return DemoSummary(
        video=sequence.name,
        frames=len(sequence),
        frame_rate=sequence.frame_rate,
        image_size=(width, height),
        passes=played.frames[-1].round + 1,
        frames_in=len(played.frames),
        masks_out=len(played.masks),
        dropped=end.dropped,
        lost=played.lost,
        states=tuple(change.state.value for change in played.history.changes),
        generation=end.generation,
        warmup_frames=outcome.config.warmup_frames,
        adaptation_seconds=end.adaptation_seconds or 0.0,
        masks_during_adaptation=len(latencies[State.ADAPTING]),
        latency_ms=PhaseLatencies(
            base=Latency.of(latencies[State.BASE] + latencies[State.COLLECTING]),
            adapting=Latency.of(latencies[State.ADAPTING]),
            adapted=Latency.of(latencies[State.ADAPTED]),
        ),
        compared_frames=sum(each.measured.ditta.frames for each in compared),
        consistency=consistency,
        accuracy=accuracy,
        scenes=tuple(each.quality for each in compared) if len(compared) > 1 else (),
        configuration={
            **outcome.configuration,
            "network input": f"{size[1]}×{size[0]} unadapted, {end.input_width}×{end.input_height} in the end",
        },
        versions=software_versions(),
    )


def _timeline(outcome: Outcome, compared: list[ComparedPass]) -> Timeline:
    """Everything in seconds since the first image."""
    played = outcome.played
    begin = played.frames[0].time
    first = {frame.round: frame.time - begin for frame in reversed(played.frames)}
    between: list[float | None] = [None]  # where no line goes from one pass to the next
    source, ditta, times = list[float | None](), list[float | None](), list[float]()
    for each in compared:
        times += [frame.time - begin for frame in each.frames]
        source += between + list(each.measured.source.frame_consistency[1:])
        ditta += between + list(each.measured.ditta.frame_consistency[1:])
    return Timeline(
        states=[(change.time - begin, change.state) for change in played.history.changes],
        frames=[frame.time - begin for frame in played.frames],
        masks=[mask.time - begin for mask in played.masks],
        latencies=[1e3 * (mask.time - played.published[mask.stamp]) for mask in played.masks],
        compared=times,
        source=source,
        ditta=ditta,
        scenes=[(first[each.passed.begin], each.passed.name) for each in compared] if len(compared) > 1 else (),
    )
