"""Smoothing along optical flow: the last frame's probabilities of each point, where the present frame shows it.

The flow does not depend on the network's output for the present frame, so it runs beside the network, in a thread.
"""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ditta_core.flow import FlowEstimator, flow_reliability, forward_backward_consistent, warp


@dataclass(frozen=True)
class CarriedProbabilities:
    """The last frame's probabilities, carried to the present one.

    Attributes:
        image: Present frame in grey, uint8 [h, w].
        probabilities: Last frame's probabilities in the present frame, float32 [C, h, w].
        reliability: Reliability g·c² of each pixel's flow, float32 [h, w] in 0..1; 0 where it fails the check.
    """

    image: NDArray[np.uint8]
    probabilities: NDArray[np.float32]
    reliability: NDArray[np.float32]


class FlowSmoother:
    """P ← (1 − w)·P + w·P′ with P′, the previous P along the flow, which is itself smoothed.

    w = s·g·c²·b where the flow passes the forward-backward check, else 0:

    - g, of the pixel: :func:`~ditta_core.flow.flow_reliability`;
    - c, of the frame: share of its pixels whose flow passes the check. A motion that is too large to be followed leaves
      few, and those that are left are wrong more often;
    - b, of the pixel: overlap Σ √(P·P′) of the two predictions (Bhattacharyya, 1943), 1 where they are alike.

    So nothing depends on the frame rate. Measured in docs/ablations.md#smoothing-along-optical-flow.
    """

    def __init__(self) -> None:
        self.flow = FlowEstimator("medium", long_side=0)
        self.thread = ThreadPoolExecutor(1, "flow")

    def grey(self, image: NDArray[np.uint8], size: tuple[int, int]) -> NDArray[np.uint8]:
        """RGB uint8 [H, W, 3] -> grey uint8 [h, w] of this size, for the flow."""
        shrunk = cv2.resize(image, size[::-1], interpolation=cv2.INTER_AREA)
        return self.flow.prepare(np.asarray(shrunk, np.uint8))

    def begin(
        self, image: NDArray[np.uint8], previous_image: NDArray[np.uint8], previous: Tensor
    ) -> Future[CarriedProbabilities]:
        """Start carrying the last frame's probabilities to the present frame.

        Args:
            image: the present frame, RGB uint8 [H, W, 3].
            previous_image: the last frame in grey, uint8 [h, w].
            previous: the last frame's probabilities, float [1, C, h, w].
        """

        def carry() -> CarriedProbabilities:
            grey = self.grey(image, (previous_image.shape[0], previous_image.shape[1]))
            backward = self.flow.flow(previous_image, grey)
            consistent = forward_backward_consistent(backward, self.flow.flow(grey, previous_image))
            carried, _ = warp(previous[0].cpu().numpy(), backward)
            trust = consistent * np.float32(consistent.mean() ** 2)
            return CarriedProbabilities(grey, carried, trust * flow_reliability(previous_image, grey, backward))

        return self.thread.submit(carry)

    @staticmethod
    def smooth(probabilities: Tensor, carried: CarriedProbabilities, share: float) -> Tensor:
        """Probabilities float [1, C, h, w], with a share s in 0..1 of the carried ones where these are reliable."""
        shares = torch.from_numpy(carried.reliability * np.float32(share)).to(probabilities.device)
        previous = torch.from_numpy(carried.probabilities).to(probabilities.device)[None]
        overlap = (probabilities * previous).clamp_(min=0).sqrt_().sum(1)  # warping may leave -1e-9
        return torch.lerp(probabilities, previous, (shares * overlap)[:, None])
