"""What is labelled source data worth? Recipes of `ditta adapt --source` from one drive to another, in other weather.

    make study-domain ARGS="--quick"

Source: CamVid's training drive 0016E5 with its labels. Target: the even frames of 0006R0, clean and corrupted, without
labels; scored are its odd frames. Cityscapes weights of ESPNetv2 at 480×368, published as CamVid's classes. At 1 Hz no
flow is confirmed, so that methods of two frames learn frame by frame; the targets ``pan:…`` are pans over the same even
frames, where flow is known, for the methods that take it and for their published faults. ``clip_0016E5`` is no part of
this. Whoever chooses something turns the drives round (``--source 0006R0 --target 0016E5 --out FILE``). An interrupted
run goes on where it stopped. Written are every number and the tables (``source_study.json``, ``.md``).
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from goals import ROOT
from notes import write_notes
from recorded_drives import INPUT_SIZE, drive_of, even_and_odd, pans_of, score
from scenes import Cell, model_source

from ditta_core.datasets.annotated import Selection
from ditta_core.datasets.base import VideoSequence
from ditta_core.domain.config import OfflineConfig
from ditta_core.domain.driver import adapt_offline
from ditta_core.domain.reading import read_drives
from ditta_core.domain.recipe import Batch
from ditta_core.domain.recipes.registry import RECIPES
from ditta_core.domain.recipes.tps import TPS
from ditta_core.domain.sampling import ClipSampler
from ditta_core.segmentation.adapted import put_tensors
from ditta_core.segmentation.base import SegmentationModel
from ditta_core.segmentation.registry import load_model
from ditta_core.segmentation.source import ModelSource
from ditta_core.types import UNLABELLED

RESULTS = ROOT / "benchmarks" / "results"
IMAGES = ("low_light:3", "fog:3", "clean")
BASE, STATISTICS = "base", "statistics"
PUBLISHED = "_published"
"""How the name of a row ends that keeps the faults of the published code."""
PAN = "pan:"
"""How the name of a target begins that is made of pans."""
PAN_STEP = 8
"""Columns of 480 that a pan moves a frame: 15 degrees a second at 15 Hz and 60 degrees of view."""
WITH_SOURCE = tuple(name for name, recipe in RECIPES.items() if recipe.needs_source)
METHODS = (BASE, STATISTICS, *WITH_SOURCE, f"pixmatch{PUBLISHED}", "ur", "vst", "stpl", "hcl")
PAN_METHODS = ("source_only", "tps", f"tps{PUBLISHED}", "da_vsn", f"da_vsn{PUBLISHED}", "da_stc")
PANS = f"{PAN}low_light:3"
QUICK = (BASE, STATISTICS, "source_only", "tps", "fda", "pixmatch", "da_stc")
LABEL_DRAWS = 100
"""Clips on which the labels of the frame before are compared with the true ones."""


def right_labels(
    model: SegmentationModel, recipe: type[TPS], pans: Sequence[VideoSequence], config: OfflineConfig
) -> float:
    """Share in percent of the labels that a recipe carries from the frame before, before any step, that are true.

    Of pixels whose flow is confirmed, which the published code does not ask for.
    """
    frames = read_drives(pans, INPUT_SIZE, config.most_frames, classes=model.classes)
    taught = recipe(model, config, torch.Generator().manual_seed(config.seed))
    sampler = ClipSampler(frames, frames.labels, model, config, taught.frames, recolours=False)
    right = labelled = 0
    for draw in range(LABEL_DRAWS):
        random = np.random.default_rng((config.seed, draw))
        clip = sampler.draw(random)
        labels = taught.label_last(Batch(clip, None, 0, 0.0, random))
        assert clip.labels is not None
        known = clip.confirmed[-1:] & (labels != UNLABELLED) & (clip.labels[-1:] != UNLABELLED)
        right += int((labels == clip.labels[-1:])[known].sum())
        labelled += int(known.sum())
    return 100 * right / labelled


def source_model(shared: Path) -> ModelSource:
    """Cityscapes weights, published as CamVid's classes."""
    return model_source(Cell("city", "0006R0", 0, 1, 10, "clean"), shared)


def measure(
    source: Selection,
    drives: Sequence[VideoSequence],
    test: Selection,
    method: str,
    config: OfflineConfig,
    shared: Path,
) -> dict[str, Any]:
    """One method on one target: its score, and what it reported."""
    model = load_model(source_model(shared))
    if method == BASE:
        return {"miou": score(model, test)}
    recipe = RECIPES["source_only" if method == STATISTICS else method.removesuffix(PUBLISHED)]
    steps = 0 if method == STATISTICS else config.steps
    config = replace(config, steps=steps, published=method.endswith(PUBLISHED))
    frames = read_drives(drives, INPUT_SIZE, config.most_frames)
    labelled = None
    if recipe.needs_source:
        labelled = read_drives([source], INPUT_SIZE, config.most_frames, classes=model.classes)
    begin = time.monotonic()
    result = adapt_offline(model, recipe, frames, config, labelled)
    seconds = time.monotonic() - begin
    put_tensors(model, result.tensors)
    report = result.report
    known = {}
    if issubclass(recipe, TPS) and report.moving:
        known["right_labels"] = right_labels(load_model(source_model(shared)), recipe, drives, config)
    return {
        "miou": score(model, test),
        **known,
        "seconds": seconds,
        "steps": report.steps,
        "contradicted": report.contradicted,
        "entropy_ratio": report.entropy_ratio,
        "losses": dict(report.losses[-1][1]) if report.losses else {},
    }


def markdown(noted: Mapping[str, Any], target: str) -> str:
    """The tables: a row a method, a column a target, and the mean gain over source-only training on corrupted ones."""
    images = list(dict.fromkeys(key.split(" ")[0] for key in noted))
    lines = []
    for pans in (False, True):
        shown = [image for image in images if image.startswith(PAN) == pans]
        lines += [*_table(noted, shown, target), ""] if shown else []
    return "\n".join(lines)


def _table(noted: Mapping[str, Any], images: Sequence[str], target: str) -> list[str]:
    methods = list(dict.fromkeys(method for image, method in (key.split(" ") for key in noted) if image in images))
    methods.sort(key=lambda name: (*METHODS, *PAN_METHODS).index(name))
    rows = [[noted.get(f"{image} {method}") for image in images] for method in methods]
    labels = any(row and "right_labels" in row for row in (cell for cells in rows for cell in cells))
    head = [f"mIoU on {target}", *images, "corrupted, against `source_only`", *["labels right, %"] * labels]
    lines = [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    for method, found in zip(methods, rows, strict=True):
        gains = [
            cell["miou"] - noted[f"{image} source_only"]["miou"]
            for image, cell in zip(images, found, strict=True)
            if cell and not image.endswith("clean") and f"{image} source_only" in noted
        ]
        right = [cell["right_labels"] for cell in found if cell and "right_labels" in cell]
        cells = [f"`{method}`", *(f"{cell['miou']:.1f}" if cell else "–" for cell in found)]
        cells.append(f"{np.mean(gains):+.1f}" if gains else "–")
        cells += [f"{np.mean(right):.1f}" if right else "–"] * labels
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def main() -> None:
    """Measure what is not noted yet, and write what is known."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--images", default=",".join((*IMAGES, PANS)), metavar="A,B", help=f"{PAN}NAME for pans")
    parser.add_argument("--methods", default="", metavar="A,B", help="rows (default: all that are for the target)")
    parser.add_argument("--source", default="0016E5", metavar="DRIVE", help="drive with labels")
    parser.add_argument("--target", default="0006R0", metavar="DRIVE", help="drive without")
    parser.add_argument("--quick", action="store_true", help="the methods that matter most on low_light:3")
    parser.add_argument("--out", type=Path, default=RESULTS / "source_study.json")
    options = parser.parse_args()
    if options.quick:
        options.methods, options.images = ",".join(QUICK), IMAGES[0]
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    shared = Path(os.environ.get("DITTA_SHARED", ROOT.parent / "shared"))
    noted: dict[str, Any] = json.loads(options.out.read_text(encoding="utf-8")) if options.out.exists() else {}
    others = {row["steps"] for row in noted.values() if "steps" in row} - {0, options.steps}
    if others:
        parser.error(f"expected rows of {options.steps} steps in {options.out}, but got {others}; give another --out")
    config = OfflineConfig(steps=options.steps, guarded=False)
    source = drive_of(shared, options.source)
    for image in options.images.split(","):
        even, odd = even_and_odd(drive_of(shared, options.target, image.removeprefix(PAN)))
        drives: Sequence[VideoSequence] = [even]
        if image.startswith(PAN):
            drives = pans_of(even_and_odd(drive_of(shared, options.target))[0], PAN_STEP, image.removeprefix(PAN))
        usual = PAN_METHODS if image.startswith(PAN) else METHODS
        for method in options.methods.split(",") if options.methods else usual:
            key = f"{image} {method}"
            if key in noted:
                continue
            noted[key] = measure(source, drives, odd, method, config, shared)
            write_notes(options.out, noted)
            options.out.with_suffix(".md").write_text(markdown(noted, options.target), encoding="utf-8")
            print(key, noted[key], flush=True)


if __name__ == "__main__":
    main()
