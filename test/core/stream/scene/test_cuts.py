"""Scores of cuts, against those of PySceneDetect."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scenes import FILM_CUTS, FILM_SCORES, Image, Watch, colours, place, textured

from ditta_core.stream.scene.cuts import CUT_SCORE, CutDetector, Thumbnail


@given(
    height=st.integers(1, 40),
    width=st.integers(1, 40),
    seed=st.integers(0, 2**32 - 1),
)
def test_score_is_the_mean_difference_in_hsv(height: int, width: int, seed: int) -> None:
    first, second = np.random.default_rng(seed).integers(0, 256, (2, height, width, 3), dtype=np.uint8)
    hsv = [cv2.cvtColor(image, cv2.COLOR_RGB2HSV).astype(float) for image in (first, second)]
    expected = np.abs(hsv[0] - hsv[1]).mean()
    assert Thumbnail.of(first).score(Thumbnail.of(second)) == pytest.approx(expected)
    assert Thumbnail.of(first).blank == (hsv[0][:, :, 2].std() < 3)


def test_scores_are_pyscenedetects(film: list[Image]) -> None:
    for frame, score in FILM_SCORES.items():
        ours = Thumbnail.of(film[frame]).score(Thumbnail.of(film[frame - 1]))
        assert ours == pytest.approx(score, abs=0.05)


def test_cuts_of_the_film(film: list[Image]) -> None:
    watch = Watch(colours, rate=25).see(film)
    assert tuple(watch.cuts) == FILM_CUTS


def test_another_size_is_a_cut() -> None:
    watch = Watch(colours).see(place(1, 20)).see([textured(1, 20, (60, 70))])
    assert watch.cuts == [20]


def test_noise_from_the_first_frame_on_is_no_cut() -> None:
    detector = CutDetector()
    noise = np.random.default_rng(0).integers(0, 40, (12, 60, 80, 3), dtype=np.uint8)
    assert not any(detector.observe(Thumbnail.of(image))[0] for image in noise)
    assert min(detector.scores) > CUT_SCORE
    assert CutDetector().observe(Thumbnail.of(noise[0])) == (False, False)
