"""The camera and the recorder as processes over real DDS, how they are controlled, and what they leave."""

from __future__ import annotations

import json
import os
import queue
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from itertools import pairwise
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from rclpy.node import Node
from ros_harness import LATCHED, RELIABLE, texture, wait_until
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import Image
from std_msgs.msg import String

from ditta_core.datasets.video import ImageFolder
from ditta_core.types import State
from ditta_ros.messages.images import image_message, rgb_image, stamp_of
from ditta_ros.messages.state import StreamState
from ditta_ros.process.children import Child, ProcessDied, first_port, free_domain
from ditta_ros.process.executor import BackgroundExecutor
from ditta_ros.replay.control import FrameRange
from ditta_ros.replay.recording import ArrivedState, Recording, StateHistory

FRAMES = 6
RATE = 10.0  # Hz
BEGIN = 1_700_000_000_123_456_789


class EchoNode:
    """Stands where the node would: answers every image after a while with its red channel as the mask."""

    def __init__(self, answering: bool = True, delay: float = 0.0) -> None:
        self.node = Node("echo")
        self.images: list[Image] = []
        self.times: list[int] = []
        self.delay = delay
        self.answering = answering
        self.masks = self.node.create_publisher(Image, "/ditta/semantic", RELIABLE)
        self.states = self.node.create_publisher(String, "/ditta/state", LATCHED)
        self.node.create_subscription(Image, "/camera/image_raw", self.take, RELIABLE)
        self.node.create_subscription(Clock, "/clock", self.take_time, RELIABLE)
        self.say("BASE")
        self.executor = BackgroundExecutor(self.node, "echo")

    def say(self, state: str) -> None:
        number = len(self.images)
        said = StreamState(
            State(state),
            int(state == "ADAPTED"),
            warmup_frames=4,
            message=f"now {state}",
            received=number,
            published=number,
        )
        values = {**json.loads(said.to_json()), "something": "else"}
        self.states.publish(String(data=json.dumps(values)))

    def take(self, message: Image) -> None:
        self.images.append(message)
        if self.answering:
            time.sleep(self.delay)
            self.masks.publish(image_message(np.ascontiguousarray(rgb_image(message)[..., 0]), message.header))

    def take_time(self, message: Clock) -> None:
        self.times.append(message.clock.sec * 1_000_000_000 + message.clock.nanosec)

    def close(self) -> None:
        self.executor.stop()
        self.node.destroy_node()


@pytest.fixture
def echo(ros: None, request: pytest.FixtureRequest) -> Iterator[EchoNode]:
    echo = EchoNode(**getattr(request, "param", {}))
    yield echo
    echo.close()


class Events:
    """What the processes told, by name of the process."""

    def __init__(self) -> None:
        self.queue: queue.Queue[tuple[str, dict[str, Any]]] = queue.Queue()
        self.told: list[tuple[str, dict[str, Any]]] = []

    def wait_for(self, name: str, **expected: Any) -> dict[str, Any]:
        """The first event with these values, of those told already or within a while."""

        def found() -> dict[str, Any] | None:
            while not self.queue.empty():
                self.told.append(self.queue.get())
            return next(
                (values for who, values in self.told if who == name and expected.items() <= values.items()), None
            )

        return wait_until(found, lambda: f"{expected} of the {name}; it told {self.told[-3:]}")


@pytest.fixture
def recording(tmp_path: Path) -> Recording:
    """An empty recording with a sequence to be played."""
    folder = tmp_path / "images"
    folder.mkdir()
    for index in range(FRAMES):
        cv2.imwrite(str(folder / f"{index}.png"), cv2.cvtColor(texture(index, (24, 33)), cv2.COLOR_RGB2BGR))
    recording = Recording(tmp_path / "recording")
    recording.write_sequence(ImageFolder(folder, RATE))
    return recording


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Child]]:
    """Starts the camera or the recorder in the domain of the test."""
    children: list[Child] = []

    def start(events: Events, name: str, *arguments: str) -> Child:
        log = tmp_path / f"{name}.log"
        children.append(Child(name, f"ditta_ros.replay.{name}", arguments, os.environ, log, events.queue))
        return children[-1]

    yield start
    for child in children:
        child.stop()


@pytest.mark.parametrize("echo", [{"delay": 0.15}], indirect=True)
def test_in_lockstep_every_frame_waits_for_its_mask_and_everything_is_recorded(
    echo: EchoNode, recording: Recording, start: Callable[..., Child]
) -> None:
    events = Events()
    recorder = start(events, "recorder", str(recording.folder))
    camera = start(events, "camera", str(recording.folder), "--answered")
    told = events.wait_for("recorder", ready=True)
    assert (told["masks"], StreamState.from_json(told["state"]).state) == (0, State.BASE)
    events.wait_for("camera", matched=True)
    assert not echo.images  # nothing is played before the command
    camera.send(FrameRange(1, FRAMES, BEGIN, answer_seconds=20.0, round=4).command())
    events.wait_for("camera", played=FRAMES)
    echo.say("ADAPTED")
    wait_until(lambda: len(recording.masks()) == FRAMES - 1, "the last mask")
    wait_until(lambda: recording.states()[-1].state is State.ADAPTED, "the last state")
    recorder.stop()
    camera.stop()
    assert (recorder.process.returncode, camera.process.returncode) == (0, 0)

    frames, masks = recording.frames(), recording.masks()
    stamps = [BEGIN + round(1e9 * index / RATE) for index in range(1, FRAMES)]
    assert [(frame.round, frame.index) for frame in frames] == [(4, index) for index in range(1, FRAMES)]
    for each in (frames, masks):
        assert [record.stamp for record in each] == stamps
    assert [stamp_of(image.header) for image in echo.images] == stamps
    for mask, following in zip(masks[:-1], frames[1:], strict=True):
        assert following.time >= mask.time - 0.05  # the recorder gets the mask at about the same time as the camera
    for image, mask in zip(echo.images, masks, strict=True):
        np.testing.assert_array_equal(recording.read_mask(mask.stamp), rgb_image(image)[..., 0])
    states = recording.states()
    assert [states[0].state, states[-1].state] == [State.BASE, State.ADAPTED]
    assert states[-1].message == "now ADAPTED"


@pytest.mark.parametrize("echo", [{"answering": False}], indirect=True)
def test_in_time_frames_come_at_their_rate_whoever_answers(
    echo: EchoNode, recording: Recording, start: Callable[..., Child]
) -> None:
    events = Events()
    camera = start(events, "camera", str(recording.folder))
    events.wait_for("camera", matched=True)
    camera.send(FrameRange(0, FRAMES, BEGIN, rate=0.5).command())
    events.wait_for("camera", played=FRAMES)
    frames = recording.frames()
    begin = frames[0].due
    assert [frame.due - begin for frame in frames] == pytest.approx([index / RATE / 0.5 for index in range(FRAMES)])
    assert all(frame.time >= frame.due for frame in frames)
    sequence = recording.read_sequence()
    wait_until(lambda: len(echo.images) == FRAMES, "the last image")
    for index, message in enumerate(echo.images):
        assert (message.header.frame_id, message.encoding) == ("camera", "rgb8")
        np.testing.assert_array_equal(rgb_image(message), sequence.image(index))


@pytest.mark.parametrize("echo", [{"answering": False}], indirect=True)
def test_a_frame_without_a_mask_holds_lockstep_up_for_a_while_only(
    echo: EchoNode, recording: Recording, start: Callable[..., Child]
) -> None:
    events = Events()
    camera = start(events, "camera", str(recording.folder), "--answered")
    events.wait_for("camera", matched=True)
    camera.send(FrameRange(0, FRAMES, BEGIN, answer_seconds=0.2).command())
    events.wait_for("camera", played=FRAMES)
    camera.stop()
    assert all(later.time - earlier.time >= 0.2 for earlier, later in pairwise(recording.frames()))
    assert "no mask for frame 3 within 0.2 s: going on" in camera.last_words()


def test_between_two_ranges_frames_and_clock_are_held(
    echo: EchoNode, recording: Recording, start: Callable[..., Child]
) -> None:
    events, sequence = Events(), recording.read_sequence()
    camera = start(events, "camera", str(recording.folder), "--clock", "--answered")
    events.wait_for("camera", matched=True)
    wait_until(lambda: echo.node.count_publishers("/clock"), "the clock")
    camera.send(FrameRange(0, 3, BEGIN, answer_seconds=20.0).command())
    events.wait_for("camera", played=3)
    held = BEGIN + sequence.stamp(2)
    wait_until(lambda: echo.times.count(held) > 5, "the clock to stand still")
    assert (len(echo.images), echo.times[-1]) == (3, held)
    camera.send(FrameRange(3, 5, BEGIN, rate=0.25).command())
    events.wait_for("camera", played=5)
    wait_until(lambda: echo.times.count(BEGIN + sequence.stamp(4)) > 2, "the clock to stand still again")
    assert len(echo.images) == len(recording.frames()) == 5
    assert set(echo.times) >= {BEGIN + sequence.stamp(index) for index in range(1, 5)}
    steps = [later - earlier for earlier, later in pairwise(echo.times)]
    assert min(steps) >= 0
    assert max(steps) <= 100_000_000


def test_simulated_time_has_no_longer_steps_than_a_tenth_of_a_second(
    echo: EchoNode, recording: Recording, start: Callable[..., Child]
) -> None:
    events = Events()
    recording.write_sequence(ImageFolder(recording.folder.parent / "images", 0.5))
    camera = start(events, "camera", str(recording.folder), "--clock")
    events.wait_for("camera", matched=True)
    wait_until(lambda: echo.node.count_publishers("/clock"), "the clock")
    camera.send(FrameRange(0, FRAMES, BEGIN, rate=20.0).command())
    end = BEGIN + recording.read_sequence().stamp(FRAMES - 1)
    wait_until(lambda: end in echo.times, "the end of the sequence")
    steps = [later - earlier for earlier, later in pairwise(echo.times)]
    assert min(steps) >= 0
    assert max(steps) <= 100_000_000


def test_a_range_can_be_broken_off(echo: EchoNode, recording: Recording, start: Callable[..., Child]) -> None:
    events = Events()
    camera = start(events, "camera", str(recording.folder))
    events.wait_for("camera", matched=True)
    camera.send(FrameRange(0, FRAMES, BEGIN, rate=0.001).command())
    events.wait_for("camera", sent=1)
    camera.send("stop")
    events.wait_for("camera", played=1)
    camera.send("stop")  # breaks nothing off that is asked for afterwards
    camera.send(FrameRange(4, FRAMES, BEGIN, round=1).command())
    events.wait_for("camera", played=FRAMES)
    assert [(frame.round, frame.index) for frame in recording.frames()] == [(0, 0), (1, 4), (1, 5)]


def test_a_camera_that_waits_for_a_mask_ends_when_it_is_told_to(
    echo: EchoNode, recording: Recording, start: Callable[..., Child]
) -> None:
    echo.answering = False
    events = Events()
    camera = start(events, "camera", str(recording.folder), "--answered")
    events.wait_for("camera", matched=True)
    camera.send(FrameRange(0, FRAMES, BEGIN, answer_seconds=3600.0).command())
    events.wait_for("camera", sent=1)
    camera.stop()
    assert camera.process.returncode == 0  # not killed


def test_what_is_wrong_with_the_node_is_passed_on(
    echo: EchoNode, recording: Recording, start: Callable[..., Child]
) -> None:
    events = Events()
    start(events, "recorder", str(recording.folder))
    diagnostics = echo.node.create_publisher(DiagnosticArray, "/diagnostics", RELIABLE)
    wait_until(diagnostics.get_subscription_count, "the recorder")
    for level, message in ((DiagnosticStatus.WARN, "a pity"), (DiagnosticStatus.ERROR, "a shame")):
        diagnostics.publish(DiagnosticArray(status=[DiagnosticStatus(level=level, message=message)]))
    events.wait_for("recorder", problem="a shame")
    assert not any(values.get("problem") == "a pity" for _, values in events.told)


def test_a_process_that_dies_is_an_error_with_its_last_words(tmp_path: Path, start: Callable[..., Child]) -> None:
    child = start(Events(), "camera", str(tmp_path / "nothing"))
    child.process.wait(30)
    with pytest.raises(ProcessDied, match=r"(?s)camera process ended with exit code 1;.*No such file.*sequence.json"):
        child.check()


def test_a_domain_in_use_is_not_chosen() -> None:
    sockets = [socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(100)]
    taken = set()
    try:
        for domain, each in zip([*range(1, 77), *range(78, 102)], sockets, strict=True):
            with suppress(OSError):  # in use by somebody else, perhaps not for long
                each.bind(("", first_port(domain)))
                taken.add(domain)
        assert free_domain() not in taken
    finally:
        for each in sockets:
            each.close()


def test_the_state_at_a_time() -> None:
    times = (1.0, State.BASE), (2.0, State.BASE), (3.0, State.ADAPTING), (4.0, State.ADAPTING), (5.0, State.ADAPTED)
    history = StateHistory([ArrivedState(time=time, state=state) for time, state in times])
    assert [change.state.value for change in history.changes] == ["BASE", "ADAPTING", "ADAPTED"]
    expected = {0.0: State.BASE, 2.9: State.BASE, 3.0: State.ADAPTING, 4.9: State.ADAPTING, 9.0: State.ADAPTED}
    assert {time: history.at(time) for time in expected} == expected
