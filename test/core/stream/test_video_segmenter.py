from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Iterable
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from stream_settings import stream_config

from ditta_core.adaptation.config import AdaptationConfig, warmup_length
from ditta_core.adaptation.job import AdaptationJob, AdaptationProgress, AdaptationResult
from ditta_core.adaptation.state import AdaptedState
from ditta_core.classes import ClassList
from ditta_core.domain.warmup_job import run_job
from ditta_core.inference.config import InferenceConfig
from ditta_core.inference.frame_segmenter import FrameSegmenter, segment_frame
from ditta_core.inference.reliability import blend_branches
from ditta_core.inference.temporal_branch import TemporalSegmenter
from ditta_core.segmentation.espnetv2 import ESPNetv2
from ditta_core.segmentation.registry import load_model
from ditta_core.segmentation.source import ModelSource
from ditta_core.stream.config import WarmupTrigger
from ditta_core.stream.runner import InlineRunner
from ditta_core.stream.status import FrameRejected
from ditta_core.stream.video_segmenter import VideoSegmenter
from ditta_core.types import AdaptationReport, Frame, State

SIZE = (48, 64)
QUICK = AdaptationConfig(self_training_steps=0, passes=1)
SECOND = 1_000_000_000


def image_at(index: int, size: tuple[int, int] = SIZE) -> NDArray[np.uint8]:
    """A smooth texture that moves one pixel to the left per frame."""
    noise = np.random.default_rng(5).integers(0, 256, (size[0], size[1] + 64, 3), dtype=np.uint8)
    return np.ascontiguousarray(cv2.GaussianBlur(noise, (0, 0), 2)[:, index % 64 : index % 64 + size[1]])


def frame_at(index: int, size: tuple[int, int] = SIZE, frame_id: str = "camera") -> Frame:
    return Frame(image_at(index, size), index * SECOND // 10, frame_id)


@pytest.fixture(autouse=True)
def one_thread(few_threads: None) -> None:
    """Two threads of tiny frames would wait for each other on a busy machine."""
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> ModelSource:
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("weights") / "random.pth"
    torch.save(ESPNetv2(ClassList.packaged("camvid11")).state_dict(), path)
    return ModelSource(f"espnetv2:{path}")


class ManualRunner:
    """Runs a job, by the real code, at the moment the test says so."""

    def __init__(self) -> None:
        self.jobs: list[AdaptationJob] = []
        self.news: deque[AdaptationProgress | AdaptationResult] = deque()
        self.cancelled = 0
        self.expected = 0

    def expect(self) -> None:
        self.expected += 1

    def submit(self, job: AdaptationJob) -> None:
        self.jobs.append(job)

    def poll(self) -> AdaptationProgress | AdaptationResult | None:
        return self.news.popleft() if self.news else None

    def cancel(self) -> None:
        self.news.clear()
        self.cancelled += 1

    def close(self) -> None:
        self.news.clear()

    def finish(self) -> None:
        self.news.append(run_job(self.jobs[-1]))


def segmenter(source: ModelSource, runner: ManualRunner | InlineRunner, **settings: object) -> VideoSegmenter:
    config = stream_config(**{"warmup_frames": 3, **settings})
    return VideoSegmenter(source, config, adaptation=QUICK, runner=runner)


@pytest.mark.parametrize(
    ("frames", "ratio", "length"), [(9, 10, 1), (19, 10, 1), (20, 10, 2), (71, 10, 7), (136, 10, 13), (101, 25, 25)]
)
def test_warmup_length(frames: int, ratio: int, length: int) -> None:
    assert warmup_length(frames, ratio) == length


def test_states_in_order_and_masks_throughout(source: ModelSource) -> None:
    runner, events = ManualRunner(), []
    config = stream_config(warmup_frames=3, restoration=False)
    stream = VideoSegmenter(source, config, adaptation=QUICK, runner=runner, notify=events.append)
    assert stream.status.state is State.BASE
    states, generations = [], []
    for index in range(8):
        if index == 6:
            runner.finish()
        segmentation = stream.push(frame_at(index))
        assert runner.expected == min(index + 1, 3), "while it is collected for"
        assert segmentation.class_ids.shape == segmentation.confidence.shape == SIZE
        assert segmentation.class_ids.dtype == np.uint8 and segmentation.class_ids.max() < 11
        states.append(stream.status.state)
        generations.append(segmentation.generation)
    assert states == [State.COLLECTING] * 2 + [State.ADAPTING] * 4 + [State.ADAPTED] * 2
    assert generations == [0] * 6 + [1] * 2
    np.testing.assert_array_equal(runner.jobs[0].clip, np.stack([image_at(index) for index in range(3)]))
    assert [message.split()[0] for message in events] == ["collecting", "adapting", "adapted"]
    report = stream.status.report
    assert report is not None and report.succeeded and report.steps == 3


def test_unadapted_unsmoothed_stream_is_frame_by_frame(source: ModelSource) -> None:
    stream = segmenter(source, ManualRunner(), warmup_on=WarmupTrigger.SERVICE, smoothing=0.0, exact=True)
    for index in range(3):
        ours = stream.push(frame_at(index))
        class_ids, confidence = segment_frame(stream.model, image_at(index), SIZE)
        np.testing.assert_array_equal(ours.class_ids, class_ids)
        assert np.abs(ours.confidence.astype(int) - confidence).max() <= 1
        assert ours.fused_share == 0 and set(ours.latency_ms) == {"preprocess", "encode", "decode", "fuse", "label"}


def test_adapted_stream_equals_the_published_pairwise_form(source: ModelSource) -> None:
    """Each frame with its predecessor, both encoded anew, blended at full size: what streaming must reproduce."""
    base = TemporalSegmenter(load_model(source))
    config = InferenceConfig.parity()
    stream = FrameSegmenter(base, config, temporal_branch=True)
    fused = []
    for index in range(4):
        ours = stream.segment(frame_at(index), SIZE, generation=1)
        fused.append(ours.fused_share)
        first = max(index - 1, 0)
        pixels = base.model.preprocess(
            np.stack([image_at(i) for i in range(first, index + 1)]), SIZE, torch.device("cpu")
        )
        with torch.no_grad():
            frame, temporal, _ = base.decode_clip(base.model.encode(pixels))
            probabilities = base.model.enlarge_logits(frame, SIZE).softmax(1)
            if temporal is not None:
                branch = base.model.enlarge_logits(temporal, SIZE).softmax(1)
                probabilities, _ = blend_branches(probabilities, branch, 0.8)
        assert np.mean(ours.class_ids != probabilities[0].argmax(0).numpy()) < 1e-3
    assert fused[0] == 0 < fused[1]


def test_smoothing_steadies_noise_on_a_moving_scene(city_weights: Path, camvid_clip: Path) -> None:
    sequence_images = [cv2.imread(str(path))[:, :, ::-1] for path in sorted((camvid_clip / "images").iterdir())[:4]]
    changes = {}
    for smoothing in (0.0, 0.9):
        random = np.random.default_rng(0)
        config = InferenceConfig(smoothing=smoothing)
        stream = FrameSegmenter(TemporalSegmenter(load_model(ModelSource(f"espnetv2:{city_weights}"))), config, False)
        previous, changed = None, 0.0
        for index in range(6):  # a standing camera: the same frame under fresh noise
            noisy = np.clip(sequence_images[0] + random.normal(0, 20, sequence_images[0].shape), 0, 255).astype(
                np.uint8
            )
            labels = stream.segment(Frame(noisy, index * SECOND // 10), (240, 320), 0).class_ids
            if previous is not None:
                changed += float(np.mean(labels != previous))
            previous = labels
        changes[smoothing] = changed
    assert changes[0.9] < 0.6 * changes[0.0]


@pytest.mark.parametrize("gap", [0.4, 0.6])
def test_wide_gap_skips_fusion(source: ModelSource, gap: float) -> None:
    stream = FrameSegmenter(TemporalSegmenter(load_model(source)), InferenceConfig(max_fusion_gap=0.5), True)
    stream.segment(Frame(image_at(0), 0), SIZE, 1)
    stream.segment(Frame(image_at(2), int(gap * SECOND)), SIZE, 1)
    alone = FrameSegmenter(stream.segmenter, stream.config, True)
    alone.segment(Frame(image_at(2), 0), SIZE, 1)
    assert stream.memory is not None and alone.memory is not None
    assert torch.equal(stream.memory.probabilities, alone.memory.probabilities) == (gap > 0.5)


@pytest.mark.parametrize("classes", ["[car, {far: [sky, tree]}]", ""])
def test_the_confidence_of_no_class_is_zero(source: ModelSource, classes: str) -> None:
    stream = VideoSegmenter(replace(source, classes=classes), stream_config(warmup_on=WarmupTrigger.SERVICE))
    ours = stream.push(frame_at(0))
    unlabelled = ours.class_ids == 255
    assert unlabelled.any() == bool(classes)
    assert not ours.confidence[unlabelled].any() and ours.confidence[~unlabelled].all()


# --- what goes wrong ---


def test_late_frame_is_rejected_and_the_stream_goes_on(source: ModelSource) -> None:
    stream = segmenter(source, ManualRunner())
    stream.push(frame_at(5))
    with pytest.raises(FrameRejected, match=r"0\.100 s older"):
        stream.push(frame_at(4))
    stream.push(frame_at(6))
    assert stream.status.collected == 2


def test_frames_of_one_stamp_all_get_a_mask(source: ModelSource) -> None:
    """Of a driver that does not stamp, or sends an image twice."""
    stream = segmenter(source, InlineRunner())
    for index in range(4):
        assert stream.push(Frame(image_at(index), 7)).class_ids.shape == SIZE
    assert stream.status.state is State.ADAPTED


def test_a_bag_shorter_than_the_adaptation_gets_adapted(source: ModelSource) -> None:
    runner = ManualRunner()
    stream = segmenter(source, runner)
    for turn in range(4):
        for index in range(20, 36, 3):
            confirmed = index > 23 or not turn
            with nullcontext() if confirmed else pytest.raises(FrameRejected, match="clock jumped back"):
                stream.push(frame_at(index))
    assert len(runner.jobs) == 1
    assert stream.status.state is State.ADAPTING and "jumped back" in stream.status.message
    runner.finish()
    assert stream.push(frame_at(36)).generation == 1


def test_failed_adaptation_keeps_the_model_and_can_be_asked_for_again(source: ModelSource) -> None:
    runner = ManualRunner()
    stream = segmenter(source, runner)
    for index in range(3):
        stream.push(frame_at(index))
    runner.news.append(AdaptationResult(None, AdaptationReport(False, "out of memory")))
    assert stream.push(frame_at(3)).generation == 0
    assert stream.status.state is State.FAILED and "out of memory" in stream.status.message
    stream.request_adaptation()
    for index in range(4, 7):
        stream.push(frame_at(index))
    runner.finish()
    stream.push(frame_at(7))
    assert stream.status.state is State.ADAPTED and stream.status.generation == 1


def test_state_of_another_model_is_a_failed_adaptation(source: ModelSource) -> None:
    runner = ManualRunner()
    stream = segmenter(source, runner)
    for index in range(3):
        stream.push(frame_at(index))
    foreign = AdaptedState({"model.bu_br_l4.1.weight": np.zeros(7, np.float32)}, True)
    runner.news.append(AdaptationResult(foreign, AdaptationReport(True, "adapted")))
    assert stream.push(frame_at(3)).generation == 0
    assert stream.status.state is State.FAILED and "another" in stream.status.message


def test_adapted_model_serves_until_the_next_one_is_there(source: ModelSource) -> None:
    runner = ManualRunner()
    stream = segmenter(source, runner)
    generations = []
    for index in range(10):
        if index in (3, 8):
            runner.finish()
        if index == 5:
            stream.request_adaptation()
        generations.append(stream.push(frame_at(index)).generation)
    assert generations == [0, 0, 0, 1, 1, 1, 1, 1, 2, 2]
    base = TemporalSegmenter(load_model(source))
    for name, value in stream._base.state_dict().items():
        assert torch.equal(value, base.state_dict()[name]), f"{name} of the base model was changed"


def test_reset_returns_to_the_base_model_and_stays_there(source: ModelSource) -> None:
    stream = segmenter(source, InlineRunner())
    for index in range(4):
        stream.push(frame_at(index))
    assert stream.status.generation == 1
    stream.reset()
    for index in range(4, 9):
        assert stream.push(frame_at(index)).generation == 0
    assert stream.status.state is State.BASE


def test_poll_takes_the_result_in_without_a_frame(source: ModelSource) -> None:
    runner = ManualRunner()
    stream = segmenter(source, runner)
    for index in range(3):
        stream.push(frame_at(index))
    runner.news.append(AdaptationProgress(0.5, (1.25,)))
    stream.poll()
    assert stream.status.progress == 0.5 and stream.status.losses == (1.25,)
    runner.finish()
    stream.poll()
    assert stream.status.state is State.ADAPTED


def test_requests_and_status_never_wait_for_a_frame(source: ModelSource) -> None:
    stream = segmenter(source, ManualRunner())
    stream.push(frame_at(0))
    with stream._lock:  # as while a frame is being segmented
        caller = threading.Thread(
            target=lambda: [stream.request_adaptation(), stream.reset(), stream.poll(), stream.status]
        )
        start = time.perf_counter()
        caller.start()
        caller.join(5)
        assert not caller.is_alive() and time.perf_counter() - start < 5


# --- which frames the warm-up takes ---


UNWATCHED = {"warmup_on": WarmupTrigger.STARTUP, "remembered_scenes": 0}
"""Settings under which the scene is not watched, which saves half of the time."""


def push_all(stream: VideoSegmenter, images: Iterable[NDArray[np.uint8]], start: int = 0) -> None:
    """Frames at 10 Hz."""
    for index, image in enumerate(images, start):
        stream.push(Frame(image, index * SECOND // 10, "camera"))


def test_a_standing_camera_spreads_its_warmup(source: ModelSource) -> None:
    runner = ManualRunner()
    stream = segmenter(source, runner, warmup_seconds=5.0, restoration=False, **UNWATCHED)
    views = [0, 0, 0, 4, 4, 8]
    push_all(stream, (image_at(view) for view in views))
    np.testing.assert_array_equal(runner.jobs[0].clip, np.stack([image_at(view) for view in (0, 4, 8)]))


def test_the_budget_ends_the_warmup_of_a_standing_camera(source: ModelSource) -> None:
    runner, events = ManualRunner(), []
    config = stream_config(warmup_frames=8, warmup_seconds=0.25, **UNWATCHED)
    stream = VideoSegmenter(source, config, adaptation=QUICK, runner=runner, notify=events.append)
    push_all(stream, [image_at(0)] * 8)
    assert [len(job.clip) for job in runner.jobs] == [6]
    assert events[-1] == "adapting to 6 frames of 8: the camera stood still"


def test_a_moving_camera_takes_the_first_frames(source: ModelSource) -> None:
    runner = ManualRunner()
    stream = segmenter(source, runner, warmup_seconds=5.0, restoration=False, **UNWATCHED)
    push_all(stream, (image_at(4 * index) for index in range(3)))
    np.testing.assert_array_equal(runner.jobs[0].clip, np.stack([image_at(4 * index) for index in range(3)]))


def test_a_reset_and_a_clock_that_jumps_start_the_clip_and_its_budget_over(source: ModelSource) -> None:
    runner = ManualRunner()
    stream = segmenter(source, runner, warmup_seconds=0.25, **UNWATCHED)
    push_all(stream, [image_at(0)] * 2, start=50)
    assert stream.status.collected == 1
    for index in (0, 1):
        with pytest.raises(FrameRejected, match="the clock jumped back"):
            stream.push(frame_at(index))
    push_all(stream, [image_at(0)] * 2, start=2)
    assert stream.status.collected == 1 and not runner.jobs
    stream.reset()
    push_all(stream, [image_at(0)], start=4)
    assert stream.status.state is State.BASE
    stream.request_adaptation()
    push_all(stream, [image_at(0)] * 2, start=5)
    assert stream.status.collected == 1 and not runner.jobs


def test_a_covered_lens_is_waited_out(source: ModelSource) -> None:
    runner, events = ManualRunner(), []
    stream = VideoSegmenter(
        source, stream_config(warmup_frames=2, **UNWATCHED), adaptation=QUICK, runner=runner, notify=events.append
    )
    push_all(stream, [0 * image_at(0), 0 * image_at(0), image_at(0), image_at(1)])
    np.testing.assert_array_equal(runner.jobs[0].clip, np.stack([image_at(0), image_at(1)]))
    assert "waiting for frames that show something" in events[1]


@pytest.mark.parametrize(
    "wrong",
    [
        {"warmup_frames": 0},
        {"warmup_seconds": -1.0},
        {"update_seconds": -1.0},
        {"smoothing": 1.5},
        {"reliability_threshold": -0.1},
    ],
)
def test_bad_settings(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="expected"):
        stream_config(**wrong)


def test_however_often_something_is_asked_for_it_is_done_once_and_the_last_word_counts(source: ModelSource) -> None:
    events: list[str] = []
    config = stream_config(warmup_frames=3, warmup_on=WarmupTrigger.SERVICE, restoration=False)
    stream = VideoSegmenter(source, config, adaptation=QUICK, runner=ManualRunner(), notify=events.append)
    for _ in range(1000):
        stream.request_adaptation()
    stream.push(frame_at(0))
    assert events == ["collecting 3 frames"]
    for _ in range(1000):
        stream.request_adaptation()
        stream.reset()
    stream.push(frame_at(1))
    assert stream.status.state is State.BASE
    assert len(events) == 3
    stream.reset()
    stream.request_adaptation()
    stream.push(frame_at(2))
    assert stream.status.state is State.COLLECTING


def test_requests_that_come_without_end_do_not_hold_up_a_frame(source: ModelSource) -> None:
    ended = threading.Event()
    stream = segmenter(source, ManualRunner(), warmup_on=WarmupTrigger.SERVICE)

    def flood() -> None:
        while not ended.is_set():
            stream.request_adaptation()

    flooding = threading.Thread(target=flood)
    flooding.start()
    try:
        for index in range(5):
            assert stream.push(frame_at(index)).generation == 0
    finally:
        ended.set()
        flooding.join()


def test_a_result_that_cannot_serve_ends_the_adaptation(source: ModelSource) -> None:
    runner = ManualRunner()
    stream = segmenter(source, runner)
    for index in range(3):
        stream.push(frame_at(index))
    assert stream.status.state is State.ADAPTING
    result = run_job(runner.jobs[-1])
    assert result.state is not None
    name, value = next(iter(result.state.tensors.items()))
    broken = replace(result.state, tensors={name: value.astype(object)})  # what torch raises on is no ValueError
    runner.news.append(replace(result, state=broken))
    assert stream.push(frame_at(3)).generation == 0
    assert stream.status.state is State.FAILED
    assert "TypeError" in stream.status.message
