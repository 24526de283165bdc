"""The plan of an evaluation: which trials make which row, and what is refused before hours of work."""

from __future__ import annotations

from dataclasses import replace

import pytest
from small_evaluations import SETUP, Street

from ditta_core.adaptation.config import LARGEST_SEED
from ditta_core.evaluation.plan import EvaluationOptions, check_sequences, plan
from ditta_core.segmentation.base import SegmentationModel
from ditta_core.segmentation.registry import load_model


def test_whole_videos_without_any_warm_up(model: SegmentationModel) -> None:
    options = EvaluationOptions(("source",), SETUP, warmup_ratios=(10, 25), whole_video=True)
    (row,) = plan(options, [Street()])
    assert row.warmup_ratio is None


@pytest.mark.parametrize(
    ("sequences", "message"),
    [
        ([], "expected videos with a name each"),
        ([Street(), Street()], "expected videos with a name each"),
        ([Street(frames=1)], "expected at least 2 frames in street, one of them to measure, but got 1"),
        ([Street(frames=17)], "more than 16 measured frames .* got at most 16 at a warm-up ratio of 10 %"),
    ],
)
def test_what_is_not_worth_running(model: SegmentationModel, sequences: list[Street], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check_sequences(EvaluationOptions(("source",), SETUP), list(sequences), model)


def test_a_short_video_without_the_long_window(model: SegmentationModel) -> None:
    check_sequences(EvaluationOptions(("source",), SETUP, windows=(8,)), [Street(frames=17)], model)
    check_sequences(EvaluationOptions(("source",), SETUP), [Street("short", frames=3), Street()], model)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"methods": ()}, "expected methods, each once"),
        ({"methods": ("source", "source")}, "expected methods, each once"),
        ({"warmup_ratios": (0,)}, "warm-up ratios of 1 to 99"),
        ({"repeats": 0}, "repeats and threads of at least 1"),
        ({"windows": (4,)}, "expected windows of"),
    ],
)
def test_options_that_make_no_sense(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        EvaluationOptions(**{"methods": ("source",), **changes})  # type: ignore[arg-type]


@pytest.mark.parametrize("given", [(96, 128), (128, 97)])
def test_the_size_that_the_model_takes_is_named(given: tuple[int, int]) -> None:
    model = load_model(SETUP.source)
    options = EvaluationOptions(("source",), replace(SETUP, input_size=given), windows=())
    model.fixed_input_size = (128, 96)
    with pytest.raises(ValueError, match=f"network input of 96x128 pixels.* but got {given[1]}x{given[0]}; leave"):
        check_sequences(options, [Street()], model)
    model.fixed_input_size = given
    check_sequences(options, [Street()], model)


@pytest.mark.parametrize(("seed", "repeats"), [(-1, 1), (LARGEST_SEED + 1, 1), (LARGEST_SEED - 1, 3)])
def test_seeds_of_all_repeats_are_in_range(seed: int, repeats: int) -> None:
    with pytest.raises(ValueError, match=f"expected seeds of 0 to {LARGEST_SEED}"):
        EvaluationOptions(("source",), replace(SETUP, seed=seed), repeats=repeats)
    EvaluationOptions(("source",), replace(SETUP, seed=LARGEST_SEED - 2), repeats=3)
