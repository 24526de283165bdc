"""One trial: its steps, its masks and its memory."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from small_evaluations import SETUP, Street

from ditta_core.evaluation.plan import EvaluationOptions, plan
from ditta_core.evaluation.trial import PeakMemory, decode_mask, encode_mask, run_trial
from ditta_core.segmentation.base import SegmentationModel


def test_steps_are_counted_beforehand(model: SegmentationModel) -> None:
    for whole in (False, True):
        options = EvaluationOptions(("source", "bn_blend"), SETUP, warmup_ratios=(10, 25), whole_video=whole)
        for row in plan(options, [Street()]):
            calls: list[None] = []
            trial = row.trials[0][0][0]
            run_trial(trial, model, lambda calls=calls: calls.append(None))  # type: ignore[misc]
            assert len(calls) == trial.steps


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
