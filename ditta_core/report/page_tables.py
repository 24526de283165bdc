"""Tables of the evaluation page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ditta_core.evaluation.measurement import EvaluationResult, MethodResult
from ditta_core.report.footage import video_of
from ditta_core.report.pages import swatches
from ditta_core.report.plots import (
    MethodStyle,
)
from ditta_core.report.results import (
    ADAPTATION,
    CONSISTENCY,
    CORRECT8,
    CORRECT16,
    FPS,
    MIOU,
    VC8,
    VC16,
    WIOU,
    Comparison,
    Measure,
)


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


def class_tables(
    result: EvaluationResult, groups: Sequence[Comparison], styles: Mapping[str, MethodStyle]
) -> list[PageTable]:
    """IoU per class, a table per comparison."""
    colors = {swatch.name: swatch.color for swatch in swatches(result.classes)}
    return [
        cross_table(group, "class, IoU %", class_measures(result.classes.names), styles, colors) for group in groups
    ]


def video_tables(
    groups: Sequence[Comparison], videos: Sequence[str], labelled: bool, styles: Mapping[str, MethodStyle]
) -> list[tuple[str, list[PageTable]]]:
    """Scores per video: by measure, a table per comparison."""
    shown = [("mIoU", "miou"), ("VC8", "vc8")] if labelled else []
    return [
        (title, [cross_table(group, "video", video_measures(videos, name), styles) for group in groups])
        for title, name in [*shown, ("Consistency", "consistency")]
    ]
