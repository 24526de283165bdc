"""The stream through changes of scene: real describer and monitor, real adaptations, frames at 10 Hz."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from stream_settings import stream_config

from ditta_core.adaptation.config import AdaptationConfig
from ditta_core.adaptation.job import AdaptationJob
from ditta_core.domain.warmup_job import run_job
from ditta_core.inference.temporal_branch import TemporalSegmenter
from ditta_core.segmentation.registry import load_model
from ditta_core.segmentation.source import ModelSource
from ditta_core.stream.config import UPDATE_SHARE, WarmupTrigger
from ditta_core.stream.generation_file import load_generation, model_fingerprint, save_generation
from ditta_core.stream.generations import Generation
from ditta_core.stream.runner import InlineRunner
from ditta_core.stream.scene.config import SceneConfig
from ditta_core.stream.scene.monitor import SceneObservation
from ditta_core.stream.status import FrameRejected
from ditta_core.stream.video_segmenter import VideoSegmenter
from ditta_core.stream.warmup_clip import MAX_RESTARTS
from ditta_core.teacher.config import TeacherConfig
from ditta_core.types import Frame, State

SIZE = (96, 128)
# At this size the packaged model is unsure of everything, so that with the guard nothing would be trained.
QUICK = AdaptationConfig(self_training_steps=0, passes=1, guarded=False)
SCENE = SceneConfig(confirmation=0.5, cooldown=1.0)
SECOND = 1_000_000_000


def meadow(index: int) -> NDArray[np.uint8]:
    """Smooth colours that move one pixel to the left per frame."""
    noise = np.random.default_rng(5).integers(0, 256, (SIZE[0], SIZE[1] + 64, 3), dtype=np.uint8)
    return np.ascontiguousarray(cv2.GaussianBlur(noise, (0, 0), 2)[:, index % 64 : index % 64 + SIZE[1]])


def blocks(index: int) -> NDArray[np.uint8]:
    """Bright blocks that move likewise: 0.7 from the meadow, where a place seen again is 0.12 from itself."""
    noise = np.random.default_rng(6).integers(0, 256, (SIZE[0] // 16, (SIZE[1] + 64) // 16, 3), dtype=np.uint8)
    scene = cv2.resize(noise, (SIZE[1] + 64, SIZE[0]), interpolation=cv2.INTER_NEAREST)
    return np.ascontiguousarray(255 - scene[:, index % 64 : index % 64 + SIZE[1]] // 3)


PLACES = {"meadow": meadow, "blocks": blocks}


@pytest.fixture(scope="module")
def base() -> TemporalSegmenter:
    """The packaged model."""
    return TemporalSegmenter(load_model(ModelSource("camvid")))


class RecordingRunner(InlineRunner):
    """Remembers the jobs, and how often one was expected."""

    def __init__(self, jobs: list[AdaptationJob]) -> None:
        super().__init__()
        self.jobs = jobs
        self.expected = 0

    def expect(self) -> None:
        self.expected += 1

    def submit(self, job: AdaptationJob) -> None:
        self.jobs.append(job)
        super().submit(job)


class Drive:
    """A stream, the frames that were pushed, and what the segmenter said."""

    def __init__(self, base: TemporalSegmenter, generations: Iterable[Generation] = (), **settings: object) -> None:
        config = stream_config(**{"warmup_frames": 5, "scene": SCENE, **settings})
        self.events: list[str] = []
        self.jobs: list[AdaptationJob] = []
        self.states: list[tuple[str, int]] = []
        self.runner = RecordingRunner(self.jobs)
        self.segmenter = VideoSegmenter(
            "camvid",
            config,
            adaptation=QUICK,
            runner=self.runner,
            notify=self.note,
            base=base,
            generations=generations,
        )
        self.index = 0

    def note(self, message: str) -> None:
        self.events.append(message)
        status = self.segmenter.status
        self.states.append((status.state.value, status.generation))

    def through(self, place: str, frames: int = 30) -> None:
        """Push frames of a place; every one gets a mask."""
        for _ in range(frames):
            segmentation = self.segmenter.push(self.frame(place))
            assert segmentation.class_ids.shape == SIZE
            self.index += 1

    def loop(self, place: str) -> None:
        """Go back to the first frame: two are rejected, until the third one shows that the clock jumped indeed."""
        for self.index in (0, 1):
            with pytest.raises(FrameRejected, match="the clock jumped back"):
                self.segmenter.push(self.frame(place))
        self.index += 1

    def frame(self, place: str) -> Frame:
        """The next frame."""
        return Frame(PLACES[place](self.index), self.index * SECOND // 10)


@pytest.fixture(autouse=True)
def few_threads() -> None:
    """One: hundreds of tiny frames, for which threads would wait more than work on a busy machine."""
    torch.set_num_threads(1)


LEARNED = ["COLLECTING", "ADAPTING", "ADAPTED"]


def test_another_scene_is_learned_and_the_first_one_restored(base: TemporalSegmenter) -> None:
    drive = Drive(base)
    for place in ("meadow", "blocks"):
        drive.through(place)
    expected = drive.runner.expected
    assert expected >= 2
    for place in ("meadow", "blocks"):
        drive.through(place)
    assert drive.runner.expected == expected, "no process is started for what is known"
    names = [state for state, _ in drive.states]
    assert names == [*LEARNED, "BASE", *LEARNED, "BASE", "COLLECTING", "ADAPTED", "BASE", "COLLECTING", "ADAPTED"]
    assert [generation for state, generation in drive.states if state == "ADAPTED"] == [1, 2, 1, 2]
    assert sum("the scene changed: the view jumped to another place" in event for event in drive.events) == 3
    assert sum("back in a scene seen before" in event for event in drive.events) == 2
    assert drive.segmenter.status.remembered == 2


def test_a_model_that_has_become_unsure_of_its_place_is_not_restored_there(
    base: TemporalSegmenter, monkeypatch: pytest.MonkeyPatch
) -> None:
    drive = Drive(base)
    drive.through("meadow", 10)
    unsure = SceneObservation(False, "the model has become unsure of what it sees", same_place=True)
    with monkeypatch.context() as at_once:  # what takes the monitor some seconds
        at_once.setattr(drive.segmenter._monitor, "observe", lambda *_: unsure)
        drive.through("meadow", 1)
    drive.through("meadow", 10)
    assert [state for state, _ in drive.states] == [*LEARNED, "BASE", *LEARNED]
    assert [generation for state, generation in drive.states if state == "ADAPTED"] == [1, 2]
    assert drive.segmenter.status.remembered == 1, "the new one replaces the one that failed here"


@pytest.mark.slow
def test_nothing_is_restored_where_nothing_is_kept(base: TemporalSegmenter) -> None:
    drive = Drive(base, remembered_scenes=0)
    for place in ("meadow", "blocks", "meadow"):
        drive.through(place)
    assert [generation for state, generation in drive.states if state == "ADAPTED"] == [1, 2, 3]


def test_a_change_begins_nothing_unless_asked_for(base: TemporalSegmenter) -> None:
    drive = Drive(base, warmup_on=WarmupTrigger.STARTUP)
    drive.through("meadow")
    drive.through("blocks")
    assert [state for state, _ in drive.states] == LEARNED


@pytest.mark.slow
def test_a_looped_bag_comes_back_to_what_it_learned(base: TemporalSegmenter) -> None:
    drive = Drive(base)
    drive.through("meadow", 25)
    for _ in range(2):
        drive.loop("meadow")
        drive.through("meadow", 23)
    names = [state for state, _ in drive.states]
    assert names == [*LEARNED, *["BASE", "COLLECTING", "ADAPTED"] * 2]
    assert drive.segmenter.status.generation == 1
    assert sum("clock jumped back" in event for event in drive.events) == 2


def test_asked_for_the_same_place_is_learned_anew_and_kept_once(base: TemporalSegmenter) -> None:
    drive = Drive(base)
    drive.through("meadow", 10)
    drive.segmenter.request_adaptation()
    drive.through("meadow", 10)
    assert drive.segmenter.status.state is State.ADAPTED
    assert drive.segmenter.status.generation == 2
    assert [generation.number for generation in drive.segmenter._store] == [2]


def test_a_generation_is_updated_when_it_is_old_enough(base: TemporalSegmenter) -> None:
    drive = Drive(base, update_seconds=1.0, restoration=False)
    drive.through("meadow", 5)
    first = drive.segmenter.generation
    drive.through("meadow", 15)
    second = drive.segmenter.generation
    assert first is not None and second is not None
    assert [generation.number for generation in drive.segmenter._store] == [second.number] == [2]
    np.testing.assert_array_equal(drive.jobs[1].clip, np.stack([meadow(index) for index in range(13, 18)]))
    alone = run_job(drive.jobs[1]).state
    assert alone is not None
    expected = first.state.towards(alone, UPDATE_SHARE, base)
    assert expected.tensors.keys() == second.state.tensors.keys()
    for name, value in expected.tensors.items():
        np.testing.assert_allclose(second.state.tensors[name], value, rtol=1e-4, atol=1e-6)
    assert "generation 1 updated to 5 frames" in drive.events[-1]


def test_an_update_that_fails_leaves_the_generation(base: TemporalSegmenter) -> None:
    drive = Drive(base, update_seconds=1.0, restoration=False)
    drive.through("meadow", 5)
    first = drive.segmenter.generation
    broken = AdaptationConfig(self_training_steps=0, passes=1, learning_rate=1e30, guarded=False)
    drive.segmenter.reconfigure(drive.segmenter.config, broken, TeacherConfig())
    drive.through("meadow", 15)
    assert len(drive.jobs) == 2 and drive.segmenter.generation is first
    assert drive.segmenter.status.state is State.ADAPTED
    assert "generation 1 was not updated" in drive.events[-1]


def test_an_update_does_not_reach_over_a_cut(base: TemporalSegmenter) -> None:
    drive = Drive(base, warmup_frames=8, update_seconds=1.0, restoration=False)
    drive.through("meadow", 20)
    assert drive.segmenter.status.state is State.COLLECTING
    drive.through("blocks", 1)
    assert drive.events[-1] == "generation 1 was not updated: a cut in the clip"
    assert (drive.segmenter.status.state, drive.segmenter.status.generation) == (State.ADAPTED, 1)


def test_a_clip_does_not_reach_over_a_cut(base: TemporalSegmenter) -> None:
    drive = Drive(base, warmup_frames=8, restoration=False)
    drive.through("meadow", 4)
    drive.through("blocks", 8)
    assert "collecting starts over: a cut in the clip" in drive.events
    (job,) = drive.jobs
    np.testing.assert_array_equal(job.clip, np.stack([blocks(index) for index in range(4, 12)]))


@pytest.mark.slow
def test_video_that_cuts_all_the_time_is_adapted_to_all_the_same(base: TemporalSegmenter) -> None:
    drive = Drive(base, warmup_frames=12)
    for _ in range(8):
        drive.through("meadow", 3)
        drive.through("blocks", 3)
    assert 1 <= sum("collecting starts over" in event for event in drive.events) <= MAX_RESTARTS
    assert drive.segmenter._store.next_number == 2


def test_nothing_of_the_last_shot_reaches_over_a_cut(base: TemporalSegmenter) -> None:
    drive = Drive(base, warmup_on=WarmupTrigger.SERVICE)
    drive.through("meadow", 4)
    cut = Frame(blocks(4), 4 * SECOND // 10)
    after = drive.segmenter.push(cut)
    alone = Drive(base, warmup_on=WarmupTrigger.SERVICE).segmenter.push(cut)
    np.testing.assert_array_equal(after.class_ids, alone.class_ids)


def test_settings_change_between_two_frames(base: TemporalSegmenter) -> None:
    drive = Drive(base, warmup_on=WarmupTrigger.SERVICE)
    drive.through("meadow", 2)
    segmenter = drive.segmenter
    config = stream_config(warmup_frames=2, warmup_on=WarmupTrigger.SERVICE, smoothing=0.0, reliability_threshold=0.0)
    segmenter.reconfigure(config, replace(QUICK, passes=2), TeacherConfig())
    assert segmenter.config.warmup_frames == 5, "not before the next frame"
    drive.through("meadow", 1)
    assert (segmenter.config, segmenter.status.warmup_frames) == (config, 2)
    memory = segmenter._serving.memory
    assert memory is not None
    assert memory.image is None, "smoothing is off"
    segmenter.request_adaptation()
    drive.through("meadow", 2)
    assert segmenter.status.report is not None
    assert segmenter.status.report.steps == 4


def test_a_pause_drops_the_clip_and_a_resumed_stream_starts_over(base: TemporalSegmenter) -> None:
    drive = Drive(base)
    drive.through("meadow", 3)
    drive.segmenter.pause(cancel=False)
    drive.segmenter.poll()
    assert drive.segmenter.status.state is State.BASE
    drive.segmenter.resume()
    drive.through("meadow", 4)
    assert (drive.segmenter.status.state, drive.segmenter.status.collected) == (State.COLLECTING, 4)
    drive.through("meadow", 1)
    drive.segmenter.pause(cancel=True)
    drive.segmenter.resume()
    drive.through("meadow", 2)
    assert (drive.segmenter.status.state, drive.segmenter.status.generation) == (State.ADAPTED, 1), (
        "what serves, serves on"
    )


@pytest.mark.slow
def test_after_a_paused_warm_up_the_scene_of_what_serves_is_watched_again(base: TemporalSegmenter) -> None:
    drive = Drive(base)
    drive.through("meadow", 8)
    drive.segmenter.request_adaptation()
    drive.through("meadow", 2)
    drive.segmenter.pause(cancel=False)
    drive.segmenter.resume()
    drive.through("meadow", 15)
    assert (drive.segmenter.status.state, drive.segmenter.status.generation) == (State.ADAPTED, 1)
    drive.through("blocks")
    assert any("the scene changed" in event for event in drive.events)


def test_a_refused_decoder_is_told_with_the_generation_that_serves(base: TemporalSegmenter) -> None:
    class RefusingRunner(InlineRunner):
        def submit(self, job: AdaptationJob) -> None:
            result = run_job(job)
            report = replace(result.report, reason="the decoder was refused", refused="it contradicts the base model")
            self._result = replace(result, report=report)

    events: list[str] = []
    config = stream_config(warmup_frames=5)
    stream = VideoSegmenter(
        "camvid", config, adaptation=QUICK, runner=RefusingRunner(), notify=events.append, base=base
    )
    for index in range(5):
        stream.push(Frame(meadow(index), index * SECOND // 10))
    assert stream.status.state is State.ADAPTED
    assert events[-1].endswith(" s; the decoder was refused")


def test_the_newest_generation_is_restored_on_request(base: TemporalSegmenter) -> None:
    drive = Drive(base)
    with pytest.raises(ValueError, match="expected a generation to restore, but got none"):
        drive.segmenter.request_restore()
    drive.through("meadow", 8)
    drive.segmenter.reset()
    drive.through("meadow", 2)
    assert (drive.segmenter.status.state, drive.segmenter.status.generation) == (State.BASE, 0)
    drive.segmenter.request_restore()
    drive.through("meadow", 1)
    assert (drive.segmenter.status.state, drive.segmenter.status.generation) == (State.ADAPTED, 1)


@pytest.mark.slow
def test_a_generation_of_an_earlier_session_serves_where_its_scene_is_met(
    base: TemporalSegmenter, tmp_path_factory: pytest.TempPathFactory
) -> None:
    first = Drive(base)
    first.through("meadow", 8)
    assert first.segmenter.generation is not None
    path = tmp_path_factory.mktemp("saved") / "generation.safetensors"
    save_generation(path, first.segmenter.generation, model_fingerprint(base))

    saved = [load_generation(path, model_fingerprint(base))]
    second = Drive(base, saved)
    second.through("meadow", 4)
    assert [state for state, _ in second.states] == ["COLLECTING", "ADAPTED"]
    for name, value in first.segmenter._serving.segmenter.state_dict().items():
        assert torch.equal(value, second.segmenter._serving.segmenter.state_dict()[name]), name

    elsewhere = Drive(base, saved)
    elsewhere.through("blocks", 8)
    assert [state for state, _ in elsewhere.states] == LEARNED
    assert elsewhere.segmenter.status.generation == 2, "numbers go on"


def test_streams_share_one_base_model(base: TemporalSegmenter) -> None:
    before = {name: value.clone() for name, value in base.state_dict().items()}
    front, rear = Drive(base), Drive(base)
    for _ in range(8):
        front.through("meadow", 1)
        rear.through("blocks", 1)
    assert front.segmenter._serving.segmenter is not rear.segmenter._serving.segmenter
    assert all(torch.equal(value, before[name]) for name, value in base.state_dict().items())
    own, other = (dict(each.segmenter._serving.segmenter.named_parameters()) for each in (front, rear))
    encoder = {id(value) for value in base.model.encoder.parameters()}
    shared = [name for name in own if own[name] is other[name]]
    assert {id(own[name]) for name in shared} >= encoder, "one frozen encoder"
    assert len(shared) < len(own), "a decoder of each's own"
