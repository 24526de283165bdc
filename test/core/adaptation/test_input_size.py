from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from sized_models import IMAGE_SIZE, SizedModel, bands

from ditta_core.adaptation import input_size
from ditta_core.adaptation.config import AdaptationConfig
from ditta_core.adaptation.input_size import (
    LONG_SIDES,
    SEARCH_FRAMES,
    UNSURE_LONG_SIDE,
    agreement_with_others,
    choose_long_side,
    compared_sides,
    find_long_side,
    largest_side,
)
from ditta_core.adaptation.job import AdaptationJob
from ditta_core.adaptation.region import Region
from ditta_core.domain.warmup_job import run_job
from ditta_core.inference.config import DEFAULT_LONG_SIDE
from ditta_core.segmentation.source import ModelSource


@pytest.fixture(autouse=True)
def one_thread(few_threads: None) -> None:
    """Small maps on two threads wait for each other on a busy machine."""
    torch.set_num_threads(1)


def test_agreement_is_with_the_mean_of_the_others() -> None:
    """Four pixels, two classes, three sizes; worked out by hand."""
    first_class = torch.tensor([[0.9, 0.6, 0.1, 0.4], [0.8, 0.4, 0.2, 0.9], [0.7, 0.3, 0.7, 0.2]])
    probabilities = [torch.stack([each, 1 - each])[None, :, None] for each in first_class]
    # Means of the others: (.75 .35 .45 .55), (.8 .45 .4 .3), (.85 .5 .15 .65).
    assert agreement_with_others(probabilities)[:2] == (0.5, 0.75)


@pytest.mark.parametrize("best", [560, 640, 720, 800])
def test_about_the_best_size_is_found(best: int) -> None:
    model = SizedModel(best)
    clip = np.stack([bands(shift=index) for index in range(5)])
    choice = find_long_side(model, clip)
    assert choice is not None
    assert abs(LONG_SIDES.index(choice.long_side) - LONG_SIDES.index(best)) <= 1, "its neighbours are hardly worse"
    assert choice.agreement == choice.agreements[choice.long_side] > 0.9
    assert tuple(choice.agreements) == LONG_SIDES
    assert find_long_side(model, clip) == choice, "nothing in it is random"


def test_a_better_size_is_not_found_below_a_worse_one() -> None:
    found = [find_long_side(SizedModel(best), bands()[None]) for best in (320, 480, 640, 800)]
    sides = [choice.long_side for choice in found if choice is not None]
    assert sides == sorted(sides) and sides[0] == DEFAULT_LONG_SIDE < sides[-1]


def test_larger_wins_where_sizes_agree_as_well() -> None:
    level = dict.fromkeys(LONG_SIDES, 0.9)
    assert choose_long_side(level) == 960 and choose_long_side(level, largest=700) == 640
    assert choose_long_side({**level, 320: 1.0, 400: 1.0}) == DEFAULT_LONG_SIDE, "never below the default"
    assert choose_long_side({**level, 640: 0.99}) == 640
    assert choose_long_side({320: 0.5}) == DEFAULT_LONG_SIDE


def test_the_rate_bounds_the_choice_and_not_the_comparison() -> None:
    model = SizedModel(800)
    free = find_long_side(model, bands()[None])
    bounded = find_long_side(model, bands()[None], largest=640)
    assert free is not None and bounded is not None
    assert bounded.long_side == 640 and bounded.agreements == free.agreements


@pytest.mark.parametrize(("certainty", "expected"), [(1.0, DEFAULT_LONG_SIDE), (0.01, UNSURE_LONG_SIDE)])
def test_of_a_noisy_clip_the_confidence_chooses(certainty: float, expected: int) -> None:
    model = SizedModel(800)
    largest = largest_side(model, IMAGE_SIZE, noisiness=1.0)
    assert largest == DEFAULT_LONG_SIDE, "what is fine went with the noise"
    with torch.no_grad():
        model.head.weight.mul_(certainty)
    choice = find_long_side(model, bands()[None], largest)
    assert choice is not None and choice.long_side == expected
    assert sorted(choice.agreements) == [UNSURE_LONG_SIDE, DEFAULT_LONG_SIDE] and len(model.widths) == 2
    model.fixed_input_size = (512, 512)
    assert find_long_side(model, bands()[None], largest) is None


def test_pixels_that_are_ignored_have_no_say_in_the_confidence() -> None:
    model = SizedModel(800)
    with torch.no_grad():
        model.head.weight.div_(20)
    image = bands()
    image[180:] = 128  # grey: no class is likelier there
    found = [
        find_long_side(model, image[None], DEFAULT_LONG_SIDE, region=Region(ignored))
        for ignored in (None, np.arange(360)[:, None] >= 180 + np.zeros(480, int))
    ]
    assert [choice and choice.long_side for choice in found] == [UNSURE_LONG_SIDE, DEFAULT_LONG_SIDE]


def test_the_model_is_as_it_was_and_few_frames_are_looked_at() -> None:
    model = SizedModel(640)
    before = copy.deepcopy(model.state_dict())
    find_long_side(model, np.stack([bands(shift=index) for index in range(10)]))
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert not model.training and not any(module.training for module in model.modules())
    assert len(model.widths) == SEARCH_FRAMES * len(LONG_SIDES)


def test_a_model_of_one_size_has_no_choice() -> None:
    model = SizedModel(640)
    model.fixed_input_size = (512, 512)
    assert len(compared_sides(model, IMAGE_SIZE)) == 1
    assert find_long_side(model, bands()[None]) is None
    assert largest_side(model, IMAGE_SIZE) is None


def test_the_largest_side_that_is_fast_enough() -> None:
    model = SizedModel(640)
    assert largest_side(model, IMAGE_SIZE, fast_enough=lambda size: size[0] * size[1] <= 600 * 450) == 560
    assert largest_side(model, IMAGE_SIZE) == max(LONG_SIDES)
    assert largest_side(model, IMAGE_SIZE, fast_enough=lambda _: False) is None


def test_an_adaptation_finds_its_size_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(input_size, "LONG_SIDES", (400, 480, 560))  # the rest takes long
    clip = np.stack([bands((90, 120), index) for index in range(2)])
    job = AdaptationJob(
        clip, (368, 480), ModelSource(), adaptation=AdaptationConfig(passes=1, self_training_steps=0), largest_side=560
    )
    result = run_job(job)
    assert result.report.succeeded, result.report.reason
    assert result.state is not None and result.report.long_side == result.state.long_side
    assert result.report.long_side in (480, 560)
    assert result.report.size_agreement is not None and 0.5 < result.report.size_agreement <= 1
    given = run_job(
        AdaptationJob(clip, (64, 96), ModelSource(), adaptation=AdaptationConfig(passes=1, self_training_steps=0))
    )
    assert given.state is not None and given.state.long_side is None
    assert (given.report.long_side, given.report.size_agreement) == (None, None)


def test_the_search_can_be_cancelled_and_needs_something_to_see() -> None:
    clip = np.stack([bands((90, 120))])
    job = AdaptationJob(clip, (368, 480), largest_side=640)
    assert run_job(job, cancelled=lambda: True).report.reason == "the adaptation was cancelled"
    blank = run_job(AdaptationJob(np.zeros_like(clip), (368, 480), largest_side=640)).report
    assert "expected warm-up frames that show something" in blank.reason and blank.long_side is None
