"""Small drives and a small model for the tests of the adaptation to recorded video."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from moving_scenes import texture
from numpy.typing import NDArray
from torch import Tensor, nn

from ditta_core.classes import ClassList
from ditta_core.datasets.base import VideoSequence
from ditta_core.segmentation.base import SegmentationModel

CLASSES = ClassList.of_names(["red", "green", "blue"])
COLOURS = np.array([[200, 60, 60], [60, 200, 60], [60, 60, 200]], np.float64)


class PanningDrive(VideoSequence):
    """A camera that slides over a still picture of three colours; the motion and all labels are known exactly.

    Args:
        frames: Number of frames.
        step: Columns that the camera moves a frame.
        noise: Standard deviation of fresh noise in every frame, in grey levels.
        gain: Factor on the brightness.
        labelled: Whether labels are given out.
    """

    frame_rate = 15.0

    def __init__(
        self,
        frames: int = 12,
        size: tuple[int, int] = (96, 128),
        step: int = 3,
        noise: float = 0.0,
        gain: float = 1.0,
        seed: int = 0,
        labelled: bool = True,
    ) -> None:
        self.name = f"pan {seed}"
        self.frames, self.size, self.step, self.noise, self.gain, self.seed = frames, size, step, noise, gain, seed
        height, width = size[0], size[1] + abs(step) * frames
        fields = np.stack([texture((height, width), 10 * seed + index + 1) for index in range(3)])
        self.truth = fields.argmax(0).astype(np.uint8)
        shade = 0.6 + 0.8 * texture((height, width), 10 * seed + 7)
        self.picture = COLOURS[self.truth] * shade[..., None]
        self.labelled = labelled

    def __len__(self) -> int:
        return self.frames

    @property
    def classes(self) -> ClassList | None:
        return CLASSES if self.labelled else None

    def image(self, index: int) -> NDArray[np.uint8]:
        left = self.step * index
        seen = self.gain * self.picture[:, left : left + self.size[1]]
        noise = np.random.default_rng((self.seed, index)).normal(0, self.noise, seen.shape) if self.noise else 0.0
        return np.clip(seen + noise, 0, 255).round().astype(np.uint8)

    def labels(self, index: int) -> NDArray[np.uint8] | None:
        left = self.step * index
        return self.truth[:, left : left + self.size[1]] if self.labelled else None


class ColourModel(SegmentationModel):
    """Two convolutions with BatchNorm that tell the three colours apart, trained on nothing: set by hand."""

    size_multiple = 8
    embedding_dim = 8
    decodes_crops = True

    def __init__(self, seed: int = 0) -> None:
        super().__init__(CLASSES)
        torch.manual_seed(seed)
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, stride=2, padding=1), nn.BatchNorm2d(8), nn.ReLU())
        self.neck = nn.Conv2d(8, 8, 1)
        self.last = nn.Conv2d(8, 3, 1)
        with torch.no_grad():
            self.stem[0].weight.mul_(0.1)
            self.stem[0].weight[:3, :, 1, 1] += torch.eye(3)
            self.neck.weight.mul_(0.1).add_(torch.eye(8)[:, :, None, None])
            self.last.weight.mul_(0.1)
            self.last.weight[:, :3, 0, 0] += 3 * torch.eye(3) - 1
        self.eval().requires_grad_(False)

    @property
    def encoder(self) -> nn.Module:
        return self.stem

    def encode(self, pixels: Tensor) -> tuple[Tensor, ...]:
        return (self.stem(pixels),)

    def decode(self, features: Sequence[Tensor]) -> Tensor:
        return self.neck(features[0])

    def classify_outputs(self, embedding: Tensor) -> Tensor:
        return self.last(embedding)

    @property
    def output_bias(self) -> Tensor | None:
        return self.last.bias


def accuracy(model: SegmentationModel, drive: PanningDrive) -> float:
    """Share of pixels that a model gets right."""
    right = []
    for index in range(len(drive)):
        logits = model(model.preprocess(drive.image(index)[None], drive.size, model.mean.device))
        right.append((logits.argmax(1)[0].numpy() == drive.labels(index)).mean())
    return float(np.mean(right))
