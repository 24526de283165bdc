"""Views of warm-up frames: what they show, and what is asked of them."""

from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from moving_scenes import texture
from numpy.typing import NDArray

from ditta_core.adaptation.views import SCALES, View, encode_views, view_target
from ditta_core.classes import ClassList
from ditta_core.segmentation.espnetv2 import ESPNetv2
from ditta_core.teacher.base import DistillationTarget
from ditta_core.types import UNLABELLED

SIZE = (96, 128)


def plain(view: View) -> View:
    """The same view in the light of the frame."""
    return replace(view, gamma=1.0, gains=np.ones(3))


def blobs(seed: int) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """A smooth RGB image and one-hot maps [2, H, W] of where its green is bright."""
    green = cv2.GaussianBlur(texture(SIZE, seed), (0, 0), 4)
    green = (green - green.min()) / (green.max() - green.min())
    image = np.asarray(255 * np.stack([green**2, green, 1 - green], 2), np.uint8)
    bright = image[..., 1] > 128
    return image, np.stack([bright, ~bright]).astype(np.float32)


@given(st.integers(0, 10**6))
def test_maps_move_with_the_image(seed: int) -> None:
    image, maps = blobs(seed % 7)
    view = plain(View.draw(np.random.default_rng(seed), SIZE))
    moved, seen = view.maps(maps, SIZE), view.image(image)
    inside = view.maps(np.ones((1, *SIZE), np.float32), SIZE)[0] > 0.99
    sure = inside & (np.abs(seen[..., 1].astype(int) - 128) > 24)
    assert ((moved[0] > 0.5) == (seen[..., 1] > 128))[sure].mean() > 0.98


@given(st.integers(0, 10**6))
def test_a_view_is_a_window_of_the_frame_or_all_of_it(seed: int) -> None:
    view = View.draw(np.random.default_rng(seed), SIZE)
    scale = abs(np.linalg.det(view.matrix)) ** 0.5
    assert SCALES[0] - 1e-9 <= scale <= SCALES[1] + 1e-9
    inside = view.maps(np.ones((1, *SIZE), np.float32), SIZE)[0] > 0.99
    assert inside.mean() > 0.94 * min(1.0, scale**2)


def test_maps_of_another_size_than_the_frame_move_alike() -> None:
    _, maps = blobs(1)
    view = View.draw(np.random.default_rng(5), SIZE)
    half = np.stack([cv2.resize(each, (64, 48), interpolation=cv2.INTER_AREA) for each in maps])
    expected = np.stack([cv2.resize(each, (64, 48), interpolation=cv2.INTER_AREA) for each in view.maps(maps, SIZE)])
    assert np.abs(view.maps(half, SIZE) - expected).mean() < 0.03


@pytest.mark.parametrize("soft", [True, False])
def test_nothing_is_asked_beyond_the_frame(soft: bool) -> None:
    _, maps = blobs(2)
    labels = maps.argmax(0)[None].astype(np.int64)
    target = DistillationTarget(
        labels, probabilities=maps[None] if soft else None, weights=None if soft else np.ones((1, *SIZE), np.float32)
    )
    small = View(np.diag([0.5, 0.5, 1.0]), 1.0, np.ones(3))
    seen = view_target(small, target, 0, SIZE)
    assert (seen.labels[48:] == UNLABELLED).all() and (seen.labels[:47, :63] != UNLABELLED).all()
    asked = seen.probabilities if soft else seen.weights
    assert asked is not None and float(asked[..., 48:, :].abs().max()) == 0 and float(asked[..., :47, :63].sum()) > 0
    np.testing.assert_array_equal(seen.labels[:47, :63], labels[0][::2, ::2][:47, :63])


def test_views_of_a_clip_are_spread_over_it_and_repeat() -> None:
    torch.manual_seed(0)
    model = ESPNetv2(ClassList.of_names(["bright", "dark"])).eval()
    images, maps = zip(*(blobs(seed) for seed in range(3)), strict=True)
    clip, probabilities = np.stack(images), np.stack(maps)
    target = DistillationTarget(probabilities.argmax(1).astype(np.int64), probabilities)
    views = encode_views(model, clip, target, SIZE, 5, seed=3)
    again = encode_views(model, clip, target, SIZE, 5, seed=3)
    others = encode_views(model, clip, target, SIZE, 5, seed=4)
    assert len(views) == 5
    for one, same, other in zip(views, again, others, strict=True):
        assert torch.equal(one.target.labels, same.target.labels)
        assert all(torch.equal(*pair) for pair in zip(one.features, same.features, strict=True))
        assert not torch.equal(one.features[0], other.features[0])
        assert not one.features[0].requires_grad
