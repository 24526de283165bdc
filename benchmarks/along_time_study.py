"""What do several frames know that one does not? Labels along time, and features before and after STPL, on video.

    python benchmarks/along_time_study.py

A camera moves over stills of CamVid's training drives at 10 Hz (``scenes.py``): every frame has true labels. Wrong ones
are counted among labels of single frames and among those gathered along estimated flow, as many of every class, by the
Cityscapes weights of ESPNetv2 at 480×368 with the drive's statistics; noise and darkness are taken out first, as the
product does. STPL's own evidence is the share of pixels of the same class among the ten nearest in feature space.
Written are every number and the table (``along_time_study.json``, ``.md``).
"""

from __future__ import annotations

import argparse
import copy
import json
import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from goals import ROOT
from notes import write_notes
from numpy.typing import NDArray
from recorded_drives import INPUT_SIZE
from scenes import Cell, frames_of, model_source

from ditta_core.domain.config import OfflineConfig
from ditta_core.domain.driver import OfflineResult, adapt_offline
from ditta_core.domain.frames import DriveFrames
from ditta_core.domain.labelling import TimePredictor, ViewPredictor, label_drive
from ditta_core.domain.reading import read_drives
from ditta_core.domain.recipes.registry import RECIPES
from ditta_core.evaluation.methods.offline import Frames
from ditta_core.segmentation.adapted import put_tensors
from ditta_core.segmentation.base import SegmentationModel
from ditta_core.segmentation.registry import load_model
from ditta_core.types import UNLABELLED

RESULTS = ROOT / "benchmarks" / "results"
VIDEOS = ("0006R0", "0016E5")
IMAGES = ("clean", "noise:3", "low_light:3")
RATE, WARMUP = 10, 10
NEAREST = 10
PIXELS = 3000
"""Pixels that neighbours are looked for among."""


class Scene(Frames):
    """The frames of a scene as a drive."""

    def __init__(self, cell: Cell, shared: Path) -> None:
        frames, self.truth = frames_of(cell, shared)
        super().__init__(frames)
        self.name, self.frame_rate = cell.video, float(cell.rate)


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


def measure(
    base: SegmentationModel, cell: Cell, config: OfflineConfig, shared: Path, known: Mapping[str, Any]
) -> dict[str, Any]:
    """Labels and, with steps, features of one scene; what is known already is left as it is."""
    noted = dict(known)
    scene = Scene(cell, shared)
    drive = read_drives([scene], INPUT_SIZE, 300, restored=True)
    truth = truth_of(drive, scene)
    before = with_tensors(base, adapt_offline(base, RECIPES["vst"], drive, replace(config, steps=0)))
    if "single" not in noted:
        view = ViewPredictor(before)
        single = label_drive(drive, view, config.portion, by_margin=True).labels
        gathered = label_drive(drive, TimePredictor(view), config.portion, by_margin=True).labels
        noted |= {
            "frames": len(drive),
            "confirmed": drive.confirmed_share(),
            "single": wrong(single, truth),
            "gathered": wrong(gathered, truth),
        }
    if config.steps and "alike before" not in noted:
        noted |= {"steps": config.steps, "alike before": alike(before, drive, truth)}
        for method in ("vst", "stpl"):
            after = with_tensors(base, adapt_offline(base, RECIPES[method], drive, config))
            noted[f"alike after {method}"] = alike(after, drive, truth)
    return noted


def markdown(noted: Mapping[str, Any]) -> str:
    """The table: wrong labels (and the share that is labelled), and the share of neighbours of the same class."""
    lines = [
        "Percent. Wrong among the labels (pixels that are labelled); same class among the ten nearest features.",
        "",
        "| | single frames | along time | features before | after `vst` | after `stpl` |",
        "|---|---|---|---|---|---|",
    ]
    for key, row in noted.items():
        labels = [f"{share:.2f} ({labelled:.0f})" for share, labelled in (row["single"], row["gathered"])]
        names = ("alike before", "alike after vst", "alike after stpl")
        features = [f"{row[name]:.1f}" if name in row else "–" for name in names]
        lines.append(f"| {key} | {' | '.join([*labels, *features])} |")
    return "\n".join([*lines, ""])


def main() -> None:
    """Measure what is not noted yet, and write what is known."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=100, help="of VST and STPL; 0 for the labels alone")
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
            known = noted.get(key, {})
            if "alike before" in known or ("single" in known and not options.steps):
                continue
            cell = Cell("city", video, 10, RATE, WARMUP, image)
            noted[key] = measure(load_model(model_source(cell, shared)), cell, config, shared, known)
            write_notes(options.out, noted)
            options.out.with_suffix(".md").write_text(markdown(noted), encoding="utf-8")
            print(key, noted[key], flush=True)


if __name__ == "__main__":
    main()
