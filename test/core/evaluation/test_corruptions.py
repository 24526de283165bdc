"""Corruptions against the published formulas, and that the frames of a corrupted video belong together."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from ditta_core.datasets.camvid import CamVidSequence
from ditta_core.evaluation import corruptions
from ditta_core.evaluation.corruptions import NAMES, CorruptedSequence, Corruption, Corruptor, plasma_fractal

SEVERITIES = range(1, 6)


@pytest.fixture(scope="module")
def frame(shared_file: Callable[..., Path]) -> NDArray[np.uint8]:
    """A real frame of the training drives, 360x480."""
    return CamVidSequence(shared_file("data", "camvid", "train")).image(60)


def corrupt(image: NDArray[np.uint8], corruption: Corruption, seed: int, index: int) -> NDArray[np.uint8]:
    """One frame of a corrupted video."""
    return Corruptor(corruption, seed)(image, index)


def difference(one: NDArray[np.uint8], other: NDArray[np.uint8]) -> float:
    return float(np.abs(one.astype(float) - other).mean())


@pytest.mark.parametrize("name", NAMES)
def test_text_and_back(name: str) -> None:
    for severity in SEVERITIES:
        corruption = Corruption.parse(f"{name}:{severity}")
        assert corruption == Corruption(name, severity)
        assert str(corruption) == f"{name}:{severity}"


@pytest.mark.parametrize(
    "text", ["", "fog", "fog:", "fog:0", "fog:6", "fog:2.5", "fog:01", "snow:3", "3:fog", "fog:3:1"]
)
def test_what_is_no_corruption_is_refused_with_the_known_ones(text: str) -> None:
    with pytest.raises(ValueError, match=r"'fog', 'low_light', .* 1\.\.5, but got"):
        Corruption.parse(text)


def test_an_unknown_severity_is_refused_however_it_is_made() -> None:
    with pytest.raises(ValueError, match=r"1\.\.5, but got 'fog:7'"):
        Corruption("fog", 7)
    with pytest.raises(ValueError, match="seed of 0 or more, but got -1"):
        Corruptor(Corruption("fog", 1), -1)


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from(NAMES),
    st.sampled_from(SEVERITIES),
    st.integers(1, 70),
    st.integers(1, 70),
    st.integers(0, 2**40),
    st.integers(0, 10**6),
)
def test_any_size_and_every_frame_repeats(
    name: str, severity: int, height: int, width: int, seed: int, index: int
) -> None:
    image = np.random.default_rng(height * width).integers(0, 256, (height, width, 3), np.uint8)
    before = image.copy()
    corrupted = corrupt(image, Corruption(name, severity), seed, index)
    assert corrupted.shape == image.shape
    assert corrupted.dtype == np.uint8
    np.testing.assert_array_equal(image, before)
    np.testing.assert_array_equal(corrupted, corrupt(image, Corruption(name, severity), seed, index))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("size", [(1, 1), (1, 480), (480, 1), (2, 3)])
def test_smallest_images(name: str, size: tuple[int, int]) -> None:
    image = np.full((*size, 3), 100, np.uint8)
    for severity in SEVERITIES:
        assert corrupt(image, Corruption(name, severity), 0, 0).shape == image.shape


@pytest.mark.parametrize(
    "image", [np.zeros((4, 5), np.uint8), np.zeros((4, 5, 3), np.float32), np.zeros((0, 5, 3), np.uint8)]
)
def test_what_is_no_image_is_refused(image: NDArray[np.generic]) -> None:
    with pytest.raises(ValueError, match="expected a uint8 RGB image"):
        corrupt(image, Corruption("noise", 1), 0, 0)


@pytest.mark.parametrize("name", [name for name in NAMES if name != "fog"])
def test_severity_is_further_from_the_clean_image(frame: NDArray[np.uint8], name: str) -> None:
    for seed in range(3):
        differences = [
            difference(corrupt(frame, Corruption(name, severity), seed, 5), frame) for severity in SEVERITIES
        ]
        assert differences == sorted(differences)
        assert differences[0] > 1


def test_fog_thickens(frame: NDArray[np.uint8]) -> None:
    """Over many videos: how a patchy fog lies over one image matters more than one severity."""
    means = [
        np.mean([difference(corrupt(frame, Corruption("fog", severity), seed, 0), frame) for seed in range(30)])
        for severity in (1, 2, 3, 5)
    ]
    assert means == sorted(means)
    for seed in range(5):  # of one smoothness, so that the fields are the same
        thin, thick = (corrupt(frame, Corruption("fog", severity), seed, 0) for severity in (1, 2))
        assert frame.std() > thin.std()
        assert difference(thick, frame) > difference(thin, frame)


@pytest.mark.parametrize("name", NAMES)
def test_order_of_frames_does_not_matter(frame: NDArray[np.uint8], name: str) -> None:
    small = cv2.resize(frame, (121, 90))
    corruption = Corruption(name, 4)
    in_order, backwards = Corruptor(corruption, 7), Corruptor(corruption, 7)
    first = [in_order(small, index) for index in range(4)]
    in_order(frame, 0)  # another size in between
    last = [backwards(small, index) for index in reversed(range(4))][::-1]
    for index in range(4):
        np.testing.assert_array_equal(first[index], last[index])
        np.testing.assert_array_equal(first[index], corrupt(small, corruption, 7, index))
        np.testing.assert_array_equal(first[index], in_order(small, index))


@pytest.mark.parametrize("name", [name for name in NAMES if name not in ("jpeg", "contrast")])
def test_seeds_and_frames_differ(frame: NDArray[np.uint8], name: str) -> None:
    corruption = Corruption(name, 3)
    here = corrupt(frame, corruption, 1, 10)
    assert max(difference(here, corrupt(frame, corruption, seed, 10)) for seed in range(2, 6)) > 1
    assert (here != corrupt(frame, corruption, 1, 11)).any()


@pytest.mark.parametrize("name", ["jpeg", "contrast"])
def test_nothing_random_where_there_is_nothing_to_draw(frame: NDArray[np.uint8], name: str) -> None:
    corruption = Corruption(name, 3)
    np.testing.assert_array_equal(corrupt(frame, corruption, 1, 10), corrupt(frame, corruption, 2, 20))


def test_noise_of_different_frames_is_independent() -> None:
    grey = np.full((200, 200, 3), 128, np.uint8)
    one, other = (corrupt(grey, Corruption("noise", 1), 3, index).ravel() for index in (0, 1))
    assert abs(np.corrcoef(one, other)[0, 1]) < 0.02


def test_noise_is_as_strong_as_published() -> None:
    """On mid grey, where hardly anything is clipped below severity 4."""
    grey = np.full((300, 300, 3), 128, np.uint8)
    for severity, sigma in enumerate([0.08, 0.12, 0.18], 1):
        noisy = corrupt(grey, Corruption("noise", severity), 0, 0).astype(float)
        assert noisy.std() == pytest.approx(255 * sigma, rel=0.02)
        assert noisy.mean() == pytest.approx(127.5, abs=0.5)  # cut to whole numbers


def test_contrast_is_the_published_formula(frame: NDArray[np.uint8]) -> None:
    for severity, share in enumerate([0.4, 0.3, 0.2, 0.1, 0.05], 1):
        image = frame / 255
        means = image.mean((0, 1), keepdims=True)
        expected = np.uint8(np.clip((image - means) * share + means, 0, 1) * 255)
        corrupted = corrupt(frame, Corruption("contrast", severity), 0, 0)
        # Rounding may differ where the result is a whole number.
        assert np.abs(corrupted.astype(int) - expected).max() <= 1
        assert np.mean(corrupted != expected) < 0.001


def test_jpeg_has_the_published_quality(frame: NDArray[np.uint8]) -> None:
    image = pytest.importorskip("PIL.Image")
    for severity, quality in enumerate([25, 18, 15, 10, 7], 1):
        file = BytesIO()
        image.fromarray(frame).save(file, "JPEG", quality=quality)
        expected = np.asarray(image.open(file))
        # Two builds of libjpeg may round differently.
        assert difference(corrupt(frame, Corruption("jpeg", severity), 0, 0), expected) < 0.5


def test_motion_blur_is_the_published_smear(frame: NDArray[np.uint8], monkeypatch: pytest.MonkeyPatch) -> None:
    """Weighted shifts along a line at a fixed angle, the border repeated."""
    monkeypatch.setattr(corruptions, "BLUR_SWAY", 0.0)
    monkeypatch.setattr(corruptions, "BLUR_ANGLE", 0.0)
    for severity, (radius, sigma) in enumerate([(10, 3), (15, 5), (15, 8), (15, 12), (20, 15)], 1):
        weights = np.exp(-(np.arange(2 * radius + 1) ** 2) / (2 * sigma**2))
        weights /= weights.sum()
        padded = np.pad(frame, ((0, 0), (0, 2 * radius), (0, 0)), "edge").astype(float)
        expected = sum(weight * padded[:, shift : shift + frame.shape[1]] for shift, weight in enumerate(weights))
        corrupted = corrupt(frame, Corruption("motion_blur", severity), 0, 0).astype(float)
        assert np.abs(corrupted - np.floor(expected)).max() <= 1
        assert np.abs(corrupted - np.floor(expected)).mean() < 0.02


def test_the_direction_of_the_blur_sways_slowly(frame: NDArray[np.uint8]) -> None:
    corruption = Corruption("motion_blur", 3)
    blurred = [corrupt(frame, corruption, 3, index) for index in (0, 1, 15, 60)]
    assert difference(blurred[0], blurred[1]) < difference(blurred[0], blurred[2]) / 2
    np.testing.assert_array_equal(blurred[0], blurred[3])


def test_the_fractal_is_that_of_the_benchmark() -> None:
    """Statistics of 300 fields of imagecorruptions 1.1.2 at 512x512, cropped to 360x480.

    Mean 0.50, standard deviation within a field, mean absolute difference of neighbours.
    """
    for decay, deviation, gradient in ((2.0, 0.154, 0.0015), (1.7, 0.166, 0.0018), (1.4, 0.178, 0.0043)):
        fields = [plasma_fractal(512, decay, np.random.default_rng(seed))[:360, :480] for seed in range(60)]
        assert np.mean(fields) == pytest.approx(0.5, abs=0.04)
        assert np.mean([field.std() for field in fields]) == pytest.approx(deviation, rel=0.08)
        assert np.mean([np.abs(np.diff(field, axis=1)).mean() for field in fields]) == pytest.approx(gradient, rel=0.05)


@pytest.mark.parametrize("size", [2, 4, 64])
def test_the_fractal_has_no_seams(size: int) -> None:
    field = plasma_fractal(size, 2.0, np.random.default_rng(0))
    assert field.shape == (size, size)
    assert (field.min(), field.max()) == (0, 1)
    if size == 64:
        inside = np.abs(np.diff(field, axis=0)).mean()
        assert np.abs(field[0] - field[-1]).mean() < 2 * inside
        assert np.abs(field[:, 0] - field[:, -1]).mean() < 2 * inside


def test_fog_drifts_by_a_pixel_a_frame() -> None:
    """On an even image the fog itself is seen: one field, shifted."""
    grey = np.full((90, 120, 3), 100, np.uint8)
    fog = Corruptor(Corruption("fog", 5), 4)
    here, soon, later = (fog(grey, index)[:, :, 0].astype(float) for index in (0, 4, 400))
    moves = {
        (down, right): np.abs(here[10:80, 10:110] - soon[10 + down : 80 + down, 10 + right : 110 + right]).max()
        for down in range(-3, 4)
        for right in range(-3, 4)
    }
    assert min(moves.values()) == 0
    assert difference(here, soon) < difference(here, later) / 3


def test_low_light_is_one_exposure_with_fresh_noise() -> None:
    """Mean and variance by the model: gamma, photons, read noise."""
    for severity, scale in enumerate([0.6, 0.5, 0.4, 0.3, 0.2], 1):
        white = np.full((300, 300, 3), 230, np.uint8)
        dark = [corrupt(white, Corruption("low_light", severity), 0, index) / 255 for index in range(2)]
        brightness = scale * (230 / 255) ** 2
        assert dark[0].mean() == pytest.approx(brightness - 0.5 / 255, abs=0.002)
        assert dark[0].var() == pytest.approx(brightness / 120 + 0.018**2, rel=0.05)
        assert abs(np.corrcoef(dark[0].ravel(), dark[1].ravel())[0, 1]) < 0.02


def test_rain_keeps_its_slant_and_renews_its_streaks() -> None:
    """The direction of streaks is that across which the brightness changes least: the structure tensor."""

    def slant(image: NDArray[np.uint8]) -> float:
        down, right = np.gradient(cv2.GaussianBlur(image[:, :, 0].astype(float), None, 1))
        across = 0.5 * np.arctan2(2 * (down * right).mean(), (right**2 - down**2).mean())
        return float(np.degrees(across))

    black = np.zeros((240, 320, 3), np.uint8)
    slants = []
    for seed in range(6):
        rain = [corrupt(black, Corruption("rain", 2), seed, index) for index in range(3)]
        measured = [slant(image) for image in rain]
        assert max(measured) - min(measured) < 2
        assert abs(np.corrcoef(rain[0].ravel(), rain[1].ravel())[0, 1]) < 0.1
        slants.append(measured[0])
    assert max(slants) - min(slants) > 10
    assert max(np.abs(slants)) < 16


def test_rain_covers_as_much_as_published() -> None:
    """Mean opacity: drops, their opacity, their patches, the factor 1.3."""
    black = np.zeros((360, 480, 3), np.uint8)
    for severity, (least, most) in enumerate([(0.01, 0.06), (0.06, 0.10), (0.10, 0.15), (0.15, 0.20), (0.20, 0.25)], 1):
        covered = np.mean([corrupt(black, Corruption("rain", severity), seed, 0) for seed in range(30)]) / 240
        mean = 1.3 * (0.5 + 1 / np.pi) / 1.1
        assert least * mean < covered < most * mean


def test_a_corrupted_sequence_is_the_clean_one_but_for_its_images(camvid_clip: Path) -> None:
    clean = CamVidSequence(camvid_clip)
    corrupted = CorruptedSequence(clean, Corruption("fog", 2), 5)
    assert corrupted.original is clean
    assert len(corrupted) == 101
    assert (corrupted.name, corrupted.frame_rate) == (clean.name, clean.frame_rate)
    assert corrupted.classes == clean.classes
    assert corrupted.stamp(7) == clean.stamp(7)
    np.testing.assert_array_equal(corrupted.labels(3), clean.labels(3))
    expected = corrupt(clean.image(3), Corruption("fog", 2), 5, 3)
    np.testing.assert_array_equal(corrupted.frame(3).image, expected)
    copy = pickle.loads(pickle.dumps(corrupted))
    np.testing.assert_array_equal(copy.image(3), expected)
    np.testing.assert_array_equal(copy.labels(3), clean.labels(3))
