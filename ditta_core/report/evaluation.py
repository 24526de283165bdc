"""The report of an evaluation: one HTML page with the plots beside it, an overlay video, and the numbers as JSON."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from ditta_core.datasets.base import VideoSequence
from ditta_core.engine_config import warmup_length
from ditta_core.evaluation import EvaluationResult, GroundTruth, MethodResult, VideoResult
from ditta_core.report.pages import render, swatches
from ditta_core.report.pictures import OverlayVideo, RgbImage, compose_panels, data_url, jpeg, tint
from ditta_core.report.plots import (
    DARK,
    LIGHT,
    Curve,
    MethodStyle,
    Theme,
    draw_class_iou,
    draw_confusion,
    draw_curves,
    draw_scores,
    method_styles,
    png,
    svg,
)
from ditta_core.report.results import (
    ADAPTATION,
    CONSISTENCY,
    CORRECT8,
    CORRECT16,
    FPS,
    MIOU,
    OURS,
    VC8,
    VC16,
    WIOU,
    Comparison,
    Measure,
    comparisons,
    featured_methods,
    finite,
    from_json,
    listed,
    main_comparisons,
    main_measure,
    methods_of,
    reference_method,
    results_table,
    summary_sentence,
    to_json,
)
from ditta_core.report.tables import number

__all__ = ["from_json", "report_steps", "results_table", "to_json", "write_report"]

Masks = Callable[[MethodResult, str, int], "NDArray[Any] | None"]
"""The label image uint8 (uint16) [H, W] of a frame, 255 (65535) = unlabelled, given the result, the video's name and
the index of the frame; None where there is none, as in a warm-up that was not measured, or for a dropped frame."""


# --- the videos behind the numbers ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class Footage:
    """Images, labels and masks of the evaluated videos."""

    result: EvaluationResult
    sequences: Mapping[str, VideoSequence]
    masks: Masks

    def measured_frames(self, row: MethodResult, video: VideoResult) -> list[int]:
        """Indices of the measured frames, as many as the video has values per frame."""
        end = len(self.sequences[video.video])
        if video.first + video.frames < end:  # a live run that dropped frames
            there = [index for index in range(video.first, end) if self.masks(row, video.video, index) is not None]
            if len(there) == video.frames:
                return there
        return list(range(video.first, video.first + video.frames))

    def frame_miou(self, row: MethodResult, video: str, index: int) -> float | None:
        """Mean IoU of one frame in percent; None where it was not measured."""
        own = video_of(row, video)
        values = dict(zip(self.measured_frames(row, own), own.frame_miou, strict=True))
        return finite(values.get(index))


def video_of(row: MethodResult, video: str) -> VideoResult:
    """The result of a method on one video."""
    return next(own for own in row.videos if own.video == video)


def differing_video(group: Comparison, measure: Measure) -> str:
    """The video on which the methods' scores lie farthest apart; the first of several."""

    def gap(video: VideoResult) -> float:
        values = [
            value
            for row in group.results
            if (value := finite(getattr(video_of(row, video.video).scores, score_name(measure)))) is not None
        ]
        return max(values) - min(values) if values else 0.0

    return max(group.results[0].videos, key=gap).video


def score_name(measure: Measure) -> str:
    """The attribute of the scores that a measure of frames is of."""
    return "miou" if measure is MIOU else "consistency"


def disagreement(masks: Sequence[NDArray[Any]]) -> float:
    """Share of the pixels, 0..1, on which label images [H, W] are not all the same; 0 for fewer than two.

    Large images are compared on a grid of points.
    """
    if len(masks) < 2:
        return 0.0
    stride = max(1, min(masks[0].shape) // 180)
    first, *others = (mask[::stride, ::stride] for mask in masks)
    return float(np.mean(np.any([other != first for other in others], axis=0)))


def most_different_frames(
    shares: Mapping[tuple[str, int], float], count: int
) -> tuple[tuple[tuple[str, int], float], ...]:
    """The frames (video, index) with the largest shares that are not close to each other, in order.

    Where all shares are alike, frames at even distances.
    """
    keys = sorted(shares)
    if not keys:
        return ()
    if len(set(shares.values())) == 1:
        picked = [keys[round(place)] for place in np.linspace(0, len(keys) - 1, min(count, len(keys)))]
    else:
        distance = max(1, len(keys) // (2 * count))
        picked = []
        for video, index in sorted(keys, key=lambda key: -shares[key]):
            near = any(video == other and abs(index - place) < distance for other, place in picked)
            if not near and len(picked) < count:
                picked.append((video, index))
    return tuple((key, shares[key]) for key in sorted(picked))


# --- tables of the page --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Cell:
    """A number of a table.

    Attributes:
        spread: over the repeats; empty where there is none.
        best: whether it is the best of those that it compares with.
    """

    text: str
    spread: str
    best: bool

    @classmethod
    def of(cls, measure: Measure, row: MethodResult, best: bool) -> Cell:
        """A measure of a row."""
        return cls(measure.value_text(row), measure.spread_text(row), best)


@dataclass(frozen=True)
class Row:
    """A row of a table.

    Attributes:
        title: what it is.
        key: CSS of the line that its method is drawn with; empty for a row that is no method.
        color: of its class; empty for a row that is no class.
    """

    title: str
    cells: tuple[Cell, ...]
    key: str = ""
    color: str = ""


@dataclass(frozen=True)
class RowGroup:
    """Rows that compare with each other, under a title of their own where it is not empty."""

    title: str
    rows: tuple[Row, ...]


@dataclass(frozen=True)
class PageTable:
    """A table of the page.

    Attributes:
        title: its caption.
        columns: headings, that of the rows' titles first.
        keys: CSS of the lines of the methods in the columns; empty where the columns are no methods.
    """

    title: str
    columns: tuple[str, ...]
    groups: tuple[RowGroup, ...]
    keys: tuple[str, ...] = ()


def optional(title: str, name: str, digits: int) -> Measure:
    """A column of an attribute of the results, without a best one."""
    return Measure(title, lambda row: getattr(row, name), digits, 0)


def latency(quantile: str) -> Measure:
    """A column of a quantile of the latency."""
    return Measure(
        f"latency {quantile}, ms", lambda row: None if row.latency_ms is None else row.latency_ms.get(quantile), 1, 0
    )


FAILED = Measure("failed adaptations", lambda row: row.failed_adaptations or None, 0, 0)

PAGE_MEASURES = (
    MIOU, WIOU, VC8, VC16, CONSISTENCY, FPS, ADAPTATION, FAILED, latency("p50"), latency("p95"), latency("p99"),
    optional("dropped", "dropped", 0), optional("memory, MB", "peak_memory_mb", 0), CORRECT8, CORRECT16,
)  # fmt: skip


def group_title(group: Comparison) -> str:
    """What the rows of a group have in common."""
    frames = {row.frames for row in group.results}
    if group.warmup_ratio is None:
        where = "Whole videos"
    elif group.protocol == "w2f":
        where = f"After {group.warmup_ratio} % warm-up"
    else:
        where = f"Whole videos, {group.warmup_ratio} % warm-up"
    return where + (f" · {frames.pop()} frames" if len(frames) == 1 else "")


def full_title(group: Comparison) -> str:
    """The same with the corruption."""
    return f"{group_title(group)}{f' · {group.corruption}' if group.corruption else ''}"


def key_style(style: MethodStyle) -> str:
    """The line of a method as CSS."""
    return f"border-top-style: {style.dash}; border-top-color: {style.color or 'var(--neutral)'}"


def method_table(title: str, groups: Sequence[Comparison], styles: Mapping[str, MethodStyle]) -> PageTable:
    """Methods by measures, a group of rows per comparison; measures that no row has are left out."""
    rows = [row for group in groups for row in group.results]
    measures = [measure for measure in PAGE_MEASURES if any(measure.shown(row) is not None for row in rows)]
    row_groups = []
    for group in groups:
        best = [measure.best(group.results) for measure in measures]
        row_groups.append(
            RowGroup(
                group_title(group),
                tuple(
                    Row(
                        row.method,
                        tuple(
                            Cell.of(measure, row, index in winners)
                            for measure, winners in zip(measures, best, strict=True)
                        ),
                        key=key_style(styles[row.method]),
                    )
                    for index, row in enumerate(group.results)
                ),
            )
        )
    return PageTable(title, ("method", *(measure.title for measure in measures)), tuple(row_groups))


def cross_table(
    group: Comparison,
    heading: str,
    measures: Sequence[Measure],
    styles: Mapping[str, MethodStyle],
    colors: Mapping[str, str] | None = None,
) -> PageTable:
    """Measures in rows by methods in columns, the best of each row marked."""
    rows = []
    for measure in measures:
        best = measure.best(group.results)
        cells = tuple(Cell.of(measure, row, index in best) for index, row in enumerate(group.results))
        rows.append(Row(measure.title, cells, color=(colors or {}).get(measure.title, "")))
    return PageTable(
        full_title(group),
        (heading, *(row.method for row in group.results)),
        (RowGroup("", tuple(rows)),),
        tuple(key_style(styles[row.method]) for row in group.results),
    )


def class_measures(names: Sequence[str]) -> list[Measure]:
    """IoU of each class."""

    def of(name: str) -> Measure:
        return Measure(name, lambda row: row.iou[name], 1, 1)

    return [of(name) for name in names]


def video_measures(videos: Sequence[str], name: str) -> list[Measure]:
    """One of the scores on each video."""

    def of(video: str) -> Measure:
        return Measure(video, lambda row: getattr(video_of(row, video).scores, name), 2, 1)

    return [of(video) for video in videos]


# --- pictures of the page ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Plot:
    """A plot of the page as URLs that carry it, for light and for dark pages."""

    title: str
    alt: str
    light: str
    dark: str


@dataclass(frozen=True)
class Panel:
    """A picture under its caption."""

    title: str
    note: str
    alt: str
    url: str
    key: str = ""


@dataclass(frozen=True)
class FrameView:
    """One frame as every method sees it."""

    title: str
    panels: tuple[Panel, ...]

    @property
    def columns(self) -> int:
        """Panels beside each other where there is room, so that rows are full."""
        return min(range(min(len(self.panels), 4), 2, -1), key=lambda n: -len(self.panels) % n, default=2)


class Gallery:
    """Draws plots for light and dark pages, and keeps the light ones as PNG files.

    Args:
        folder: of the files.
        step: called after each.
    """

    def __init__(self, folder: Path, step: Callable[[], object]) -> None:
        self.folder = folder
        self.step = step

    def plot(self, name: str, title: str, alt: str, draw: Callable[[Theme], Figure]) -> Plot:
        """Draw a plot; ``name`` becomes that of its file."""
        light = draw(LIGHT)
        (self.folder / f"{re.sub(r'[^A-Za-z0-9.]+', '_', name)}.png").write_bytes(png(light))
        plot = Plot(title, alt, data_url(svg(light), "svg+xml"), data_url(svg(draw(DARK)), "svg+xml"))
        self.step()
        return plot


FRAME_MEASURES = (
    ("Mean IoU of each frame", "frame_miou"),
    ("Consistency with the frame before", "frame_consistency"),
)


def curves_of(group: Comparison, video: str, footage: Footage) -> dict[str, list[Curve]]:
    """What is known of every frame of a video, by measure; measures without any value are left out."""
    panels: dict[str, list[Curve]] = {}
    for title, name in FRAME_MEASURES:
        curves = []
        for row in group.results:
            own = video_of(row, video)
            curves.append(Curve(row.method, footage.measured_frames(row, own), getattr(own, name)))
        if any(np.isfinite(curve.mean) for curve in curves):
            panels[title] = curves
    return panels


def warmup_frames(group: Comparison, frames: int) -> int:
    """Frames in the beginning of a video of so many that the methods of a group were adapted to."""
    return 0 if group.warmup_ratio is None else warmup_length(frames, group.warmup_ratio)


STILLS, STILL_METHODS, STILL_WIDTH = 4, 6, 480


def shrunk(image: RgbImage) -> RgbImage:
    """At most as wide as a still on the page."""
    height, width = image.shape[:2]
    if width <= STILL_WIDTH:
        return image
    size = STILL_WIDTH, round(height * STILL_WIDTH / width)
    return np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA), np.uint8)


def frame_views(
    group: Comparison,
    methods: Sequence[str],
    footage: Footage,
    styles: Mapping[str, MethodStyle],
    step: Callable[[], object],
) -> tuple[FrameView, ...]:
    """Frames on which the methods differ most: the image, the ground truth, the masks."""
    rows = [row for method in methods if (row := group.of(method)) is not None]
    shares = {}
    for video in rows[0].videos:
        for index in range(len(footage.sequences[video.video])):
            if index >= video.first:
                masks = [footage.masks(row, video.video, index) for row in rows]
                shares[video.video, index] = disagreement([mask for mask in masks if mask is not None])
            step()
    views = []
    for (video_name, index), share in most_different_frames(shares, STILLS):
        sequence, classes = footage.sequences[video_name], footage.result.classes
        image = sequence.image(index)
        where = f"frame {index} of {video_name}"
        panels = [Panel("image", "", f"Camera image, {where}", data_url(jpeg(shrunk(image)), "jpeg"))]
        truth = GroundTruth(sequence, classes).of(index)
        if truth is not None:
            picture = data_url(jpeg(shrunk(tint(image, truth, classes))), "jpeg")
            panels.append(Panel("ground truth", "", f"Ground truth, {where}", picture))
        for row in rows:
            mask, miou = footage.masks(row, video_name, index), footage.frame_miou(row, video_name, index)
            picture = data_url(jpeg(shrunk(image if mask is None else tint(image, mask, classes))), "jpeg")
            note = "no mask" if mask is None else "" if miou is None else f"mIoU {number(miou)} %"
            panels.append(
                Panel(row.method, note, f"Masks of {row.method}, {where}", picture, key_style(styles[row.method]))
            )
        differ = f": the methods differ on {100 * share:.1f} % of the pixels" if len(rows) > 1 else ""
        views.append(FrameView(f"{where[0].upper()}{where[1:]}{differ}", tuple(panels)))
    return tuple(views)


OVERLAY_METHODS = 3


def write_overlay(
    group: Comparison,
    methods: Sequence[str],
    video: str,
    footage: Footage,
    path: Path,
    step: Callable[[], object],
) -> None:
    """Write the video with the masks of some methods over it: every frame that at least one of them has a mask of.

    No file, where there is no such frame.
    """
    path.unlink(missing_ok=True)
    rows = [row for method in methods if (row := group.of(method)) is not None]
    sequence = footage.sequences[video]
    frame_miou = {
        row.method: dict(
            zip(footage.measured_frames(row, video_of(row, video)), video_of(row, video).frame_miou, strict=True)
        )
        for row in rows
    }
    warmup = warmup_frames(group, len(sequence))
    with OverlayVideo(path, sequence.frame_rate) as overlay:
        for index in range(len(sequence)):
            masks = [footage.masks(row, video, index) for row in rows]
            if any(mask is not None for mask in masks):
                image = sequence.image(index)
                pictures, captions = [image], [f"camera, frame {index}{', warm-up' if index < warmup else ''}"]
                for row, mask in zip(rows, masks, strict=True):
                    pictures.append(image if mask is None else tint(image, mask, footage.result.classes))
                    miou = finite(frame_miou[row.method].get(index))
                    note = "" if miou is None else f"mIoU {number(miou)} %"
                    if mask is None:
                        note = "warm-up" if index < warmup else "no mask"
                    captions.append(f"{row.method}   {note}")
                overlay.write(arranged(pictures, captions))
            step()


def arranged(pictures: Sequence[RgbImage], captions: Sequence[str]) -> RgbImage:
    """Up to three panels side by side, four in two rows."""
    if len(pictures) < 4:
        return compose_panels(pictures, captions)
    return np.concatenate([compose_panels(pictures[row : row + 2], captions[row : row + 2]) for row in (0, 2)])


# --- the page ------------------------------------------------------------------------------------------------------


def report_steps(result: EvaluationResult, sequences: Mapping[str, VideoSequence]) -> int:
    """How often :func:`write_report` calls its ``step``."""
    main = main_comparisons(result)[0]
    labelled = main_measure(result) is MIOU
    plots = 1 + len(comparisons(result)) + labelled * (1 + len(confused(result, main)))
    scanned = sum(len(sequences[video.video]) for video in main.results[0].videos)
    return plots + scanned + len(sequences[differing_video(main, main_measure(result))])


def confused(result: EvaluationResult, group: Comparison) -> list[MethodResult]:
    """The rows whose confusion is shown: of the reference, of the best of the others, and of DiTTA."""
    reference, *others = featured_methods(result)
    shown = dict.fromkeys([reference, *others[:1], *(method for method in others if method == OURS)])
    rows = [row for method in shown if (row := group.of(method)) is not None]
    return [row for row in rows if row.confusion.any()]


def write_report(
    result: EvaluationResult,
    sequences: Mapping[str, VideoSequence],
    masks: Masks,
    folder: Path,
    step: Callable[[], object] = lambda: None,
) -> None:
    """Write ``report.html``, ``results.json``, the plots as PNG and ``overlay.mp4`` into a folder.

    The page is one file that needs neither network nor scripts. Frames and the overlay are of the first warm-up ratio,
    on the clean videos where there are any.

    Args:
        result: what was measured, at least one row; see :func:`to_json` for the file of numbers.
        sequences: the clean videos by name: images and labels.
        masks: the label image of a frame.
        folder: is made where it does not exist.
        step: called after every frame and every plot, ``report_steps`` times.

    Raises:
        OSError: a file cannot be written.
        ValueError: nothing was measured.
    """
    if not result.results:
        raise ValueError("expected results to report, but got none")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "results.json").write_text(to_json(result), encoding="utf-8")
    footage = Footage(result, sequences, masks)
    featured, measure = featured_methods(result), main_measure(result)
    styles = method_styles(featured)
    groups, mains = comparisons(result), main_comparisons(result)
    main, labelled = mains[0], measure is MIOU
    gallery = Gallery(folder, step)
    write_overlay(
        main, featured[:OVERLAY_METHODS], differing_video(main, measure), footage, folder / "overlay.mp4", step
    )
    score_measures = [MIOU, VC8, CONSISTENCY] if labelled else [CONSISTENCY]
    corruptions = list(dict.fromkeys(group.corruption for group in groups if group.corruption != main.corruption))
    videos = [video.video for video in main.results[0].videos]
    page = render(
        "evaluation.html.j2",
        title=f"Evaluation on {listed(videos) if len(videos) <= 3 else f'{len(videos)} videos'}",
        subtitle=subtitle(result),
        summary=summary_sentence(result),
        reference=reference_method(result),
        main_title=full_title(main),
        scores=gallery.plot(
            "scores",
            "Scores at a glance",
            f"{listed([each.title for each in score_measures])} of every method; the values are in the table",
            lambda theme: draw_scores(mains, score_measures, styles, theme),
        ),
        main_table=method_table(main.corruption or "Clean videos", mains, styles),
        corrupted=[
            method_table(corruption or "Clean videos", [g for g in groups if g.corruption == corruption], styles)
            for corruption in corruptions
        ],
        class_plot=class_plot(result, main, styles, gallery) if labelled else None,
        class_tables=class_tables(result, groups, styles) if labelled else [],
        curves=curve_plots(mains, measure, footage, styles, gallery),
        corrupted_curves=curve_plots(
            [group for group in groups if group not in mains], measure, footage, styles, gallery
        ),
        overlay=(folder / "overlay.mp4").exists(),
        frames=frame_views(main, featured[:STILL_METHODS], footage, styles, step),
        swatches=[each for each in swatches(result.classes) if each.name in seen_classes(result, main)],
        confusions=[confusion_plot(row, result, gallery) for row in confused(result, main)] if labelled else [],
        video_tables=video_tables(groups, videos, labelled, styles) if len(videos) > 1 else [],
        protocols=list(dict.fromkeys(group.protocol for group in groups)),
        live=any(row.latency_ms is not None or row.dropped is not None for row in result.results),
        repeated=any(row.spread is not None for row in result.results),
        command=result.config.get("command"),
        configuration={name: shown_value(value) for name, value in result.config.items() if name != "command"},
        versions=result.versions,
    )
    (folder / "report.html").write_text(page, encoding="utf-8")


def subtitle(result: EvaluationResult) -> str:
    """How much was compared."""
    groups = comparisons(result)
    methods = len(methods_of(result.results))
    ratios = list(dict.fromkeys(group.warmup_ratio for group in groups if group.warmup_ratio is not None))
    corruptions = list(dict.fromkeys(group.corruption or "clean" for group in groups))
    parts = [f"{methods} method{'s' * (methods > 1)}"]
    if ratios:
        parts.append(f"warm-up {listed([str(ratio) for ratio in ratios])} %")
    if corruptions != ["clean"]:
        parts.append(listed(corruptions))
    return " · ".join(parts)


def measured_classes(result: EvaluationResult, group: Comparison) -> list[str]:
    """The classes that have an IoU: those that the ground truth or a prediction holds."""
    return [name for name in result.classes.names if any(finite(row.iou[name]) is not None for row in group.results)]


def seen_classes(result: EvaluationResult, group: Comparison) -> list[str]:
    """The classes that a picture may show: those measured, or without labels all of them."""
    return measured_classes(result, group) or list(result.classes.names)


def class_plot(
    result: EvaluationResult, group: Comparison, styles: Mapping[str, MethodStyle], gallery: Gallery
) -> Plot:
    """IoU per class of every method, in the classes that have one."""
    names = measured_classes(result, group)
    return gallery.plot(
        "classes",
        full_title(group),
        f"IoU of each class and method, {full_title(group)}; the values are in the table",
        lambda theme: draw_class_iou(group.results, names, styles, theme),
    )


def class_tables(
    result: EvaluationResult, groups: Sequence[Comparison], styles: Mapping[str, MethodStyle]
) -> list[PageTable]:
    """IoU per class, a table per comparison."""
    colors = {swatch.name: swatch.color for swatch in swatches(result.classes)}
    return [
        cross_table(group, "class, IoU %", class_measures(result.classes.names), styles, colors) for group in groups
    ]


def curve_plots(
    groups: Sequence[Comparison],
    measure: Measure,
    footage: Footage,
    styles: Mapping[str, MethodStyle],
    gallery: Gallery,
) -> list[Plot]:
    """The curves of each comparison that has any."""
    plots = [curve_plot(group, measure, footage, styles, gallery) for group in groups]
    return [plot for plot in plots if plot is not None]


def curve_plot(
    group: Comparison, measure: Measure, footage: Footage, styles: Mapping[str, MethodStyle], gallery: Gallery
) -> Plot | None:
    """The curves over one video of a comparison; None where no frame has a value."""
    video = differing_video(group, measure)
    end = len(footage.sequences[video])
    warmup = warmup_frames(group, end)
    ratio = "" if group.warmup_ratio is None else f" {group.warmup_ratio}"
    panels = curves_of(group, video, footage)
    if not panels:
        gallery.step()
        return None
    return gallery.plot(
        f"curves{ratio} {group.corruption or ''}".strip(),
        f"{full_title(group)} · {video}",
        f"{listed([title[0].lower() + title[1:] for title in panels])} over time, {video}, {full_title(group)}",
        lambda theme: draw_curves(panels, warmup, end, styles, theme),
    )


def confusion_plot(row: MethodResult, result: EvaluationResult, gallery: Gallery) -> Plot:
    """The confusion matrix of a row."""
    return gallery.plot(
        f"confusion {row.method}",
        row.method,
        f"Confusion matrix of {row.method}: rows ground truth, columns prediction, percent of each row",
        lambda theme: draw_confusion(row, result.classes, theme),
    )


def video_tables(
    groups: Sequence[Comparison], videos: Sequence[str], labelled: bool, styles: Mapping[str, MethodStyle]
) -> list[tuple[str, list[PageTable]]]:
    """Scores per video: by measure, a table per comparison."""
    shown = [("mIoU", "miou"), ("VC8", "vc8")] if labelled else []
    return [
        (title, [cross_table(group, "video", video_measures(videos, name), styles) for group in groups])
        for title, name in [*shown, ("Consistency", "consistency")]
    ]


def shown_value(value: Any) -> str:
    """A value of the configuration as text."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
