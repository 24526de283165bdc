"""The look of one picture on another: its low frequencies, its histogram, the frequencies that hurt.

What is where stays, so that labels and optical flow of the first picture still hold.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

RINGS = 32
"""Nested rectangles that :func:`ring_of_frequency` divides a spectrum into."""


def amplitude_mask(size: tuple[int, int], beta: float, corners: bool = False) -> NDArray[np.bool_]:
    """Which frequencies of an unshifted spectrum of this size (H, W) are low, bool [H, W].

    Args:
        beta: half the side of the square of low frequencies, as a share of the shorter side; rounded down.
        corners: the published training's form, which takes the frequencies −b..b − 1 instead of −b..b. It is not
            symmetric, so that an inverse transform is not real, and takes nothing where b is 0.

    Raises:
        ValueError: beta lies outside 0..0.5.
    """
    if not 0 <= beta <= 0.5:
        raise ValueError(f"expected beta in 0..0.5, but got {beta}")
    half = int(min(size) * beta)
    rows, columns = (np.fft.fftfreq(side, 1 / side) for side in size)
    low = [(each >= -half) & (each <= half - corners) for each in (rows, columns)]
    return np.asarray(low[0][:, None] & low[1], np.bool_)


def fourier_style(
    content: NDArray[np.floating | np.uint8], style: NDArray[np.floating | np.uint8], beta: float, corners: bool = False
) -> NDArray[np.float64]:
    """A picture with the low amplitudes of another, and its own phases: FDA, Yang and Soatto, CVPR 2020.

    Args:
        content, style: of one size, [H, W, channels] in 0..255.
        beta, corners: see :func:`amplitude_mask`.

    Returns:
        float64 [H, W, channels]; may lie a little outside 0..255.

    Raises:
        ValueError: the pictures differ in size, or see :func:`amplitude_mask`.
    """
    if content.shape != style.shape:
        raise ValueError(f"expected two pictures of one size, but got {content.shape} and {style.shape}")
    low = amplitude_mask((content.shape[0], content.shape[1]), beta, corners)[..., None]
    ours, theirs = (np.fft.fft2(each.astype(np.float64), axes=(0, 1)) for each in (content, style))
    amplitudes = np.where(low, np.abs(theirs), np.abs(ours))
    return np.fft.ifft2(amplitudes * np.exp(1j * np.angle(ours)), axes=(0, 1)).real


def as_image(picture: NDArray[np.floating]) -> NDArray[np.uint8]:
    """Values rounded to 0..255, uint8 of the same shape."""
    return np.clip(np.rint(picture), 0, 255).astype(np.uint8)


def match_histograms(image: NDArray[np.uint8], reference: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """An image whose channels have a reference's distributions of values, uint8 [H, W, channels]; sizes may differ.

    A value becomes the one below which the same share of the reference lies, as by scikit-image, and is then rounded.
    """
    matched = np.empty_like(image)
    for channel in range(image.shape[-1]):
        shares, theirs = (
            np.cumsum(np.bincount(each[..., channel].ravel(), minlength=256)) / each[..., channel].size
            for each in (image, reference)
        )
        present = np.flatnonzero(np.diff(theirs, prepend=0.0))
        table = np.interp(shares, theirs[present], present)
        matched[..., channel] = as_image(table)[image[..., channel]]
    return matched


def ring_of_frequency(size: tuple[int, int]) -> NDArray[np.int64]:
    """Ring 0 (mean and lowest) to 31 of every frequency of an unshifted spectrum of this size (H, W), int64 [H, W].

    Ring k lies between two rectangles around the middle of the shifted spectrum, of (k / 32) and ((k + 1) / 32) of its
    sides. Below 64 pixels a side the first rings are empty.
    """
    places = [np.abs(np.fft.ifftshift(np.arange(side)) + 0.5 - side / 2) / (side / 2) for side in size]
    return np.asarray(np.maximum(places[0][:, None], places[1]) * RINGS, np.int64)


def swap_rings(pixels: Tensor, reference: Tensor, shares: Tensor) -> Tensor:
    """Pictures with amplitudes between their own and those of references, by ring and channel; with gradient.

    Args:
        pixels, reference: float [N, channels, H, W] of one size.
        shares: 0 for the own amplitude to 1 for the reference's, float [channels, 32].

    Returns:
        float [N, channels, H, W].
    """
    rings = torch.from_numpy(ring_of_frequency((pixels.shape[-2], pixels.shape[-1]))).to(pixels.device)
    ours = torch.fft.fft2(pixels)
    amplitude = ours.abs().lerp(torch.fft.fft2(reference).abs(), shares[:, rings].to(pixels))
    return torch.fft.ifft2(torch.polar(amplitude, ours.angle())).real
