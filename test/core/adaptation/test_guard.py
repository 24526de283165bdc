from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch
from moving_scenes import moving_square
from numpy.typing import NDArray

from ditta_core.adaptation.guard import (
    ANCHORED_LIMITS,
    WEIGHTED_LIMITS,
    CollapseError,
    DecoderCheck,
    NothingShownError,
    effective_classes,
    guard_against_collapse,
    objection_to_lost_classes,
    require_something_shown,
    shows_something,
)

SIZE = (120, 160, 3)


def lens(brightness: float, noise: float) -> NDArray[np.uint8]:
    """One colour with the sensor's noise."""
    image = np.random.default_rng(0).normal(brightness, noise, SIZE)
    return np.clip(image, 0, 255).astype(np.uint8)


@pytest.mark.parametrize("image", [lens(0, 0), lens(4, 1.5), lens(20, 15), lens(253, 3), lens(128, 80)])
def test_one_colour_and_noise_show_nothing(image: NDArray[np.uint8]) -> None:
    assert not shows_something(image)


@pytest.mark.parametrize("gain", [1.0, 0.1])
@pytest.mark.parametrize("size", [(120, 160), (48, 64), (240, 321)])
def test_a_scene_shows_something_in_the_dark_and_under_noise_too(gain: float, size: tuple[int, int]) -> None:
    scene = cv2.resize(moving_square(1).clip[0], size[::-1], interpolation=cv2.INTER_AREA)
    noisy = scene * gain + np.random.default_rng(0).normal(0, 40 * gain, scene.shape)
    assert shows_something(scene) and shows_something(np.clip(noisy, 0, 255).astype(np.uint8))


def test_a_warm_up_of_a_covered_lens_is_refused_and_one_with_a_few_such_frames_is_not() -> None:
    scene, black = moving_square(1).clip[0], lens(4, 1.5)
    require_something_shown(np.stack([scene, scene, black, black]))
    with pytest.raises(NothingShownError, match="3 of 4"):
        require_something_shown(np.stack([scene, black, black, black]))


def answer(*shares: float) -> torch.Tensor:
    """Probabilities [1, C, 10, 10] that are the same everywhere."""
    return torch.tensor(shares).view(1, -1, 1, 1).expand(1, len(shares), 10, 10).clone()


def test_a_gentle_change_passes() -> None:
    base, adapted = answer(0.95, 0.03, 0.02), answer(0.96, 0.02, 0.02)
    base[..., 0], adapted[..., 0] = base[..., 0].roll(1, 1) * 0 + 1 / 3, adapted[..., 0].roll(1, 1)
    check = DecoderCheck.of(base, adapted, WEIGHTED_LIMITS)
    assert check.entropy_ratio < 1 and check.contradicted == 0 and check.objection == ""


def test_contradicting_what_the_base_model_is_sure_of_is_objected_to() -> None:
    base, adapted = answer(0.95, 0.03, 0.02), answer(0.95, 0.03, 0.02)
    adapted[..., 0] = adapted[..., 0].flip(1)  # a tenth of the pixels
    check = DecoderCheck.of(base, adapted, WEIGHTED_LIMITS)
    assert check.contradicted == pytest.approx(0.1) and check.entropy_ratio == pytest.approx(1)
    assert "another class to 10.0%" in check.objection and "entropy" not in check.objection


def test_anchored_targets_may_contradict_less_and_where_the_base_model_is_less_sure() -> None:
    base, adapted = answer(0.85, 0.1, 0.05), answer(0.85, 0.1, 0.05)
    adapted[..., 0, 0] = adapted[..., 0, 0].flip(1)  # a hundredth of the pixels
    for limits, contradicted in ((WEIGHTED_LIMITS, 0.0), (ANCHORED_LIMITS, 0.01)):
        check = DecoderCheck.of(base, adapted, limits)
        assert check.contradicted == pytest.approx(contradicted)
        assert bool(check.objection) == (contradicted > 0)
    assert "1.0% of the pixels the base model is sure of (at most 0.5%)" in check.objection


def test_a_model_that_is_undecided_now_is_objected_to() -> None:
    check = DecoderCheck.of(answer(0.95, 0.03, 0.02), answer(0.6, 0.2, 0.2), WEIGHTED_LIMITS)
    assert check.contradicted == 0 and "4.09 times" in check.objection and "entropy" in check.objection


def test_a_model_that_is_suddenly_sure_is_objected_to_where_the_limits_say_so() -> None:
    base, adapted = answer(0.7, 0.2, 0.1), answer(0.97, 0.02, 0.01)
    assert DecoderCheck.of(base, adapted, WEIGHTED_LIMITS).objection == ""
    check = DecoderCheck.of(base, adapted, replace(WEIGHTED_LIMITS, least_entropy_ratio=0.5))
    assert check.entropy_ratio < 0.2
    assert check.objection == f"its mean entropy is {check.entropy_ratio:.2f} times the base model's (at least 0.5)"
    sure, surer = answer(0.99999, 0.00001), answer(0.999999, 0.000001)
    assert DecoderCheck.of(sure, surer, replace(WEIGHTED_LIMITS, least_entropy_ratio=0.5)).objection == ""


def test_a_large_class_that_goes_to_another_is_objected_to() -> None:
    base = answer(0.8, 0.1, 0.1)
    base[..., :3, 0] = torch.tensor([0.1, 0.8, 0.1])[:, None]  # three of a hundred pixels
    adapted = base.clone()
    adapted[..., :2, 0] = torch.tensor([0.1, 0.1, 0.8])[:, None]
    assert objection_to_lost_classes(base, adapted).startswith("it loses large classes, by number: 1 from 3.0% to 1.0%")
    adapted[..., 1, 0] = base[..., 1, 0]  # two of three are kept
    assert objection_to_lost_classes(base, adapted) == ""
    base[..., 1:3, 0] = base[..., 5:7, 5]  # one of a hundred is no large class
    assert objection_to_lost_classes(base, answer(0.8, 0.1, 0.1)) == ""


def test_nothing_is_contradicted_where_the_base_model_is_sure_of_nothing() -> None:
    check = DecoderCheck.of(answer(0.4, 0.3, 0.3), answer(0.3, 0.4, 0.3), WEIGHTED_LIMITS)
    assert check.contradicted == 0 and check.objection == ""
    assert np.isfinite(DecoderCheck.of(answer(1.0, 0.0), answer(0.0, 1.0), WEIGHTED_LIMITS).entropy_ratio)


def test_effective_classes() -> None:
    assert effective_classes(torch.zeros(2, 3, dtype=torch.long)) == pytest.approx(1)
    assert effective_classes(torch.arange(8).repeat(5)) == pytest.approx(8)


def test_collapsed_model_is_refused() -> None:
    varied, flat = torch.arange(9).view(1, 3, 3), torch.zeros(1, 3, 3, dtype=torch.long)
    guard_against_collapse(varied, varied)
    guard_against_collapse(flat, varied)
    with pytest.raises(CollapseError, match="effective classes"):
        guard_against_collapse(varied, flat)
