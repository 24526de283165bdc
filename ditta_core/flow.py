"""Dense optical flow: estimation, the forward-backward check, and warping. Shared by teachers, smoothing and metrics.

Convention: a flow belongs to the pixels of a *target* frame and says where each of them was in a *source* frame
(backward flow), so that carrying anything from the source to the target is a gather: target(x) ≈ source(x + flow(x)).
Flows are float32 [H, W, 2] in pixels, (right, down).
"""

from __future__ import annotations

from typing import Any, Literal, TypeVar

import cv2
import numpy as np
from numpy.typing import NDArray

Flow = NDArray[np.float32]
"""float32 [H, W, 2]: displacement (right, down) in pixels from a pixel of the target to its place in the source."""

Preset = Literal["ultrafast", "fast", "medium"]

PRESETS: dict[str, int] = {
    "ultrafast": cv2.DISOPTICAL_FLOW_PRESET_ULTRAFAST,
    "fast": cv2.DISOPTICAL_FLOW_PRESET_FAST,
    "medium": cv2.DISOPTICAL_FLOW_PRESET_MEDIUM,
}

SMALLEST_SIDE = 32
"""DIS chooses its pyramid by the width alone and reads out of bounds where the height is then below one patch
(OpenCV 5.0 ends with a segmentation fault on 16×100). From 32 pixels a side on it is safe for every shape."""

ScalarT = TypeVar("ScalarT", bound=np.generic)


def _check_same_size(source: NDArray[np.uint8], target: NDArray[np.uint8]) -> None:
    """Raise ValueError where two images differ in size."""
    one, other = list(source.shape[:2]), list(target.shape[:2])
    if one != other:
        raise ValueError(f"expected two images of one size, but got {one} and {other}")


class FlowEstimator:
    """Dense Inverse Search flow (Kroeger et al., "Fast Optical Flow using Dense Inverse Search", ECCV 2016).

    One estimator serves one thread: OpenCV keeps scratch memory in the object.

    Args:
        preset: "ultrafast", "fast" or "medium"; timed in docs/ablations.md#presets-of-optical-flow.
        long_side: images with a longer side are reduced to it before the estimation; 0 never reduces.

    Raises:
        ValueError: an unknown preset or a negative ``long_side``.
    """

    def __init__(self, preset: Preset = "medium", long_side: int = 640) -> None:
        if preset not in PRESETS:
            raise ValueError(f"expected a flow preset of {list(PRESETS)}, but got {preset!r}")
        if long_side < 0:
            raise ValueError(f"expected a longest side >= 0 (0: the image's own), but got {long_side}")
        self.long_side = long_side
        self._search = cv2.DISOpticalFlow.create(PRESETS[preset])

    def prepare(self, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """RGB uint8 [H, W, 3] -> grey uint8 [H', W'] at the size of the estimation; ``flow`` takes either."""
        if image.ndim not in (2, 3) or image.dtype != np.uint8 or (image.ndim == 3 and image.shape[2] != 3):
            raise ValueError(f"expected uint8 RGB [H, W, 3] or grey [H, W], but got {image.dtype} {list(image.shape)}")
        grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY) if image.ndim == 3 else image
        height, width = grey.shape
        scale = self.long_side / max(height, width) if self.long_side else 1.0
        if scale < 1:
            size = max(1, round(width * scale)), max(1, round(height * scale))
            grey = cv2.resize(grey, size, interpolation=cv2.INTER_AREA)
        return np.asarray(grey, np.uint8)

    def flow(self, source: NDArray[np.uint8], target: NDArray[np.uint8], size: tuple[int, int] | None = None) -> Flow:
        """Where every pixel of ``target`` was in ``source``.

        Args:
            source, target: RGB uint8 [H, W, 3] or prepared grey images [H', W'], of one size.
            size: (height, width) of the map that the flow is for; the target's own size by default. The flow is
                enlarged or reduced bilinearly, and its displacements with it.

        Returns:
            float32 [height, width, 2], (right, down) in pixels of that map.

        Raises:
            ValueError: the images differ in size, or are no images.
        """
        _check_same_size(source, target)
        height, width = size or target.shape[:2]
        source, target = self.prepare(source), self.prepare(target)
        rows, columns = target.shape
        if min(rows, columns) < SMALLEST_SIDE:
            padding = (0, max(SMALLEST_SIDE - rows, 0)), (0, max(SMALLEST_SIDE - columns, 0))
            source, target = np.pad(source, padding, mode="edge"), np.pad(target, padding, mode="edge")
        # OpenCV names it the other way round: calc(a, b) gives the f with a(x) = b(x + f(x)).
        everywhere = np.zeros((*target.shape, 2), np.float32)
        flow = np.asarray(self._search.calc(target, source, everywhere), np.float32)[:rows, :columns]
        if (rows, columns) != (height, width):
            resized = cv2.resize(flow, (width, height), interpolation=cv2.INTER_LINEAR)
            flow = np.asarray(resized * (width / columns, height / rows), np.float32)
        return np.ascontiguousarray(flow)


def positions(flow: Flow) -> NDArray[np.float32]:
    """Place in the source of every pixel of the target: float32 [H, W, 2], (column, row)."""
    height, width = flow.shape[:2]
    places = flow.copy()
    places[..., 0] += np.arange(width, dtype=np.float32)
    places[..., 1] += np.arange(height, dtype=np.float32)[:, None]
    return places


def in_frame(places: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Which places (column, row), [H, W, 2], lie on an H×W frame, half a pixel around its centres: bool [H, W]."""
    height, width = places.shape[:2]
    columns, rows = places[..., 0], places[..., 1]
    return (columns >= -0.5) & (columns <= width - 0.5) & (rows >= -0.5) & (rows <= height - 0.5)


def warp(source: NDArray[ScalarT], flow: Flow) -> tuple[NDArray[ScalarT], NDArray[np.bool_]]:
    """Carry maps from the source frame to the target frame, bilinearly.

    One ``cv2.remap`` a channel, which is faster than the other ways: docs/ablations.md#warping-with-opencv.

    Args:
        source: float32 or uint8 [C, H, W].
        flow: [H, W, 2], of the target.

    Returns:
        The maps in the target, like ``source``, and which pixels have their place within the source frame,
        bool [H, W]. The others hold the value of the border nearest to their place.

    Raises:
        ValueError: the maps and the flow differ in size.
    """
    if source.ndim != 3 or source.shape[1:] != flow.shape[:2]:
        raise ValueError(f"expected maps [C, {flow.shape[0]}, {flow.shape[1]}], but got {list(source.shape)}")
    places = positions(flow)
    columns, rows = cv2.split(places)
    warped = np.empty_like(source, order="C")
    for channel, output in zip(np.ascontiguousarray(source), warped, strict=True):
        cv2.remap(channel, columns, rows, cv2.INTER_LINEAR, dst=output, borderMode=cv2.BORDER_REPLICATE)
    return warped, in_frame(places)


def warp_labels(labels: NDArray[ScalarT], flow: Flow, outside: int) -> NDArray[ScalarT]:
    """Carry a label image from the source frame to the target frame by nearest neighbour.

    Args:
        labels: any type [H, W].
        flow: [H, W, 2], of the target.
        outside: label of pixels whose place lies outside the source frame.

    Raises:
        ValueError: the labels and the flow differ in size.
    """
    if labels.shape != flow.shape[:2]:
        raise ValueError(f"expected labels of size {list(flow.shape[:2])}, but got {list(labels.shape)}")
    places = positions(flow)
    height, width = labels.shape
    columns = np.clip(np.rint(places[..., 0]).astype(np.intp), 0, width - 1)
    rows = np.clip(np.rint(places[..., 1]).astype(np.intp), 0, height - 1)
    warped: NDArray[Any] = labels[rows, columns]
    warped[~in_frame(places)] = outside
    return warped


def forward_backward_consistent(
    forward: Flow, backward: Flow, relative: float = 0.01, absolute: float = 0.5
) -> NDArray[np.bool_]:
    """Which pixels come back to where they started: the others are occluded, or their flow is wrong.

    |f(x) + b(x + f(x))|² < α₁ (|f(x)|² + |b(x + f(x))|²) + α₂, Sundaram et al., "Dense Point Trajectories by
    GPU-accelerated Large Displacement Optical Flow", ECCV 2010: bool [H, W], False where x + f(x) is out of the frame.

    Args:
        forward: f [H, W, 2], of the pixels asked about.
        backward: b [H, W, 2], the opposite flow, of the frame that ``forward`` points into.
        relative: α₁.
        absolute: α₂ in square pixels.

    Raises:
        ValueError: the flows differ in size.
    """
    returned, valid = warp(np.ascontiguousarray(backward.transpose(2, 0, 1)), forward)
    outward = forward.transpose(2, 0, 1)
    gap = ((outward + returned) ** 2).sum(0)
    length = (outward**2).sum(0) + (returned**2).sum(0)
    return valid & (gap < relative * length + absolute)


RESIDUAL_SCALE = 6.0
"""Medians of its frame at which a residual lowers the reliability of a flow to 1/e; see :func:`flow_reliability`."""


def flow_reliability(source: NDArray[np.uint8], target: NDArray[np.uint8], flow: Flow) -> NDArray[np.float32]:
    """How well the flow explains what the target shows: exp(−(r / (k·median r + 1))²), k = ``RESIDUAL_SCALE``.

    r is the mean of target(x) − source(x + flow(x)) over 3×3 pixels, without its sign. It tells where two flows agree
    and both are wrong. Noise, fog and darkness change all residuals and their median alike, so they do not count. One
    grey level is added for images without any noise.

    Args:
        source, target: grey uint8 [H, W].
        flow: [H, W, 2], of the target.

    Returns:
        float32 [H, W] in 0..1.

    Raises:
        ValueError: images and flow differ in size.
    """
    _check_same_size(source, target)
    carried = warp(source[None], flow)[0][0]
    residual = np.abs(cv2.blur(target.astype(np.float32) - carried, (3, 3)))
    scale = RESIDUAL_SCALE * float(np.median(residual)) + 1
    return np.asarray(np.exp(-((residual / scale) ** 2)), np.float32)
