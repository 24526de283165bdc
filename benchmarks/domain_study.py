"""What is a recorded drive worth? Recipes of `ditta adapt` on even frames of a drive, scored on odd ones and elsewhere.

    python benchmarks/domain_study.py --drives 0016E5 --restored
    python benchmarks/domain_study.py --drives 0016E5 --restored --methods ur_no_entropy,ur_no_dropout,hcl_no_instance

Cityscapes weights of ESPNetv2 at 480×368, published as CamVid's classes; CamVid's training drives at 1 Hz, as recorded,
clean and corrupted, unlabelled in the training. Scored are at most 50 odd frames, evenly spread, and 25 of every other
drive, all in the same weather. 0006R0 is what defaults were chosen on. ``clip_0016E5`` is no part of this: nothing is
chosen on it. An interrupted run goes on where it stopped. Written are every number and the table
(``domain_study.json``, ``.md``).
"""

from __future__ import annotations

import argparse
import copy
import json
import os
import time
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from goals import ROOT
from notes import write_notes
from recorded_drives import INPUT_SIZE, Kept, Restored, drive_of, even_and_odd, score, thinned
from scenes import DRIVES, Cell, model_source

from ditta_core.datasets.base import VideoSequence
from ditta_core.domain.config import OfflineConfig
from ditta_core.domain.driver import adapt_offline
from ditta_core.domain.frames import DriveFrames
from ditta_core.domain.reading import read_drives
from ditta_core.domain.recipe import Batch, Losses, PseudoLabels, Recipe
from ditta_core.domain.recipes.hcl import HCL
from ditta_core.domain.recipes.registry import RECIPES
from ditta_core.domain.recipes.self_training import SelfTraining
from ditta_core.domain.recipes.ur import UR
from ditta_core.domain.recipes.vst import STPL, VST
from ditta_core.segmentation.adapted import put_tensors
from ditta_core.segmentation.base import SegmentationModel
from ditta_core.segmentation.registry import load_model
from ditta_core.types import UNLABELLED

RESULTS = ROOT / "benchmarks" / "results"
IMAGES = ("clean", "noise:3", "low_light:3", "fog:3")
SOURCE, STATISTICS = "source", "statistics"
MOST_SCORED, MOST_ELSEWHERE = 50, 25
"""Frames that are scored of the drive that was learned from, and of every other."""


def without(recipe: type[Recipe], *terms: str) -> type[Recipe]:
    """A recipe without some of its terms."""

    class Removed(recipe):  # type: ignore[misc,valid-type]
        def loss(self, batch: Batch) -> Losses:
            return {name: term for name, term in super().loss(batch).items() if name not in terms}

    return Removed


class URShared(UR):
    """UR whose four heads are the classifier itself."""

    fresh_heads = False


class URStronger(UR):
    """UR with labels from the better view."""

    stronger_view = True


class HCLUnweighted(HCL):
    """HCL whose labels all count the same, whatever the earlier models say."""

    def loss(self, batch: Batch) -> Losses:
        return {**super().loss(batch), "category": SelfTraining.loss(self, batch)["labels"]}


class MirroredLabels(SelfTraining):
    """Self-training with labels of the mirrored picture: what the guard must refuse."""

    def label(self, drive: DriveFrames, number: int) -> PseudoLabels | None:
        found = super().label(drive, number)
        return found and replace(found, labels=found.labels[..., ::-1].copy())


class PermutedLabels(SelfTraining):
    """Self-training with every class called by the name of the next: what the guard must refuse."""

    def label(self, drive: DriveFrames, number: int) -> PseudoLabels | None:
        found = super().label(drive, number)
        if found is None:
            return None
        moved = np.where(found.labels == UNLABELLED, UNLABELLED, (found.labels + 1) % self.channels)
        return replace(found, labels=moved.astype(np.uint8))


SOURCE_FREE = {name: recipe for name, recipe in RECIPES.items() if not recipe.needs_source}
REMOVALS: Mapping[str, type[Recipe]] = {
    "ur_no_labels": without(UR, "labels"),
    "ur_no_entropy": without(UR, "entropy"),
    "ur_no_dropout": without(UR, "dropout"),
    "ur_shared_heads": URShared,
    "hcl_no_instance": without(HCL, "instance"),
    "hcl_no_category": without(HCL, "category"),
    "hcl_unweighted": HCLUnweighted,
    "stpl_no_contrast": without(STPL, "contrast"),
    "stpl_no_fused_labels": without(STPL, "fused labels"),
}
"""Methods without one of their terms; the name of the method comes first."""
METHODS: Mapping[str, type[Recipe]] = {
    **SOURCE_FREE,
    **REMOVALS,
    "ur_stronger_view": URStronger,
    "mirrored_labels": MirroredLabels,
    "permuted_labels": PermutedLabels,
}
CONTROLS = ("mirrored_labels", "permuted_labels")
"""They alone are guarded, since they must be refused."""


def runs(options: argparse.Namespace) -> Iterator[tuple[str, str, str, int]]:
    """What is measured: drive, image, method, seed; the most telling first."""
    for seed in range(options.seeds):
        for image in options.images.split(","):
            for drive in options.drives.split(","):
                for method in options.methods.split(","):
                    if seed == 0 or method in METHODS:
                        yield drive, image, method, seed


class Drive:
    """A drive in one weather: what is learned from, what is scored, and labels that recipes have in common.

    Args:
        shared: Folder of the data.
        name: Drive that is learned from.
        image: What is wrong with the images.
        restored: Whether noise and darkness are taken out first.
        base: The model before.
    """

    def __init__(self, shared: Path, name: str, image: str, restored: bool, base: SegmentationModel) -> None:
        even, odd = even_and_odd(drive_of(shared, name, image))
        larger = base.input_size((360, 480), 640)
        self.base = base
        self.frames = {
            stronger: read_drives([even], INPUT_SIZE, 300, size, restored=restored)
            for stronger, size in ((False, INPUT_SIZE), (True, larger))
        }
        scored = {"odd": odd, **{other: drive_of(shared, other, image) for other in DRIVES if other != name}}
        self.scored: dict[str, VideoSequence] = {}
        for place, part in scored.items():
            thin: VideoSequence = thinned(part, MOST_SCORED if place == "odd" else MOST_ELSEWHERE)
            self.scored[place] = Kept(Restored(thin) if restored else thin)
        self._labels: dict[tuple[bool, bool], PseudoLabels | None] = {}

    def scores(self, model: SegmentationModel) -> dict[str, float]:
        """mIoU in percent on the odd frames and on the other drives."""
        return {place: score(model, drive) for place, drive in self.scored.items()}

    def sharing(self, recipe: type[Recipe]) -> type[Recipe]:
        """The recipe; its first labels are those that another one has made in the same way of the same model."""
        known, key = self._labels, (issubclass(recipe, VST), recipe.stronger_view)

        class Sharing(recipe):  # type: ignore[misc,valid-type]
            def label(self, drive: DriveFrames, number: int) -> PseudoLabels | None:
                if number:
                    return super().label(drive, number)  # type: ignore[no-any-return]
                if key not in known:
                    known[key] = super().label(drive, number)
                return known[key]

        return Sharing

    def measure(self, method: str, config: OfflineConfig) -> dict[str, Any]:
        """One method: its scores, and what it reported."""
        if method == SOURCE:
            return {"miou": self.scores(self.base)}
        recipe = METHODS.get(method, RECIPES["self_training"])
        if method == STATISTICS:
            config = replace(config, steps=0)
        elif method in CONTROLS:
            config = replace(config, guarded=True)
        sharing = recipe if method in CONTROLS else self.sharing(recipe)
        result = adapt_offline(self.base, sharing, self.frames[recipe.stronger_view], config)
        adapted = copy.deepcopy(self.base)
        put_tensors(adapted, result.tensors)
        report = result.report
        return {
            "miou": self.scores(adapted),
            "statistics_share": report.statistics_share,
            "deployed_share": report.deployed_share,
            "seconds": report.seconds,
            "steps": report.steps,
            "labelled": list(report.labelled),
            "contradicted": report.contradicted,
            "entropy_ratio": report.entropy_ratio,
            "refused": report.refused,
            "losses": dict(report.losses[-1][1]) if report.losses else {},
        }


def markdown(noted: Mapping[str, Any]) -> str:
    """A table for every drive that was learned from: methods by image, odd frames and other drives; and the terms."""
    drives = list(dict.fromkeys(key.split(" ")[0] for key in noted))
    parts = []
    for drive in drives:
        rows = {key: row for key, row in noted.items() if key.split(" ")[0] == drive}
        if whole := {key: row for key, row in rows.items() if key.split(" ")[2] not in REMOVALS}:
            parts.append(table(drive, whole))
        if any(key.split(" ")[2] in REMOVALS for key in rows):
            parts.append(terms(drive, rows))
    return "\n".join(parts)


def terms(drive: str, noted: Mapping[str, Any]) -> str:
    """What the removal of each term changes of mIoU, by image; the same seed with and without it."""
    removed = [key for key in noted if key.split(" ")[2] in REMOVALS]
    images = list(dict.fromkeys(key.split(" ")[1] for key in removed))
    named = " / ".join(next(iter(noted.values()))["miou"])
    lines = [
        f"Change by the removal of a term, one seed: learned from the even frames of {drive}; mIoU on {named}.",
        "",
        f"| | {' | '.join(images)} |",
        "|---" * (len(images) + 1) + "|",
    ]
    for method in REMOVALS:
        shown = []
        for image in images:
            without, whole = (
                noted.get(f"{drive} {image} {name} 0", {}).get("miou") for name in (method, method.split("_")[0])
            )
            known = without is not None and whole is not None
            shown.append(" / ".join(f"{without[place] - whole[place]:+.1f}" for place in whole) if known else "–")
        if set(shown) != {"–"}:
            lines.append(f"| `{method}` | {' | '.join(shown)} |")
    return "\n".join([*lines, ""])


def table(drive: str, noted: Mapping[str, Any]) -> str:
    """mIoU on the odd frames / on each other drive, means over seeds; and the gains over statistics alone."""
    images = list(dict.fromkeys(key.split(" ")[1] for key in noted))
    methods = list(dict.fromkeys(key.split(" ")[2] for key in noted))
    places = list(next(iter(noted.values()))["miou"])
    named = " / ".join(places)
    lines = [
        f"Learned from the even frames of {drive}; mIoU on {named}.",
        "",
        f"| | {' | '.join(images)} | mean over statistics: {named} | worst: {named} |",
        "|---" * (len(images) + 3) + "|",
    ]
    for method in methods:
        shown = []
        gains: dict[str, list[float]] = {place: [] for place in places}
        for image in images:
            rows = [row["miou"] for key, row in noted.items() if key.startswith(f"{drive} {image} {method} ")]
            if not rows:
                shown.append("–")
                continue
            means = {place: float(np.mean([row[place] for row in rows])) for place in places}
            shown.append(" / ".join(f"{value:.1f}" for value in means.values()))
            base = noted.get(f"{drive} {image} {STATISTICS} 0")
            for place in places if base else ():
                gains[place].append(means[place] - base["miou"][place])
        every = all(gains.values())
        mean = " / ".join(f"{np.mean(each):+.1f}" for each in gains.values()) if every else "–"
        worst = " / ".join(f"{min(each):+.1f}" for each in gains.values()) if every else "–"
        lines.append(f"| `{method}` | {' | '.join(shown)} | {mean} | {worst} |")
    return "\n".join([*lines, ""])


def main() -> None:
    """Measure what is not noted yet, and write what is known."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--drives", default="0006R0", metavar="A,B")
    parser.add_argument("--images", default=",".join(IMAGES), metavar="A,B")
    parser.add_argument("--methods", default=",".join((SOURCE, STATISTICS, *SOURCE_FREE)), metavar="A,B")
    parser.add_argument("--restored", action="store_true", help="take noise and darkness out of all images first")
    parser.add_argument("--out", type=Path, default=RESULTS / "domain_study.json")
    parser.add_argument("--set", type=json.loads, default={}, metavar="JSON", help="other settings of OfflineConfig")
    options = parser.parse_args()
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    shared = Path(os.environ.get("DITTA_SHARED", ROOT.parent / "shared"))
    base = load_model(model_source(Cell("city", "0006R0", 0, 1, 10, "clean"), shared))
    config = OfflineConfig(steps=options.steps, guarded=False, **options.set)
    noted: dict[str, Any] = json.loads(options.out.read_text(encoding="utf-8")) if options.out.exists() else {}
    read = ""
    for name, image, method, seed in runs(options):
        key = f"{name} {image}{'+restored' * options.restored} {method} {seed}"
        if key in noted:
            continue
        if read != f"{name} {image}":
            read = f"{name} {image}"
            drive = Drive(shared, name, image, options.restored, base)
        begin = time.monotonic()
        noted[key] = drive.measure(method, replace(config, seed=config.seed + seed))
        write_notes(options.out, noted)
        options.out.with_suffix(".md").write_text(markdown(noted), encoding="utf-8")
        print(key, noted[key], f"{time.monotonic() - begin:.0f} s", flush=True)


if __name__ == "__main__":
    main()
