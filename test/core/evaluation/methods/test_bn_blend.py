from __future__ import annotations

import numpy as np
import pytest
import torch
from method_models import TinyModel, moving_frames
from torch.nn import BatchNorm2d

from ditta_core.evaluation.methods.base import MethodSetup
from ditta_core.evaluation.methods.bn_blend import BNBlend, BNBlendEMA
from ditta_core.evaluation.methods.ema_smoothing import EMASmoothing
from ditta_core.evaluation.methods.source import SourceMerged

FRAMES = moving_frames(24)


@pytest.mark.parametrize(("frames", "chosen"), [(3, [0, 1, 2]), (20, [0, 5, 10, 14, 19])])
def test_statistics_are_those_of_the_warmup_in_part(frames: int, chosen: list[int]) -> None:
    model = TinyModel()
    method = BNBlend(MethodSetup(long_side=0), model)
    report = method.prepare(FRAMES[:frames])
    assert report.succeeded and report.steps == 0
    pixels = torch.cat([model.preprocess(FRAMES[i].image[None], FRAMES[i].size, torch.device("cpu")) for i in chosen])
    values = model.backbone[0](pixels)
    before, after = model.backbone[1], method.stream.segmenter.model.backbone[1]  # type: ignore[index]
    assert isinstance(before, BatchNorm2d)
    assert before.running_mean is not None and before.running_var is not None
    torch.testing.assert_close(after.running_mean, 0.7 * before.running_mean + 0.3 * values.mean((0, 2, 3)))
    torch.testing.assert_close(after.running_var, 0.7 * before.running_var + 0.3 * values.var((0, 2, 3)))


def test_frames_are_on_their_own_or_averaged() -> None:
    model = TinyModel()
    single, averaged = BNBlend(MethodSetup(long_side=0), model), BNBlendEMA(MethodSetup(long_side=0), model)
    single.prepare(FRAMES[:3])
    averaged.prepare(FRAMES[:3])
    blended = single.stream.segmenter.model
    alone, smoothed = SourceMerged(MethodSetup(long_side=0), blended), EMASmoothing(MethodSetup(long_side=0), blended)
    for frame in FRAMES[3:6]:
        ours, expected = single.observe(frame), alone.observe(frame)
        np.testing.assert_array_equal(ours.class_ids, expected.class_ids)
        np.testing.assert_array_equal(ours.confidence, expected.confidence)
        np.testing.assert_array_equal(averaged.observe(frame).confidence, smoothed.observe(frame).confidence)


@pytest.mark.parametrize("normalisation", ["layer", "none"])
def test_model_without_batchnorm_has_nothing_to_blend(normalisation: str) -> None:
    model = TinyModel(normalisation)
    method = BNBlendEMA(MethodSetup(long_side=0), model)
    method.observe(FRAMES[0])
    report = method.prepare(FRAMES[:2])
    assert not report.succeeded and "BatchNorm" in report.reason and report.frames == 2
    unadapted = EMASmoothing(MethodSetup(long_side=0), model)
    for frame in FRAMES[2:4]:
        ours = method.observe(frame)
        assert ours.generation == 0
        np.testing.assert_array_equal(ours.confidence, unadapted.observe(frame).confidence)
