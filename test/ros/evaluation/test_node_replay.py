"""The node evaluated as it really runs, in its own process over real DDS."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from ros_harness import texture

from ditta_core.datasets.base import VideoSequence
from ditta_core.datasets.video import ImageFolder
from ditta_core.stream.video_segmenter import VideoSegmenter
from ditta_core.types import Frame, State
from ditta_ros.bags.sequence import BagSequence
from ditta_ros.bags.writer import EPOCH, make_bag
from ditta_ros.evaluation.node_replay import (
    NodeReplay,
    NodeReplayOptions,
    NodeReplayProgress,
    NodeReplayRecording,
    run_node_replay,
)
from ditta_ros.process import children
from ditta_ros.process.children import Child, ProcessDied, ReplayError
from ditta_ros.replay.control import FrameRange

FRAMES, WARMUP = 12, 3
RATE = 10.0  # Hz
SIZE = 64, 96
QUICK = {"long_side": 96, "passes": 4, "threads": 1}


@pytest.fixture(scope="module")
def sequence(tmp_path_factory: pytest.TempPathFactory) -> VideoSequence:
    folder = tmp_path_factory.mktemp("images")
    for index in range(FRAMES):
        cv2.imwrite(str(folder / f"{index:02}.png"), cv2.cvtColor(texture(4 * index, SIZE), cv2.COLOR_RGB2BGR))
    return ImageFolder(folder, RATE)


@pytest.fixture
def options(tmp_path: Path) -> Callable[..., NodeReplayOptions]:
    """Makes options with which a replay is quick; ``parameters`` are added to those of the node."""

    def options(parameters: dict[str, Any] | None = None, **others: Any) -> NodeReplayOptions:
        return NodeReplayOptions(
            **{
                "folder": tmp_path / "replay",
                "node_parameters": {**QUICK, **(parameters or {})},
                "warmup_frames": WARMUP,
                **others,
            }
        )

    return options


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """As many threads of torch as the node has: with another number it adds up in another order."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def processes(folder: Path) -> dict[int, str]:
    """Command lines of the processes of a replay that still run: they carry the folder of their logs."""
    found = {}
    for process in Path("/proc").glob("[0-9]*"):
        try:
            environment, command = (process / "environ").read_bytes(), (process / "cmdline").read_bytes()
        except OSError:
            continue  # gone meanwhile, or another user's
        if f"ROS_LOG_DIR={folder}/".encode() in environment:
            found[int(process.name)] = command.replace(b"\0", b" ").decode()
    return found


def in_process(options: NodeReplayOptions, sequence: VideoSequence) -> list[NDArray[Any]]:
    """Masks of the same engine with the same settings in this process, each frame seen by the model that is due."""
    parameters = options.parameters()
    engine = VideoSegmenter(
        parameters.model_source(),
        parameters.stream_config(),
        adaptation=parameters.adaptation_config(),
        teacher=parameters.teacher_config(),
    )
    frames = (Frame(sequence.image(index), sequence.stamp(index), "camera") for index in range(len(sequence)))
    return [engine.push(frame).class_ids for frame in frames]


def assert_counts_agree(replayed: NodeReplayRecording) -> None:
    """Every frame without a mask is accounted for."""
    assert replayed.unanswered == replayed.dropped + replayed.rejected + replayed.lost
    for index, latency in enumerate(replayed.latency_ms):
        mask = replayed.mask(index)
        assert (mask is None) == (latency is None)
        assert latency is None or latency > 0
        assert mask is None or mask.shape == SIZE


@pytest.mark.slow
def test_in_lockstep_the_masks_are_those_of_the_engine(
    sequence: VideoSequence, options: Callable[..., NodeReplayOptions]
) -> None:
    chosen, news = options(lockstep=True, rate=4.0), list[NodeReplayProgress]()
    replayed = run_node_replay(chosen, sequence, news.append)
    assert processes(chosen.folder) == {}
    assert_counts_agree(replayed)
    assert replayed.unanswered == 0
    assert replayed.behind_ms is None
    assert [state.state.value for state in replayed.states] == ["BASE", "COLLECTING", "ADAPTING", "ADAPTED"]
    assert (replayed.generation, replayed.failure) == (1, "")
    assert replayed.adaptation_reason and replayed.deployed_share is not None
    assert replayed.adaptation_seconds is not None
    assert replayed.adaptation_seconds > 0
    assert replayed.stamps == tuple(EPOCH + sequence.stamp(index) for index in range(FRAMES))

    frames = replayed.recording.frames()
    assert [frame.index for frame in frames] == list(range(FRAMES))
    adapting, adapted = (state.time for state in replayed.states[-2:])
    assert frames[WARMUP - 1].time < adapting
    assert frames[WARMUP].time > adapted  # held until then
    assert {WARMUP} == {each.sent for each in news if each.state is State.ADAPTING}
    assert news[-1].sent == news[-1].masks == FRAMES

    expected = in_process(chosen, sequence)
    for index, mask in enumerate(expected):
        np.testing.assert_array_equal(replayed.mask(index), mask)
    unadapted = in_process(options({"warmup_on": "service"}), sequence)
    assert any((mask != other).any() for mask, other in zip(expected[WARMUP:], unadapted[WARMUP:], strict=True))


@pytest.mark.slow
def test_in_time_nothing_is_held_and_every_dropped_frame_is_counted(
    sequence: VideoSequence, options: Callable[..., NodeReplayOptions]
) -> None:
    chosen = options(protocol="whole", rate=100.0)
    replayed = run_node_replay(chosen, sequence)
    assert processes(chosen.folder) == {}
    assert_counts_agree(replayed)
    assert 0 < replayed.unanswered < FRAMES  # 1000 frames per second are too many for any model
    assert replayed.behind_ms is not None
    frames = replayed.recording.frames()
    assert [frame.index for frame in frames] == list(range(FRAMES))
    for earlier, later in pairwise(frames):
        assert later.due - earlier.due == pytest.approx(1 / RATE / 100)
    assert [frame.stamp for frame in frames] == list(replayed.stamps)


def test_a_failed_adaptation_is_reported_and_the_rest_still_played(
    sequence: VideoSequence, options: Callable[..., NodeReplayOptions], tmp_path: Path
) -> None:
    chosen = options({"passes": 1000, "guarded": False}, rate=4.0)
    make_bag(sequence, tmp_path / "bag")
    bag = BagSequence(tmp_path / "bag")

    def kill_worker(progress: NodeReplayProgress) -> None:
        if progress.state is State.ADAPTING:
            kill_process(chosen.folder, "ditta_ros.adaptation.worker")

    replayed = run_node_replay(chosen, bag, kill_worker)
    assert_counts_agree(replayed)
    assert replayed.failure.startswith("adaptation failed: the adaptation process was killed by SIGKILL")
    assert (replayed.generation, replayed.states[-1].state) == (0, State.FAILED)
    assert [frame.index for frame in replayed.recording.frames()] == list(range(FRAMES))
    assert [frame.stamp for frame in replayed.recording.frames()] == [bag.stamp(index) for index in range(FRAMES)]
    assert bag.stamp(0) > 0  # a bag has a time of its own, and keeps it
    assert replayed.mask(WARMUP) is not None


def test_a_node_that_does_not_adapt_is_not_waited_for(
    sequence: VideoSequence, options: Callable[..., NodeReplayOptions]
) -> None:
    replayed = run_node_replay(options({"warmup_on": "service"}, lockstep=True, rate=10.0), sequence)
    assert (replayed.unanswered, replayed.generation, replayed.adaptation_seconds) == (0, 0, None)
    assert [state.state for state in replayed.states] == [State.BASE]


def kill_process(folder: Path, part: str, number: signal.Signals = signal.SIGKILL) -> None:
    """Send a signal to the process of a replay with this in its command line, where it still runs."""
    for pid, command in processes(folder).items():
        if part in command:
            os.kill(pid, number)


def kill_the_node(folder: Path) -> None:
    kill_process(folder, " ditta_ros.node ")


def freeze_the_node(folder: Path) -> None:
    kill_process(folder, " ditta_ros.node ", signal.SIGSTOP)


def interrupt(folder: Path) -> None:
    raise KeyboardInterrupt


@pytest.mark.slow
@pytest.mark.parametrize(
    ("action", "error", "message"),
    [
        (
            kill_the_node,
            ProcessDied,
            r"(?s)node process ended with exit code -9; the end of .*node\.log:\n.*model camvid",
        ),
        (
            freeze_the_node,
            ReplayError,
            r"(?s)the node said nothing for 3 s: the node is .*model camvid",
        ),
        (interrupt, KeyboardInterrupt, None),
    ],
    ids=["dead node", "frozen node", "ctrl-c"],
)
def test_a_replay_that_ends_early_says_why_and_leaves_no_process_behind(
    sequence: VideoSequence,
    options: Callable[..., NodeReplayOptions],
    action: Callable[[Path], None],
    error: type[BaseException],
    message: str | None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(children, "END_SECONDS", 3.0)  # a frozen process does not end by itself
    chosen = options({"warmup_on": "service"}, lockstep=True, silence_seconds=3.0)

    def end_early(progress: NodeReplayProgress) -> None:
        if progress.masks:
            action(chosen.folder)

    with pytest.raises(error, match=message):
        run_node_replay(chosen, sequence, end_early)
    assert processes(chosen.folder) == {}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("parameters", "others", "message"),
    [
        ({"model": "espnetv2:/nowhere.pth"}, {}, "the node cannot run: could not configure: .*nowhere.pth"),
        ({}, {"ready_seconds": 0.1}, r"the node was not ready within 0\.1 s; the end of .*node\.log:"),
        (
            {"passes": 1000, "guarded": False},
            {"adaptation_timeout": 0.1},
            r"(?s)did not finish within 0\.1 s: the node is ADAPTING, ",
        ),
    ],
    ids=["wrong model", "not ready in time", "not adapted in time"],
)
def test_a_node_that_does_not_get_there_is_an_error(
    sequence: VideoSequence,
    options: Callable[..., NodeReplayOptions],
    parameters: dict[str, Any],
    others: dict[str, Any],
    message: str,
) -> None:
    chosen = options(parameters, **others)
    with pytest.raises(ReplayError, match=message):
        run_node_replay(chosen, sequence)
    assert processes(chosen.folder) == {}


@pytest.mark.slow
def test_a_node_that_does_not_take_the_warm_up_frames_is_an_error(
    options: Callable[..., NodeReplayOptions], tmp_path: Path
) -> None:
    images = tmp_path / "images"
    images.mkdir()
    for index in range(FRAMES):  # another size in the midst of the warm-up
        size = SIZE if index < WARMUP - 1 else (SIZE[0] // 2, SIZE[1] // 2)
        cv2.imwrite(str(images / f"{index:02}.png"), texture(index, size))
    with pytest.raises(ReplayError, match="to take 3 frames for its warm-up, but it took 2 and rejected 1"):
        run_node_replay(options(), ImageFolder(images, RATE))


class Unanswering:
    """Stands where the stream to a node would, whose inference hangs: it tells its state, but no mask comes."""

    def __init__(self, folder: Path) -> None:
        self.node = Child("node", "this", (), os.environ, folder / "node.log")
        self.state, self.message, self.progress = State.COLLECTING, "collecting 3 frames", 0.0
        self.playing, self.sent, self.masks, self.states = False, 0, 0, 0

    @property
    def node_state(self) -> int:
        return self.states

    def wait_until_ready(self, seconds: float) -> None:
        pass

    def play(self, frames: FrameRange) -> None:
        self.playing = True

    def take_event(self) -> None:
        time.sleep(0.01)
        self.sent += 1
        self.states += 1


def test_a_node_that_answers_nothing_in_lockstep_is_given_up(
    sequence: VideoSequence, options: Callable[..., NodeReplayOptions], tmp_path: Path
) -> None:
    stream: Any = Unanswering(tmp_path)
    with pytest.raises(ReplayError, match=r"no mask came within 0\.2 s: the node is COLLECTING, collecting 3 frames"):
        NodeReplay(stream, options(silence_seconds=0.2), sequence, lambda _: None).run()
    assert stream.sent > 2
    stream.node.stop()


@pytest.mark.parametrize(
    ("others", "message"),
    [
        ({"rate": 0.0}, r"expected a rate above 0, but got 0\.0"),
        ({"node_parameters": {"image_topic": "/a"}}, "which the replay decides on, but got image_topic"),
        ({"node_parameters": {"use_sim_time": False, "seed": 1}}, "which the replay decides on, but got use_sim_time"),
        ({"node_parameters": {"smoothing": 2.0}}, "expected 0 to 1 for the parameter smoothing, but got 2.0"),
        ({"node_parameters": {"input_width": 64}}, "expected both input_width and input_height"),
        ({"warmup_frames": FRAMES}, "expected a warm-up shorter than images0, which has 12 frames, but got 12"),
    ],
)
def test_wrong_options_are_refused_before_anything_starts(
    sequence: VideoSequence, options: Callable[..., NodeReplayOptions], others: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        run_node_replay(options(**others), sequence)


class StandingStill(ImageFolder):
    """A sequence whose time does not pass."""

    def stamp(self, index: int) -> int:
        return 7 * min(index, 2)


def test_stamps_that_do_not_rise_are_refused(
    sequence: VideoSequence, options: Callable[..., NodeReplayOptions]
) -> None:
    assert isinstance(sequence, ImageFolder)
    with pytest.raises(ValueError, match=r"expected rising stamps in .*, but got 14 ns for frame 2 and 14 ns for"):
        run_node_replay(options(), StandingStill(sequence.image_paths[0].parent))
