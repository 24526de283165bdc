"""Plots, stills and overlays of the evaluation page."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from matplotlib.figure import Figure

from ditta_core.adaptation.config import warmup_length
from ditta_core.evaluation.measurement import EvaluationResult, GroundTruth, MethodResult
from ditta_core.report.footage import Footage, differing_video, disagreement, most_different_frames, video_of
from ditta_core.report.page_tables import full_title, key_style
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
    png,
    svg,
)
from ditta_core.report.results import (
    Comparison,
    Measure,
    finite,
    listed,
)
from ditta_core.report.tables import number


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
