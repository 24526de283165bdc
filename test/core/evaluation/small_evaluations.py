"""A drawn street, and small evaluations of it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from ditta_core.classes import ClassList
from ditta_core.datasets.base import VideoSequence
from ditta_core.datasets.camvid import CamVidSequence
from ditta_core.evaluation.collect import FinishedEvaluation, collect, unfinished
from ditta_core.evaluation.methods.base import MethodSetup
from ditta_core.evaluation.plan import EvaluationOptions, plan
from ditta_core.evaluation.runners import run_here
from ditta_core.evaluation.scores import EvaluationResult
from ditta_core.evaluation.store import TrialStore
from ditta_core.segmentation.base import SegmentationModel

SETUP = MethodSetup(long_side=96)
THREADS = 1


class Street(VideoSequence):
    """A drawn street, panned; can be pickled."""

    def __init__(self, name: str = "street", frames: int = 21, labelled: bool = True) -> None:
        self.name = name
        self.frame_rate = 10.0
        self.frames = frames
        self.labelled = labelled

    def __len__(self) -> int:
        return self.frames

    @property
    def classes(self) -> ClassList | None:
        return ClassList.packaged("camvid11") if self.labelled else None

    def image(self, index: int) -> NDArray[np.uint8]:
        colors = np.array(ClassList.packaged("camvid11").colors, np.uint8)
        noise = np.random.default_rng(index).integers(0, 9, (64, 96, 3), np.uint8)
        return (colors[self.scene(index)] // 2 + 40 + noise).astype(np.uint8)

    def labels(self, index: int) -> NDArray[np.uint8] | None:
        return self.scene(index) if self.labelled else None

    def scene(self, index: int) -> NDArray[np.uint8]:
        """Sky, buildings, a road, and cars that pass."""
        scene = np.zeros((64, 96), np.uint8)
        columns = (np.arange(96) + 2 * index) % 96
        scene[20:40] = np.where(columns < 60, 1, 5)
        scene[40:] = 3
        scene[38:50, columns < 20] = 8
        return scene


def write_camvid(folder: Path, street: Street) -> CamVidSequence:
    """The street as a data set."""
    for part, read in (("images", street.image), ("labels", street.scene)):
        (folder / part).mkdir(parents=True)
        for index in range(len(street)):
            cv2.imwrite(str(folder / part / f"{index:03}.png"), read(index))
    return CamVidSequence(folder, street.frame_rate)


def evaluation(
    options: EvaluationOptions, sequences: Sequence[VideoSequence], model: SegmentationModel, folder: Path
) -> FinishedEvaluation:
    store = TrialStore(folder)
    planned = plan(options, sequences)
    for trial, record in run_here(unfinished(planned, store), model, THREADS):
        store.put(trial, record)
    return collect(options, planned, store, model, {})


def numbers(result: EvaluationResult) -> list[tuple[object, ...]]:
    """All that does not depend on the machine's mood."""
    return [
        (row.method, row.warmup_ratio, row.corruption, row.scores, row.confusion.tolist(), row.videos)
        for row in result.results
    ]
