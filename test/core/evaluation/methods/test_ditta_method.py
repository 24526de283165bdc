from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from method_models import frame_of, moving_frames
from stream_settings import stream_config

from ditta_core.adaptation import guard
from ditta_core.adaptation.config import AdaptationConfig
from ditta_core.datasets.camvid import CamVidSequence
from ditta_core.evaluation.methods.base import MethodSetup
from ditta_core.evaluation.methods.ditta import (
    DiTTA,
    DiTTANoContrastive,
    DiTTANoDistillation,
    DiTTANoFusion,
    DiTTAParity,
    DiTTATemporalBranch,
)
from ditta_core.evaluation.methods.source import SourceMerged
from ditta_core.inference.restoration import ImageRestorer
from ditta_core.inference.temporal_branch import TemporalSegmenter
from ditta_core.segmentation.registry import load_model
from ditta_core.segmentation.source import ModelSource
from ditta_core.stream.config import StreamConfig
from ditta_core.stream.video_segmenter import VideoSegmenter
from ditta_core.teacher.config import TeacherConfig
from ditta_core.types import Frame, State

WARMUP = 3
FRAMES = moving_frames(7)
SOURCE = ModelSource()


VARIANTS = pytest.mark.parametrize(
    ("method", "engine", "adaptation"),
    [
        (DiTTA, stream_config(warmup_frames=WARMUP), AdaptationConfig()),
        (
            DiTTAParity,
            stream_config(
                warmup_frames=WARMUP, reliability_threshold=0.8, smoothing=0.0, restoration=False, exact=True
            ),
            AdaptationConfig.parity(),
        ),
        (
            DiTTATemporalBranch,
            stream_config(warmup_frames=WARMUP, reliability_threshold=0.8),
            AdaptationConfig(temporal_branch=True),
        ),
        (DiTTANoFusion, stream_config(warmup_frames=WARMUP, smoothing=0.0), AdaptationConfig()),
        (DiTTANoContrastive, stream_config(warmup_frames=WARMUP), AdaptationConfig(contrastive=False)),
        (DiTTANoDistillation, stream_config(warmup_frames=WARMUP), AdaptationConfig(passes=0, self_training_steps=0)),
    ],
)


@pytest.fixture(autouse=True)
def trained_though_unsure(monkeypatch: pytest.MonkeyPatch) -> None:
    """At these sizes the model is unsure of everything, so that nothing would be trained."""
    monkeypatch.setattr(guard, "LARGEST_SHARPENING", 1.0)


@VARIANTS
def test_masks_equal_those_of_the_stream(
    method: type[DiTTA], engine: StreamConfig, adaptation: AdaptationConfig
) -> None:
    compare_with_the_stream(method, engine, adaptation, "flow", FRAMES)


@pytest.mark.slow
@VARIANTS
def test_masks_equal_those_of_the_stream_with_tracked_objects(
    method: type[DiTTA], engine: StreamConfig, adaptation: AdaptationConfig, camvid_clip: Path
) -> None:
    sequence = CamVidSequence(camvid_clip)
    small = [cv2.resize(sequence.image(index), (160, 112), interpolation=cv2.INTER_AREA) for index in range(5)]
    frames = [frame_of(np.asarray(image, np.uint8), index) for index, image in enumerate(small)]
    compare_with_the_stream(method, engine, adaptation, "object_vote:flow", frames)


def compare_with_the_stream(
    method: type[DiTTA], engine: StreamConfig, adaptation: AdaptationConfig, teacher: str, frames: list[Frame]
) -> None:
    model = load_model(SOURCE)
    stream = VideoSegmenter(
        SOURCE, engine, adaptation=adaptation, teacher=TeacherConfig(teacher), base=TemporalSegmenter(model)
    )
    ours = method(MethodSetup(SOURCE, TeacherConfig(teacher), long_side=0), model)
    for frame in frames[:WARMUP]:
        theirs = stream.push(frame)
        np.testing.assert_array_equal(ours.observe(frame).confidence, theirs.confidence)
    report = ours.prepare(frames[:WARMUP])
    assert stream.status.report is not None and stream.status.state is State.ADAPTED
    assert report.succeeded and report.losses == stream.status.report.losses
    assert (report.objects > 0) == (teacher != "flow" and adaptation.passes > 0)
    if method is DiTTAParity:
        stream.push(frames[WARMUP - 1])  # as published, the last warm-up frame is the first one's predecessor
    fused = 0.0
    for frame in frames[WARMUP:]:
        mask, theirs = ours.observe(frame), stream.push(frame)
        np.testing.assert_array_equal(mask.class_ids, theirs.class_ids)
        np.testing.assert_array_equal(mask.confidence, theirs.confidence)
        assert mask.generation == theirs.generation == 1
        fused += mask.fused_share
    assert (fused > 0) == (method in (DiTTAParity, DiTTATemporalBranch))


def test_failed_adaptation_leaves_the_unadapted_model() -> None:
    model = load_model(SOURCE)
    method = DiTTANoFusion(MethodSetup(ModelSource("espnetv2:/nowhere.pth"), long_side=0), model)
    method.observe(FRAMES[0])
    report = method.prepare(FRAMES[:2])
    assert not report.succeeded and "/nowhere.pth" in report.reason
    ours = method.observe(FRAMES[2])
    assert ours.generation == 0
    restorer = ImageRestorer()
    restored = [restorer(frame) for frame in FRAMES[:3]]
    alone = SourceMerged(MethodSetup(long_side=0), model).observe(restored[2])
    assert np.mean(ours.class_ids != alone.class_ids) < 0.02


def test_network_input_is_that_of_the_setup() -> None:
    model = load_model(SOURCE)
    sizes = [(32, 48), (64, 96)]
    masks = []
    for size in sizes:
        method = DiTTA(MethodSetup(SOURCE, input_size=size), model)
        assert method.prepare(FRAMES[:2]).succeeded
        masks.append(method.observe(FRAMES[2]).confidence)
    assert (masks[0] != masks[1]).any()
