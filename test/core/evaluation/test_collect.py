"""From trials to rows: the protocol, against the stream and the frame-by-frame model."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
from small_evaluations import SETUP, Street, evaluation
from stream_settings import stream_config

from ditta_core.adaptation.config import AdaptationConfig
from ditta_core.evaluation.corruptions import Corruption
from ditta_core.evaluation.plan import EvaluationOptions
from ditta_core.inference.frame_segmenter import segment_frame
from ditta_core.inference.temporal_branch import TemporalSegmenter
from ditta_core.segmentation.base import SegmentationModel
from ditta_core.stream.config import WarmupTrigger
from ditta_core.stream.video_segmenter import VideoSegmenter


def test_warm_up_then_freeze(model: SegmentationModel, tmp_path: Path) -> None:
    """The rows against the stream and the frame-by-frame model, driven by hand."""
    street = Street()
    options = EvaluationOptions(("source_merged", "ditta"), SETUP, warmup_ratios=(10, 25))
    finished = evaluation(options, [street], model, tmp_path)
    rows = {(row.method, row.warmup_ratio): row for row in finished.result.results}
    assert [row.videos[0].first for row in finished.result.results] == [2, 2, 5, 5]
    assert [row.frames for row in finished.result.results] == [19, 19, 16, 16]

    size = model.input_size((64, 96), 96)
    for index in (2, 20):
        alone, _ = segment_frame(model, street.image(index), size)
        shown = finished.mask(rows["source_merged", 10], "street", index)
        np.testing.assert_array_equal(shown, alone)

    stream = VideoSegmenter(
        SETUP.source,
        stream_config(warmup_frames=5, warmup_on=WarmupTrigger.STARTUP, long_side=96),
        adaptation=AdaptationConfig(seed=SETUP.seed),
        teacher=SETUP.teacher,
        base=TemporalSegmenter(model),
    )
    masks = [stream.push(street.frame(index)).class_ids for index in range(21)]
    for index in range(5, 21):
        np.testing.assert_array_equal(finished.mask(rows["ditta", 25], "street", index), masks[index])
    assert finished.mask(rows["ditta", 25], "street", 4) is None
    adapted = rows["ditta", 25]
    assert adapted.adaptation_seconds is not None and adapted.adaptation_seconds > 0
    assert rows["source_merged", 25].adaptation_seconds is None
    assert adapted.failed_adaptations == 0


def test_the_whole_video(model: SegmentationModel, tmp_path: Path) -> None:
    options = EvaluationOptions(("source_merged", "bn_blend"), SETUP, warmup_ratios=(10, 25), whole_video=True)
    finished = evaluation(options, [Street()], model, tmp_path / "whole")
    assert [(row.method, row.warmup_ratio, row.protocol, row.frames) for row in finished.result.results] == [
        ("source_merged", 10, "whole", 21),
        ("bn_blend", 10, "whole", 21),
        ("source_merged", 25, "whole", 21),
        ("bn_blend", 25, "whole", 21),
    ]
    assert len({trial.key for row in finished.planned for trial, _ in row.trials[0]}) == 3
    source, blended = finished.result.results[2:]
    for index in range(5):
        np.testing.assert_array_equal(
            finished.mask(blended, "street", index),
            finished.mask(source, "street", index),
            "the unadapted model serves",
        )
    alone = evaluation(replace(options, whole_video=False), [Street()], model, tmp_path / "w2f")
    rest = next(row for row in alone.result.results if row.method == "bn_blend" and row.warmup_ratio == 25)
    np.testing.assert_array_equal(alone.mask(rest, "street", 20), finished.mask(blended, "street", 20))


def test_videos_are_pooled(model: SegmentationModel, tmp_path: Path) -> None:
    options = EvaluationOptions(("source",), SETUP)
    both = evaluation(options, [Street("a", 20), Street("b", 18)], model, tmp_path / "both").result.results[0]
    alone = [
        evaluation(options, [street], model, tmp_path / street.name).result.results[0]
        for street in (Street("a", 20), Street("b", 18))
    ]
    assert both.frames == 18 + 17
    assert both.confusion.tolist() == (alone[0].confusion + alone[1].confusion).tolist()
    assert [video.scores for video in both.videos] == [row.videos[0].scores for row in alone]


def test_repeats_have_seeds_of_their_own(model: SegmentationModel, tmp_path: Path) -> None:
    options = EvaluationOptions(("source",), SETUP, corruptions=(Corruption("noise", 5),), repeats=3)
    (row,) = evaluation(options, [Street()], model, tmp_path).result.results
    assert row.spread is not None and row.spread.consistency is not None and row.spread.consistency > 0
    again = evaluation(options, [Street()], model, tmp_path / "again").result.results[0]
    assert again.scores == row.scores


def test_without_labels(model: SegmentationModel, tmp_path: Path) -> None:
    (row,) = evaluation(EvaluationOptions(("source",), SETUP), [Street(labelled=False)], model, tmp_path).result.results
    assert row.scores.miou is None and row.scores.vc8 is None
    assert row.scores.consistency is not None and 0 < row.scores.consistency <= 100
