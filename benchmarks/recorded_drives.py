"""CamVid's training drives at 1 Hz, as the studies of `ditta adapt` see them, and how a model is scored there."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from ditta_core.datasets.annotated import Selection
from ditta_core.datasets.base import SequenceView, VideoSequence
from ditta_core.datasets.camvid import CamVidSequence
from ditta_core.evaluation.corruptions import CorruptedSequence, Corruption
from ditta_core.evaluation.metrics import ConfusionMatrix
from ditta_core.inference.frame_segmenter import segment_frame
from ditta_core.inference.restoration import ImageRestorer
from ditta_core.segmentation.base import SegmentationModel
from ditta_core.types import Frame

INPUT_SIZE = (368, 480)
"""Height and width of the network input."""


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


class Kept(SequenceView):
    """A drive whose images are kept once they were made."""

    def __init__(self, original: VideoSequence) -> None:
        super().__init__(original)
        self.image = cache(super().image)  # type: ignore[method-assign]


class Pan(SequenceView):
    """A camera that turns over one still frame of a drive: a window of 5/6 of it slides sideways, its labels with it.

    What moves how far is known, which it is not at 1 Hz.

    Args:
        original: drive with the frame.
        index: of the frame.
        step: Columns of the frame that the window moves a frame, to the left where negative.
    """

    def __init__(self, original: VideoSequence, index: int, step: int) -> None:
        super().__init__(original)
        self.name, self.frame_rate = f"{original.name} {index}", 15.0
        self.still, self.step = index, step

    def __len__(self) -> int:
        width = super().image(self.still).shape[1]
        return 1 + (width - width * 5 // 6) // abs(self.step)

    def _seen(self, picture: NDArray[np.uint8], index: int) -> NDArray[np.uint8]:
        height, width = (side * 5 // 6 for side in picture.shape[:2])
        top = (picture.shape[0] - height) // 2
        left = self.step * index if self.step > 0 else picture.shape[1] - width + self.step * index
        return picture[top : top + height, left : left + width]

    def image(self, index: int) -> NDArray[np.uint8]:
        return self._seen(super().image(self.still), index)

    def is_labelled(self, index: int) -> bool:
        return super().is_labelled(self.still)

    def labels(self, index: int) -> NDArray[np.uint8] | None:
        labels = super().labels(self.still)
        return None if labels is None else self._seen(labels, index)

    def stamp(self, index: int) -> int:
        return round(1e9 * index / self.frame_rate)


def pans_of(drive: Selection, step: int, image: str) -> list[VideoSequence]:
    """A pan over every frame of a clean drive, by turns to either side, corrupted afresh in every frame."""
    pans = [Pan(drive, index, step if index % 2 else -step) for index in range(len(drive))]
    if image == "clean":
        return list(pans)
    return [CorruptedSequence(pan, Corruption.parse(image), seed=index) for index, pan in enumerate(pans)]


def drive_of(shared: Path, name: str, image: str = "clean") -> Selection:
    """A training drive of CamVid, corrupted where asked for."""
    sequence = CamVidSequence(shared / "data" / "camvid" / "train", frame_rate=1.0)
    indices = [index for index, path in enumerate(sequence.image_paths) if path.stem.startswith(name)]
    seen: VideoSequence = sequence
    if image != "clean":
        seen = CorruptedSequence(sequence, Corruption.parse(image), seed=1)
    return Selection(seen, indices)


def even_and_odd(drive: Selection) -> tuple[Selection, Selection]:
    """Its frames to learn from, and those to be scored on."""
    return Selection(drive.original, drive.indices[::2]), Selection(drive.original, drive.indices[1::2])


def thinned(drive: Selection, most: int) -> Selection:
    """At most so many of its frames, evenly spread."""
    places = np.unique(np.linspace(0, len(drive) - 1, min(most, len(drive))).round().astype(int))
    return Selection(drive.original, [drive.indices[place] for place in places])


@torch.inference_mode()
def score(model: SegmentationModel, drive: VideoSequence) -> float:
    """mIoU in percent, frame by frame."""
    confusion = ConfusionMatrix(len(model.classes))
    for index in range(len(drive)):
        truth = drive.labels(index)
        assert truth is not None
        confusion.update(truth, segment_frame(model, drive.image(index), INPUT_SIZE)[0])
    return 100 * float(confusion.mean_iou())
