"""Trials: the protocol, what is kept of them, where they run."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from stream_settings import stream_config

from ditta_core.adaptation.config import AdaptationConfig
from ditta_core.classes import ClassList
from ditta_core.datasets.base import VideoSequence
from ditta_core.datasets.camvid import CamVidSequence
from ditta_core.evaluation.collect import FinishedEvaluation, collect, unfinished
from ditta_core.evaluation.corruptions import Corruption
from ditta_core.evaluation.measurement import EvaluationResult, Scores
from ditta_core.evaluation.methods.base import MethodSetup
from ditta_core.evaluation.plan import EvaluationOptions, check_sequences, plan
from ditta_core.evaluation.runners import run_here, run_on_ray
from ditta_core.evaluation.store import TrialStore
from ditta_core.evaluation.trial import PeakMemory, decode_mask, encode_mask, run_trial
from ditta_core.inference.frame_segmenter import segment_frame
from ditta_core.inference.temporal_branch import TemporalSegmenter
from ditta_core.segmentation.base import SegmentationModel
from ditta_core.segmentation.registry import load_model
from ditta_core.stream.config import WarmupTrigger
from ditta_core.stream.video_segmenter import VideoSegmenter

SETUP = MethodSetup(long_side=96)
THREADS = 1


@pytest.fixture(autouse=True)
def one_thread(few_threads: None) -> None:
    """The last digits depend on the number of threads: the same here as in the trials."""
    torch.set_num_threads(THREADS)


class Street(VideoSequence):
    """A drawn street, panned; can be pickled."""

    def __init__(self, name: str = "street", frames: int = 21, labelled: bool = True) -> None:
        self.name = name
        self.frame_rate = 10.0
        self.frames = frames
        self.labelled = labelled

    def __len__(self) -> int:
        return self.frames

    @property
    def classes(self) -> ClassList | None:
        return ClassList.packaged("camvid11") if self.labelled else None

    def image(self, index: int) -> NDArray[np.uint8]:
        colors = np.array(ClassList.packaged("camvid11").colors, np.uint8)
        noise = np.random.default_rng(index).integers(0, 9, (64, 96, 3), np.uint8)
        return (colors[self.scene(index)] // 2 + 40 + noise).astype(np.uint8)

    def labels(self, index: int) -> NDArray[np.uint8] | None:
        return self.scene(index) if self.labelled else None

    def scene(self, index: int) -> NDArray[np.uint8]:
        """Sky, buildings, a road, and cars that pass."""
        scene = np.zeros((64, 96), np.uint8)
        columns = (np.arange(96) + 2 * index) % 96
        scene[20:40] = np.where(columns < 60, 1, 5)
        scene[40:] = 3
        scene[38:50, columns < 20] = 8
        return scene


@pytest.fixture(scope="module")
def model() -> SegmentationModel:
    return load_model(SETUP.source)


def write_camvid(folder: Path, street: Street) -> CamVidSequence:
    """The street as a data set."""
    for part, read in (("images", street.image), ("labels", street.scene)):
        (folder / part).mkdir(parents=True)
        for index in range(len(street)):
            cv2.imwrite(str(folder / part / f"{index:03}.png"), read(index))
    return CamVidSequence(folder, street.frame_rate)


def evaluation(
    options: EvaluationOptions, sequences: Sequence[VideoSequence], model: SegmentationModel, folder: Path
) -> FinishedEvaluation:
    store = TrialStore(folder)
    planned = plan(options, sequences)
    for trial, record in run_here(unfinished(planned, store), model, THREADS):
        store.put(trial, record)
    return collect(options, planned, store, model, {})


def numbers(result: EvaluationResult) -> list[tuple[object, ...]]:
    """All that does not depend on the machine's mood."""
    return [
        (row.method, row.warmup_ratio, row.corruption, row.scores, row.confusion.tolist(), row.videos)
        for row in result.results
    ]


def test_warm_up_then_freeze(model: SegmentationModel, tmp_path: Path) -> None:
    """The rows against the engine and the frame-by-frame model, driven by hand."""
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

    engine = VideoSegmenter(
        SETUP.source,
        stream_config(warmup_frames=5, warmup_on=WarmupTrigger.STARTUP, long_side=96),
        adaptation=AdaptationConfig(seed=SETUP.seed),
        teacher=SETUP.teacher,
        base=TemporalSegmenter(model),
    )
    masks = [engine.push(street.frame(index)).class_ids for index in range(21)]
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


def test_whole_videos_without_any_warm_up(model: SegmentationModel) -> None:
    options = EvaluationOptions(("source",), SETUP, warmup_ratios=(10, 25), whole_video=True)
    (row,) = plan(options, [Street()])
    assert row.warmup_ratio is None


def test_an_interrupted_evaluation_loses_nothing(model: SegmentationModel, tmp_path: Path) -> None:
    options = EvaluationOptions(("source", "bn_blend"), SETUP, corruptions=(None, Corruption("noise", 3)))
    streets = [Street("a", 20), Street("b", 18)]
    whole = evaluation(options, streets, model, tmp_path / "whole")

    store = TrialStore(tmp_path / "interrupted")
    planned = plan(
        options,
        streets,
    )
    waiting = unfinished(planned, store)
    assert len(waiting) == 8 == len({trial.key for trial in waiting})
    for trial, record in run_here(waiting[:3], model, THREADS):
        store.put(trial, record)
    (store.folder / waiting[3].key / "masks").mkdir(parents=True)  # broken off while this one was written down
    again = TrialStore(store.folder)
    assert [trial.key for trial in unfinished(planned, again)] == [trial.key for trial in waiting[3:]]
    resumed = evaluation(options, streets, model, store.folder)
    assert numbers(resumed.result) == numbers(whole.result)
    again.remove()
    assert not store.folder.exists()


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


def test_the_same_on_ray(model: SegmentationModel, tmp_path: Path) -> None:
    pytest.importorskip("ray", reason="needs the extra ray")
    options = EvaluationOptions(("source", "bn_blend"), SETUP)
    # From files, as a worker has nothing else in common with this process.
    streets = [write_camvid(tmp_path / name, Street(name, frames)) for name, frames in (("a", 20), ("b", 18))]
    here = evaluation(options, streets, model, tmp_path / "here")
    store, planned = TrialStore(tmp_path / "ray"), plan(options, streets)
    for trial, record in run_on_ray(unfinished(planned, store), SETUP, THREADS, workers=2):
        store.put(trial, record)
    spread = collect(options, planned, store, model, {})
    assert numbers(spread.result) == numbers(here.result)


def test_without_labels(model: SegmentationModel, tmp_path: Path) -> None:
    (row,) = evaluation(EvaluationOptions(("source",), SETUP), [Street(labelled=False)], model, tmp_path).result.results
    assert row.scores.miou is None and row.scores.vc8 is None
    assert row.scores.consistency is not None and 0 < row.scores.consistency <= 100


def test_record_survives_the_store(model: SegmentationModel, tmp_path: Path) -> None:
    options = EvaluationOptions(("bn_blend",), SETUP)
    ((trial,),) = [[trial for trial, _ in row.trials[0]] for row in plan(options, [Street()])]
    record = run_trial(trial, model)
    store = TrialStore(tmp_path)
    store.put(trial, record)
    read = store.get(trial)
    assert json.loads((tmp_path / trial.key / "record.json").read_text())["report"]["succeeded"]
    assert (read.report, read.seconds, read.peak_memory_mb) == (record.report, record.seconds, record.peak_memory_mb)
    assert Scores.of(read.measurements) == Scores.of(record.measurements)
    np.testing.assert_array_equal(store.mask(trial, 20), decode_mask(record.masks[20]))


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
