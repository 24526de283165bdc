"""Object masks without a network: a region grown around the prompted point, carried along optical flow."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from ditta_core.flow import Flow, FlowEstimator, Preset, forward_backward_consistent, warp
from ditta_core.teacher.base import Mask, MaskTracker

SEED_RADIUS = 3
"""A prompted region holds at least the pixels this near to its point, so that noise at the point leaves something."""


@dataclass(frozen=True)
class FlowTrackerConfig:
    """Settings of :class:`FlowTracker`.

    Attributes:
        preset: Preset of the optical flow.
        color_distance: Largest difference to the prompted point in each channel of 8-bit CIELAB (L 0..255 for 0..100).
        largest_share: Share of the frame that a region grown from a point may cover; where it would cover more, the
            colour distance is halved until it does not.
        same_color: Largest difference in each of R, G, B (0..255) between the two ends of a flow that shows the same
            surface although the forward-backward check fails.
        other_color: Difference beyond which it is another surface although the check succeeds.

    Raises:
        ValueError: a value out of its range.
    """

    preset: Preset = "medium"
    color_distance: int = 12
    largest_share: float = 0.25
    same_color: int = 20
    other_color: int = 60

    def __post_init__(self) -> None:
        for name in ("color_distance", "same_color", "other_color"):
            if not 0 <= getattr(self, name) <= 255:
                raise ValueError(f"expected {name} in 0..255, but got {getattr(self, name)}")
        if not 0 < self.largest_share <= 1:
            raise ValueError(f"expected largest_share in (0, 1], but got {self.largest_share}")


def smooth_color(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """RGB uint8 [H, W, 3] -> CIELAB uint8 [H, W, 3] with texture smoothed and edges kept."""
    lab = cv2.cvtColor(image, cv2.COLOR_RGB2LAB)
    return np.asarray(cv2.bilateralFilter(lab, d=9, sigmaColor=30, sigmaSpace=5), np.uint8)


def grow_region(color: NDArray[np.uint8], point: tuple[int, int], color_distance: int, largest_share: float) -> Mask:
    """The connected region around a point whose colour is near to that of the point.

    The colour is compared with that of the point itself, not of the neighbouring pixel, so that a shading does not
    lead from one surface into the next. Gaps of up to two pixels are closed, but not a car that the road flows around.

    Args:
        color: uint8 [H, W, 3], smoothed.
        point: (row, column).
        color_distance, largest_share: see :class:`FlowTrackerConfig`.

    Returns:
        bool [H, W]. Where even the pixels of exactly the point's colour cover too much of the frame (an even image),
        only the disc of radius ``SEED_RADIUS`` around the point.
    """
    height, width = color.shape[:2]
    row, column = point
    seed = np.zeros((height, width), np.uint8)
    cv2.circle(seed, (column, row), SEED_RADIUS, 1, thickness=cv2.FILLED)
    flags = 4 | cv2.FLOODFILL_MASK_ONLY | cv2.FLOODFILL_FIXED_RANGE | 1 << 8
    while True:
        filled = np.zeros((height + 2, width + 2), np.uint8)
        tolerance = (color_distance,) * 3
        cv2.floodFill(color, filled, (column, row), (0, 0, 0), tolerance, tolerance, flags)
        region = cv2.morphologyEx(filled[1:-1, 1:-1] | seed, cv2.MORPH_CLOSE, np.ones((3, 3), np.uint8))
        if np.count_nonzero(region) <= largest_share * height * width:
            return region > 0
        if color_distance == 0:
            return seed > 0
        color_distance //= 2


@dataclass(frozen=True)
class Step:
    """How masks get from one frame to an adjacent one.

    Attributes:
        flow: Flow of the frame they get to, [H, W, 2].
        reliable: Pixels of that frame that take over what lies at the other end of their flow, bool [H, W].
    """

    flow: Flow
    reliable: Mask


def make_step(
    source: NDArray[np.uint8], goal: NDArray[np.uint8], flow: Flow, opposite: Flow, config: FlowTrackerConfig
) -> Step:
    """Decide which pixels of ``goal`` take over what lies in ``source`` at the other end of their flow.

    Those that the forward-backward check confirms and whose colour does not contradict it, and those of the same
    colour: flow is smooth across the border of a moving object, in both directions alike, and ambiguous but harmless in
    even surfaces. Measured in docs/ablations.md#colours-in-the-flow-tracker.

    Args:
        source, goal: RGB uint8 [H, W, 3].
        flow, opposite: [H, W, 2], of the pixels of ``goal`` and of those of ``source``.
    """
    carried, in_frame = warp(source.transpose(2, 0, 1), flow)
    difference = cv2.absdiff(carried, np.ascontiguousarray(goal.transpose(2, 0, 1))).max(0)
    confirmed = forward_backward_consistent(flow, opposite) & (difference <= config.other_color)
    return Step(flow, confirmed | (in_frame & (difference <= config.same_color)))


class FlowTracker(MaskTracker):
    """Carries masks from frame to frame along dense optical flow.

    Pixels that come into view belong to no object, and what disappears behind something else is lost to its object.
    Masks are carried with 8 bits of coverage, so that they move by fractions of a pixel; a pixel is in the mask from
    one half on. Flows are computed when first needed and kept for both directions and all objects until ``start`` or
    ``close``: 18 bytes a pixel and pair of frames.
    """

    def __init__(self, config: FlowTrackerConfig | None = None) -> None:
        self.config = config or FlowTrackerConfig()
        self._estimator = FlowEstimator(self.config.preset)
        self.close()

    def reset(self) -> None:
        super().reset()
        self._coverage: dict[int, NDArray[np.uint8]] = {}

    def close(self) -> None:
        super().close()
        self._colors: dict[int, NDArray[np.uint8]] = {}
        self._steps: dict[tuple[int, int], Step] = {}

    def _add(self, frame: int, object_id: int, prompt: tuple[int, int] | Mask) -> None:
        if isinstance(prompt, tuple):
            if frame not in self._colors:
                self._colors[frame] = smooth_color(self._clip[frame])
            config = self.config
            prompt = grow_region(self._colors[frame], prompt, config.color_distance, config.largest_share)
        self._coverage[object_id] = prompt.astype(np.uint8) * 255

    def _current_masks(self) -> dict[int, Mask]:
        return {key: coverage >= 128 for key, coverage in self._coverage.items()}

    def _advance(self, frame: int, goal: int) -> None:
        step = self._step(frame, goal)
        carried, _ = warp(np.stack(list(self._coverage.values())), step.flow)
        carried *= step.reliable
        self._coverage = dict(zip(self._coverage, carried, strict=True))

    def _step(self, source: int, goal: int) -> Step:
        """The step between two adjacent frames; the opposite one, which needs the same two flows, is made with it."""
        if (source, goal) not in self._steps:
            there = self._estimator.flow(self._clip[source], self._clip[goal])
            back = self._estimator.flow(self._clip[goal], self._clip[source])
            self._steps[source, goal] = make_step(self._clip[source], self._clip[goal], there, back, self.config)
            self._steps[goal, source] = make_step(self._clip[goal], self._clip[source], back, there, self.config)
        return self._steps[source, goal]
