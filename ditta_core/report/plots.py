"""Plots of an evaluation: scores, curves over time, IoU per class, confusion.

Every plot is drawn in a theme, so that a page can show it light or dark. A method looks the same in all of them.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from numpy.typing import NDArray

from ditta_core.classes import ClassList
from ditta_core.evaluation.scores import MethodResult
from ditta_core.report.results import Measure, MethodComparison, finite, methods_of

# --- how things look -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Theme:
    """Colours of a light or a dark page: of its ground, titles, lesser text, grids, the warm-up, and the reference.

    ``scale`` are those of a heat map, from nothing to all, each end readable against the other.
    """

    page: str
    text: str
    soft: str
    line: str
    shade: str
    neutral: str
    scale: tuple[str, ...]


LIGHT = Theme(
    "#ffffff", "#1d2329", "#5c6670", "#dfe3e8", "#eef1f4", "#5b6570", ("#f7f9fb", "#b5d2ea", "#4a8fc7", "#0f4c81")
)
DARK = Theme(
    "#15181c", "#e4e8ec", "#98a3ae", "#333a42", "#20262c", "#aab4be", ("#1b2026", "#1f4666", "#3f86bd", "#cfe6f8")
)


@dataclass(frozen=True)
class MethodStyle:
    """How a method is drawn everywhere.

    Attributes:
        color: Colour of the method; None for the neutral one of the theme.
        dash: Style of the line, ``solid``, ``dashed`` or ``dotted``, as both CSS and matplotlib say it.
        marker: Marker as matplotlib names it.
    """

    color: str | None
    dash: str
    marker: str

    def in_theme(self, theme: Theme) -> str:
        """Its colour."""
        return self.color or theme.neutral


# Of Okabe and Ito, which people with any colour vision can tell apart; without black and yellow, each of which is
# lost in one of the themes.
_PALETTE = "#d55e00", "#0082c8", "#009e73", "#cc79a7", "#e69f00", "#56b4e9"
_DASHES = "solid", "dashed", "dotted"
_MARKERS = "o", "s", "^", "D", "v", "P"


def method_styles(featured: Sequence[str]) -> dict[str, MethodStyle]:
    """A style per method: the first is the neutral reference, the next ones have the plainest styles."""
    styles = {featured[0]: MethodStyle(None, "solid", "o")}
    for number, method in enumerate(featured[1:]):
        turn, place = divmod(number, len(_PALETTE))
        styles[method] = MethodStyle(
            _PALETTE[place], _DASHES[turn % len(_DASHES)], _MARKERS[(place + turn) % len(_MARKERS)]
        )
    return styles


_EMPHASISED = 3
"""Number of the featured methods that are drawn stronger than the rest."""


def _plain(text: str) -> str:
    """Text that matplotlib does not take for mathematics."""
    return text.replace("$", r"\$")


def _new_figure(width: float, height: float, theme: Theme) -> Figure:
    """An empty figure, in inches."""
    return Figure(figsize=(width, height), layout="constrained", facecolor=theme.page)


def _dress(axes: Axes, theme: Theme) -> None:
    """Bring the axes into the theme."""
    axes.set_facecolor("none")
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[:].set_color(theme.line)
    axes.tick_params(colors=theme.soft, labelsize=9, length=3)
    axes.xaxis.label.set_color(theme.soft)
    axes.yaxis.label.set_color(theme.soft)
    axes.set_axisbelow(True)


def _draw_legend(axes: Axes, handles: Sequence[Line2D], theme: Theme, title: str | None = None) -> None:
    """A legend without a frame beside the axes."""
    legend = axes.legend(
        handles=list(handles), loc="upper left", bbox_to_anchor=(1.005, 1.02), borderaxespad=0, frameon=False,
        fontsize=9, handlelength=2.4, labelcolor=theme.text, title=title, title_fontsize=9, alignment="left",
    )  # fmt: skip
    legend.get_title().set_color(theme.soft)


def file_content(figure: Figure, kind: Literal["png", "svg"]) -> bytes:
    """A figure as a file; the same figure always gives the same one."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format=kind, dpi=132, metadata={"Date": None} if kind == "svg" else None)
    return buffer.getvalue()


# --- plots ---------------------------------------------------------------------------------------------------------


def draw_scores(
    groups: Sequence[MethodComparison], measures: Sequence[Measure], styles: Mapping[str, MethodStyle], theme: Theme
) -> Figure:
    """Every method's scores beside each other: a row per method, a panel per measure, a dot per warm-up ratio.

    Thin lines show the reference at each ratio; bars show the spread over repeats.
    """
    methods = methods_of(row for group in groups for row in group.results)
    figure = _new_figure(11, 1.1 + 0.32 * len(methods), theme)
    panels = figure.subplots(1, len(measures), sharey=True, squeeze=False)[0]
    # From open to filled: the longer the warm-up, the fuller the dot.
    fills = np.linspace(0, 1, len(groups)) if len(groups) > 1 else np.ones(1)
    reference = next(iter(styles))
    for axes, measure in zip(panels, measures, strict=True):
        _dress(axes, theme)
        axes.set_title(measure.title, fontsize=11, loc="left", color=theme.text)
        axes.grid(axis="both", color=theme.line, linewidth=0.6)
        axes.tick_params(axis="y", length=0)
        for group, fill in zip(groups, fills, strict=True):
            base = group.of(reference)
            value = None if base is None else finite(measure.value(base))
            if value is not None:
                axes.axvline(value, color=theme.neutral, linewidth=0.8, alpha=0.35 + 0.5 * fill, zorder=1)
        offsets = np.linspace(0.2, -0.2, len(groups)) if len(groups) > 1 else np.zeros(1)
        for row, method in enumerate(methods):
            color = styles[method].in_theme(theme)
            for group, fill, offset in zip(groups, fills, offsets, strict=True):
                result = group.of(method)
                value = None if result is None else finite(measure.value(result))
                if result is None or value is None:
                    continue
                spread = finite(measure.spread(result))
                if spread:
                    bounds = value - spread, value + spread
                    axes.plot(bounds, (row - offset,) * 2, color=color, linewidth=1.2, zorder=2)
                axes.plot(value, row - offset, "o", markersize=7, color=theme.page, zorder=3)
                axes.plot(
                    value, row - offset, "o", markersize=7, color=color, alpha=0.15 + 0.85 * fill, mew=0, zorder=3
                )
                axes.plot(value, row - offset, "o", markersize=7, mfc="none", mec=color, mew=1.2, zorder=4)
    panels[0].set_yticks(range(len(methods)), [_plain(method) for method in methods])
    panels[0].set_ylim(len(methods) - 0.5, -0.5)
    panels[0].tick_params(axis="y", labelcolor=theme.text, labelsize=10)
    if len(groups) > 1:
        shades = LinearSegmentedColormap.from_list("", [theme.page, theme.text])
        handles = [
            Line2D(
                [], [], marker="o", linestyle="none", markersize=7, mec=theme.text, mew=1.2,
                mfc=shades(0.15 + 0.85 * fill) if fill else theme.page,
                label="–" if group.warmup_ratio is None else f"{group.warmup_ratio} % warm-up",
            )
            for group, fill in zip(groups, fills, strict=True)
        ]  # fmt: skip
        figure.legend(
            handles=handles, loc="outside upper right", ncols=len(handles), frameon=False, fontsize=9,
            handletextpad=0.2, columnspacing=1.2, labelcolor=theme.text,
        )  # fmt: skip
    return figure


@dataclass(frozen=True)
class Curve:
    """Values of a method, None where there is none, at increasing indices of the frames of one video."""

    method: str
    frames: Sequence[int]
    values: Sequence[float | None]

    @property
    def mean(self) -> float:
        """Mean of the values there are; NaN without one."""
        known = [value for value in self.values if value is not None]
        return float(np.mean(known)) if known else float("nan")


def draw_curves(
    panels: Mapping[str, Sequence[Curve]], warmup: int, end: int, styles: Mapping[str, MethodStyle], theme: Theme
) -> Figure:
    """Curves over time, a panel per measure, the warm-up shaded; beside each panel the methods, the best mean first.

    Args:
        panels: Curves in percent, by the name of the measure.
        warmup: Number of frames in the beginning that were adapted to.
        end: Number of frames of the video.
    """
    figure = _new_figure(11, 0.6 + 3.1 * len(panels), theme)
    strong = list(styles)[:_EMPHASISED]
    rows = figure.subplots(len(panels), 1, sharex=True, squeeze=False)[:, 0]
    for axes, (title, curves) in zip(rows, panels.items(), strict=True):
        _dress(axes, theme)
        axes.grid(axis="y", color=theme.line, linewidth=0.6)
        axes.set_title(f"{title}, %", fontsize=11, loc="left", color=theme.text)
        if warmup:
            axes.axvspan(0, warmup, color=theme.shade, linewidth=0, zorder=0)
            axes.text(
                warmup / 2, 0.02, "warm-up", transform=axes.get_xaxis_transform(), ha="center", va="bottom",
                rotation=90 if warmup < 0.15 * end else 0, fontsize=9, color=theme.soft,
            )  # fmt: skip
        handles = []
        for curve in sorted(curves, key=lambda curve: -curve.mean if np.isfinite(curve.mean) else np.inf):
            style, emphasised = styles[curve.method], curve.method in strong
            frames, values = np.asarray(curve.frames), np.asarray(curve.values, float)
            if np.count_nonzero(np.isfinite(values)) < 0.6 * len(values):
                # Labels on few of the frames: a line from each to the next one, and a dot on each.
                frames, values = frames[np.isfinite(values)], values[np.isfinite(values)]
            (line,) = axes.plot(
                frames, values, color=style.in_theme(theme), linestyle=style.dash,
                linewidth=2.0 if emphasised else 1.1, alpha=1 if emphasised else 0.6, zorder=3 if emphasised else 2,
                marker="." if len(values) <= 40 else None, markersize=5, solid_joinstyle="round",
                label=_plain(f"{curve.method}   {curve.mean:.1f}"),
            )  # fmt: skip
            handles.append(line)
        _draw_legend(axes, handles, theme, title="mean")
    rows[-1].set_xlim(0, max(end - 1, 1))
    rows[-1].set_xlabel("frame of the video")
    return figure


def draw_class_iou(
    rows: Sequence[MethodResult], classes: Sequence[str], styles: Mapping[str, MethodStyle], theme: Theme
) -> Figure:
    """IoU per class: a line per class from the worst to the best method, a mark per method."""
    figure = _new_figure(11, 1.0 + 0.3 * max(len(classes), len(rows) * 0.75), theme)
    axes = figure.subplots()
    _dress(axes, theme)
    axes.grid(axis="x", color=theme.line, linewidth=0.6)
    strong = list(styles)[:_EMPHASISED]
    for row, name in enumerate(classes):
        values = [value for result in rows if (value := finite(result.iou[name])) is not None]
        if values:
            axes.plot((min(values), max(values)), (row, row), color=theme.line, linewidth=4, zorder=1)
    handles = []
    for result in rows:
        style, emphasised = styles[result.method], result.method in strong
        (line,) = axes.plot(
            [np.nan if (value := finite(result.iou[name])) is None else value for name in classes], range(len(classes)),
            linestyle="none", marker=style.marker, markersize=8 if emphasised else 6, color=style.in_theme(theme),
            mfc=style.in_theme(theme) if style.dash == "solid" else theme.page, mec=style.in_theme(theme), mew=1.2,
            zorder=3 if emphasised else 2, label=_plain(result.method),
        )  # fmt: skip
        handles.append(line)
    _draw_legend(axes, handles, theme)
    axes.set_yticks(range(len(classes)), [_plain(name) for name in classes])
    axes.tick_params(axis="y", labelcolor=theme.text, labelsize=10, length=0)
    axes.set_ylim(len(classes) - 0.5, -0.5)
    axes.set_xlim(-1, 101)
    axes.set_xlabel("IoU, %")
    return figure


_ANNOTATED_CLASSES = 24
"""Number of classes up to which the cells of a confusion matrix hold numbers."""


def confusion_shares(confusion: NDArray[np.int64]) -> NDArray[np.float64]:
    """Percent of each row; NaN in rows without a pixel. [C, C + 1]."""
    totals = confusion.sum(1, keepdims=True)
    return np.divide(100.0 * confusion, totals, out=np.full(confusion.shape, np.nan), where=totals > 0)


def draw_confusion(result: MethodResult, classes: ClassList, theme: Theme) -> Figure:
    """What the pixels of each class were taken for, in percent of the row; classes without a pixel are left out."""
    labelled = result.confusion.sum(1) > 0
    predicted = np.append(labelled | (result.confusion[:, :-1].sum(0) > 0), result.confusion[:, -1].sum() > 0)
    shares = confusion_shares(result.confusion)[labelled][:, predicted]
    rows = [name for name, there in zip(classes.names, labelled, strict=True) if there]
    columns = [name for name, there in zip([*classes.names, "no class"], predicted, strict=True) if there]
    side = min(max(0.44 * len(columns), 2.4), 12)
    annotated = len(columns) <= _ANNOTATED_CLASSES
    figure = _new_figure(side + 1.8, side * len(rows) / len(columns) + 1.6, theme)
    axes = figure.subplots()
    scale = LinearSegmentedColormap.from_list("confusion", theme.scale)
    picture = axes.imshow(shares, cmap=scale, vmin=0, vmax=100, aspect="auto", interpolation="nearest")
    _dress(axes, theme)
    axes.spines[:].set_visible(False)
    axes.set_xticks(np.arange(len(columns)), [_plain(name) for name in columns], rotation=45, ha="right")
    axes.set_yticks(np.arange(len(rows)), [_plain(name) for name in rows])
    axes.tick_params(length=0, labelcolor=theme.text, labelsize=9 if annotated else 6)
    axes.set_xlabel("predicted")
    axes.set_ylabel("ground truth")
    if annotated:
        for (row, column), share in np.ndenumerate(shares):
            if share >= 0.5:
                color = theme.page if share > 55 else theme.text
                axes.text(column, row, f"{share:.0f}", ha="center", va="center", fontsize=8, color=color)
    bar = figure.colorbar(picture, ax=axes, shrink=0.6, pad=0.02, label="% of the class's pixels")
    bar.outline.set_visible(False)
    bar.ax.tick_params(colors=theme.soft, labelsize=8, length=2)
    bar.ax.yaxis.label.set_color(theme.soft)
    return figure
