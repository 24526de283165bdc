"""What the node published, beside what the unadapted model says of the same frames."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from numpy.typing import NDArray

from ditta_core.datasets.base import VideoSequence
from ditta_core.evaluation.measurement import GroundTruth, Measurement, measure_video
from ditta_core.evaluation.trial import decode_mask, encode_mask
from ditta_core.inference.frame_segmenter import segment_frame
from ditta_core.report.pictures import OverlayVideo, RgbImage, compose_panels
from ditta_core.segmentation.base import SegmentationModel
from ditta_core.types import State
from ditta_ros.replay.recording import PublishedFrame, Recording


class FrameByFrame:
    """Masks of the unadapted model, each frame on its own and computed once, by a network input (height, width)."""

    def __init__(self, sequence: VideoSequence, model: SegmentationModel, input_size: tuple[int, int]) -> None:
        self.sequence = sequence
        self.model = model
        self._input_size = input_size
        self._masks: dict[int, bytes] = {}

    def mask(self, index: int, image: RgbImage) -> NDArray[Any]:
        """Class ids [H, W] of a frame of the sequence, whose image is given."""
        if index not in self._masks:
            self._masks[index] = encode_mask(segment_frame(self.model, image, self._input_size)[0])
        return decode_mask(self._masks[index])


def compare(
    frames: Sequence[PublishedFrame],
    recording: Recording,
    source: FrameByFrame,
    clean: VideoSequence,
    ground_truth: GroundTruth | None,
) -> tuple[Measurement, Measurement]:
    """Measure the unadapted model and the node on the same frames.

    Args:
        frames: Answered frames of one round, in order.
        clean: What the sequence showed before anything was done to its images, for the optical flow.
        ground_truth: Labels of the sequence; None to measure without labels.
    """
    stamps = {frame.index: frame.stamp for frame in frames}

    def masks(index: int, image: RgbImage) -> tuple[NDArray[Any], NDArray[Any]] | None:
        if index not in stamps:
            return None
        seen = image if clean is source.sequence else source.sequence.image(index)
        return source.mask(index, seen), recording.read_mask(stamps[index])

    firsts, classes = [frames[0].index] * 2, len(source.model.classes)
    unadapted, ditta = measure_video(clean, ground_truth, masks, firsts, classes)
    return unadapted, ditta


# --- pictures ------------------------------------------------------------------------------------------------------


class Panels:
    """Camera image, frame-by-frame masks and the node's masks side by side."""

    def __init__(self, recording: Recording, source: FrameByFrame) -> None:
        self._recording = recording
        self._source = source

    def draw(self, frame: PublishedFrame, state: State) -> RgbImage:
        """The panels for an answered frame."""
        source = self._source
        image, classes = source.sequence.image(frame.index), source.model.classes
        frame_by_frame = classes.overlay(image, source.mask(frame.index, image))
        ditta = classes.overlay(image, self._recording.read_mask(frame.stamp))
        seconds = source.sequence.stamp(frame.index) / 1e9
        captions = f"camera  {seconds:.1f} s", "unadapted, frame by frame", f"DiTTA  {state.value}"
        return compose_panels((image, frame_by_frame, ditta), captions)


def write_overlay(
    frames: Sequence[PublishedFrame],
    answered: Callable[[PublishedFrame], State | None],
    panels: Panels,
    video: OverlayVideo,
    step: Callable[[], object],
) -> None:
    """Write a video that runs as the camera did: where a frame has no mask, the one before stays.

    Args:
        frames: Frames in order.
        answered: Function that gives the state of the node when the mask of a frame arrived; None without a mask.
        step: Function that is called after every frame.
    """
    picture = None
    for frame in frames:
        state = answered(frame)
        if state is not None:
            picture = panels.draw(frame, state)
        if picture is not None:
            video.write(picture)
        step()
