"""Other views of the warm-up frames, to train on beside them: nearer, farther, mirrored, in another light.

A second of video shows everything at one distance. A decoder that is trained on it alone learns that distance: what
comes nearer later is lost. What the frames should say is known in their views too, moved along.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ditta_core.adaptation.losses import FrameTarget
from ditta_core.segmentation.base import SegmentationModel
from ditta_core.teacher.base import DistillationTarget
from ditta_core.types import UNLABELLED

SCALES = (0.6, 2.0)
"""Smallest and largest scale of a view, drawn evenly in the logarithm."""
GAMMA, GAIN, COLOUR = 0.25, 0.12, 0.05
"""Standard deviations of the logarithms of the gamma, of the brightness and of each channel's brightness."""


@dataclass(frozen=True)
class View:
    """How a view is made of a frame.

    Attributes:
        matrix: Place in the view of a place in the frame (column, row, 1), float64 [3, 3], in pixels of the frame.
        gamma: Exponent of the brightness in 0..1.
        gains: Factors on the brightness of red, green and blue, float64 [3].
    """

    matrix: NDArray[np.float64]
    gamma: float
    gains: NDArray[np.float64]

    @classmethod
    def draw(cls, random: np.random.Generator, size: tuple[int, int]) -> View:
        """A view of frames of a size (height, width): a window anywhere within them, or all of them reduced."""
        height, width = size
        scale = float(np.exp(random.uniform(*np.log(SCALES))))
        ends = (sorted((0.0, side - side / scale)) for side in (width, height))
        left, top = (random.uniform(first, last) for first, last in ends)
        matrix = np.array([[scale, 0, -left * scale], [0, scale, -top * scale], [0, 0, 1]])
        if random.random() < 0.5:
            matrix = np.array([[-1.0, 0, width - 1], [0, 1, 0], [0, 0, 1]]) @ matrix
        gains = np.exp(random.normal(0, GAIN) + random.normal(0, COLOUR, 3))
        return cls(matrix, float(np.exp(random.normal(0, GAMMA))), gains)

    def image(self, frame: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """The view of an RGB image uint8 [H, W, 3]; beyond the frame its mirror image."""
        height, width = frame.shape[:2]
        moved = cv2.warpAffine(frame, self.matrix[:2], (width, height), borderMode=cv2.BORDER_REFLECT_101)
        levels = np.linspace(0, 1, 256)[:, None] ** self.gamma * self.gains
        table = np.clip(255 * levels, 0, 255).round().astype(np.uint8)
        return np.asarray(cv2.LUT(moved, table[None]), np.uint8)

    def maps(
        self, maps: NDArray[np.float32], frame_size: tuple[int, int], nearest: bool = False
    ) -> NDArray[np.float32]:
        """The view of maps [C, h, w] of a frame of a size (H, W); 0 beyond the frame."""
        height, width = maps.shape[-2:]
        across, down = width / frame_size[1], height / frame_size[0]
        resize = np.array(
            [[across, 0, (across - 1) / 2], [0, down, (down - 1) / 2], [0, 0, 1]]
        )  # pixels by their centres
        matrix = (resize @ self.matrix @ np.linalg.inv(resize))[:2]
        flags = cv2.INTER_NEAREST if nearest else cv2.INTER_LINEAR
        return np.stack([cv2.warpAffine(each, matrix, (width, height), flags=flags) for each in maps])


@dataclass(frozen=True)
class EncodedView:
    """Encoder features of a view, and what it should say."""

    features: tuple[Tensor, ...]
    target: FrameTarget


def view_target(view: View, target: DistillationTarget, frame: int, size: tuple[int, int]) -> FrameTarget:
    """The target of a view of frame ``frame``, whose images have a size (H, W); nothing is asked beyond the frame."""
    inside = view.maps(np.ones((1, *target.labels.shape[1:]), np.float32), size)[0] > 0.99
    labels = view.maps(target.labels[frame][None].astype(np.float32), size, nearest=True)[0].astype(np.int64)
    labels[~inside] = UNLABELLED
    probabilities = weights = None
    if target.probabilities is not None:
        probabilities = torch.from_numpy(view.maps(target.probabilities[frame], size) * inside)
    if target.weights is not None:
        weights = torch.from_numpy(view.maps(target.weights[frame][None], size)[0] * inside)
    return FrameTarget(torch.from_numpy(labels), probabilities, weights, None)


@torch.no_grad()
def encode_views(
    model: SegmentationModel,
    clip: NDArray[np.uint8],
    target: DistillationTarget,
    input_size: tuple[int, int],
    count: int,
    seed: int,
) -> list[EncodedView]:
    """Views of the frames of a clip, RGB uint8 [n, H, W, 3], evenly spread over it.

    Args:
        target: of all frames of the clip.
        input_size: network input (height, width).
        count: number of views.
        seed: of the views.
    """
    random, device, size = np.random.default_rng(seed), model.mean.device, (clip.shape[1], clip.shape[2])
    views = []
    for frame in np.linspace(0, len(clip) - 1, count).round().astype(int):
        view = View.draw(random, size)
        features = model.encode(model.preprocess(view.image(clip[frame])[None], input_size, device))
        views.append(EncodedView(features, view_target(view, target, int(frame), size).to(device)))
    return views
