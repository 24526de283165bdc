"""The report of an evaluation: one HTML page with the plots beside it, an overlay video, and the numbers as JSON."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ditta_core.datasets.base import VideoSequence
from ditta_core.evaluation.scores import EvaluationResult, MethodResult
from ditta_core.report.footage import Footage, Masks, differing_video
from ditta_core.report.page_pictures import (
    OVERLAY_METHODS,
    STILL_METHODS,
    Gallery,
    class_plot,
    confusion_plot,
    curve_plots,
    frame_views,
    seen_classes,
    write_overlay,
)
from ditta_core.report.page_tables import class_tables, full_title, method_table, video_tables
from ditta_core.report.pages import render, swatches
from ditta_core.report.plots import draw_scores, method_styles
from ditta_core.report.results import (
    CONSISTENCY,
    MIOU,
    OURS,
    VC8,
    MethodComparison,
    comparisons,
    featured_methods,
    listed,
    main_comparisons,
    main_measure,
    methods_of,
    problem_lines,
    reference_method,
    summary_sentence,
    to_json,
)
from ditta_core.segmentation.files import write_output


def report_steps(result: EvaluationResult, sequences: Mapping[str, VideoSequence]) -> int:
    """How often :func:`write_evaluation_report` calls its ``step``."""
    main = main_comparisons(result)[0]
    labelled = main_measure(result) is MIOU
    plots = 1 + len(comparisons(result)) + labelled * (1 + len(_confused(result, main)))
    scanned = sum(len(sequences[video.video]) for video in main.results[0].videos)
    return plots + scanned + len(sequences[differing_video(main, main_measure(result))])


def _confused(result: EvaluationResult, group: MethodComparison) -> list[MethodResult]:
    """The rows whose confusion is shown: of the reference, of the best of the others, and of DiTTA."""
    reference, *others = featured_methods(result)
    shown = dict.fromkeys([reference, *others[:1], *(method for method in others if method == OURS)])
    return [row for row in group.among(shown) if row.confusion.any()]


def write_evaluation_report(
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
        result: Numbers of at least one row; see :func:`~ditta_core.report.results.to_json` for the file of numbers.
        sequences: Clean videos by name, with images and labels.
        masks: Function that gives the label image of a frame.
        folder: Folder of the report; is made where it does not exist.
        step: Function that is called after every frame and every plot, ``report_steps`` times.

    Raises:
        OSError: a file cannot be written.
        ValueError: nothing was measured.
    """
    if not result.results:
        raise ValueError("expected results to report, but got none")
    folder.mkdir(parents=True, exist_ok=True)
    write_output(folder / "results.json", to_json(result))
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
        subtitle=_subtitle(result),
        summary=summary_sentence(result),
        reference=reference_method(result),
        main_title=full_title(main),
        problems=problem_lines(result),
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
        class_tables=class_tables(result.classes, groups, styles) if labelled else [],
        curves=curve_plots(mains, measure, footage, styles, gallery),
        corrupted_curves=curve_plots(
            [group for group in groups if group not in mains], measure, footage, styles, gallery
        ),
        overlay=(folder / "overlay.mp4").exists(),
        frames=frame_views(main, featured[:STILL_METHODS], footage, styles, step),
        swatches=[each for each in swatches(result.classes) if each.name in seen_classes(result, main)],
        confusions=[confusion_plot(row, result, gallery) for row in _confused(result, main)] if labelled else [],
        video_tables=video_tables(groups, videos, labelled, styles) if len(videos) > 1 else [],
        protocols=list(dict.fromkeys(group.protocol for group in groups)),
        of_node=any(row.latency_ms is not None or row.dropped is not None for row in result.results),
        repeated=any(row.spread is not None for row in result.results),
        command=result.config.get("command"),
        configuration={
            **{name: _shown_value(value) for name, value in result.config.items() if name != "command"},
            **_network_inputs(mains),
        },
        versions=result.versions,
    )
    (folder / "report.html").write_text(page, encoding="utf-8")


def _subtitle(result: EvaluationResult) -> str:
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


def _network_inputs(groups: Sequence[MethodComparison]) -> dict[str, str]:
    """The sizes of the network input by the name of the video; none where they are not known."""
    texts: dict[str, dict[str, None]] = {}
    for video in (video for group in groups for row in group.results for video in row.videos):
        if video.input_size is not None:
            height, width = video.input_size
            found = "" if video.size_agreement is None else f" (found, agreement {video.size_agreement:.3f})"
            texts.setdefault(f"network input, {video.video}", {})[f"{width}×{height}{found}"] = None
    return {name: ", ".join(sizes) for name, sizes in texts.items()}


def _shown_value(value: Any) -> str:
    """A value of the configuration as text."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
