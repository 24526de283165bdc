"""Windows: image, labels and flow of a clip move together."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch
from moving_scenes import texture

from ditta_core.domain.gather import gather
from ditta_core.domain.windows import STRIDE, Window

SIZE = (96, 128)


def window(scale: float, left: float, top: float, mirrored: bool, size: tuple[int, int] = (48, 64)) -> Window:
    """A window that begins at a place of the scaled frame."""
    centre = (scale - 1) / 2
    matrix = np.array([[scale, 0, centre - left], [0, scale, centre - top], [0, 0, 1]])
    if mirrored:
        matrix = np.array([[-1.0, 0, size[1] - 1], [0, 1, 0], [0, 0, 1]]) @ matrix
    return Window(matrix, size)


def test_without_scaling_a_window_is_a_copy() -> None:
    image = np.random.default_rng(0).integers(0, 256, (*SIZE, 3), np.uint8)
    labels = np.random.default_rng(1).integers(0, 5, (48, 64), np.uint8)
    plain, mirrored = window(1, 20, 10, False), window(1, 20, 10, True)
    np.testing.assert_array_equal(plain.image(image), image[10:58, 20:84])
    np.testing.assert_array_equal(plain.labels(labels), labels[5:29, 10:42])
    np.testing.assert_array_equal(mirrored.image(image), image[10:58, 20:84][:, ::-1])
    np.testing.assert_array_equal(mirrored.labels(labels), labels[5:29, 10:42][:, ::-1])


@pytest.mark.parametrize("mirrored", [False, True])
@pytest.mark.parametrize("scale", [0.8, 1.25])
def test_labels_follow_the_image(scale: float, mirrored: bool) -> None:
    bright = cv2.resize((texture((24, 32), 0) > 0.5).astype(np.uint8), SIZE[::-1], interpolation=cv2.INTER_NEAREST)
    labels = bright[::STRIDE, ::STRIDE]
    drawn = window(scale, 6, 5, mirrored)
    seen = (
        cv2.resize(
            drawn.image(np.repeat(255 * bright[..., None], 3, 2)), drawn.map_size[::-1], interpolation=cv2.INTER_AREA
        )[..., 0]
        > 127
    )
    found = drawn.labels(labels)
    inside = found != 255
    assert inside.mean() > 0.95
    assert ((found == 1) == seen)[inside].mean() > 0.95


def test_drawn_windows_lie_within_the_frame() -> None:
    random = np.random.default_rng(0)
    ones = np.ones((SIZE[0] // STRIDE, SIZE[1] // STRIDE), np.uint8)
    for _ in range(50):
        drawn = Window.draw(random, SIZE, (64, 64), (0.5, 1.5))
        labels = drawn.labels(ones)
        assert (labels[1:-1, 1:-1] == 1).all()


def test_a_whole_frame_is_the_frame() -> None:
    image = np.random.default_rng(0).integers(0, 256, (*SIZE, 3), np.uint8)
    drawn = Window.draw(np.random.default_rng(0), SIZE, SIZE, mirrored=0)
    np.testing.assert_array_equal(drawn.image(image), image)


@pytest.mark.parametrize("mirrored", [False, True])
@pytest.mark.parametrize("scale", [1.0, 1.25])
def test_labels_of_the_frame_before_reach_the_same_places(scale: float, mirrored: bool) -> None:
    """Gathered within the window is gathered within the frame, then cut: the flow is scaled and turned with it."""
    before = (255 * texture((48, 64), 3)).astype(np.float32)
    flow = np.zeros((48, 64, 2), np.float32)
    flow[..., 0] = 0.3 * np.arange(64)  # the golden mirror error: labels come from wrong places where it is not negated
    flow[..., 0] -= 8
    flow[..., 1] = 1.5
    whole = gather(torch.from_numpy(before)[None, None], torch.from_numpy(flow)[None])[0][0].numpy()
    drawn = window(scale, 26, 20, mirrored)
    expected = drawn.maps(whole)[0]
    moved, inside = gather(torch.from_numpy(drawn.maps(before[None]))[None], torch.from_numpy(drawn.flow(flow))[None])
    valid = inside[0].numpy()
    assert valid.mean() > 0.4
    difference = np.abs(moved[0, 0].numpy() - expected)[valid]
    assert np.median(difference) < 2 and difference.mean() < 4

    wrong = drawn.flow(flow) * np.float32([-1, 1])
    wrongly = gather(torch.from_numpy(drawn.maps(before[None]))[None], torch.from_numpy(wrong)[None])[0][0, 0].numpy()
    assert np.abs(wrongly - expected)[valid].mean() > 4 * difference.mean()


def test_beyond_the_frame_nothing_is_labelled() -> None:
    drawn = window(1, -20, 0, False)
    assert (drawn.labels(np.zeros((48, 64), np.uint8))[:, :10] == 255).all()
    assert not drawn.mask(np.ones((48, 64), np.bool_))[:, :10].any()


def test_sizes_and_scales_that_are_none() -> None:
    random = np.random.default_rng(0)
    with pytest.raises(ValueError, match="expected sides in multiples of 2"):
        Window.draw(random, SIZE, (33, 32))
    with pytest.raises(ValueError, match="growing scales"):
        Window.draw(random, SIZE, (32, 32), (1.5, 0.5))
