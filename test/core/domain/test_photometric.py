"""Another light: on bytes, the same draw for all frames, and each change against a reference."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image, ImageEnhance

from ditta_core.domain.photometric import Photometric, PhotometricRange

IMAGE = np.random.default_rng(0).integers(40, 200, (24, 32, 3), np.uint8)


def test_nothing_drawn_is_the_image() -> None:
    np.testing.assert_array_equal(Photometric().image(IMAGE), IMAGE)


@pytest.mark.parametrize(
    ("changed", "enhance"),
    [
        (Photometric(brightness=0.7), ImageEnhance.Brightness),
        (Photometric(contrast=0.7), ImageEnhance.Contrast),
        (Photometric(saturation=0.7), ImageEnhance.Color),
    ],
)
def test_each_factor_is_that_of_pillow(changed: Photometric, enhance: type) -> None:
    expected = np.asarray(enhance(Image.fromarray(IMAGE)).enhance(0.7))
    np.testing.assert_allclose(changed.image(IMAGE), expected, atol=1.01)


def test_a_full_turn_of_the_colours_is_none() -> None:
    half = Photometric(hue=0.5)
    turned = half.image(IMAGE)
    assert np.abs(turned.astype(int) - IMAGE).mean() > 20
    np.testing.assert_allclose(half.image(turned), IMAGE, atol=12)


def test_without_saturation_all_channels_are_alike() -> None:
    assert np.ptp(Photometric(saturation=0.0).image(IMAGE).astype(int), axis=2).max() <= 1


def test_a_blur_smooths() -> None:
    assert Photometric(kernel=5).image(IMAGE).std() < 0.7 * IMAGE.std()


def test_draws_stay_within_limits_and_repeat() -> None:
    limits = PhotometricRange(brightness=0.1, contrast=0.2, saturation=0.3, hue=0.05)
    draws = [Photometric.draw(np.random.default_rng(seed), limits) for seed in range(200)]
    assert draws == [Photometric.draw(np.random.default_rng(seed), limits) for seed in range(200)]
    assert all(0.9 <= each.brightness <= 1.1 and 0.8 <= each.contrast <= 1.2 for each in draws)
    assert all(each.saturation == 0 or 0.7 <= each.saturation <= 1.3 for each in draws)
    assert all(abs(each.hue) <= 0.05 and each.kernel in (0, 3, 5) for each in draws)
    assert 0.7 < np.mean([each.brightness != 1 for each in draws]) < 0.9


def test_images_stay_bytes_of_their_range() -> None:
    lit = Photometric(brightness=1.9, contrast=1.8).image(IMAGE)
    assert lit.dtype == np.uint8 and lit.shape == IMAGE.shape
    assert lit[IMAGE.max() == IMAGE].min() == 255  # saturated, not wrapped
