"""The stream: fused and smoothed against frame by frame, and live adaptation against the published one."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import cv2
import numpy as np
import pytest

from ditta_core.adaptation import AdaptationConfig, AdaptationJob, run_job
from ditta_core.engine_config import EngineConfig
from ditta_core.frame_segmenter import FrameSegmenter, segment_frame
from ditta_core.fusion import TemporalSegmenter
from ditta_core.segmentation.registry import ModelSource, load_model
from ditta_core.teacher import TeacherConfig
from ditta_core.types import Frame

SIZE = (368, 480)


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    """Ten frames of a texture that moves two pixels a frame."""
    noise = np.random.default_rng(0).integers(0, 256, (SIZE[0], SIZE[1] + 20, 3), dtype=np.uint8)
    texture = cv2.GaussianBlur(noise, (0, 0), 4)
    return np.stack([texture[:, 2 * index : 2 * index + SIZE[1]] for index in range(10)])


def test_fused_stream_against_frame_by_frame(compare: Any, images: np.ndarray) -> None:
    """What temporal branch and smoothing cost: the ratio is below 1, and should stay near it."""
    model = load_model(ModelSource())
    stream = FrameSegmenter(TemporalSegmenter(model), EngineConfig(), temporal_branch=True)
    stamps = iter(range(1000))

    def next_frame() -> None:
        stamp = next(stamps)
        stream.segment(Frame(images[stamp % 10], stamp * 50_000_000), SIZE, 1)

    compare(next_frame, lambda: segment_frame(model, images[0], SIZE), rounds=30)


def test_live_adaptation_against_parity(compare: Any, images: np.ndarray) -> None:
    """The same clip, teacher and passes: features once and losses at the logits' size, against parity."""
    live = AdaptationJob(images[:4], SIZE, ModelSource(), TeacherConfig("flow"), AdaptationConfig(passes=2))
    parity = replace(live, adaptation=AdaptationConfig.parity(passes=2))

    def adapted(job: AdaptationJob) -> None:
        report = run_job(job).report
        assert report.succeeded, report.reason

    compare(lambda: adapted(live), lambda: adapted(parity), rounds=3)
