"""A stream whose generation serves with its statistics while the network trains itself on: real jobs, told in parts."""

from __future__ import annotations

from collections import deque
from contextlib import suppress
from dataclasses import replace

import numpy as np
import pytest
import torch
from moving_scenes import moving_square
from stream_settings import stream_config

from ditta_core.adaptation.config import AdaptationConfig
from ditta_core.adaptation.job import AdaptationJob, AdaptationProgress, AdaptationResult, News
from ditta_core.domain.warmup import SMALLEST_LESSON
from ditta_core.domain.warmup_job import run_job
from ditta_core.inference.temporal_branch import TemporalSegmenter
from ditta_core.segmentation.registry import load_model
from ditta_core.segmentation.source import ModelSource
from ditta_core.stream.runner import InlineRunner
from ditta_core.stream.status import FrameRejected
from ditta_core.stream.video_segmenter import VideoSegmenter
from ditta_core.types import AdaptationReport, Frame, State

SIZE = (64, 96)
SETTINGS = AdaptationConfig(self_training_steps=2, guarded=False)
IMAGES = moving_square(24, SIZE).clip
SECOND = 1_000_000_000


@pytest.fixture(autouse=True)
def one_thread(few_threads: None) -> None:
    """Two threads of tiny frames would wait for each other on a busy machine."""
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def base() -> TemporalSegmenter:
    return TemporalSegmenter(load_model(ModelSource()))


class PartsRunner:
    """Runs a job at once, and tells of it as far as the test says."""

    def __init__(self) -> None:
        self.jobs: list[AdaptationJob] = []
        self.told: deque[News] = deque()
        self.ready: deque[News] = deque()

    def expect(self) -> None:
        pass

    def submit(self, job: AdaptationJob) -> None:
        self.jobs.append(job)
        news: list[News] = []
        news.append(run_job(job, news.append))
        self.told = deque(news)

    def tell(self, *kinds: type[News]) -> None:
        """Make news available, as many and of the kinds that the job told them in; all for none."""
        for kind in kinds or [type(each) for each in self.told]:
            while not isinstance(self.told[0], kind):
                self.told.popleft()
            self.ready.append(self.told.popleft())

    def poll(self) -> News | None:
        return self.ready.popleft() if self.ready else None

    def cancel(self) -> None:
        self.told.clear()
        self.ready.clear()

    close = cancel


class Stream:
    """A stream that is warmed up, and what it said."""

    def __init__(self, base: TemporalSegmenter, adaptation: AdaptationConfig = SETTINGS, **settings: object) -> None:
        self.events: list[str] = []
        self.runner = PartsRunner()
        config = stream_config(**{"warmup_frames": SMALLEST_LESSON, "restoration": False, **settings})
        self.segmenter = VideoSegmenter(
            "camvid", config, adaptation=adaptation, runner=self.runner, notify=self.events.append, base=base
        )
        self.index = 0
        self.push(SMALLEST_LESSON)

    def push(self, frames: int = 1) -> int:
        """Push frames; the generation of the last one."""
        for _ in range(frames):
            frame = Frame(IMAGES[self.index % len(IMAGES)], self.index * SECOND // 10, "camera")
            generation = self.segmenter.push(frame).generation
            self.index += 1
        return generation

    @property
    def now(self) -> tuple[State, int, float]:
        status = self.segmenter.status
        assert status.training == (self.segmenter._warmup is not None and status.state is State.ADAPTED)
        return status.state, status.generation, status.progress


def test_the_statistics_serve_first_and_then_what_was_trained(base: TemporalSegmenter) -> None:
    stream = Stream(base)
    assert stream.push() == 0
    stream.runner.tell(AdaptationResult)
    assert stream.push() == 1 and stream.now == (State.ADAPTED, 1, 0.0) and stream.segmenter.status.training
    message = stream.events[-1]
    assert message.startswith(f"adapted to {SMALLEST_LESSON} frames in ") and message.endswith("; the training goes on")
    first = stream.segmenter.generation
    assert first is not None and all("running" in name for name in first.state.tensors)
    stream.runner.tell(AdaptationProgress)  # of the labels
    assert stream.push() == 1 and stream.now == (State.ADAPTED, 1, 0.0)
    stream.runner.tell(AdaptationProgress)
    assert stream.push() == 1 and stream.now == (State.ADAPTED, 1, 0.5)
    stream.runner.tell(AdaptationResult)
    assert stream.push() == 2 and stream.now == (State.ADAPTED, 2, 1.0) and not stream.segmenter.status.training
    assert stream.events[-1].startswith(f"generation 1 trained to {SMALLEST_LESSON} frames in ")
    second = stream.segmenter.generation
    assert second is not None and len(second.state.tensors) > len(first.state.tensors)
    assert list(stream.segmenter._store) == [second], "the first is kept no longer"
    assert second.scene is first.scene
    assert stream.segmenter.status.report == second.report and second.report.steps == 2


def test_the_last_result_alone_is_enough(base: TemporalSegmenter) -> None:
    stream = Stream(base)
    stream.runner.tell()
    stream.runner.ready = deque([stream.runner.ready[-1]])
    assert stream.push() == 1 and stream.now == (State.ADAPTED, 1, 1.0)


def test_without_a_process_of_its_own_one_frame_sees_both(base: TemporalSegmenter) -> None:
    config = stream_config(warmup_frames=SMALLEST_LESSON, restoration=False)
    stream = VideoSegmenter("camvid", config, adaptation=SETTINGS, runner=InlineRunner(), base=base)
    for index in range(SMALLEST_LESSON + 1):
        stream.push(Frame(IMAGES[index], index * SECOND // 10, "camera"))
    assert stream.status.generation == 1 and stream.generation is not None
    assert stream.generation.report.steps == 2


def test_a_refused_training_leaves_what_serves(base: TemporalSegmenter, monkeypatch: pytest.MonkeyPatch) -> None:
    def breaks(*_: object, **__: object) -> None:
        raise MemoryError("no room")

    monkeypatch.setattr("ditta_core.domain.warmup_job.train_on_clip", breaks)
    stream = Stream(base)
    stream.runner.tell(AdaptationResult)
    assert stream.push() == 1
    serving = stream.segmenter._serving
    stream.runner.tell(AdaptationResult)
    assert stream.push() == 1 and stream.now == (State.ADAPTED, 1, 1.0)
    assert stream.segmenter._serving is serving, "with all of its memory"
    assert stream.events[-1].startswith("generation 1 serves on: the network was not trained: MemoryError: no room")
    kept = stream.segmenter.generation
    assert kept is not None and kept.report.refused and list(stream.segmenter._store) == [kept]


def test_a_worker_that_dies_leaves_what_serves(base: TemporalSegmenter) -> None:
    stream = Stream(base)
    stream.runner.tell(AdaptationResult)
    stream.push()
    stream.runner.ready.append(AdaptationResult(None, AdaptationReport(False, "the process was killed")))
    assert stream.push() == 1 and stream.now[:2] == (State.ADAPTED, 1)
    assert stream.events[-1] == "generation 1 serves on: the process was killed"
    report = stream.segmenter.status.report
    assert report is not None and report.succeeded and report.reason == "the process was killed"
    assert stream.push() == 1


def test_what_ends_the_training(base: TemporalSegmenter) -> None:
    for end, generation in (("request_adaptation", 1), ("reset", 0), ("pause", 1)):
        stream = Stream(base)
        stream.runner.tell(AdaptationResult)
        stream.push()
        getattr(stream.segmenter, end)(*([True] if end == "pause" else []))
        assert stream.push() == generation
        assert not stream.runner.told, f"{end}: it is cancelled"
        assert stream.segmenter.status.state is {"request_adaptation": State.COLLECTING, "reset": State.BASE}.get(
            end, State.ADAPTED
        )  # fmt: skip


def test_a_bag_that_starts_over_does_not_end_it(base: TemporalSegmenter) -> None:
    stream = Stream(base)
    stream.runner.tell(AdaptationResult)
    stream.push(12)
    for stream.index in range(6):
        with suppress(FrameRejected):  # the first ones may be stragglers
            stream.push()
    assert any("the adaptation goes on" in event for event in stream.events)
    assert stream.runner.told and stream.now[:2] == (State.ADAPTED, 1)
    stream.runner.tell()
    assert stream.push(6) == 2


def test_an_update_waits_for_all_of_the_training(base: TemporalSegmenter) -> None:
    stream = Stream(base, update_seconds=0.5)
    stream.runner.tell()
    stream.push(6)
    assert stream.now[:2] == (State.ADAPTED, 2)
    stream.push(6 + SMALLEST_LESSON)
    assert stream.now[0] is State.ADAPTING and len(stream.runner.jobs) == 2
    stream.runner.tell(AdaptationResult)
    assert stream.push() == 2, "the updated generation is better than statistics alone"
    stream.runner.tell()
    assert stream.push(6) == 3
    assert f"generation 2 updated to {SMALLEST_LESSON} frames" in stream.events[-1]


def test_no_update_begins_while_it_trains(base: TemporalSegmenter) -> None:
    stream = Stream(base, update_seconds=0.5)
    stream.runner.tell(AdaptationResult)
    stream.push(12)
    assert stream.now[:2] == (State.ADAPTED, 1) and len(stream.runner.jobs) == 1


def test_masks_are_those_of_the_weights(base: TemporalSegmenter) -> None:
    stream = Stream(base, smoothing=0.0, exact=True)
    stream.runner.tell()
    stream.push(6)
    generation = stream.segmenter.generation
    assert generation is not None
    model = generation.state.apply(base).model
    image = IMAGES[stream.index % len(IMAGES)]
    with torch.no_grad():
        logits = model(model.preprocess(image[None], SIZE, torch.device("cpu")))
        expected = torch.nn.functional.interpolate(logits, SIZE, mode="bilinear", align_corners=False)[0].argmax(0)
    ours = stream.segmenter.push(Frame(image, stream.index * SECOND // 10, "camera"))
    assert float(np.mean(ours.class_ids == expected.numpy())) > 0.99


def test_settings_that_train_nothing(base: TemporalSegmenter) -> None:
    stream = Stream(base, replace(SETTINGS, passes=0, self_training_steps=0))
    stream.runner.tell()
    assert stream.push() == 1 and stream.now == (State.ADAPTED, 1, 1.0)
    assert not stream.events[-1].endswith("goes on")
