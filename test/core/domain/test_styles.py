from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from ditta_core.domain.styles import (
    amplitude_mask,
    as_image,
    fourier_style,
    match_histograms,
    ring_of_frequency,
    swap_rings,
)


def picture(a: float, b: float) -> NDArray[np.float64]:
    """127.5 + 127.5·sin(a·n + b), n counting in C order over [3, 8, 12]; as [8, 12, 3]."""
    count = np.arange(3 * 8 * 12, dtype=np.float64)
    return (127.5 + 127.5 * np.sin(a * count + b)).reshape(3, 8, 12).transpose(1, 2, 0)


CONTENT, STYLE = picture(0.7, 0.1), picture(0.3, 1.0)


@pytest.mark.parametrize(
    ("beta", "corners", "golden"),
    [
        (0.13, False, (142.6927, 256.3342, 116.3527, 90.2476)),
        (0.25, False, (140.6489, 219.3049, 118.1378, 86.5872)),
        (0.25, True, (142.7852, 237.6311, 116.0979, 87.7894)),
    ],
)
def test_golden_numbers_of_the_fourier_style(beta: float, corners: bool, golden: tuple[float, ...]) -> None:
    styled = fourier_style(CONTENT, STYLE, beta, corners)
    found = styled[0, 0, 0], styled[3, 5, 1], styled[7, 11, 2], styled.std()
    np.testing.assert_allclose(found, golden, atol=1e-4)
    assert styled.mean() == pytest.approx(127.3587, abs=1e-4)


def test_a_picture_in_its_own_style_stays() -> None:
    for beta, corners in ((0.0, False), (0.13, False), (0.25, True), (0.5, False)):
        np.testing.assert_allclose(fourier_style(CONTENT, CONTENT, beta, corners), CONTENT, atol=1e-9)
    np.testing.assert_allclose(fourier_style(CONTENT, STYLE, 0.0, corners=True), CONTENT, atol=1e-9)


def test_with_no_width_only_the_mean_changes() -> None:
    styled = fourier_style(CONTENT, STYLE, 0.0)
    np.testing.assert_allclose(styled.mean((0, 1)), STYLE.mean((0, 1)))
    np.testing.assert_allclose(styled - styled.mean((0, 1)), CONTENT - CONTENT.mean((0, 1)), atol=1e-9)


@pytest.mark.parametrize("size", [(8, 12), (9, 13), (16, 24)])
@pytest.mark.parametrize("beta", [0.0, 0.1, 0.2])
def test_low_frequencies_are_symmetric(size: tuple[int, int], beta: float) -> None:
    """Each with its negative, so that the picture is real; as many as the centred window (2b + 1)² has."""
    mask = amplitude_mask(size, beta)
    mirrored = np.roll(mask[::-1, ::-1], 1, (0, 1))
    assert np.array_equal(mask, mirrored) and mask.sum() == (2 * int(min(size) * beta) + 1) ** 2


def test_wrong_arguments() -> None:
    with pytest.raises(ValueError, match=r"beta in 0\.\.0\.5"):
        amplitude_mask((8, 8), 0.6)
    with pytest.raises(ValueError, match="two pictures of one size"):
        fourier_style(CONTENT, STYLE[1:], 0.1)


def test_values_are_rounded_into_the_range() -> None:
    assert as_image(np.array([-3.0, 0.4, 0.6, 300.0])).tolist() == [0, 0, 1, 255]


def test_matched_histograms_have_the_reference_s_quantiles() -> None:
    random = np.random.default_rng(0)
    image = random.normal((90, 140, 60), (20, 15, 10), (60, 80, 3))
    reference = random.normal((160, 100, 128), (30, 25, 12), (50, 70, 3))
    matched = match_histograms(as_image(image), as_image(reference))
    assert matched.shape == image.shape and matched.dtype == np.uint8
    for share in (5, 25, 50, 75, 95):
        found, wanted = (np.percentile(each, share, (0, 1)) for each in (matched, as_image(reference)))
        np.testing.assert_allclose(found, wanted, atol=2)


def test_matching_by_brute_force() -> None:
    """Each value goes to where the shares at or below it meet, between two values of the reference by interpolation."""
    image = np.array([[0, 1], [1, 7]], np.uint8)[..., None]
    reference = np.array([[10, 20, 30, 40]], np.uint8)[..., None]
    # Shares at or below: 0 -> 1/4, 1 -> 3/4, 7 -> 1; the reference has 1/4 at 10, 3/4 at 30, 1 at 40.
    assert match_histograms(image, reference)[..., 0].tolist() == [[10, 30], [30, 40]]


def test_an_image_matched_to_itself_stays() -> None:
    image = as_image(CONTENT)
    assert np.array_equal(match_histograms(image, image), image)


def test_golden_sizes_of_the_rings() -> None:
    sizes = np.bincount(ring_of_frequency((64, 128)).ravel(), minlength=32)
    assert sizes[:6].tolist() == [8, 24, 40, 56, 72, 88] and sizes[-1] == 504 and sizes.sum() == 8192


def test_swapped_rings_are_the_reference_s() -> None:
    generator = torch.Generator().manual_seed(0)
    pixels, reference = torch.rand(2, 1, 3, 64, 128, generator=generator, dtype=torch.float64)
    torch.testing.assert_close(swap_rings(pixels, reference, torch.zeros(3, 32)), pixels)
    torch.testing.assert_close(swap_rings(pixels, pixels, torch.ones(3, 32)), pixels)
    shares = torch.zeros(3, 32, dtype=torch.float64)
    shares[:, 0] = 1
    styled = swap_rings(pixels, reference, shares)
    torch.testing.assert_close(styled.mean((2, 3)), reference.mean((2, 3)))  # the mean is in ring 0


def test_the_gradient_of_a_swap_is_that_of_differences() -> None:
    generator = torch.Generator().manual_seed(0)
    pixels, reference = torch.rand(2, 1, 1, 8, 8, generator=generator, dtype=torch.float64)
    shares = torch.full((1, 32), 0.3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda shares: swap_rings(pixels, reference, shares), shares)
