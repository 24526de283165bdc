"""The report of the demo: its numbers, a timeline, and one HTML page."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, astuple, dataclass, field
from pathlib import Path
from typing import Any, Generic, TypeVar

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from ditta_core.classes import ClassList
from ditta_core.evaluation.scores import Scores
from ditta_core.report.pages import render, swatches
from ditta_core.report.pictures import Still, data_url, jpeg
from ditta_core.report.tables import Table, number
from ditta_core.types import State

# --- what was measured ---------------------------------------------------------------------------------------------

Value = TypeVar("Value")


@dataclass(frozen=True)
class Latency:
    """Median and 95 % quantile of the milliseconds from the publication of an image to its mask; None without masks."""

    p50: float | None
    p95: float | None
    masks: int

    @classmethod
    def of(cls, milliseconds: Sequence[float]) -> Latency:
        """Percentiles of measured latencies."""
        if not milliseconds:
            return cls(None, None, 0)
        p50, p95 = np.percentile(milliseconds, [50, 95]).tolist()
        return cls(p50, p95, len(milliseconds))


@dataclass(frozen=True)
class PhaseLatencies:
    """Latencies before, during and after the adaptation."""

    base: Latency
    adapting: Latency
    adapted: Latency


@dataclass(frozen=True)
class Accuracy:
    """Measures against labels in percent; None where there was nothing to measure."""

    miou: float | None
    wiou: float | None
    vc8: float | None
    vc16: float | None

    @classmethod
    def of(cls, scores: Scores) -> Accuracy:
        """Those of the scores that are against labels."""
        return cls(scores.miou, scores.wiou, scores.vc8, scores.vc16)


@dataclass(frozen=True)
class BothStreams(Generic[Value]):
    """A value of the unadapted model, frame by frame, and of DiTTA on the same frames."""

    source: Value
    ditta: Value


@dataclass(frozen=True)
class PassQuality:
    """The quality of one measured pass.

    Attributes:
        name: What it shows.
        consistency: Flow-warped consistency in percent.
        accuracy: Measures against labels; None without labels.
        labelled: Number of frames with labels.
    """

    name: str
    consistency: BothStreams[float | None]
    accuracy: BothStreams[Accuracy] | None
    labelled: int


@dataclass(frozen=True)
class DemoSummary:
    """The numbers of one run of the demo.

    Attributes:
        video: Name of the sequence.
        frames: Number of frames of the sequence.
        frame_rate: Frames per second of the sequence.
        image_size: Size of the frames (width, height).
        passes: Number of times that it was played, the measured last pass included.
        frames_in: Number of images published.
        masks_out: Number of masks that arrived.
        dropped: Number of images that the node passed over, as it declares itself.
        lost: Number of images that never reached the node.
        states: States of the node, in order.
        generation: Generation of the model at the end.
        warmup_frames: Number of frames that the model was adapted to.
        adaptation_seconds: Duration of the adaptation.
        masks_during_adaptation: Number of masks that arrived while the node was adapting.
        latency_ms: Latencies in the phases of the run.
        compared_frames: Number of frames that the measures are over: those of the last pass after the warm-up part, or
            of the last pass of each scene.
        consistency: Flow-warped consistency in percent.
        accuracy: Measures against labels; None without labels.
        scenes: Quality of each scene; empty where one video was played.
        configuration: Options of the run.
        versions: Versions of the software.
    """

    video: str
    frames: int
    frame_rate: float
    image_size: tuple[int, int]
    passes: int
    frames_in: int
    masks_out: int
    dropped: int
    lost: int
    states: tuple[str, ...]
    generation: int
    warmup_frames: int
    adaptation_seconds: float
    masks_during_adaptation: int
    latency_ms: PhaseLatencies
    compared_frames: int
    consistency: BothStreams[float | None]
    accuracy: BothStreams[Accuracy] | None
    scenes: tuple[PassQuality, ...] = ()
    configuration: Mapping[str, Any] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)

    def to_json(self) -> str:
        """JSON with the names of the attributes; None becomes null, and ``accuracy`` is left out without labels."""
        values = asdict(self)
        if self.accuracy is None:
            del values["accuracy"]
        return json.dumps(values, indent=2, allow_nan=False) + "\n"


@dataclass(frozen=True)
class Timeline:
    """When what happened, in seconds since the first image.

    Attributes:
        states: Time at which each state began.
        frames: Time at which each image was published.
        masks: Time at which each mask arrived.
        latencies: Latency of each mask in milliseconds.
        compared: Time of each frame whose consistency with the one before was measured.
        source, ditta: Consistencies of these frames in percent, of the unadapted model and of DiTTA; None across a cut.
        scenes: Time at which each scene began, and its name; empty where one video was played.
    """

    states: Sequence[tuple[float, State]]
    frames: Sequence[float]
    masks: Sequence[float]
    latencies: Sequence[float]
    compared: Sequence[float]
    source: Sequence[float | None]
    ditta: Sequence[float | None]
    scenes: Sequence[tuple[float, str]] = ()


def quality_table(summary: DemoSummary) -> Table:
    """How good, where there are labels, and how steady the masks are without and with DiTTA."""
    measures: list[tuple[str, float | None, float | None]] = []
    scenes = [(f"  {each.name}", each) for each in summary.scenes]
    if summary.accuracy is not None:
        values = astuple(summary.accuracy.source), astuple(summary.accuracy.ditta)
        rows = list(zip(("mIoU", "wIoU", "VC8", "VC16"), *values, strict=True))
        # A few labelled frames have no windows of labelled frames.
        measures += rows if any(value is not None for row in rows[2:] for value in row[1:]) else rows[:2]
        of_scenes = [
            (name, each.accuracy.source.miou, each.accuracy.ditta.miou)
            for name, each in scenes
            if each.accuracy is not None
        ]
        measures[1:1] = of_scenes
    measures.append(("flow-warped consistency", summary.consistency.source, summary.consistency.ditta))
    measures += [(name, each.consistency.source, each.consistency.ditta) for name, each in scenes]
    cells = []
    for name, before, after in measures:
        change = "–" if before is None or after is None else f"{after - before:+.2f}"
        cells.append((name, number(before, 2), number(after, 2), change))
    labelled = sum(each.labelled for each in summary.scenes)
    what = f"{summary.compared_frames} frames{f', {labelled} labelled' if labelled else ''}, percent"
    return Table((what, "frame by frame", "DiTTA", "change"), tuple(cells))


def _latency_table(summary: DemoSummary) -> Table:
    """Latency per phase."""
    phases = summary.latency_ms
    rows = tuple(
        (name, str(latency.masks), number(latency.p50), number(latency.p95))
        for name, latency in (("before", phases.base), ("during", phases.adapting), ("after", phases.adapted))
    )
    return Table(("adaptation", "masks", "latency p50, ms", "p95, ms"), rows)


def _flow_sentence(summary: DemoSummary) -> str:
    """The way of the frames in one sentence."""
    lost = f", {summary.lost} lost on the way to the node" if summary.lost else ""
    return (
        f"{summary.frames_in} frames in, {summary.masks_out} masks out, {summary.dropped} dropped as too many{lost}; "
        f"adapted to {summary.warmup_frames} frames in {summary.adaptation_seconds:.1f} s, during which "
        f"{summary.masks_during_adaptation} masks came out"
    )


def summary_text(summary: DemoSummary) -> str:
    """What the demo prints."""
    tables = quality_table(summary).to_text(), _latency_table(summary).to_text()
    return "\n\n".join([*tables, _flow_sentence(summary)])


# --- pictures ------------------------------------------------------------------------------------------------------

_STATE_COLORS = {
    State.BASE: "#9aa3ad",
    State.COLLECTING: "#e0a82e",
    State.ADAPTING: "#3b82c4",
    State.ADAPTED: "#3a9d5d",
    State.FAILED: "#c0392b",
}
_SOURCE_COLOR, _DITTA_COLOR = "#c2703d", "#1f7a45"
_LEGEND: dict[str, Any] = {"loc": "lower right", "bbox_to_anchor": (1, 1), "frameon": False, "fontsize": 9}


def draw_timeline(timeline: Timeline, path: Path) -> None:
    """Draw latency and throughput over time, with the node's states behind them, and consistency, as a PNG."""
    figure = Figure(figsize=(11, 8), layout="constrained", facecolor="white")
    latency, rate, consistency = figure.subplots(3, 1)
    end = max([*timeline.frames, *timeline.masks], default=0.0) or 1.0
    beginnings = [max(time, 0.0) for time, _ in timeline.states]
    bands = [
        (begin, until, state)
        for (_, state), begin, until in zip(timeline.states, beginnings, [*beginnings[1:], end], strict=True)
        if begin < until
    ]
    for axes in (latency, rate, consistency):
        for begin, until, state in bands:
            axes.axvspan(begin, until, color=_STATE_COLORS[state], alpha=0.2, linewidth=0)
        for begin, _ in timeline.scenes:
            axes.axvline(begin, color="#2b3440", linewidth=0.8, linestyle="--")
        axes.set_xlim(0, end)
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(axis="y", color="#d5d9de", linewidth=0.6)
        axes.set_axisbelow(True)

    latency.plot(timeline.masks, timeline.latencies, ".", markersize=3, color="#2b3440")
    latency.set_ylabel("latency of a mask, ms")
    latency.set_ylim(bottom=0)
    for begin, name in timeline.scenes:
        place = latency.get_xaxis_transform()  # seconds from left to right, the share of the height upwards
        latency.text(begin, 0.97, f" {name}", transform=place, va="top", fontsize=9)
    reached = list(dict.fromkeys(state for _, _, state in bands))
    patches = [Patch(color=_STATE_COLORS[state], alpha=0.45, label=state.value) for state in reached]
    latency.legend(handles=patches, ncols=len(State), **_LEGEND)

    seconds = np.arange(0, math.ceil(end) + 1)
    rate.stairs(np.histogram(timeline.masks, seconds)[0], seconds, color=_DITTA_COLOR, label="masks out", fill=True)
    rate.stairs(np.histogram(timeline.frames, seconds)[0], seconds, color="#2b3440", label="frames in")
    rate.set_ylabel("per second")
    rate.legend(ncols=2, **_LEGEND)

    for values, color, label in (
        (timeline.source, _SOURCE_COLOR, "unadapted, frame by frame"),
        (timeline.ditta, _DITTA_COLOR, "DiTTA"),
    ):
        consistency.plot(timeline.compared, np.asarray(values, float), color=color, linewidth=1.2, label=label)
    consistency.set_ylabel("flow-warped\nconsistency, %")
    consistency.set_xlabel("seconds since the first frame")
    consistency.legend(ncols=2, **_LEGEND)
    figure.savefig(path, dpi=110)


# --- the page ------------------------------------------------------------------------------------------------------


def write_html(
    summary: DemoSummary, timeline_png: Path, stills: Sequence[Still], classes: ClassList, path: Path
) -> None:
    """Write the page: one file that needs nothing else, not even a network."""
    page = render(
        "demo.html.j2",
        summary=summary,
        flow=_flow_sentence(summary),
        tables=[quality_table(summary), _latency_table(summary)],
        timeline=data_url(timeline_png.read_bytes(), "png"),
        stills=[(data_url(jpeg(still.image), "jpeg"), still.caption) for still in stills],
        swatches=swatches(classes),
    )
    path.write_text(page, encoding="utf-8")
