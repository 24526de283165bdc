"""What the node published, beside what the unadapted model says of the same frames."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from ditta_core.datasets.base import VideoSequence
from ditta_core.evaluation.metrics import MaskQuality, Motion
from ditta_core.flow import FlowEstimator
from ditta_core.inference.frame_segmenter import segment_frame
from ditta_core.report.pictures import OverlayVideo, RgbImage, compose_panels
from ditta_core.segmentation.base import SegmentationModel
from ditta_core.types import State
from ditta_ros.replay.recording import PublishedFrame, Recording


class FrameByFrame:
    """Masks of the unadapted model, each frame on its own; computed once and kept as files.

    Args:
        sequence: Sequence that gives the frames.
        model: Unadapted model.
        input_size: Network input (height, width).
        folder: Folder for the masks.
    """

    def __init__(
        self, sequence: VideoSequence, model: SegmentationModel, input_size: tuple[int, int], folder: Path
    ) -> None:
        self.sequence = sequence
        self.model = model
        self.input_size = input_size
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        for path in folder.glob("*.png"):
            path.unlink()

    def mask(self, index: int, image: RgbImage) -> NDArray[Any]:
        """Class ids [H, W] of a frame of the sequence, whose image is given."""
        path = self.folder / f"{index:06}.png"
        if not path.exists():
            class_ids, _ = segment_frame(self.model, image, self.input_size)
            cv2.imwrite(str(path), class_ids, [cv2.IMWRITE_PNG_COMPRESSION, 1])
        return np.asarray(cv2.imread(str(path), cv2.IMREAD_UNCHANGED))


@dataclass
class MaskComparison:
    """Both streams of masks over the same frames.

    Attributes:
        source, ditta: Measures of the unadapted model, frame by frame, and of what the node published.
        labelled: Whether they were compared with labels.
        pairs: Index of each frame whose consistency with the one before was measured.
        frames: Number of frames that were compared.
    """

    source: MaskQuality
    ditta: MaskQuality
    labelled: bool
    pairs: list[int] = field(default_factory=list)
    frames: int = 0


def compare(
    frames: Sequence[PublishedFrame],
    recording: Recording,
    source: FrameByFrame,
    lookup: NDArray[np.uint8] | None,
    step: Callable[[], object],
) -> MaskComparison:
    """Measure both streams.

    Args:
        frames: Answered frames of one round, in order.
        recording: Recording that has the masks of the node.
        source: Masks of the unadapted model.
        lookup: Class ids by label, see :func:`~ditta_core.classes.translate_labels`; None without labels.
        step: Function that is called after every frame.
    """
    classes = len(source.model.classes)
    comparison = MaskComparison(MaskQuality(classes), MaskQuality(classes), labelled=lookup is not None)
    estimator = FlowEstimator("medium")
    before: tuple[int, RgbImage] | None = None
    for frame in frames:
        image = source.sequence.image(frame.index)
        motion = None
        if before is not None:
            motion = Motion.between(estimator, before[1], image)
            comparison.pairs.append(frame.index)
        labels = source.sequence.labels(frame.index) if lookup is not None else None
        ground_truth = lookup[labels] if lookup is not None and labels is not None else None
        gap = before is not None and frame.index != before[0] + 1
        for quality, mask in (
            (comparison.source, source.mask(frame.index, image)),
            (comparison.ditta, recording.read_mask(frame.stamp)),
        ):
            if gap:
                quality.video_consistency.end_clip()
            quality.update(mask, motion, ground_truth)
        comparison.frames += 1
        before = frame.index, image
        step()
    return comparison


# --- pictures ------------------------------------------------------------------------------------------------------


class Panels:
    """Camera image, frame-by-frame masks and the node's masks side by side."""

    def __init__(self, recording: Recording, source: FrameByFrame) -> None:
        self.recording = recording
        self.source = source

    def draw(self, frame: PublishedFrame, state: State) -> RgbImage:
        """The panels for an answered frame."""
        image = self.source.sequence.image(frame.index)
        classes = self.source.model.classes
        frame_by_frame = classes.overlay(image, self.source.mask(frame.index, image))
        ditta = classes.overlay(image, self.recording.read_mask(frame.stamp))
        seconds = frame.index / self.source.sequence.frame_rate
        captions = f"camera  {seconds:.1f} s", "unadapted, frame by frame", f"DiTTA  {state.value}"
        return compose_panels((image, frame_by_frame, ditta), captions)


def write_overlay(
    frames: Sequence[PublishedFrame],
    answered: Callable[[PublishedFrame], State | None],
    panels: Panels,
    path: Path,
    step: Callable[[], object],
) -> None:
    """Write a video that runs as the camera did: where a frame has no mask, the one before stays.

    Args:
        frames: Frames in order.
        answered: Function that gives the state of the node when the mask of a frame arrived; None without a mask.
        panels: Panels that draw a frame.
        path: Path of the file.
        step: Function that is called after every frame.
    """
    picture = None
    with OverlayVideo(path, panels.source.sequence.frame_rate) as video:
        for frame in frames:
            state = answered(frame)
            if state is not None:
                picture = panels.draw(frame, state)
            if picture is not None:
                video.write(picture)
            step()
