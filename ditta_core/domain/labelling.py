"""Pseudo-labels of all frames of drives: what predicts them, and which of their pixels are kept."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ditta_core.domain.frames import DriveFrames
from ditta_core.domain.recipe import NothingLabelledError, PseudoLabels, resized
from ditta_core.domain.thresholds import ClassConfidences, balanced_labels, confident_labels
from ditta_core.flow import warp, warp_labels
from ditta_core.inference.reliability import reliability
from ditta_core.segmentation.base import SegmentationModel
from ditta_core.teacher.dense_flow import SMALLEST_WEIGHT, visits
from ditta_core.types import UNLABELLED

THRESHOLD_FRAMES = 50
"""Largest number of frames, in pieces evenly spread over the drives, that thresholds are taken from."""
PIECE = 6
"""Frames of such a piece."""
REACH = 3
"""Number of frames before and after a frame whose predictions its label takes in, as those of the flow teacher:
docs/ablations.md#reach-of-the-flow-teacher."""
SMALLEST_AGREEMENT = 0.5
"""Share of the visiting frames that must give a pixel the class of its label."""
LARGEST_MEMORY = 128 * 2**20
"""Bytes of probabilities that are kept, so that frames the thresholds were taken from are not predicted again."""


@dataclass(frozen=True)
class Prediction:
    """What is known of a frame.

    Attributes:
        frame: Index of the frame.
        probabilities: float [1, C, h, w] at the size of label maps.
        allowed: Pixels that may be labelled, bool [h, w]; None for all.
    """

    frame: int
    probabilities: Tensor
    allowed: Tensor | None = None


class Predictor(ABC):
    """Predicts the frames of a stretch, in order."""

    @abstractmethod
    def predict(self, drive: DriveFrames, frames: range) -> Iterator[Prediction]:
        """Predictions of consecutive frames of one stretch; neighbours outside of ``frames`` are left alone."""


class ViewPredictor(Predictor):
    """The mean of a frame's probabilities as it is and mirrored, at the size at which the frames are kept.

    That is the size of the network input, or a larger one where labels come from a stronger view than the student's.
    The model and the drive must stay as they are while it is in use: what was predicted is kept, as far as it fits.
    """

    def __init__(self, model: SegmentationModel) -> None:
        self.model = model
        self._kept: dict[int, Tensor] = {}

    def probabilities(self, drive: DriveFrames, frame: int) -> Tensor:
        """float [1, C, h, w] at the size of label maps."""
        if frame in self._kept:
            return self._kept[frame]
        found = self._predict(drive, frame)
        if (len(self._kept) + 1) * found.numel() * found.element_size() <= LARGEST_MEMORY:
            self._kept[frame] = found
        return found

    @torch.no_grad()
    def _predict(self, drive: DriveFrames, frame: int) -> Tensor:
        image = drive.images[frame]
        pixels = self.model.preprocess(image[None], (image.shape[0], image.shape[1]), self.model.mean.device)
        # One after the other: a batch of two takes the CPU more than twice the time of one.
        plain, mirrored = (
            self.model.classify(self.model.decode(self.model.encode(view))) for view in (pixels, pixels.flip(-1))
        )
        both = [resized(each, drive.map_size).softmax(1) for each in (plain, mirrored.flip(-1))]
        return (both[0] + both[1]) / 2

    def predict(self, drive: DriveFrames, frames: range) -> Iterator[Prediction]:
        for frame in frames:
            yield Prediction(frame, self.probabilities(drive, frame))


class TimePredictor(Predictor):
    """Probabilities of the frames around a frame, carried along optical flow and averaged with its own.

    The weights are the reliabilities, as those of :class:`~ditta_core.teacher.dense_flow.DenseFlow`. A pixel may be
    labelled where at least half of the frames that see it give it the class of the average.
    """

    def __init__(self, single: ViewPredictor, reach: int = REACH) -> None:
        self.single, self.reach = single, reach

    def predict(self, drive: DriveFrames, frames: range) -> Iterator[Prediction]:
        known: dict[
            int, NDArray[np.float32]
        ] = {}  # weighted probabilities, their weight as one more channel: [C + 1, h, w]
        device = self.single.model.mean.device
        for frame in frames:
            near = range(max(frames.start, frame - self.reach), min(frames.stop, frame + self.reach + 1))
            for index in [each for each in known if each not in near]:
                del known[index]
            for index in near:
                if index not in known:
                    probabilities = self.single.probabilities(drive, index)
                    weight = reliability(probabilities).clamp_min(SMALLEST_WEIGHT)[:, None]
                    known[index] = torch.cat([probabilities * weight, weight], 1)[0].float().cpu().numpy()
            total = known[frame].copy()
            seen_by = np.zeros(drive.map_size, np.int32)
            found = []
            for visit in visits(frame, near, self.reach, drive.link):
                carried, _ = warp(known[visit.source], visit.path)
                total += carried * visit.seen
                said = known[visit.source][:-1].argmax(0).astype(np.uint8)
                found.append(warp_labels(said, visit.path, outside=UNLABELLED))
                found[-1][~visit.seen] = UNLABELLED
                seen_by += visit.seen
            mean = total[:-1] / total[-1]
            label = mean.argmax(0)
            agreeing = sum((each == label).astype(np.int32) for each in found) if found else seen_by
            allowed = agreeing >= SMALLEST_AGREEMENT * seen_by
            yield Prediction(
                frame, torch.from_numpy(mean)[None].to(device), torch.from_numpy(np.asarray(allowed)).to(device)
            )


def spread_pieces(drive: DriveFrames, frames: int = THRESHOLD_FRAMES) -> list[range]:
    """Pieces of the stretches, evenly spread, of about so many frames together; all where there are no more."""
    pieces = [
        range(at, min(at + PIECE, stretch.stop))
        for stretch in drive.stretches
        for at in range(stretch.start, stretch.stop, PIECE)
    ]
    if len(drive) <= frames:
        return pieces
    places = np.linspace(0, len(pieces) - 1, max(1, frames // PIECE)).round().astype(int)
    return [pieces[place] for place in np.unique(places)]


@torch.no_grad()
def label_drive(
    drive: DriveFrames, predictor: Predictor, portion: float, by_margin: bool, cap: float = 1.0
) -> PseudoLabels:
    """Labels of all frames, as large a portion of every class.

    Args:
        portion: Share of every class that is labelled, 0..1.
        by_margin: Whether the label is the class of the largest margin over its threshold, see
            :func:`~ditta_core.domain.thresholds.balanced_labels`, rather than the likeliest.
        cap: Confidence from which a pixel is labelled in any case, 0..1.

    Raises:
        NothingLabelledError: no pixel is labelled.
    """
    confidences: ClassConfidences | None = None
    for piece in spread_pieces(drive):
        for prediction in predictor.predict(drive, piece):
            confidences = confidences or ClassConfidences(prediction.probabilities.shape[1])
            confidences.add(prediction.probabilities)
    assert confidences is not None
    thresholds = confidences.thresholds(portion, cap)
    labels = np.full((len(drive), *drive.map_size), UNLABELLED, np.uint8)
    keep = balanced_labels if by_margin else confident_labels
    for stretch in drive.stretches:
        for prediction in predictor.predict(drive, stretch):
            kept = keep(prediction.probabilities, thresholds)[0]
            if prediction.allowed is not None:
                kept = kept.masked_fill(~prediction.allowed, UNLABELLED)
            labels[prediction.frame] = kept.byte().cpu().numpy()
            if drive.ignored is not None:
                labels[prediction.frame][drive.ignored] = UNLABELLED
    if not (labels != UNLABELLED).any():
        raise NothingLabelledError("expected a pixel that can be labelled, but got none; label a larger portion")
    return PseudoLabels(labels, tuple(thresholds.tolist()))
