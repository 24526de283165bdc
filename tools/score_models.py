r"""Scores of models frame by frame: streets, clean and made worse, and objects in other videos.

    python tools/score_models.py camvid street espnetv2:../shared/weights/espnetv2_s_2.0_city_1024x512.pth \
        --clip ../shared/data/camvid/clip_0016E5 --videos ../shared/data/davis16 --every 2

mIoU in percent on the labelled clip of CamVid in its 11 classes, with and without corruptions of severity 3 (seed 0),
one confusion matrix over all frames. Then the IoU in percent of the classes of the object that the masks of DAVIS mark:
cars, or people with what they ride on, since that is what the masks hold.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from ditta_core.datasets.base import VideoSequence
from ditta_core.datasets.camvid import CamVidSequence
from ditta_core.datasets.images import read_image
from ditta_core.datasets.names import image_files
from ditta_core.evaluation.corruptions import CorruptedSequence, Corruption
from ditta_core.evaluation.metrics import ConfusionMatrix
from ditta_core.inference.frame_segmenter import segment_frame
from ditta_core.segmentation.base import SegmentationModel
from ditta_core.segmentation.registry import load_model
from ditta_core.segmentation.source import ModelSource

CONDITIONS = ("clean", "noise:3", "low_light:3", "fog:3")
CAR, PERSON = ("car",), ("pedestrian", "bicyclist")
OBJECTS = {
    "car-roundabout": CAR,
    "car-shadow": CAR,
    "parkour": PERSON,
    "kite-surf": PERSON,
    "bmx-trees": PERSON,
    "horsejump-high": PERSON,
    "motocross-jump": PERSON,
}
"""Sequences of DAVIS with cars or people, and the classes of CamVid that the marked object belongs to."""


def predicted(model: SegmentationModel, image: NDArray[np.uint8], long_side: int) -> NDArray[np.uint8]:
    """Class ids [H, W]."""
    class_ids, _ = segment_frame(model, image, model.input_size(image.shape[:2], long_side))
    return np.asarray(class_ids, np.uint8)


def street_score(model: SegmentationModel, sequence: VideoSequence, every: int, long_side: int) -> float:
    """Mean IoU in percent."""
    confusion = ConfusionMatrix(len(model.classes))
    for index in range(0, len(sequence), every):
        confusion.update(sequence.labels(index), predicted(model, sequence.image(index), long_side))
    return 100 * confusion.mean_iou()


def object_score(model: SegmentationModel, folder: Path, classes: Sequence[str], every: int, long_side: int) -> float:
    """IoU in percent of the union of the classes with the masks, over all frames together."""
    ids = [model.classes.names.index(name) for name in classes]
    both = either = 0
    for path in image_files(folder / "images")[::every]:
        mask = cv2.imread(str(folder / "masks" / f"{path.stem}.png"), cv2.IMREAD_GRAYSCALE)
        if mask is None:
            raise FileNotFoundError(f"expected a mask for every image, but {folder / 'masks'} has none of {path.stem}")
        found = np.isin(predicted(model, read_image(path), long_side), ids)
        both += int((found & (mask > 127)).sum())
        either += int((found | (mask > 127)).sum())
    return 100 * both / max(either, 1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("models", nargs="+", help="names that `ditta models` lists")
    add("--clip", required=True, type=Path, help="folder of CamVid with images/ and labels/")
    add("--videos", required=True, type=Path, help="folder of DAVIS sequences with images/ and masks/")
    add("--every", type=int, default=1, help="score every n-th frame of the clip, every 2n-th of the videos")
    add("--long-side", type=int, default=480, help="longer side of the network input in pixels")
    add("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    models = {name: load_model(ModelSource(name, "camvid11")) for name in arguments.models}
    clip = CamVidSequence(arguments.clip)
    print("|", " | ".join(["", *models]), "|", flush=True)
    print("|---" * (len(models) + 1) + "|", flush=True)
    for condition in CONDITIONS:
        sequence = clip if condition == "clean" else CorruptedSequence(clip, Corruption.parse(condition), seed=0)
        scores = [street_score(model, sequence, arguments.every, arguments.long_side) for model in models.values()]
        print("|", " | ".join([condition, *(f"{score:.1f}" for score in scores)]), "|", flush=True)
    rows = []
    for name, classes in OBJECTS.items():
        folder = arguments.videos / name
        every = 2 * arguments.every
        rows.append([object_score(model, folder, classes, every, arguments.long_side) for model in models.values()])
        print("|", " | ".join([name, *(f"{score:.1f}" for score in rows[-1])]), "|", flush=True)
    print("|", " | ".join(["mean of the videos", *(f"{score:.1f}" for score in np.mean(rows, 0))]), "|", flush=True)


if __name__ == "__main__":
    main()
