"""Tables of the evaluation page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ditta_core.classes import ClassList
from ditta_core.evaluation.scores import MethodResult
from ditta_core.report.footage import video_of
from ditta_core.report.pages import swatches
from ditta_core.report.plots import MethodStyle
from ditta_core.report.results import CORRECT8, CORRECT16, TABLE_MEASURES, Measure, MethodComparison


@dataclass(frozen=True)
class Cell:
    """A number of a table, its spread over the repeats or "", and whether it is the best that it compares with."""

    text: str
    spread: str
    best: bool


@dataclass(frozen=True)
class Row:
    """A row of a table.

    Attributes:
        key: CSS of the line that the row's method is drawn with; empty for a row that is no method.
        color: Colour of the row's class; empty for a row that is no class.
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
        columns: Headings, that of the rows' titles first.
        keys: CSS of the lines of the methods in the columns; empty where the columns are no methods.
    """

    title: str
    columns: tuple[str, ...]
    groups: tuple[RowGroup, ...]
    keys: tuple[str, ...] = ()


def _cells(measure: Measure, rows: Sequence[MethodResult]) -> tuple[Cell, ...]:
    """A measure of each row, the best marked."""
    best = measure.best(rows)
    return tuple(
        Cell(measure.value_text(row), measure.spread_text(row), index in best) for index, row in enumerate(rows)
    )


def _latency(quantile: str) -> Measure:
    return Measure(f"latency {quantile}, ms", lambda row: (row.latency_ms or {}).get(quantile), 1)


_PAGE_MEASURES = (
    *TABLE_MEASURES,
    Measure("failed adaptations", lambda row: row.failed_adaptations or None, 0),
    *map(_latency, ("p50", "p95", "p99")),
    Measure("dropped", lambda row: row.dropped, 0),
    Measure("memory, MB", lambda row: row.peak_memory_mb, 0),
    CORRECT8,
    CORRECT16,
)


def _group_title(group: MethodComparison) -> str:
    """What the rows of a group have in common."""
    frames = {row.frames for row in group.results}
    if group.warmup_ratio is None:
        where = "Whole videos"
    elif group.protocol == "w2f":
        where = f"After {group.warmup_ratio} % warm-up"
    else:
        where = f"Whole videos, {group.warmup_ratio} % warm-up"
    return where + (f" · {frames.pop()} frames" if len(frames) == 1 else "")


def full_title(group: MethodComparison) -> str:
    """What the rows of a group have in common, the corruption included."""
    return f"{_group_title(group)}{f' · {group.corruption}' if group.corruption else ''}"


def key_style(style: MethodStyle) -> str:
    """The line of a method as CSS."""
    return f"border-top-style: {style.dash}; border-top-color: {style.color or 'var(--neutral)'}"


def method_table(title: str, groups: Sequence[MethodComparison], styles: Mapping[str, MethodStyle]) -> PageTable:
    """Methods by measures, a group of rows per comparison; measures that no row has are left out."""
    every = [row for group in groups for row in group.results]
    measures = [measure for measure in _PAGE_MEASURES if any(measure.shown(row) is not None for row in every)]
    row_groups = []
    for group in groups:
        columns = [_cells(measure, group.results) for measure in measures]
        rows = (
            Row(row.method, tuple(column[index] for column in columns), key=key_style(styles[row.method]))
            for index, row in enumerate(group.results)
        )
        row_groups.append(RowGroup(_group_title(group), tuple(rows)))
    return PageTable(title, ("method", *(measure.title for measure in measures)), tuple(row_groups))


def _cross_table(
    group: MethodComparison,
    heading: str,
    measures: Sequence[Measure],
    styles: Mapping[str, MethodStyle],
    colors: Mapping[str, str] | None = None,
) -> PageTable:
    """Measures in rows by methods in columns, the best of each row marked."""
    rows = (
        Row(measure.title, _cells(measure, group.results), color=(colors or {}).get(measure.title, ""))
        for measure in measures
    )
    return PageTable(
        full_title(group),
        (heading, *(row.method for row in group.results)),
        (RowGroup("", tuple(rows)),),
        tuple(key_style(styles[row.method]) for row in group.results),
    )


def class_tables(
    classes: ClassList, groups: Sequence[MethodComparison], styles: Mapping[str, MethodStyle]
) -> list[PageTable]:
    """IoU per class, a table per comparison."""

    def iou_of(name: str) -> Measure:
        return Measure(name, lambda row: row.iou[name], 1, +1)

    colors = {swatch.name: swatch.color for swatch in swatches(classes)}
    measures = [iou_of(name) for name in classes.names]
    return [_cross_table(group, "class, IoU %", measures, styles, colors) for group in groups]


def video_tables(
    groups: Sequence[MethodComparison], videos: Sequence[str], labelled: bool, styles: Mapping[str, MethodStyle]
) -> list[tuple[str, list[PageTable]]]:
    """Scores per video: by measure, a table per comparison."""

    def score_on(video: str, name: str) -> Measure:
        return Measure(video, lambda row: getattr(video_of(row, video).scores, name), 2, +1)

    shown = [("mIoU", "miou"), ("VC8", "vc8")] if labelled else []
    return [
        (title, [_cross_table(group, "video", [score_on(video, name) for video in videos], styles) for group in groups])
        for title, name in [*shown, ("Consistency", "consistency")]
    ]
