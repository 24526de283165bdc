"""Signatures of scenes, and how an encoder gives them."""

from __future__ import annotations

import math
from collections.abc import Sequence

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from moving_scenes import moving_square
from scenes import textured
from torch import Tensor, nn

from ditta_core.classes import ClassList
from ditta_core.segmentation.base import SegmentationModel
from ditta_core.stream.scene.signature import SceneDescriber, SceneSignature, channels_first


@given(
    frames=st.integers(1, 5),
    positions=st.integers(1, 12),
    channels=st.integers(1, 6),
    seed=st.integers(0, 2**32 - 1),
)
def test_pooled_signature_is_that_of_all_positions(frames: int, positions: int, channels: int, seed: int) -> None:
    values = np.random.default_rng(seed).normal(3, 2, (frames, positions, channels)).astype(np.float32)
    parts = [SceneSignature(frame.mean(0), frame.std(0)) for frame in values]
    pooled = SceneSignature.pooled(parts)
    everything = values.reshape(-1, channels).astype(np.float64)
    np.testing.assert_allclose(pooled.mean, everything.mean(0), atol=1e-4)
    np.testing.assert_allclose(pooled.spread, everything.std(0), atol=1e-3)
    assert pooled.mean.dtype == pooled.spread.dtype == np.float32


@given(seed=st.integers(0, 2**32 - 1), scale=st.floats(1e-3, 1e3))
def test_distance_is_the_root_mean_square_of_effect_sizes(seed: int, scale: float) -> None:
    rng = np.random.default_rng(seed)
    means, spreads = rng.normal(0, 1, (2, 7)), rng.uniform(0.2, 2, (2, 7))
    first, second = (
        SceneSignature((scale * mean).astype(np.float32), (scale * spread).astype(np.float32))
        for mean, spread in zip(means, spreads, strict=True)
    )
    effects = [(means[0, c] - means[1, c]) / math.sqrt((spreads[0, c] ** 2 + spreads[1, c] ** 2) / 2) for c in range(7)]
    expected = math.sqrt(sum(effect**2 for effect in effects) / 7)
    assert first.distance(second) == pytest.approx(expected, rel=1e-4)
    assert second.distance(first) == first.distance(second)
    assert first.distance(first) == 0


def test_channels_that_never_vary() -> None:
    flat = SceneSignature(np.zeros(3, np.float32), np.zeros(3, np.float32))
    assert flat.distance(flat) == 0
    assert math.isfinite(flat.distance(SceneSignature(np.ones(3, np.float32), np.zeros(3, np.float32))))


def test_signatures_of_different_encoders() -> None:
    three, four = (SceneSignature(np.zeros(size, np.float32), np.ones(size, np.float32)) for size in (3, 4))
    assert three.distance(four) == math.inf


class Blocks(SegmentationModel):
    """An encoder whose features are the means of 16×16 blocks of the pixels, in one of the layouts of real ones."""

    size_multiple = 16
    embedding_dim = 3

    def __init__(self, layout: str) -> None:
        super().__init__(ClassList.of_names(["a", "b"]))
        self.part = nn.AvgPool2d(16)
        self.layout = layout

    @property
    def encoder(self) -> nn.Module:
        return self.part

    def encode(self, pixels: Tensor) -> tuple[Tensor, ...]:
        size, maps = pixels.new_empty(len(pixels), 0, *pixels.shape[-2:]), self.part(pixels)
        return {
            "maps": (pixels, maps),
            "channels last": (size, maps.movedim(1, -1)),
            "tokens": (size, pixels.new_zeros(1, 9, 9), maps.flatten(2).mT),
            "and a number": (maps, pixels.new_zeros(1, 5), torch.zeros(1, 3, dtype=torch.long)),
        }[self.layout]

    def decode(self, features: Sequence[Tensor]) -> Tensor:
        raise NotImplementedError

    def classify_outputs(self, embedding: Tensor) -> Tensor:
        raise NotImplementedError


@pytest.mark.parametrize("layout", ["maps", "channels last", "tokens", "and a number"])
@pytest.mark.parametrize("fixed", [None, (64, 48)])
def test_description_of_every_layout_of_features(layout: str, fixed: tuple[int, int] | None) -> None:
    image = moving_square(1, (480, 640)).clip[0]
    model = Blocks(layout)
    model.fixed_input_size = fixed
    signature = SceneDescriber(model, 160)(image)
    height, width = fixed or (128, 160)
    small = cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA)
    normalised = (small / 255 - np.array([0.485, 0.456, 0.406])) / np.array([0.229, 0.224, 0.225])
    blocks = normalised.reshape(height // 16, 16, width // 16, 16, 3).mean((1, 3)).reshape(-1, 3)
    np.testing.assert_allclose(signature.mean, blocks.mean(0), atol=1e-5)
    np.testing.assert_allclose(signature.spread, blocks.std(0), atol=1e-5)


def test_features_without_positions() -> None:
    values = channels_first((torch.tensor([[1.0, 2.0, 3.0]]),), 1.5)
    assert values.tolist() == [[1.0], [2.0], [3.0]]


def test_description_does_not_depend_on_the_resolution(describe: SceneDescriber) -> None:
    image = cv2.GaussianBlur(textured(3, size=(720, 1280)), (0, 0), 3)
    smaller = cv2.resize(image, (640, 360), interpolation=cv2.INTER_AREA)
    other = cv2.GaussianBlur(textured(4, size=(720, 1280)), (0, 0), 3)
    assert describe(image).distance(describe(smaller)) < 0.05
    assert describe(image).distance(describe(other)) > 0.2
