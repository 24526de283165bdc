"""What the warm-up learns from: targets built out of the base model's own predictions and the motion of the video."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ditta_core.types import AdaptationFailed

Mask = NDArray[np.bool_]
"""bool [H, W]: the pixels of one object in one frame."""


@dataclass(frozen=True)
class DistillationTarget:
    """What every pixel of the warm-up clip is trained towards, for n frames of h×w pixels and C channels.

    Attributes:
        labels: int64 [n, h, w], channel ids 0..C-1, or 255 for pixels that take no part.
        probabilities: float32 [n, C, h, w], soft labels; None where the labels are hard.
        weights: float32 [n, h, w] >= 0, weight of a pixel in the distillation losses; None for equal weights.
        object_ids: int64 [n, h, w], id of the tracked object of a pixel, 0 for none; None where nothing is tracked.
        objects: number of objects tracked.
    """

    labels: NDArray[np.int64]
    probabilities: NDArray[np.float32] | None = None
    weights: NDArray[np.float32] | None = None
    object_ids: NDArray[np.int64] | None = None
    objects: int = 0


class NoTargetError(AdaptationFailed):
    """The clip offers nothing to learn from; the message says why. The base model keeps serving."""


class TargetBuilder(ABC):
    """Turns the base model's predictions on the warm-up clip into better ones."""

    @abstractmethod
    def build(
        self,
        clip: NDArray[np.uint8],
        probabilities: NDArray[np.float32],
        reliabilities: NDArray[np.float32],
    ) -> DistillationTarget:
        """Build the targets of a clip.

        Args:
            clip: RGB uint8 [n, H, W, 3], the frames in time order.
            probabilities: float32 [n, C, h, w], softmax of the base model; h×w need not be H×W.
            reliabilities: float32 [n, h, w] in 0..1, one minus entropy over the frame's maximum (method, stage A).

        Returns:
            Targets at h×w.

        Raises:
            NoTargetError: the clip offers nothing to learn from.
            ValueError: the arguments do not belong together.
        """


def check_clip(clip: NDArray[np.uint8]) -> None:
    """Raise a ValueError unless these are RGB frames, uint8 [n, H, W, 3]."""
    if clip.ndim != 4 or clip.shape[3] != 3 or clip.dtype != np.uint8 or 0 in clip.shape:
        raise ValueError(f"expected a clip of RGB frames uint8 [n, H, W, 3], but got {clip.dtype} {list(clip.shape)}")


def check_frame(frames: int, frame: int, current: int | None) -> None:
    """Raise a ValueError unless a frame is one of the clip's, and the one where objects are, if there are any."""
    if not 0 <= frame < frames:
        raise ValueError(f"expected a frame of the started clip of {frames} frames, but got {frame}")
    if current not in (None, frame):
        raise ValueError(f"expected frame {current}, where the objects are, but got {frame}; reset first")


def check_prompt(size: tuple[int, int], point: tuple[int, int] | None, mask: Mask | None) -> None:
    """Raise a ValueError unless there is either a point (row, column) in a frame of ``size``, or a mask of it."""
    height, width = size
    if (point is None) == (mask is None):
        raise ValueError(f"expected either a point or a mask, but got {'neither' if mask is None else 'both'}")
    if mask is not None and mask.shape != size:
        raise ValueError(f"expected a mask of {height}×{width}, but got {list(mask.shape)}")
    if point is not None and not (0 <= point[0] < height and 0 <= point[1] < width):
        raise ValueError(f"expected a point (row, column) in a frame of {height}×{width}, but got {point}")


def check_arguments(
    clip: NDArray[np.uint8], probabilities: NDArray[np.float32], reliabilities: NDArray[np.float32]
) -> None:
    """Raise a ValueError unless the three arguments of :meth:`TargetBuilder.build` belong together."""
    check_clip(clip)
    if probabilities.ndim != 4 or len(probabilities) != len(clip) or 0 in probabilities.shape:
        raise ValueError(
            f"expected probabilities [{len(clip)}, C, h, w] for a clip of {len(clip)} frames, but got "
            f"{list(probabilities.shape)}"
        )
    expected = (len(clip), *probabilities.shape[2:])
    if reliabilities.shape != expected:
        raise ValueError(f"expected reliabilities {list(expected)}, but got {list(reliabilities.shape)}")


class MaskTracker(ABC):
    """Follows prompted objects through a clip that lies in memory, frame by frame, in either direction.

    The order of calls: ``start`` with a clip; then, for each pass, ``reset``, and any number of ``add_object`` on one
    frame and ``propagate`` from that frame to its neighbour. All objects are on one frame at any time. Masks are given
    in the order in which the objects were added, ``{}`` where there are none.
    """

    accepts_late_objects: bool = True
    """Whether an object may be added after propagation began without losing the memory of the others. Where it may not,
    the caller resets and registers the others again by their masks, as the published method does."""

    @abstractmethod
    def start(self, clip: NDArray[np.uint8]) -> None:
        """Take a new clip, RGB uint8 [n, H, W, 3], and forget everything about the last one."""

    @abstractmethod
    def reset(self) -> None:
        """Forget all objects; keep what was computed from the images."""

    @abstractmethod
    def add_object(
        self, frame: int, object_id: int, *, point: tuple[int, int] | None = None, mask: Mask | None = None
    ) -> None:
        """Register an object on ``frame`` by one positive point (row, column) or by its mask (which may be empty).

        An id that is there already stands for the new object from now on.

        Raises:
            ValueError: neither or both were given, the mask has another size than the frame, the point lies outside it,
                or the frame outside the clip, or the other objects are on another frame.
        """

    @abstractmethod
    def masks(self, frame: int) -> dict[int, Mask]:
        """Masks, bool [H, W], of all registered objects on ``frame``, where they were added or last propagated to.

        Raises:
            ValueError: the objects are on another frame, or it lies outside the clip.
        """

    @abstractmethod
    def propagate(self, frame: int, *, reverse: bool = False) -> dict[int, Mask]:
        """Follow all objects from ``frame`` to the next (in reverse: the one before) and return their masks there.

        Raises:
            ValueError: there is no such frame.
        """

    def close(self) -> None:
        """Give back everything that is held for the clip; the tracker must be started again before further use.

        What it needs for any clip, such as the weights of a network, lives as long as the tracker itself.
        """
