"""Plots, stills and overlays of the evaluation page."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import cv2
import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from ditta_core.adaptation.config import warmup_length
from ditta_core.evaluation.measurement import GroundTruth
from ditta_core.evaluation.scores import EvaluationResult, MethodResult
from ditta_core.report.footage import Footage, differing_video, disagreement, most_different_frames, video_of
from ditta_core.report.page_tables import full_title, key_style
from ditta_core.report.pictures import OverlayVideo, RgbImage, compose_panels, data_url, jpeg
from ditta_core.report.plots import (
    DARK,
    LIGHT,
    Curve,
    MethodStyle,
    Theme,
    draw_class_iou,
    draw_confusion,
    draw_curves,
    file_content,
)
from ditta_core.report.results import Measure, MethodComparison, finite, listed
from ditta_core.report.tables import number

# --- plots ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Plot:
    """A plot of the page as URLs that carry it, for light and for dark pages."""

    title: str
    alt: str
    light: str
    dark: str


class Gallery:
    """Draws plots for light and dark pages, keeps the light ones as PNG in a folder, and calls ``step`` after each."""

    def __init__(self, folder: Path, step: Callable[[], object]) -> None:
        self._folder = folder
        self.step = step

    def plot(self, name: str, title: str, alt: str, draw: Callable[[Theme], Figure]) -> Plot:
        """Draw a plot; ``name`` becomes that of its file."""
        light, dark = draw(LIGHT), draw(DARK)
        (self._folder / f"{re.sub(r'[^A-Za-z0-9.]+', '_', name)}.png").write_bytes(file_content(light, "png"))
        self.step()
        # Of many curves, SVG has a fifth of the PNG's size, and is sharp on every display.
        return Plot(title, alt, *(data_url(file_content(figure, "svg"), "svg+xml") for figure in (light, dark)))


def _measured_classes(result: EvaluationResult, group: MethodComparison) -> list[str]:
    """The classes that have an IoU: those that the ground truth or a prediction holds."""
    return [name for name in result.classes.names if any(finite(row.iou[name]) is not None for row in group.results)]


def seen_classes(result: EvaluationResult, group: MethodComparison) -> list[str]:
    """The classes that a picture may show: those measured, or without labels all of them."""
    return _measured_classes(result, group) or list(result.classes.names)


def class_plot(
    result: EvaluationResult, group: MethodComparison, styles: Mapping[str, MethodStyle], gallery: Gallery
) -> Plot:
    """IoU per class of every method, in the classes that have one."""
    return gallery.plot(
        "classes",
        full_title(group),
        f"IoU of each class and method, {full_title(group)}; the values are in the table",
        lambda theme: draw_class_iou(group.results, _measured_classes(result, group), styles, theme),
    )


def confusion_plot(row: MethodResult, result: EvaluationResult, gallery: Gallery) -> Plot:
    """The confusion matrix of a row."""
    return gallery.plot(
        f"confusion {row.method}",
        row.method,
        f"Confusion matrix of {row.method}: rows ground truth, columns prediction, percent of each row",
        lambda theme: draw_confusion(row, result.classes, theme),
    )


def curve_plots(
    groups: Sequence[MethodComparison],
    measure: Measure,
    footage: Footage,
    styles: Mapping[str, MethodStyle],
    gallery: Gallery,
) -> list[Plot]:
    """For each comparison the curves over its most telling video; none where no frame has a value."""
    plots = []
    for group in groups:
        video = differing_video(group, measure)
        end = len(footage.sequences[video])
        panels = _curves(group, video, footage)
        if not panels:
            gallery.step()
            continue
        ratio = "" if group.warmup_ratio is None else f" {group.warmup_ratio}"
        plots.append(
            gallery.plot(
                f"curves{ratio} {group.corruption or ''}".strip(),
                f"{full_title(group)} · {video}",
                f"{listed([title[0].lower() + title[1:] for title in panels])} over time, {video}, {full_title(group)}",
                partial(draw_curves, panels, _warmup_frames(group, end), end, styles),
            )
        )
    return plots


def _curves(group: MethodComparison, video: str, footage: Footage) -> dict[str, list[Curve]]:
    """What is known of every frame of a video, by measure; measures without any value are left out."""
    panels: dict[str, list[Curve]] = {}
    for title, name in (
        ("Mean IoU of each frame", "frame_miou"),
        ("Consistency with the frame before", "frame_consistency"),
    ):
        curves = []
        for row in group.results:
            own = video_of(row, video)
            curves.append(Curve(row.method, footage.measured_frames(row, own), getattr(own, name)))
        if any(np.isfinite(curve.mean) for curve in curves):
            panels[title] = curves
    return panels


def _warmup_frames(group: MethodComparison, frames: int) -> int:
    """Frames in the beginning of a video of so many that the methods of a group were adapted to."""
    return 0 if group.warmup_ratio is None else warmup_length(frames, group.warmup_ratio)


# --- stills --------------------------------------------------------------------------------------------------------

STILL_METHODS = 6
_STILLS, _STILL_WIDTH = 4, 480


@dataclass(frozen=True)
class Panel:
    """A picture as URL under its caption, which is of title and note.

    ``key`` is the CSS of the line that the picture's method is drawn with; empty for a picture of no method.
    """

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


def frame_views(
    group: MethodComparison,
    methods: Sequence[str],
    footage: Footage,
    styles: Mapping[str, MethodStyle],
    step: Callable[[], object],
) -> tuple[FrameView, ...]:
    """Frames on which the methods differ most: the image, the ground truth, the masks."""
    rows = group.among(methods)
    shares = {}
    for video in rows[0].videos:
        for index in range(len(footage.sequences[video.video])):
            if index >= video.first:
                masks = [footage.masks(row, video.video, index) for row in rows]
                shares[video.video, index] = disagreement([mask for mask in masks if mask is not None])
            step()
    views = []
    for (video_name, index), share in most_different_frames(shares, _STILLS):
        sequence, classes = footage.sequences[video_name], footage.result.classes
        image, where = sequence.image(index), f"frame {index} of {video_name}"
        panels = [Panel("image", "", f"Camera image, {where}", _still(image))]
        truth = GroundTruth(sequence, classes).of(index)
        if truth is not None:
            panels.append(Panel("ground truth", "", f"Ground truth, {where}", _still(classes.overlay(image, truth))))
        for row in rows:
            mask, miou = footage.masks(row, video_name, index), footage.frame_mious(row, video_name).get(index)
            picture = _still(image if mask is None else classes.overlay(image, mask))
            key = key_style(styles[row.method])
            panels.append(
                Panel(row.method, _note(mask, miou, "no mask"), f"Masks of {row.method}, {where}", picture, key)
            )
        differ = f": the methods differ on {100 * share:.1f} % of the pixels" if len(rows) > 1 else ""
        views.append(FrameView(f"{where[0].upper()}{where[1:]}{differ}", tuple(panels)))
    return tuple(views)


def _still(image: RgbImage) -> str:
    """An image as URL, at most as wide as a still on the page."""
    height, width = image.shape[:2]
    if width > _STILL_WIDTH:
        size = _STILL_WIDTH, round(height * _STILL_WIDTH / width)
        image = np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA), np.uint8)
    return data_url(jpeg(image), "jpeg")


def _note(mask: NDArray[np.generic] | None, miou: float | None, without_mask: str) -> str:
    if mask is None:
        return without_mask
    return "" if miou is None else f"mIoU {number(miou)} %"


# --- overlay video -------------------------------------------------------------------------------------------------

OVERLAY_METHODS = 3


def write_overlay(
    group: MethodComparison,
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
    rows, sequence, classes = group.among(methods), footage.sequences[video], footage.result.classes
    frame_mious = [footage.frame_mious(row, video) for row in rows]
    warmup = _warmup_frames(group, len(sequence))
    with OverlayVideo(path, sequence.frame_rate) as overlay:
        for index in range(len(sequence)):
            masks = [footage.masks(row, video, index) for row in rows]
            if any(mask is not None for mask in masks):
                image = sequence.image(index)
                pictures, captions = [image], [f"camera, frame {index}{', warm-up' if index < warmup else ''}"]
                for row, mask, mious in zip(rows, masks, frame_mious, strict=True):
                    pictures.append(image if mask is None else classes.overlay(image, mask))
                    note = _note(mask, mious.get(index), "warm-up" if index < warmup else "no mask")
                    captions.append(f"{row.method}   {note}")
                overlay.write(_arranged(pictures, captions))
            step()


def _arranged(pictures: Sequence[RgbImage], captions: Sequence[str]) -> RgbImage:
    """Up to three panels side by side, four in two rows."""
    if len(pictures) < 4:
        return compose_panels(pictures, captions)
    return np.concatenate([compose_panels(pictures[row : row + 2], captions[row : row + 2]) for row in (0, 2)])
