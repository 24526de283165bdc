from __future__ import annotations

import contextlib
import hashlib
import json
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load, save
from sized_models import IMAGE_SIZE, SizedModel, bands

from ditta_core.adaptation.config import AdaptationConfig
from ditta_core.adaptation.job import AdaptationJob, AdaptationProgress, AdaptationResult
from ditta_core.adaptation.state import AdaptedState
from ditta_core.inference.compiled_network import RuntimeStatus
from ditta_core.inference.config import AUTO_LONG_SIDE, InferenceConfig
from ditta_core.inference.temporal_branch import TemporalSegmenter
from ditta_core.segmentation.source import ModelSource
from ditta_core.stream.config import StreamConfig, WarmupTrigger
from ditta_core.stream.generation_file import GenerationError, load_generation, save_generation
from ditta_core.stream.generations import Generation
from ditta_core.stream.network_input import FEWEST_FRAMES, LONGEST_WAIT, MARGIN, FrameTimes, StreamInputSize
from ditta_core.stream.status import FrameRejected
from ditta_core.stream.video_segmenter import VideoSegmenter
from ditta_core.teacher.config import TeacherConfig
from ditta_core.types import AdaptationReport, Frame, State

TORCH, COMPILING = RuntimeStatus("torch"), RuntimeStatus("torch", "openvino is being compiled", compiling=True)
COMPILED = RuntimeStatus("openvino")
BASE = "b" * 64
FILED = Generation(1, AdaptedState({"bias": np.zeros(3, np.float32)}, True), AdaptationReport(True, "adapted", 10))


@pytest.fixture(autouse=True)
def one_thread(few_threads: None) -> None:
    """Small maps on two threads wait for each other on a busy machine."""
    torch.set_num_threads(1)


class AnsweringRunner:
    """Answers every job at once with a state that changes nothing, of a size that was found where one was asked for."""

    def __init__(self, found: int) -> None:
        self.found = found
        self.jobs: list[AdaptationJob] = []
        self.result: AdaptationResult | None = None

    def expect(self) -> None:
        pass

    def submit(self, job: AdaptationJob) -> None:
        self.jobs.append(job)
        side = None if job.largest_side is None else min(self.found, job.largest_side)
        report = AdaptationReport(True, "adapted", len(job.clip), long_side=side, size_agreement=side and 0.9)
        self.result = AdaptationResult(AdaptedState({}, False, side), report)

    def poll(self) -> AdaptationProgress | AdaptationResult | None:
        result, self.result = self.result, None
        return result

    def cancel(self) -> None:
        self.result = None

    close = cancel


def stream_of(runner: AnsweringRunner, target_rate: float = 0.0, **settings: object) -> VideoSegmenter:
    config = StreamConfig(
        warmup_frames=2, warmup_on=WarmupTrigger.STARTUP, remembered_scenes=0, target_rate=target_rate
    )
    config = replace(config, **settings)  # type: ignore[arg-type]
    base = TemporalSegmenter(SizedModel(640))
    return VideoSegmenter(ModelSource(), config, adaptation=AdaptationConfig(), runner=runner, base=base)


def frames(count: int, first: int = 0, size: tuple[int, int] = IMAGE_SIZE) -> list[Frame]:
    return [Frame(bands(size, index), index * 100_000_000) for index in range(first, first + count)]


# --- times -----------------------------------------------------------------------------------------------------------


def test_time_grows_with_the_pixels() -> None:
    times = FrameTimes()
    for _ in range(FEWEST_FRAMES):
        assert times.seconds((480, 640)) is None
        times.add(0.05, (360, 480), TORCH)
    assert times.seconds((360, 480)) == pytest.approx(MARGIN * 0.05)
    assert times.seconds((480, 640)) == pytest.approx(MARGIN * 0.05 * 640 * 480 / (480 * 360))
    times.add(5.0, (360, 480), TORCH)  # one hiccup
    assert times.seconds((360, 480)) == pytest.approx(MARGIN * 0.05)


def test_the_times_of_another_runtime_do_not_count() -> None:
    times = FrameTimes()
    for _ in range(9):
        times.add(0.2, (360, 480), COMPILING)
    assert times.seconds((360, 480)) is None
    for _ in range(FEWEST_FRAMES):
        times.add(0.04, (360, 480), COMPILED)
    assert times.seconds((360, 480)) == pytest.approx(MARGIN * 0.04)


def test_no_estimate_is_waited_for_forever() -> None:
    sizes = StreamInputSize(SizedModel(640))
    answers = [sizes.waits(StreamConfig()) for _ in range(LONGEST_WAIT + 1)]
    assert answers == [True] * LONGEST_WAIT + [False]
    assert sizes.largest(IMAGE_SIZE, StreamConfig(), noisiness=0.0) is None
    assert not sizes.waits(StreamConfig(target_rate=0.0))
    assert sizes.largest(IMAGE_SIZE, StreamConfig(target_rate=0.0), noisiness=0.0) == 960


# --- settings --------------------------------------------------------------------------------------------------------


def generation(long_side: int | None) -> Generation:
    return Generation(1, AdaptedState({}, False, long_side), AdaptationReport(True, "adapted"))


@pytest.mark.parametrize(
    ("settings", "found", "expected"),
    [
        ({}, None, (368, 480)),
        ({}, 640, (480, 640)),
        ({"long_side": AUTO_LONG_SIDE}, 720, (544, 720)),
        ({"long_side": 320}, 640, (240, 320)),
        ({"long_side": 0}, 640, (368, 480)),
        ({"input_size": (96, 160)}, 640, (96, 160)),
    ],
)
def test_what_serves(settings: dict[str, int], found: int | None, expected: tuple[int, int]) -> None:
    sizes = StreamInputSize(SizedModel(640))
    config = StreamConfig(InferenceConfig(**settings))  # type: ignore[arg-type]
    assert sizes.serving(IMAGE_SIZE, config, generation(found)) == expected


def test_a_generation_serves_frames_of_another_shape() -> None:
    sizes = StreamInputSize(SizedModel(640))
    assert sizes.serving((720, 1280), StreamConfig(), generation(640)) == (368, 640)


def test_the_published_method_has_one_size() -> None:
    assert not InferenceConfig.parity().finds_input_size
    assert InferenceConfig.parity(long_side=320).long_side == 320
    with pytest.raises(ValueError, match=r"expected a longest side .*, but got -2"):
        InferenceConfig(long_side=-2)
    with pytest.raises(ValueError, match="expected target_rate in hertz"):
        StreamConfig(target_rate=-1.0)


# --- in files --------------------------------------------------------------------------------------------------------


def test_the_format_before_had_no_size_of_the_input(tmp_path: Path) -> None:
    """Its files serve at the size that the settings say."""
    file, report = tmp_path / "generation", asdict(FILED.report)
    for name in ("long_side", "size_agreement"):
        del report[name]
    save_generation(file, FILED, BASE)
    data = file.read_bytes()
    length = int.from_bytes(data[:8], "little")
    metadata = json.loads(data[8 : 8 + length])["__metadata__"]
    del metadata["long_side"]
    metadata |= {"format": "1", "report": json.dumps(report), "checksum": "0" * 64}
    unsigned = save(load(data), metadata)
    file.write_bytes(unsigned.replace(b"0" * 64, hashlib.sha256(unsigned).hexdigest().encode(), 1))
    loaded = load_generation(file, BASE)
    assert loaded.state.long_side is None and loaded.report == FILED.report


def test_the_size_of_the_input_comes_back(tmp_path: Path) -> None:
    found = replace(FILED, state=AdaptedState({"bias": np.zeros(3, np.float32)}, False, 640))
    save_generation(tmp_path / "generation", found, BASE)
    assert load_generation(tmp_path / "generation", BASE).state.long_side == 640


@pytest.mark.parametrize("side", [0, -1, True, "wide", 1_000_000])
def test_a_size_that_is_none_is_refused(tmp_path: Path, side: object) -> None:
    wrong = replace(FILED, state=AdaptedState({}, False, side))  # type: ignore[arg-type]
    save_generation(tmp_path / "generation", wrong, BASE)
    with pytest.raises(GenerationError, match="expected a longest side of 1 to 8192 pixels"):
        load_generation(tmp_path / "generation", BASE)


# --- in the stream ---------------------------------------------------------------------------------------------------


def test_the_size_changes_with_the_generation() -> None:
    runner = AnsweringRunner(640)
    stream = stream_of(runner)
    assert stream.status.input_size == (0, 0)
    sizes = []
    for frame in frames(4):
        stream.push(frame)
        sizes.append(stream.status.input_size)
    assert sizes == [(368, 480), (368, 480), (480, 640), (480, 640)]
    (job,) = runner.jobs
    assert (job.input_size, job.largest_side) == ((368, 480), 960)
    assert "at 640 pixels" in stream.status.message
    assert stream.status.report is not None and stream.status.report.long_side == 640
    stream.reset()
    stream.push(frames(1, 4)[0])
    assert stream.status.input_size == (368, 480)


def test_another_resolution_chooses_again() -> None:
    runner = AnsweringRunner(640)
    stream = stream_of(runner)
    for frame in frames(3):
        stream.push(frame)
    for frame in frames(4, 3, (240, 320)):
        with contextlib.suppress(FrameRejected):  # until three in a row have the other size
            stream.push(frame)
    assert [job.largest_side for job in runner.jobs] == [960, 960]
    assert runner.jobs[1].input_size == (368, 480)


def test_an_update_keeps_the_size_of_its_generation() -> None:
    runner = AnsweringRunner(720)
    stream = stream_of(runner, update_seconds=0.1)
    for frame in frames(12):
        stream.push(frame)
    assert [job.largest_side for job in runner.jobs[:2]] == [960, None]
    assert runner.jobs[1].input_size == (544, 720)
    assert stream.generation is not None and stream.generation.state.long_side == 720
    assert stream.status.state in (State.ADAPTED, State.COLLECTING)


def test_a_given_size_is_left_alone() -> None:
    runner = AnsweringRunner(640)
    stream = stream_of(runner, inference=InferenceConfig(long_side=320))
    for frame in frames(4):
        stream.push(frame)
    assert [job.largest_side for job in runner.jobs] == [None]
    assert stream.status.input_size == (240, 320)


def test_the_rate_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two frames fill the clip, and a third one is needed to know the rate; the clip stays the first two."""
    runner = AnsweringRunner(960)
    stream = stream_of(runner, target_rate=1e-3)
    given = frames(5)
    for frame in given[:2]:
        stream.push(frame)
    assert not runner.jobs and stream.status.state is State.COLLECTING
    stream.push(given[2])
    (job,) = runner.jobs
    np.testing.assert_array_equal(job.clip, np.stack([frame.image for frame in given[:2]]))
    assert job.largest_side == 960, "a frame in a thousand seconds leaves time for any"
    hasty = AnsweringRunner(960)
    stream = stream_of(hasty, target_rate=1e6)
    for frame in given:
        stream.push(frame)
    assert [job.largest_side for job in hasty.jobs] == [None]
    assert stream.status.input_size == (368, 480), "no rate takes less than the default"


def test_nothing_is_carried_across_a_change_of_size() -> None:
    """With smoothing, the first frame at another size is what it is by itself."""
    given = frames(3)
    moving, alone = (stream_of(AnsweringRunner(640), inference=InferenceConfig(long_side=480)) for _ in range(2))
    for stream, first in ((moving, given[:2]), (alone, [])):
        for frame in first:
            stream.push(frame)
        config = replace(stream.config, inference=InferenceConfig(long_side=640))
        stream.reconfigure(config, AdaptationConfig(), TeacherConfig())
    np.testing.assert_array_equal(moving.push(given[2]).confidence, alone.push(given[2]).confidence)
