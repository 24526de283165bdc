"""What is labelled source data worth? Recipes of `ditta adapt --source` from one drive to another, in other weather.

    make study-domain ARGS="--quick"

Source: CamVid's training drive 0016E5 with its labels. Target: the even frames of 0006R0, clean and corrupted, without
labels; scored are its odd frames. Cityscapes weights of ESPNetv2 at 480×368, published as CamVid's classes. At 1 Hz no
flow is confirmed, so that methods of two frames learn frame by frame. ``clip_0016E5`` is no part of this. An
interrupted run goes on where it stopped. Written are every number and the table (``source_study.json``, ``.md``).
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from goals import ROOT
from notes import write_notes
from recorded_drives import INPUT_SIZE, Part, drive_of, even_and_odd, score
from scenes import Cell, model_source

from ditta_core.domain.config import OfflineConfig
from ditta_core.domain.driver import adapt_offline
from ditta_core.domain.reading import read_drives
from ditta_core.domain.recipes.registry import RECIPES
from ditta_core.segmentation.registry import load_model

RESULTS = ROOT / "benchmarks" / "results"
IMAGES = ("low_light:3", "fog:3", "clean")
BASE, STATISTICS = "base", "statistics"
PUBLISHED = "_published"
"""How the name of a row ends that keeps the faults of the published code."""
WITH_SOURCE = tuple(name for name, recipe in RECIPES.items() if recipe.needs_source)
METHODS = (BASE, STATISTICS, *WITH_SOURCE, f"tps{PUBLISHED}", f"da_vsn{PUBLISHED}", "ur", "vst", "hcl", "stpl")
QUICK = (BASE, STATISTICS, "source_only", "tps", "fda", "pixmatch", "da_stc")


def measure(source: Part, drive: Part, test: Part, method: str, config: OfflineConfig, shared: Path) -> dict[str, Any]:
    """One method on one target: its score, and what it reported."""
    model = load_model(model_source(Cell("city", "0006R0", 0, 1, 10, "clean"), shared))
    if method == BASE:
        return {"miou": score(model, test)}
    recipe = RECIPES["source_only" if method == STATISTICS else method.removesuffix(PUBLISHED)]
    steps = 0 if method == STATISTICS else config.steps
    config = replace(config, steps=steps, published=method.endswith(PUBLISHED))
    frames = read_drives([drive], INPUT_SIZE, 300)
    labelled = read_drives([source], INPUT_SIZE, 300, classes=model.classes) if recipe.needs_source else None
    begin = time.monotonic()
    result = adapt_offline(model, recipe, frames, config, labelled)
    seconds = time.monotonic() - begin
    with torch.no_grad():
        state = model.state_dict()
        for name, value in result.tensors.items():
            state[name].copy_(torch.from_numpy(value))
    report = result.report
    return {
        "miou": score(model, test),
        "seconds": seconds,
        "steps": report.steps,
        "contradicted": report.contradicted,
        "entropy_ratio": report.entropy_ratio,
        "losses": dict(report.losses[-1][1]) if report.losses else {},
    }


def markdown(noted: Mapping[str, Any]) -> str:
    """The table: a row a method, a column a target, and the mean gain over source-only training on corrupted ones."""
    images = [image for image in IMAGES if any(key.startswith(f"{image} ") for key in noted)]
    methods = list(dict.fromkeys(key.split(" ")[1] for key in noted))
    lines = [
        f"| mIoU on 0006R0 | {' | '.join(images)} | corrupted, against `source_only` |",
        "|---" * (len(images) + 2) + "|",
    ]
    for method in methods:
        found = {image: noted[f"{image} {method}"]["miou"] for image in images if f"{image} {method}" in noted}
        gains = [
            score - noted[f"{image} source_only"]["miou"]
            for image, score in found.items()
            if image != "clean" and f"{image} source_only" in noted
        ]
        shown = [f"{found[image]:.1f}" if image in found else "–" for image in images]
        lines.append(f"| `{method}` | {' | '.join(shown)} | {f'{np.mean(gains):+.1f}' if gains else '–'} |")
    return "\n".join([*lines, ""])


def main() -> None:
    """Measure what is not noted yet, and write what is known."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--images", default=",".join(IMAGES), metavar="A,B")
    parser.add_argument("--methods", default=",".join(METHODS), metavar="A,B")
    parser.add_argument("--quick", action="store_true", help="40 steps of the methods that matter most on low_light:3")
    parser.add_argument("--out", type=Path, default=RESULTS / "source_study.json")
    options = parser.parse_args()
    if options.quick:
        options.steps, options.methods, options.images = 40, ",".join(QUICK), IMAGES[0]
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    shared = Path(os.environ.get("DITTA_SHARED", ROOT.parent / "shared"))
    noted: dict[str, Any] = json.loads(options.out.read_text(encoding="utf-8")) if options.out.exists() else {}
    config = OfflineConfig(steps=options.steps, guarded=False)
    source = drive_of(shared, "0016E5")
    for image in options.images.split(","):
        target = drive_of(shared, "0006R0", image)
        even, odd = even_and_odd(target)
        for method in options.methods.split(","):
            key = f"{image} {method}"
            if key in noted:
                continue
            noted[key] = measure(source, even, odd, method, config, shared)
            write_notes(options.out, noted)
            options.out.with_suffix(".md").write_text(markdown(noted), encoding="utf-8")
            print(key, noted[key], flush=True)


if __name__ == "__main__":
    main()
