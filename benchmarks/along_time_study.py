"""What do several frames know that one does not? Labels along time, and features before and after STPL, on video.

    python benchmarks/along_time_study.py

A camera moves over stills of CamVid's training drives at 10 Hz (``scenes.py``): every frame has true labels. Wrong ones
are counted among labels of single frames and among those gathered along estimated flow, as many of every class, by the
Cityscapes weights of ESPNetv2 at 480×368 with the drive's statistics; noise and darkness are taken out first, as the
product does. STPL's own evidence is the share of pixels of the same class among the ten nearest in feature space. What
the models are worth is scored on scenes over other stills of the drive, in the same weather. Written are every number
and the tables (``along_time_study.json``, ``.md``).
"""

from __future__ import annotations

import argparse
import copy
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from goals import ROOT
from notes import write_notes
from numpy.typing import NDArray
from recorded_drives import INPUT_SIZE, score
from scenes import Cell, frames_of, model_source

from ditta_core.domain.config import OfflineConfig
from ditta_core.domain.driver import OfflineResult, adapt_offline
from ditta_core.domain.frames import DriveFrames
from ditta_core.domain.labelling import TimePredictor, ViewPredictor, label_drive
from ditta_core.domain.reading import read_drives
from ditta_core.domain.recipe import PseudoLabels, Recipe
from ditta_core.domain.recipes.registry import RECIPES
from ditta_core.evaluation.methods.offline import Frames
from ditta_core.inference.restoration import ImageRestorer
from ditta_core.segmentation.adapted import put_tensors
from ditta_core.segmentation.base import SegmentationModel
from ditta_core.segmentation.registry import load_model
from ditta_core.types import UNLABELLED, Frame

RESULTS = ROOT / "benchmarks" / "results"
VIDEOS = ("0006R0", "0016E5")
IMAGES = ("clean", "noise:3", "low_light:3")
METHODS = ("self_training", "vst", "stpl")
START, SCORED = 10, (20, 30, 40)
"""Index of the first still of the scene that is learned from, and of those that are scored."""
RATE, WARMUP = 10, 10
EVERY = 3
"""Of so many frames one is scored."""
NEAREST = 10
PIXELS = 3000
"""Pixels that neighbours are looked for among."""


class Scene(Frames):
    """The frames of a scene as a drive."""

    def __init__(self, frames: Sequence[Frame], truth: Sequence[NDArray[np.uint8]]) -> None:
        super().__init__(frames)
        self.truth, self.frame_rate = truth, float(RATE)

    def labels(self, index: int) -> NDArray[np.uint8] | None:
        return self.truth[index]


def other_stills(cell: Cell, shared: Path) -> Scene:
    """Every third frame of scenes over other stills of the drive, restored as the product does it."""
    frames: list[Frame] = []
    truth: list[NDArray[np.uint8]] = []
    for start in SCORED:
        seen, true = frames_of(replace(cell, start=start), shared)
        restorer = ImageRestorer()
        frames += [restorer(frame) for frame in seen][::EVERY]
        truth += true[::EVERY]
    return Scene(frames, truth)


def labelled_with(recipe: type[Recipe], labels: PseudoLabels) -> type[Recipe]:
    """A recipe whose labels were made before."""

    class Labelled(recipe):  # type: ignore[misc,valid-type]
        def label(self, drive: DriveFrames, number: int) -> PseudoLabels | None:
            return labels

    return Labelled


def with_tensors(base: SegmentationModel, result: OfflineResult) -> SegmentationModel:
    """A copy of the model with what an adaptation changed."""
    model = copy.deepcopy(base)
    put_tensors(model, result.tensors)
    return model


def truth_of(drive: DriveFrames, scene: Scene) -> NDArray[np.uint8]:
    """True labels of the frames that are learned from, uint8 [n, h, w] at the size of label maps."""
    assert len(drive) + len(drive.held_out) == len(scene), "no frame of a scene may be left out"
    size = drive.map_size[::-1]
    stretches = [range(len(drive))]
    assert drive.stretches == stretches, "the scene is one stretch, of which the last frames are held out"
    return np.stack([cv2.resize(each, size, interpolation=cv2.INTER_NEAREST) for each in scene.truth[: len(drive)]])


def wrong(labels: NDArray[np.uint8], truth: NDArray[np.uint8]) -> tuple[float, float]:
    """Share of wrong ones among labels whose truth is known, and share of the pixels that have one; in percent."""
    known = (labels != UNLABELLED) & (truth != UNLABELLED)
    return 100 * float((labels != truth)[known].mean()), 100 * float((labels != UNLABELLED).mean())


@torch.no_grad()
def alike(model: SegmentationModel, drive: DriveFrames, truth: NDArray[np.uint8]) -> float:
    """Share in percent of the pixels of a pixel's own true class among the nearest by the cosine of features.

    The pixels are drawn from all frames, equally from the classes that are there.
    """
    features, classes = [], []
    for index in range(0, len(drive), 3):
        pixels = model.preprocess(drive.image(index)[None], drive.input_size, model.mean.device)
        embedding = model.decode(model.encode(pixels))[0]
        size = embedding.shape[-1], embedding.shape[-2]
        features.append(embedding.flatten(1).T)
        classes.append(cv2.resize(truth[index], size, interpolation=cv2.INTER_NEAREST).ravel())
    every, names = torch.cat(features), np.concatenate(classes)
    random = np.random.default_rng(0)
    present = [name for name in np.unique(names) if name != UNLABELLED]
    most = PIXELS // len(present)
    places = np.concatenate([random.permutation(np.flatnonzero(names == name))[:most] for name in present])
    near = torch.nn.functional.normalize(every[places], dim=1)
    similar = (near @ near.T).fill_diagonal_(-2).topk(NEAREST, 1).indices.numpy()
    same = names[places][similar] == names[places][:, None]
    return 100 * float(np.mean([same[names[places] == name].mean() for name in present]))


def measure(base: SegmentationModel, cell: Cell, config: OfflineConfig, shared: Path, seeds: int) -> dict[str, Any]:
    """Labels and, with steps, features and mIoU of one scene, for every seed of the training."""
    scene = Scene(*frames_of(cell, shared))
    drive = read_drives([scene], INPUT_SIZE, 300, restored=True)
    truth = truth_of(drive, scene)
    before = with_tensors(base, adapt_offline(base, RECIPES["vst"], drive, replace(config, steps=0)))
    view = ViewPredictor(before)
    single = label_drive(drive, view, config.portion, by_margin=True)
    gathered = label_drive(drive, TimePredictor(view), config.portion, by_margin=True)
    noted = {
        "frames": len(drive),
        "confirmed": drive.confirmed_share(),
        "single": wrong(single.labels, truth),
        "gathered": wrong(gathered.labels, truth),
    }
    if not config.steps:
        return noted
    scored = other_stills(cell, shared)
    miou, neighbours = {"statistics": [score(before, scored)]}, {"statistics": [alike(before, drive, truth)]}
    for method in METHODS:
        recipe = labelled_with(RECIPES[method], single if method == "self_training" else gathered)
        found = [adapt_offline(base, recipe, drive, replace(config, seed=config.seed + seed)) for seed in range(seeds)]
        models = [with_tensors(base, each) for each in found]
        miou[method] = [score(model, scored) for model in models]
        neighbours[method] = [alike(model, drive, truth) for model in models]
    return {**noted, "steps": config.steps, "miou": miou, "alike": neighbours}


def markdown(noted: Mapping[str, Any]) -> str:
    """Tables: wrong labels (and the share that is labelled); same class among the nearest features; mIoU elsewhere."""
    lines = [
        "Percent: wrong ones among the labels (pixels that are labelled).",
        "",
        "| | single frames | along time |",
        "|---|---|---|",
        *(
            f"| {key} | {' | '.join(f'{share:.2f} ({labelled:.0f})' for share, labelled in shares)} |"
            for key, row in noted.items()
            for shares in [(row["single"], row["gathered"])]
        ),
    ]
    for name, said in (
        ("miou", "mIoU on other stills of the drive, means over seeds (and how far those lie apart)."),
        ("alike", "Percent of the ten nearest features that are of the same class, means over seeds."),
    ):
        rows = {key: row[name] for key, row in noted.items() if name in row}
        if rows:
            methods = list(next(iter(rows.values())))
            lines += ["", said, "", f"| | {' | '.join(f'`{each}`' for each in methods)} |"]
            lines += ["|---" * (len(methods) + 1) + "|"]
            lines += [f"| {key} | {' | '.join(spread(row[each]) for each in methods)} |" for key, row in rows.items()]
    return "\n".join([*lines, ""])


def spread(values: Sequence[float]) -> str:
    """The mean, and the range where there are several."""
    mean = f"{np.mean(values):.1f}"
    return mean if len(values) < 2 else f"{mean} ({np.ptp(values):.1f})"


def main() -> None:
    """Measure what is not noted yet, and write what is known."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=100, help="of the methods; 0 for the labels alone")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--videos", default=",".join(VIDEOS), metavar="A,B")
    parser.add_argument("--images", default=",".join(IMAGES), metavar="A,B")
    parser.add_argument("--out", type=Path, default=RESULTS / "along_time_study.json")
    options = parser.parse_args()
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    shared = Path(os.environ.get("DITTA_SHARED", ROOT.parent / "shared"))
    config = OfflineConfig(steps=options.steps, guarded=False)
    noted: dict[str, Any] = json.loads(options.out.read_text(encoding="utf-8")) if options.out.exists() else {}
    for video in options.videos.split(","):
        for image in options.images.split(","):
            key = f"{video} {image}"
            if key in noted and ("miou" in noted[key] or not options.steps):
                continue
            cell = Cell("city", video, START, RATE, WARMUP, image)
            noted[key] = measure(load_model(model_source(cell, shared)), cell, config, shared, options.seeds)
            write_notes(options.out, noted)
            options.out.with_suffix(".md").write_text(markdown(noted), encoding="utf-8")
            print(key, noted[key], flush=True)


if __name__ == "__main__":
    main()
