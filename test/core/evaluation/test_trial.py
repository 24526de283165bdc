"""One trial: its steps, its masks and its memory."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from small_evaluations import SETUP, Street

from ditta_core.evaluation.methods.base import Method, MethodSetup
from ditta_core.evaluation.plan import EvaluationOptions, plan
from ditta_core.evaluation.trial import PeakMemory, decode_mask, encode_mask, run_trial
from ditta_core.segmentation.base import SegmentationModel
from ditta_core.types import Frame, Segmentation


def test_steps_are_counted_beforehand(model: SegmentationModel) -> None:
    for whole in (False, True):
        options = EvaluationOptions(("source", "bn_blend"), SETUP, warmup_ratios=(10, 25), whole_video=whole)
        for row in plan(options, [Street()]):
            calls: list[None] = []
            trial = row.trials[0][0][0]
            run_trial(trial, model, lambda calls=calls: calls.append(None))  # type: ignore[misc]
            assert len(calls) == trial.steps


class Watched(Method):
    """Writes down what is done with it."""

    uses_warmup = True

    def __init__(self, setup: MethodSetup, model: SegmentationModel, calls: list[tuple[str, int]]) -> None:
        super().__init__(setup, model)
        self.calls = calls

    def prepare(self, warmup: Sequence[Frame]) -> None:
        self.calls.append(("prepare", len(warmup)))

    def ready(self, frame: Frame) -> None:
        self.calls.append(("ready", frame.stamp))

    def observe(self, frame: Frame) -> Segmentation:
        self.calls.append(("observe", frame.stamp))
        return Segmentation(np.zeros(frame.size, np.uint8), np.zeros(frame.size, np.uint8), 0)

    def reset(self) -> None:
        """Nothing is kept."""


@pytest.mark.parametrize("whole", [False, True])
def test_a_method_is_made_ready_before_frames_are_timed(whole: bool, model: SegmentationModel) -> None:
    options = EvaluationOptions(("bn_blend",), SETUP, warmup_ratios=(50,), whole_video=whole)
    ((trial, _),) = plan(options, [Street()])[0].trials[0]
    calls: list[tuple[str, int]] = []
    run_trial(trial, model, build=lambda _, setup, model: Watched(setup, model, calls))
    stamps = [Street().frame(index).stamp for index in range(len(Street()))]
    half = len(stamps) // 2
    expected = [("ready", stamps[0]), *(("observe", stamp) for stamp in stamps[:half])] if whole else []
    expected += [("prepare", half), ("ready", stamps[half]), *(("observe", stamp) for stamp in stamps[half:])]
    assert calls == expected


class Mixed(Street):
    """A street whose last frames come from another camera."""

    def image(self, index: int) -> NDArray[np.uint8]:
        image = super().image(index)
        return image if index < len(self) - 2 else np.ascontiguousarray(image[::2, ::2])


@pytest.mark.parametrize("method", ["source", "ema_smoothing", "bn_blend"])
@pytest.mark.parametrize("warmup", [10, 90])
def test_frames_of_another_size_are_named(method: str, warmup: int, model: SegmentationModel) -> None:
    options = EvaluationOptions((method,), SETUP, warmup_ratios=(warmup,))
    ((trial, _),) = plan(options, [Mixed()])[0].trials[0]
    with pytest.raises(ValueError, match=r"expected frames of one size, but got .* in frame \d+ of .* and .* in frame"):
        run_trial(trial, model)


def test_masks_as_png() -> None:
    for dtype in (np.uint8, np.uint16):
        mask = np.random.default_rng(1).integers(0, np.iinfo(dtype).max, (5, 7)).astype(dtype)
        np.testing.assert_array_equal(decode_mask(encode_mask(mask)), mask)


def test_peak_memory() -> None:
    with PeakMemory(torch.device("cpu")) as small:
        pass
    with PeakMemory(torch.device("cpu")) as large:
        np.ones(200_000_000, np.uint8).sum()
    if small.megabytes is None or large.megabytes is None:
        pytest.skip("this system does not let a process measure its memory anew")
    assert 150 < large.megabytes - small.megabytes < 260
    with PeakMemory(torch.device("cpu")) as again:
        pass
    assert again.megabytes is not None and again.megabytes < large.megabytes - 150
