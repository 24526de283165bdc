"""The published protocol to Cityscapes: the annotated frames alone, in one confusion matrix, against plain NumPy."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
import torch.nn.functional as F

from ditta_core.classes import ClassList
from ditta_core.segmentation.registry import load_model
from ditta_core.segmentation.source import ModelSource
from ditta_ros.cli.main import main

LABEL_IDS = np.array([23, 11, 17, 7, 8, 21, 20, 13, 26, 24, 25, 0], np.uint8)
"""Of Cityscapes, for CamVid's eleven classes and void."""
VIPER = {
    7: 0,
    8: 1,
    11: 2,
    13: 3,
    19: 4,
    20: 5,
    21: 6,
    22: 7,
    23: 8,
    24: 9,
    25: 9,
    26: 10,
    27: 11,
    28: 12,
    32: 13,
    33: 14,
}
SYNTHIA = {7: 0, 8: 1, 11: 2, 17: 3, 19: 4, 20: 5, 21: 6, 23: 7, 24: 8, 25: 9, 26: 10}
"""The 15 and 11 classes of the published scenarios by Cityscapes' label ids; the rest is ignored."""
ANNOTATED = 2
INPUT = (128, 256)


@pytest.fixture(scope="module")
def tree(shared_file: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two snippets of four real frames, the third of each annotated, in the layout of Cityscapes."""
    clip, root = shared_file("data", "camvid", "clip_0016E5"), tmp_path_factory.mktemp("cityscapes")
    files = sorted((clip / "images").iterdir())
    for city, first in (("frankfurt", 0), ("lindau", 60)):
        for index, file in enumerate(files[first : first + 4]):
            name = f"{city}_000000_{index:06}"
            image = cv2.resize(cv2.imread(str(file)), (320, 160), interpolation=cv2.INTER_AREA)
            images = root / "leftImg8bit_sequence" / "val" / city
            images.mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(images / f"{name}_leftImg8bit.png"), image)
            if index == ANNOTATED:
                labels = cv2.imread(str(clip / "labels" / f"{file.stem}.png"), cv2.IMREAD_UNCHANGED)
                labels = cv2.resize(LABEL_IDS[labels], (320, 160), interpolation=cv2.INTER_NEAREST)
                folder = root / "gtFine" / "val" / city
                folder.mkdir(parents=True)
                cv2.imwrite(str(folder / f"{name}_gtFine_labelIds.png"), labels)
    return root


@pytest.mark.parametrize(("classes", "published"), [("viper15", VIPER), ("synthia11", SYNTHIA)])
def test_one_confusion_matrix_of_the_annotated_frames(
    tree: Path, tmp_path: Path, classes: str, published: dict[int, int]
) -> None:
    out = tmp_path / "out.json"
    command = ["evaluate", str(tree), "--annotated-frames", "--model", "street", "--classes", classes, "--eager"]
    command += ["--method", "source_merged", "--input-size", f"{INPUT[1]}x{INPUT[0]}", "--threads", "1"]
    assert main([*command, "--work", str(tmp_path / "work"), "--json", str(out)]) == 0
    (row,) = json.loads(out.read_text())["results"]
    assert row["frames"] == 4, "two annotated ones, each with the one before it"
    torch.set_num_threads(1)
    model, names = load_model(ModelSource("street", classes)), ClassList.packaged(classes).names
    counts = np.zeros((len(names), len(names) + 1), np.int64)  # the last column: the model says none of the classes
    for labels in sorted(tree.glob("gtFine/val/*/*")):
        image = str(labels).replace("gtFine_labelIds", "leftImg8bit").replace("gtFine", "leftImg8bit_sequence")
        frame = cv2.imread(image)[..., ::-1].copy()
        with torch.inference_mode():
            logits = model(model.preprocess(frame[None], INPUT, torch.device("cpu")))
            said = F.interpolate(logits, (160, 320), mode="bilinear").argmax(1)[0].numpy()
        for truth, guess in zip(cv2.imread(str(labels), cv2.IMREAD_UNCHANGED).ravel(), said.ravel(), strict=True):
            if truth in published:
                counts[published[truth], guess] += 1
    present = counts.sum(1) > 0
    iou = counts.diagonal() / (counts.sum(0)[:-1] + counts.sum(1) - counts.diagonal()).clip(1)
    assert present.sum() >= 7
    np.testing.assert_allclose(np.array(row["confusion"]), counts, atol=3)
    assert row["miou"] == pytest.approx(100 * iou[present].mean(), abs=0.05)
    assert row["iou"][names[0]] == pytest.approx(100 * iou[0], abs=0.05)
