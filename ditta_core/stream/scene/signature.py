"""What a frame looks like to the frozen encoder, in a few numbers that can be compared."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ditta_core.segmentation.base import SegmentationModel

LONG_SIDE = 192  # pixels of the copy that is described: docs/ablations.md#scene-descriptions
SAME_DISTANCE = 0.13  # below it, ten frames show one place: docs/ablations.md#thresholds-of-the-scene-monitor


@dataclass(frozen=True)
class SceneSignature:
    """What a place looks like to an encoder.

    Attributes:
        mean: Mean of every channel over all positions of all frames, float32 [D].
        spread: Standard deviation likewise, float32 [D].
    """

    mean: NDArray[np.float32]
    spread: NDArray[np.float32]

    def distance(self, other: SceneSignature) -> float:
        """Root mean square of the channels' effect sizes (Cohen's d); 0 = same place, above about 0.3 = another one.

        d(a, b) = sqrt(mean_c (μ_a − μ_b)² / ((σ_a² + σ_b²) / 2)) has no unit, so that it does not depend on the scale
        of a network's features. Signatures of encoders with different numbers of channels are infinitely far apart:
        one of them may come from a file, which must not end the stream.
        """
        if self.mean.shape != other.mean.shape:
            return math.inf
        variance = (np.square(self.spread, dtype=np.float64) + np.square(other.spread, dtype=np.float64)) / 2
        shift = np.square(self.mean.astype(np.float64) - other.mean)
        # A channel that varies in neither counts by the variation of the others.
        floor = 1e-6 * float(variance.mean()) + 1e-12
        return float(np.sqrt(np.mean(shift / (variance + floor))))

    @classmethod
    def pooled(cls, signatures: Iterable[SceneSignature]) -> SceneSignature:
        """The signature of all frames together, from one or more of equally many positions each."""
        parts = list(signatures)
        means = np.stack([part.mean for part in parts]).astype(np.float64)
        spreads = np.stack([part.spread for part in parts]).astype(np.float64)
        mean = means.mean(0)
        variance = (np.square(spreads) + np.square(means - mean)).mean(0)
        return cls(mean.astype(np.float32), np.sqrt(variance).astype(np.float32))


class SceneDescriber:
    """Describes images by the frozen encoder of a model.

    Args:
        model: Base model. Adaptation leaves the encoder's weights as they are but may blend its normalisation, so that
            descriptions compare only if they all come from the base model.
        long_side: Longest side in pixels of the copy that is described; a model of one input size has that one.
    """

    def __init__(self, model: SegmentationModel, long_side: int = LONG_SIDE) -> None:
        self._model = model
        self._long_side = long_side
        self._thread = ThreadPoolExecutor(1, "describe")

    @torch.inference_mode()
    def __call__(self, image: NDArray[np.uint8]) -> SceneSignature:
        """Describe an RGB image, uint8 [H, W, 3]."""
        height, width = self._model.input_size((image.shape[0], image.shape[1]), self._long_side)
        small = cv2.resize(np.ascontiguousarray(image), (width, height), interpolation=cv2.INTER_AREA)
        pixels = self._model.preprocess(np.asarray(small, np.uint8)[None], (height, width), self._model.mean.device)
        values = channels_first(self._model.encode(pixels), width / height)
        deviation, mean = torch.std_mean(values, 1, correction=0)
        return SceneSignature(mean.cpu().numpy(), deviation.cpu().numpy())

    def later(self, image: NDArray[np.uint8]) -> Future[SceneSignature]:
        """Describe an image in a thread of its own: it takes half of what the compiled network takes for a frame."""
        return self._thread.submit(self, image)


def channels_first(features: Sequence[Tensor], aspect: float) -> Tensor:
    """The deepest features of one image, float [C, positions].

    The deepest are the last that are tokens [1, positions, C] or a map, [1, C, h, w] or [1, h, w, C], whichever has the
    shape of the image; without any, the last that hold numbers.

    Args:
        features: Outputs of the encoder.
        aspect: Width of the image by its height.
    """
    tensors = [feature for feature in features if feature.is_floating_point() and feature.numel()]
    deepest = next((tensor for tensor in reversed(tensors) if tensor.ndim >= 3), tensors[-1])[0].float()
    if deepest.ndim == 1:
        return deepest[:, None]
    if deepest.ndim == 3:
        first, second, third = deepest.shape
        channels_last = abs(math.log(second / first / aspect)) < abs(math.log(third / second / aspect))
    else:
        channels_last = deepest.ndim == 2
    if channels_last:
        deepest = deepest.movedim(-1, 0)
    return deepest.flatten(1)
