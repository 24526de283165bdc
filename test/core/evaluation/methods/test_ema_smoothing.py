from __future__ import annotations

import cv2
import numpy as np
import torch
from method_models import TinyModel, moving_frames
from numpy.typing import NDArray

from ditta_core.evaluation.methods.base import MethodSetup
from ditta_core.evaluation.methods.ema_smoothing import SMOOTHING, EMASmoothing
from ditta_core.types import UNLABELLED, Frame


def bilinear(maps: NDArray[np.float32], rows: NDArray[np.float64], columns: NDArray[np.float64]) -> NDArray[np.float64]:
    """Maps [C, h, w] at the places given, the border repeated beyond it."""
    height, width = maps.shape[1:]
    top, left = np.floor(rows).astype(int), np.floor(columns).astype(int)
    total = np.zeros((len(maps), *rows.shape))
    for down in (0, 1):
        for right in (0, 1):
            weight = np.abs(1 - down - (rows - top)) * np.abs(1 - right - (columns - left))
            total += weight * maps[:, (top + down).clip(0, height - 1), (left + right).clip(0, width - 1)]
    return total


def test_equals_a_plain_reimplementation() -> None:
    frames, model = moving_frames(5), TinyModel()
    method = EMASmoothing(MethodSetup(long_side=0), model)
    search = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    height, width = (side // 2 for side in frames[0].size)
    rows, columns = np.mgrid[:height, :width].astype(float)
    average: NDArray[np.float32] | None = None
    last: NDArray[np.uint8] | None = None
    gained = 0.0
    for frame in frames:
        logits = model.classify(
            model.decode(model.encode(model.preprocess(frame.image[None], frame.size, torch.device("cpu"))))
        )
        single = logits.softmax(1)[0].numpy()
        grey = cv2.cvtColor(cv2.resize(frame.image, (width, height), interpolation=cv2.INTER_AREA), cv2.COLOR_RGB2GRAY)
        expected = single
        if average is not None and last is not None:
            zeros = np.zeros((height, width, 2), np.float32)
            back, forth = search.calc(grey, last, zeros.copy()), search.calc(last, grey, zeros.copy())
            there = rows + back[..., 1], columns + back[..., 0]
            returned = bilinear(forth.transpose(2, 0, 1), *there).transpose(1, 2, 0)
            gap = ((back + returned) ** 2).sum(2)
            trusted = gap < 0.01 * ((back**2).sum(2) + (returned**2).sum(2)) + 0.5
            trusted &= (there[0] >= -0.5) & (there[0] <= height - 0.5)
            trusted &= (there[1] >= -0.5) & (there[1] <= width - 0.5)
            unexplained = np.pad(grey - np.rint(bilinear(last[None].astype(np.float32), *there)[0]), 1, "reflect")
            boxes = np.lib.stride_tricks.sliding_window_view(unexplained, (3, 3))
            residual = np.abs(boxes.mean((2, 3)))
            share = (
                SMOOTHING * trusted * trusted.mean() ** 2 * np.exp(-((residual / (6 * np.median(residual) + 1)) ** 2))
            )
            carried = bilinear(average, *there)
            share *= np.sqrt(single * carried).sum(0)
            expected = ((1 - share) * single + share * carried).astype(np.float32)
            gained += float(trusted.mean())
        average, last = expected, grey
        full = torch.nn.functional.interpolate(torch.from_numpy(expected)[None], frame.size, mode="bilinear")[0]
        ours = method.observe(frame)
        labels = np.array([0, 1, UNLABELLED])[full.argmax(0).numpy()]
        assert np.mean(ours.class_ids != labels) < 0.005
        difference = np.abs(ours.confidence / 255 - full.max(0).values.numpy())
        assert np.quantile(difference, 0.99) < 0.02 and difference.mean() < 0.005
    assert gained / 4 > 0.5


def test_wide_gap_starts_anew() -> None:
    frames, model = moving_frames(2), TinyModel()
    late = Frame(frames[1].image, frames[0].stamp + 2_100_000_000)
    method, alone = EMASmoothing(MethodSetup(long_side=0), model), EMASmoothing(MethodSetup(long_side=0), model)
    method.observe(frames[0])
    np.testing.assert_array_equal(method.observe(late).confidence, alone.observe(late).confidence)
    method.reset()
    method.observe(frames[0])
    assert (method.observe(frames[1]).confidence != alone.observe(late).confidence).any()
