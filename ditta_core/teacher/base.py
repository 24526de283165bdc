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
        labels: Channel ids 0..C-1, or 255 for pixels that take no part, int64 [n, h, w].
        probabilities: Soft labels, float32 [n, C, h, w]; None where the labels are hard.
        weights: Weight >= 0 of a pixel in the distillation losses, float32 [n, h, w]; None for equal weights.
        object_ids: Id of the tracked object of a pixel, 0 for none, int64 [n, h, w]; None where nothing is tracked.
        objects: Number of objects tracked.
    """

    labels: NDArray[np.int64]
    probabilities: NDArray[np.float32] | None = None
    weights: NDArray[np.float32] | None = None
    object_ids: NDArray[np.int64] | None = None
    objects: int = 0


class NoTargetError(AdaptationFailed):
    """The clip offers nothing to learn from; the message says why. The base model keeps serving."""


class TargetBuilder(ABC):
    """Turns the base model's predictions on the warm-up clip into better ones.

    Attributes:
        soft: Whether its targets are soft labels, so that they need not be made where nothing is trained towards such.
    """

    soft: bool = False

    @abstractmethod
    def build(
        self, clip: NDArray[np.uint8], probabilities: NDArray[np.float32], reliabilities: NDArray[np.float32]
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


def check_arguments(
    clip: NDArray[np.uint8], probabilities: NDArray[np.float32], reliabilities: NDArray[np.float32]
) -> None:
    """Raise a ValueError unless the three arguments of :meth:`TargetBuilder.build` belong together."""
    check_clip(clip)
    frames, shape = len(clip), list(probabilities.shape)
    if len(shape) != 4 or shape[0] != frames or 0 in shape:
        raise ValueError(f"expected probabilities [{frames}, C, h, w] for a clip of {frames} frames, but got {shape}")
    expected = (frames, *probabilities.shape[2:])
    if reliabilities.shape != expected:
        raise ValueError(f"expected reliabilities {list(expected)}, but got {list(reliabilities.shape)}")


class MaskTracker(ABC):
    """Follows prompted objects through a clip that lies in memory, frame by frame, in either direction.

    The order of calls: ``start`` with a clip; then, for each pass, ``reset``, and any number of ``add_object`` on one
    frame and ``propagate`` from that frame to its neighbour. All objects are on one frame at any time. Masks are given
    in the order in which the objects were added, ``{}`` where there are none.

    A tracker implements ``_add``, ``_advance`` and ``_current_masks``, and extends ``reset`` and ``close``.
    """

    accepts_late_objects: bool = True
    """Whether an object may be added after propagation began without losing the memory of the others. Where it may not,
    the caller resets and registers the others again by their masks, as the published method does."""

    _clip: NDArray[np.uint8]
    _frame: int | None
    """Frame that the objects are on; None where there are none."""

    def start(self, clip: NDArray[np.uint8]) -> None:
        """Take a new clip, RGB uint8 [n, H, W, 3], and forget everything about the last one.

        Raises:
            ValueError: not a clip of RGB frames.
        """
        check_clip(clip)
        self.close()
        self._clip = clip

    def reset(self) -> None:
        """Forget all objects; keep what was computed from the images."""
        self._frame = None

    def close(self) -> None:
        """Give back everything that is held for the clip; the tracker must be started again before further use.

        What it needs for any clip, such as the weights of a network, lives as long as the tracker itself.
        """
        self._clip = np.zeros((0, 1, 1, 3), np.uint8)
        self.reset()

    def add_object(
        self, frame: int, object_id: int, *, point: tuple[int, int] | None = None, mask: Mask | None = None
    ) -> None:
        """Register an object on ``frame`` by one positive point (row, column) or by its mask (which may be empty).

        An id that is there already stands for the new object from now on.

        Raises:
            ValueError: neither or both were given, the mask has another size than the frame, the point lies outside it,
                or the frame outside the clip, or the other objects are on another frame.
        """
        self._check_frame(frame)
        height, width = self._clip.shape[1:3]
        if mask is not None and mask.shape != (height, width):
            raise ValueError(f"expected a mask of {height}×{width}, but got {list(mask.shape)}")
        if point is not None and not (0 <= point[0] < height and 0 <= point[1] < width):
            raise ValueError(f"expected a point (row, column) in a frame of {height}×{width}, but got {point}")
        prompt = point if mask is None else mask
        if prompt is None or (point is not None and mask is not None):
            raise ValueError(f"expected either a point or a mask, but got {'neither' if prompt is None else 'both'}")
        self._add(frame, object_id, prompt)
        self._frame = frame

    def masks(self, frame: int) -> dict[int, Mask]:
        """Masks, bool [H, W], of all registered objects on ``frame``, where they were added or last propagated to.

        Raises:
            ValueError: the objects are on another frame, or it lies outside the clip.
        """
        self._check_frame(frame)
        return self._current_masks()

    def propagate(self, frame: int, *, reverse: bool = False) -> dict[int, Mask]:
        """Follow all objects from ``frame`` to the next (in reverse: the one before) and return their masks there.

        Raises:
            ValueError: there is no such frame.
        """
        self._check_frame(frame)
        goal = frame - 1 if reverse else frame + 1
        if not 0 <= goal < len(self._clip):
            raise ValueError(f"expected a frame with one {'before' if reverse else 'after'} it, but got {frame}")
        if self._frame is None:
            return {}
        self._advance(frame, goal)
        self._frame = goal
        return self._current_masks()

    def _check_frame(self, frame: int) -> None:
        if not 0 <= frame < len(self._clip):
            raise ValueError(f"expected a frame of the started clip of {len(self._clip)} frames, but got {frame}")
        if self._frame not in (None, frame):
            raise ValueError(f"expected frame {self._frame}, where the objects are, but got {frame}; reset first")

    @abstractmethod
    def _add(self, frame: int, object_id: int, prompt: tuple[int, int] | Mask) -> None:
        """Register an object, new or not, by a point (row, column) or a mask that was checked."""

    @abstractmethod
    def _advance(self, frame: int, goal: int) -> None:
        """Follow all objects from a frame to a neighbour."""

    @abstractmethod
    def _current_masks(self) -> dict[int, Mask]:
        """Masks of all objects on the frame that they are on."""
