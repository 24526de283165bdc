"""The summary of an adaptation to drives: a page, and all numbers as JSON."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from ditta_core.domain.adapt_drives import AdaptedDrives
from ditta_core.domain.config import TRAINED
from ditta_core.domain.driver import OfflineReport
from ditta_core.inference.frame_segmenter import segment_frame
from ditta_core.report.pages import files_at_once, render, swatches
from ditta_core.report.pictures import compose_panels, data_url, jpeg
from ditta_core.report.tables import Table
from ditta_core.types import UNLABELLED
from ditta_core.versions import software_versions

STILLS = 6
"""Largest number of pictures; all of frames that were kept out."""


def facts(adapted: AdaptedDrives) -> dict[str, str]:
    """What came of an adaptation, in words, by name."""
    report = adapted.report
    height, width = adapted.drive.input_size
    found = {
        "result": report.reason,
        "frames": f"{report.frames} learned from, {report.held_out} kept out",
        "network input": f"{width}×{height}",
        "labels from": f"{adapted.label_size[1]}×{adapted.label_size[0]}, and mirrored",
        "statistics": f"{report.statistics_share:.0%} of the drives'",
        "steps": f"{report.steps} in {report.seconds / 60:.1f} minutes",
        "labelled pixels": ", ".join(f"{share:.0%}" for share in report.labelled) or "none",
        "deployed": f"{report.deployed_share:.0%} of the training of {TRAINED[report.trained]}",
    }
    if report.confirmed is not None:
        found["flow"] = f"{report.confirmed:.0%} of the pixels confirmed" + (
            "" if report.moving else "; too few: every frame was taken by itself"
        )
    if report.contradicted is not None and report.entropy_ratio is not None:
        found["on frames kept out"] = (
            f"{report.contradicted:.2%} of the pixels that the model was sure of got another class; mean entropy "
            f"{report.entropy_ratio:.2f} times the one before"
        )
    return found


def to_json(adapted: AdaptedDrives, configuration: Mapping[str, Any]) -> str:
    """All numbers as JSON."""
    values = {
        **asdict(adapted.report),
        "classes": list(adapted.before.classes.names),
        "input_size": list(adapted.drive.input_size),
        "label_size": list(adapted.label_size),
        "configuration": dict(configuration),
        "versions": software_versions(),
    }
    return json.dumps(values, indent=2, default=str) + "\n"


def write_adapt_report(adapted: AdaptedDrives, configuration: Mapping[str, Any], folder: Path) -> None:
    """Write ``report.html`` and ``summary.json`` into a folder, which is made where it is not there.

    Args:
        configuration: options by name.

    Raises:
        OSError: a file cannot be written.
    """
    page = render(
        "adapt.html.j2",
        method=configuration.get("method", adapted.report.recipe),
        facts=facts(adapted),
        losses=data_url(_losses_plot(adapted.report), "png") if adapted.report.losses else "",
        thresholds=_thresholds_table(adapted),
        stills=[data_url(jpeg(image), "jpeg") for image in _stills(adapted)],
        swatches=swatches(adapted.before.classes),
        configuration=configuration,
        versions=software_versions(),
    )
    with files_at_once(folder) as unfinished:
        (unfinished / "summary.json").write_text(to_json(adapted, configuration), encoding="utf-8")
        (unfinished / "report.html").write_text(page, encoding="utf-8")


def _thresholds_table(adapted: AdaptedDrives) -> Table:
    """Confidence from which pixels of each class were labelled, by round."""
    rounds = range(1, len(adapted.report.thresholds) + 1)
    rows = []
    for channel, name in enumerate(adapted.before.classes.names):
        values = [thresholds[channel] for thresholds in adapted.report.thresholds if channel < len(thresholds)]
        rows.append((name, *(f"{value:.2f}" for value in values)))
    return Table(("labelled from a confidence of", *(f"round {number}" for number in rounds)), tuple(rows))


def _losses_plot(report: OfflineReport) -> bytes:
    """The named terms over the steps, as a PNG."""
    figure = Figure(figsize=(11, 3.5), layout="constrained", facecolor="white")
    axes = figure.subplots()
    steps = [step for step, _ in report.losses]
    for name in dict.fromkeys(name for _, terms in report.losses for name in terms):  # some begin later than others
        axes.plot(steps, [terms.get(name, np.nan) for _, terms in report.losses], marker=".", label=name)
    axes.set_xlabel("step")
    axes.set_ylabel("mean loss")
    axes.grid(axis="y", color="#d5d9de", linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, ncols=4)
    content = io.BytesIO()
    figure.savefig(content, format="png", dpi=110)
    return content.getvalue()


def _stills(adapted: AdaptedDrives) -> list[Any]:
    """Frames that were kept out, each beside what the model made of it before and makes of it after."""
    held = adapted.drive.held_out
    if not held:
        return []
    pictures = []
    for place in np.unique(np.linspace(0, len(held) - 1, STILLS).round().astype(int)):
        image = held[place]
        panels, masks = [image], []
        for model in (adapted.before, adapted.after):
            mask, _ = segment_frame(model, image, adapted.drive.input_size)
            masks.append(mask)
            panels.append(model.classes.overlay(image, mask))
        known = masks[0] != UNLABELLED
        changed = float((masks[0] != masks[1])[known].mean()) if known.any() else 0.0
        pictures.append(compose_panels(panels, ("frame kept out", "before", f"after: {changed:.1%} changed")))
    return pictures
