"""Is the size that is found without labels a good one? Every size of the network input on CamVid's training drives.

    make study-sizes

A row is a drive at 1 Hz as one model meets it in one weather, with a warm-up of ten frames (:mod:`scenes`). Measured is
live DiTTA without training at each size; the size is found on the same warm-up as a running node finds it, with no
bound on the rate. ``clip_0016E5`` is no part of this. An interrupted run goes on where it stopped. Written are every
number (``size_study.json``) and the tables (``size_study.md``).
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from goals import ROOT
from notes import read_notes, write_notes
from scene_study import measure
from scenes import DRIVES, Cell, frames_of, model_source

from ditta_core.adaptation.input_size import compared_sides
from ditta_core.evaluation.input_sizes import found_input_size
from ditta_core.evaluation.methods.base import MethodSetup
from ditta_core.inference.config import DEFAULT_LONG_SIDE
from ditta_core.segmentation.registry import load_model

RESULTS = ROOT / "benchmarks" / "results"
METHOD = "ditta_no_distillation"
MODELS = ("packaged", "city")
IMAGES = ("clean", "noise:3", "low_light:3", "fog:3")
WARMUP = 10


def cells() -> Iterator[Cell]:
    """Every drive, model and weather."""
    for model in MODELS:
        for image in IMAGES:
            for drive in DRIVES:
                yield Cell(model, drive, 0, 1, WARMUP, image)


def measure_row(cell: Cell, shared: Path) -> dict[str, Any]:
    """mIoU and VC8 at each size, and what is found."""
    source = model_source(cell, shared)
    model, video = load_model(source), frames_of(cell, shared)
    choice = found_input_size(model, video[0][: cell.warmup], cell.warmup)
    sides = compared_sides(model, video[0][0].size)
    return {
        "found": DEFAULT_LONG_SIDE if choice is None else choice.long_side,
        "agreements": None if choice is None else {str(side): share for side, share in choice.agreements.items()},
        "scores": {
            str(side): measure(METHOD, cell, MethodSetup(source, long_side=side), model, video)["scores"]
            for side in sides
        },
    }


def loss_and_gain(row: Mapping[str, Any]) -> tuple[float, float]:
    """mIoU of the size that was found, below the best size and above the default one."""
    miou = {side: scores[0] for side, scores in row["scores"].items()}
    found = miou[str(row["found"])]
    return max(miou.values()) - found, found - miou[str(DEFAULT_LONG_SIDE)]


def markdown(rows: Mapping[str, Any]) -> str:
    """The distance to the best size, and every row."""
    losses, gains = np.array([loss_and_gain(row) for row in rows.values()]).T
    sides = list(next(iter(rows.values()))["scores"])
    lines = [
        f"{len(rows)} rows: mIoU of live DiTTA without training; the size that was found is bold.",
        "",
        f"- Below the best size by {losses.mean():.2f} in the mean, {losses.max():.2f} at most.",
        f"- Against {DEFAULT_LONG_SIDE}: {gains.mean():+.2f} in the mean, {gains.min():+.2f} in the worst row.",
        "",
        f"| | {' | '.join(sides)} | below the best |",
        "|---" * (len(sides) + 2) + "|",
    ]
    for key, row in rows.items():
        texts = [f"{scores[0]:.1f}" for scores in row["scores"].values()]
        texts = [f"**{text}**" if side == str(row["found"]) else text for side, text in zip(sides, texts, strict=True)]
        lines.append(f"| {key} | {' | '.join(texts)} | {loss_and_gain(row)[0]:.1f} |")
    return "\n".join([*lines, ""])


def main() -> None:
    """Measure what is not noted yet, and write what is known."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--fresh", action="store_true", help="measure everything anew")
    parser.add_argument("--out", type=Path, default=RESULTS / "size_study.json")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    cv2.setNumThreads(options.threads)
    shared = Path(os.environ.get("DITTA_SHARED", ROOT.parent / "shared"))
    path = options.out
    noted = read_notes(path, options.fresh)
    for cell in cells():
        if cell.key in noted:
            continue
        noted[cell.key] = measure_row(cell, shared)
        write_notes(path, noted)
        path.with_suffix(".md").write_text(markdown(noted), encoding="utf-8")
        print(cell.key, noted[cell.key], flush=True)


if __name__ == "__main__":
    main()
