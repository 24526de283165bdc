"""What is a recorded drive worth? Recipes of `ditta adapt` on the even frames of a drive, scored on its odd ones.

    python benchmarks/domain_study.py --steps 100

Cityscapes weights of ESPNetv2 at 480×368, published as CamVid's classes; CamVid's training drives at 1 Hz, as recorded,
clean and corrupted, unlabelled in the training. ``clip_0016E5`` is no part of this: nothing is chosen on it. An
interrupted run goes on where it stopped. Written are every number and the table (``domain_study.json``, ``.md``).
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
from numpy.typing import NDArray
from recorded_drives import INPUT_SIZE, drive_of, even_and_odd, score
from scenes import Cell, model_source

from ditta_core.datasets.base import SequenceView, VideoSequence
from ditta_core.domain.config import OfflineConfig
from ditta_core.domain.driver import adapt_offline
from ditta_core.domain.frames import DriveFrames
from ditta_core.domain.reading import read_drives
from ditta_core.domain.recipe import Batch, Losses, Recipe
from ditta_core.domain.recipes.hcl import HCL
from ditta_core.domain.recipes.registry import RECIPES
from ditta_core.domain.recipes.ur import UR
from ditta_core.domain.recipes.vst import STPL
from ditta_core.inference.restoration import ImageRestorer
from ditta_core.segmentation.base import SegmentationModel
from ditta_core.segmentation.registry import load_model
from ditta_core.types import Frame

RESULTS = ROOT / "benchmarks" / "results"
IMAGES = ("clean", "noise:3", "low_light:3", "fog:3")
SOURCE, STATISTICS = "source", "statistics"


class Restored(SequenceView):
    """A drive as the network of the node sees it; its frames are asked for in order."""

    def __init__(self, original: VideoSequence) -> None:
        super().__init__(original)
        self.restorer = ImageRestorer()

    def image(self, index: int) -> NDArray[np.uint8]:
        if index == 0:
            self.restorer.reset()
        return self.restorer(self.frame_of(index)).image

    def frame_of(self, index: int) -> Frame:
        """The frame as it was recorded."""
        return Frame(super().image(index), self.stamp(index))


def without(recipe: type[Recipe], *terms: str) -> type[Recipe]:
    """A recipe without some of its terms."""

    class Removed(recipe):  # type: ignore[misc,valid-type]
        def loss(self, batch: Batch) -> Losses:
            return {name: term for name, term in super().loss(batch).items() if name not in terms}

    return Removed


class URShared(UR):
    """UR whose four heads are the classifier itself."""

    fresh_heads = False


SOURCE_FREE = {name: recipe for name, recipe in RECIPES.items() if not recipe.needs_source}
METHODS: Mapping[str, type[Recipe]] = {
    **SOURCE_FREE,
    "ur_shared_heads": URShared,
    "ur_no_dropout": without(UR, "dropout"),
    "ur_no_entropy": without(UR, "entropy"),
    "hcl_no_instance": without(HCL, "instance"),
    "stpl_no_contrast": without(STPL, "contrast"),
}


def runs(options: argparse.Namespace) -> Iterator[tuple[str, str, str, int]]:
    """What is measured: drive, image, method, seed; the most telling first."""
    for seed in range(options.seeds):
        for image in options.images.split(","):
            for drive in options.drives.split(","):
                for method in options.methods.split(","):
                    if seed == 0 or method in METHODS:
                        yield drive, image, method, seed


def measure(
    base: SegmentationModel, frames: dict[int, DriveFrames], test: VideoSequence, method: str, config: OfflineConfig
) -> dict[str, Any]:
    """One method on one drive: its score, and what it reported."""
    if method == SOURCE:
        return {"miou": score(base, test)}
    recipe = METHODS.get(method, RECIPES["self_training"])
    if method == STATISTICS:
        config = replace(config, steps=0)
    begin = time.monotonic()
    result = adapt_offline(base, recipe, frames[int(recipe.stronger_view)], config)
    seconds = time.monotonic() - begin
    adapted, half = copy.deepcopy(base), copy.deepcopy(base)
    statistics = adapt_offline(base, recipe, frames[0], replace(config, steps=0)).tensors
    original = base.state_dict()
    for name, value in result.tensors.items():
        trained = torch.from_numpy(value)
        before = torch.from_numpy(statistics[name]) if name in statistics else original[name]
        adapted.state_dict()[name].copy_(trained)
        half.state_dict()[name].copy_(before.lerp(trained, 0.5))
    report = result.report
    return {
        "miou": score(adapted, test),
        "miou_half_deployed": score(half, test) if method != STATISTICS else None,
        "seconds": seconds,
        "steps": report.steps,
        "labelled": list(report.labelled),
        "contradicted": report.contradicted,
        "entropy_ratio": report.entropy_ratio,
        "refused": report.refused,
        "losses": dict(report.losses[-1][1]) if report.losses else {},
    }


def markdown(noted: Mapping[str, Any]) -> str:
    """The table: methods by drive and image, half of the training deployed, against the statistics alone."""
    cells = sorted({key.rpartition(" ")[0].rpartition(" ")[0] for key in noted})
    methods = list(dict.fromkeys(key.split(" ")[2] for key in noted))
    lines = [f"| | {' | '.join(cells)} | mean against statistics | worst |", "|---" * (len(cells) + 3) + "|"]
    for method in methods:
        scores = []
        for cell in cells:
            rows = [row for key, row in noted.items() if key.startswith(f"{cell} {method} ")]
            values = [row.get("miou_half_deployed") or row["miou"] for row in rows]
            scores.append(float(np.mean(values)) if values else None)
        base = [noted.get(f"{cell} {STATISTICS} 0", {}).get("miou") for cell in cells]
        gains = [one - other for one, other in zip(scores, base, strict=True) if one is not None and other is not None]
        shown = ["–" if each is None else f"{each:.1f}" for each in scores]
        lines.append(
            f"| `{method}` | {' | '.join(shown)} | "
            + (f"{np.mean(gains):+.2f} | {min(gains):+.2f} |" if gains else "– | – |")
        )
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
    config = OfflineConfig(steps=options.steps, guarded=False, deployed_share=1.0, **options.set)
    noted: dict[str, Any] = json.loads(options.out.read_text(encoding="utf-8")) if options.out.exists() else {}
    frames: dict[int, DriveFrames] = {}
    read = ""
    for drive, image, method, seed in runs(options):
        key = f"{drive} {image}{'+restored' * options.restored} {method} {seed}"
        if key in noted:
            continue
        if read != f"{drive} {image}":
            read = f"{drive} {image}"
            target: VideoSequence = even_and_odd(drive_of(shared, drive, image))[0]
            larger = base.input_size((360, 480), 640)
            frames = {
                place: read_drives([target], INPUT_SIZE, 300, size, restored=options.restored)
                for place, size in enumerate((INPUT_SIZE, larger))
            }
        test: VideoSequence = even_and_odd(drive_of(shared, drive, image))[1]
        test = Restored(test) if options.restored else test
        noted[key] = measure(base, frames, test, method, replace(config, seed=config.seed + seed))
        write_notes(options.out, noted)
        options.out.with_suffix(".md").write_text(markdown(noted), encoding="utf-8")
        print(key, noted[key], flush=True)


if __name__ == "__main__":
    main()
