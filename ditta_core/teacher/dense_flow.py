"""The teacher that needs no weights: class probabilities carried along optical flow to neighbouring frames, averaged.

A frame has errors of its own: noise, blur, a boundary that one frame shows and the next does not. Where flow finds the
same point in the frames around it, their predictions are further ones of that point.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from ditta_core.flow import (
    Flow,
    FlowEstimator,
    Preset,
    forward_backward_consistent,
    in_frame,
    positions,
    warp,
    warp_labels,
)
from ditta_core.teacher.base import DistillationTarget, NoTargetError, TargetBuilder, check_arguments

SMALLEST_WEIGHT = 1e-6
"""Weight of a prediction of reliability 0: it counts where there is no better one, and the average always exists."""

SMALLEST_LINK = 0.25
"""Share of pixels that the forward-backward check must confirm between two frames that belong together, and not to two
shots; chosen in docs/ablations.md#cuts-in-a-warm-up."""


@dataclass(frozen=True)
class DenseFlowConfig:
    """Settings of :class:`DenseFlow`.

    Attributes:
        reach: Number of frames before and after a frame that its target takes in.
        decay: Factor in 0..1 on the weight of a neighbour for every frame of distance.
        preset: Preset of the optical flow.

    Raises:
        ValueError: a value out of its range.
    """

    reach: int = 3
    decay: float = 1.0
    preset: Preset = "medium"

    def __post_init__(self) -> None:
        if self.reach < 0:
            raise ValueError(f"expected a reach >= 0 frames, but got {self.reach}")
        if not 0 <= self.decay <= 1:
            raise ValueError(f"expected a decay in 0..1, but got {self.decay}")


@dataclass(frozen=True)
class Link:
    """How the pixels of a frame continue in an adjacent one.

    Attributes:
        flow: Place of each pixel there, [h, w, 2].
        consistent: Pixels that the forward-backward check confirms, bool [h, w]; none at a cut of the video.
    """

    flow: Flow
    consistent: NDArray[np.bool_]

    @classmethod
    def between(cls, there: Flow, back: Flow) -> Link:
        """The link along the flow ``there``, of which ``back`` is the opposite."""
        consistent = forward_backward_consistent(there, back)
        return cls(there, consistent & (consistent.mean() >= SMALLEST_LINK))


@dataclass(frozen=True)
class Visit:
    """How the pixels of a frame are found in another one, by way of the frames between them.

    Attributes:
        source: The other frame.
        distance: Number of frames from one to the other.
        path: Place of each pixel there, [h, w, 2].
        seen: Pixels that no check on the way objects to, and whose place is in the frame, bool [h, w].
    """

    source: int
    distance: int
    path: Flow
    seen: NDArray[np.bool_]


def visits(frame: int, frames: range, reach: int, link: Callable[[int, int], Link]) -> Iterator[Visit]:
    """The neighbours of a frame among ``frames``, each with the chained flow to it: first the earlier, then the later.

    Args:
        reach: Number of frames before and after.
        link: of a frame to an adjacent one.
    """
    for direction in (-1, 1):
        path: Flow | None = None
        seen = np.zeros(0, np.bool_)
        for distance in range(1, reach + 1):
            source = frame + direction * distance
            if source not in frames:
                break
            step = link(source - direction, source)
            if path is None:
                path, seen = step.flow.copy(), step.consistent.copy()
            else:
                seen = seen & warp_labels(step.consistent, path, outside=False)
                path = path + warp(np.ascontiguousarray(step.flow.transpose(2, 0, 1)), path)[0].transpose(1, 2, 0)
            seen = seen & in_frame(positions(path))
            yield Visit(source, distance, path, seen)


def certainty(probabilities: NDArray[np.float32]) -> NDArray[np.float32]:
    """One minus the entropy over that of the uniform distribution, float32 [n, C, h, w] -> [n, h, w] in 0..1.

    Unlike the reliability of stage A, which is relative to the least certain pixel of its own frame, it compares pixels
    of different frames, and a frame that is equally certain everywhere does not count as uncertain everywhere.
    """
    entropy = torch.special.entr(torch.from_numpy(probabilities)).sum(1)
    uniform = max(math.log(probabilities.shape[1]), SMALLEST_WEIGHT)
    return (1 - entropy / uniform).clamp_(0, 1).numpy()


class DenseFlow(TargetBuilder):
    """Soft targets: the average of a frame's probabilities and those of its neighbours, carried along optical flow.

    target_t(x) = Σ_s w_s(x) P_s(x) / Σ_s w_s(x) over the frames |s − t| <= reach, where P_s and w_s = R_s · decay^|s−t|
    are sampled at the place of x in frame s. That place is found by chaining the flows of adjacent frames; a frame has
    no say where a link on the way fails the forward-backward check or leaves the image. The frame itself always counts.

    Why flows are chained, and why a reach of 3: docs/ablations.md#reach-of-the-flow-teacher.

    The weight of a target pixel is the certainty of the averaged distribution. Nothing is tracked, so there are no
    object ids.
    """

    soft = True

    def __init__(self, config: DenseFlowConfig | None = None) -> None:
        self.config = config or DenseFlowConfig()

    def build(
        self, clip: NDArray[np.uint8], probabilities: NDArray[np.float32], reliabilities: NDArray[np.float32]
    ) -> DistillationTarget:
        """See :meth:`TargetBuilder.build`. The memory needed is three times that of ``probabilities``.

        Raises:
            NoTargetError: the averaged probabilities are uniform at every pixel of the clip.
            ValueError: the arguments do not belong together.
        """
        check_arguments(clip, probabilities, reliabilities)
        frames, _, height, width = probabilities.shape
        weights = np.maximum(reliabilities, SMALLEST_WEIGHT, dtype=np.float32)
        # The weights travel as one more channel beside the weighted probabilities: one warp carries both.
        weighted = np.concatenate([probabilities * weights[:, None], weights[:, None]], 1)
        links = self._links(clip, (height, width))

        target = np.empty(probabilities.shape, np.float32)
        for frame in range(frames):
            total = weighted[frame].copy()
            for visit in visits(frame, range(frames), self.config.reach, lambda one, other: links[one, other]):
                carried, _ = warp(weighted[visit.source], visit.path)
                total += carried * (visit.seen * np.float32(self.config.decay**visit.distance))
            np.divide(total[:-1], total[-1], out=target[frame])

        confidence = certainty(target)
        if confidence.max() < SMALLEST_WEIGHT:
            raise NoTargetError("expected probabilities that prefer a class somewhere, but got uniform ones everywhere")
        return DistillationTarget(labels=target.argmax(1).astype(np.int64), probabilities=target, weights=confidence)

    def _links(self, clip: NDArray[np.uint8], size: tuple[int, int]) -> dict[tuple[int, int], Link]:
        """Links of adjacent frames, both ways, by (from, to)."""
        estimator = FlowEstimator(self.config.preset)
        images = [estimator.prepare(image) for image in clip]
        links: dict[tuple[int, int], Link] = {}
        for frame in range(len(clip) - 1 if self.config.reach else 0):
            there = estimator.flow(images[frame + 1], images[frame], size)
            back = estimator.flow(images[frame], images[frame + 1], size)
            links[frame, frame + 1] = Link.between(there, back)
            links[frame + 1, frame] = Link.between(back, there)
        return links
