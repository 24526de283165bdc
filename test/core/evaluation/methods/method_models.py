"""Small models and moving frames for the tests of the methods."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from moving_scenes import moving_square
from numpy.typing import NDArray
from torch import Tensor, nn

from ditta_core.classes import ClassList, ClassMap
from ditta_core.datasets.base import VideoSequence
from ditta_core.segmentation.base import SegmentationModel
from ditta_core.types import Frame

SIZE = (64, 96)
FRAME_TIME = 100_000_000
OUTPUTS = ClassList.of_names(["road", "grass", "car", "truck", "sky"])
PUBLISHED = ClassList.parse("{ground: [road, grass], vehicle: [car, truck]}")
"""Two merged classes; the sky belongs to none."""


def frame_of(image: NDArray[np.uint8], index: int) -> Frame:
    return Frame(image, index * FRAME_TIME, "camera")


def moving_frames(count: int) -> list[Frame]:
    """A square that moves before a texture that moves the other way."""
    clip = moving_square(count, SIZE, side=24, start=(12, 10), step=(1, 2), pan=1).clip
    return [frame_of(image, index) for index, image in enumerate(clip)]


class LabelledDrive(VideoSequence):
    """Eight brighter frames of the same scene, with the square as a car on the road."""

    name, frame_rate = "labelled", 10.0

    def __init__(self) -> None:
        scene = moving_square(8, SIZE, side=24, start=(12, 10), step=(1, 2), pan=1)
        self.images, self.cars = np.minimum(scene.clip, 215) + np.uint8(40), scene.mask

    def __len__(self) -> int:
        return len(self.images)

    @property
    def classes(self) -> ClassList:
        return OUTPUTS

    def image(self, index: int) -> NDArray[np.uint8]:
        return self.images[index]

    def labels(self, index: int) -> NDArray[np.uint8]:
        return np.where(self.cars[index], np.uint8(2), np.uint8(0))


class TinyModel(SegmentationModel):
    """Two convolutions with a normalisation layer each: the encoder at stride 2, the decoder at stride 2.

    Args:
        normalisation: ``batch``, ``layer`` (over channels), ``group`` or ``none``.
        pooled: adds a globally pooled branch with a BatchNorm, as pyramid poolings have.
        merged: publishes two merged classes instead of the five outputs.
        brightest: mean of the normalised pixels above which the logits are NaN.
    """

    size_multiple = 8
    embedding_dim = 12

    def __init__(
        self, normalisation: str = "batch", pooled: bool = False, merged: bool = True, brightest: float = 1e9
    ) -> None:
        super().__init__(OUTPUTS)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(5)  # all classes win somewhere, and merging matters
            self.backbone = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), normalise(normalisation, 8), nn.ReLU())
            self.head = nn.Sequential(nn.Conv2d(8, 12, 3, 1, 1), normalise(normalisation, 12), nn.ReLU())
            self.pooled = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.BatchNorm2d(12)) if pooled else None
            self.classifier = nn.Conv2d(12, len(OUTPUTS), 1)
            nn.init.normal_(self.classifier.weight)
        self.brightest = brightest
        if merged:
            self.set_classes(ClassMap.between(OUTPUTS, PUBLISHED))
        self.eval().requires_grad_(False)

    @property
    def encoder(self) -> nn.Module:
        return self.backbone

    def encode(self, pixels: Tensor) -> tuple[Tensor, ...]:
        factor = float("nan") if pixels.mean().item() > self.brightest else 1.0
        return (self.backbone(pixels) * factor,)

    def decode(self, features: Sequence[Tensor]) -> Tensor:
        embedding = self.head(features[0])
        return embedding if self.pooled is None else embedding + self.pooled(embedding)

    def classify_outputs(self, embedding: Tensor) -> Tensor:
        return self.classifier(embedding)


class ChannelLayerNorm(nn.LayerNorm):
    """LayerNorm over the channels of a map."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


def normalise(kind: str, channels: int) -> nn.Module:
    if kind == "batch":
        layer = nn.BatchNorm2d(channels)
        # Statistics of some other data than what the tests show.
        assert layer.running_mean is not None and layer.running_var is not None
        layer.running_mean += torch.linspace(-0.2, 0.2, channels)
        layer.running_var *= torch.linspace(0.3, 0.6, channels)
        return layer
    if kind == "layer":
        return ChannelLayerNorm(channels)
    return nn.GroupNorm(2, channels) if kind == "group" else nn.Identity()


class ScriptedModel(SegmentationModel):
    """Answers successive frames with given probabilities, float [C, H, W] each."""

    size_multiple = 1
    embedding_dim = 3

    def __init__(self, script: Sequence[NDArray[np.float32]]) -> None:
        super().__init__(ClassList.of_names([f"class {index}" for index in range(len(script[0]))]))
        self.script = [torch.from_numpy(probabilities)[None].log() for probabilities in script]
        self.asked = 0
        self.nothing = nn.Identity()

    @property
    def encoder(self) -> nn.Module:
        return self.nothing

    def encode(self, pixels: Tensor) -> tuple[Tensor, ...]:
        self.asked += 1
        return (self.script[self.asked - 1],)

    def decode(self, features: Sequence[Tensor]) -> Tensor:
        return features[0]

    def classify_outputs(self, embedding: Tensor) -> Tensor:
        return embedding


def changed(before: dict[str, Tensor], after: dict[str, Tensor]) -> set[str]:
    """Names of the tensors that differ."""
    assert before.keys() == after.keys()
    return {name for name, value in after.items() if not torch.equal(value, before[name])}


def copied(module: nn.Module) -> dict[str, Tensor]:
    """State dict, detached from the module."""
    return {name: value.clone() for name, value in module.state_dict().items()}
