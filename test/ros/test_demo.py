"""The demo: its camera and recorder over real DDS, and all of it with the real node on a small clip."""

from __future__ import annotations

import json
import os
import queue
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from itertools import pairwise
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from rclpy.node import Node
from ros_harness import LATCHED, RELIABLE, ROOT, texture, wait_until
from sensor_msgs.msg import Image
from sklearn import metrics as sklearn_metrics
from std_msgs.msg import String

from ditta_core.datasets.video import open_sequence
from ditta_core.engine import segment_frame
from ditta_core.segmentation.registry import ModelSource, load_model
from ditta_core.types import State
from ditta_ros.adaptation_executor import BackgroundExecutor
from ditta_ros.conversion import image_message, rgb_image, stamp_of
from ditta_ros.demo.comparison import StateHistory
from ditta_ros.demo.demo import default_video
from ditta_ros.replay.processes import Child, ProcessDied, free_domain
from ditta_ros.replay.recording import NodeState, Recording

FRAMES = 6
RATE = 10  # Hz, of a folder of images

# --- camera and recorder --------------------------------------------------------------------------------------------


class EchoNode:
    """Stands where the node would: answers every image after a while with its red channel as the mask."""

    def __init__(self, answering: bool = True, delay: float = 0.0) -> None:
        self.node = Node("echo")
        self.images: list[Image] = []
        self.delay = delay
        self.answering = answering
        self.masks = self.node.create_publisher(Image, "/ditta/semantic", RELIABLE)
        self.states = self.node.create_publisher(String, "/ditta/state", LATCHED)
        self.node.create_subscription(Image, "/camera/image_raw", self.take, RELIABLE)
        self.say("BASE")
        self.executor = BackgroundExecutor(self.node, "echo")

    def say(self, state: str) -> None:
        values = {
            "state": state,
            "generation": int(state == "ADAPTED"),
            "collected": 0,
            "warmup_frames": 4,
            "progress": 0.0,
            "message": f"now {state}",
            "adaptation_seconds": None,
            "dropped": 0,
            "received": len(self.images),
            "something": "else",
        }
        self.states.publish(String(data=json.dumps(values)))

    def take(self, message: Image) -> None:
        self.images.append(message)
        if self.answering:
            time.sleep(self.delay)
            self.masks.publish(image_message(np.ascontiguousarray(rgb_image(message)[..., 0]), message.header))

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
def images(tmp_path: Path) -> Path:
    folder = tmp_path / "images"
    folder.mkdir()
    for index in range(FRAMES):
        cv2.imwrite(str(folder / f"{index}.png"), cv2.cvtColor(texture(index, (24, 33)), cv2.COLOR_RGB2BGR))
    return folder


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Child]]:
    """Starts a module of the demo in the domain of the test."""
    children: list[Child] = []

    def start(events: Events, name: str, *arguments: str) -> Child:
        log = tmp_path / f"{name}.log"
        children.append(Child(name, f"ditta_ros.replay.{name}", arguments, os.environ, log, events.queue))
        return children[-1]

    yield start
    for child in children:
        child.stop()


@pytest.mark.parametrize("echo", [{"delay": 0.25}], indirect=True)
def test_in_lockstep_every_frame_waits_for_its_mask_and_everything_is_recorded(
    echo: EchoNode, images: Path, tmp_path: Path, start: Callable[..., Child]
) -> None:
    events, recording = Events(), Recording(tmp_path / "recording")
    recorder = start(events, "recorder", str(recording.folder))
    camera = start(events, "camera", str(images), str(recording.folder), "--lockstep")
    assert events.wait_for("recorder", state="BASE", ready=True)["masks"] == 0
    events.wait_for("camera", matched=True)
    assert not echo.images  # nothing is played before the command
    camera.send("play")
    events.wait_for("camera", round=1)  # without a command it plays on
    echo.say("ADAPTED")
    events.wait_for("recorder", state="ADAPTED")
    camera.send("finish")
    events.wait_for("camera", done=True)
    wait_until(lambda: len(recording.masks()) == len(echo.images), "the last mask")
    recorder.stop()
    camera.stop()
    assert (recorder.process.returncode, camera.process.returncode) == (0, 0)

    frames, masks = recording.frames(), recording.masks()
    assert [frame.stamp for frame in frames] == [stamp_of(image.header) for image in echo.images]
    assert [mask.stamp for mask in masks] == [frame.stamp for frame in frames]
    rounds = [[frame for frame in frames if frame.round == number] for number in range(frames[-1].round + 1)]
    for complete in (rounds[0], rounds[-1]):
        assert [frame.index for frame in complete] == list(range(FRAMES))
        assert [frame.stamp - complete[0].stamp for frame in complete] == [
            round(1e9 * index / RATE) for index in range(FRAMES)
        ]
    for earlier, later in pairwise(rounds):
        assert later[0].stamp - earlier[-1].stamp >= 2_000_000_000
        assert later[0].time - earlier[-1].time >= 2
    for mask, following in zip(masks[:-1], frames[1:], strict=True):
        assert following.time >= mask.time - 0.05  # the recorder gets the mask at about the same time as the camera
    for image, mask in zip(echo.images, masks, strict=True):
        np.testing.assert_array_equal(recording.read_mask(mask.stamp), rgb_image(image)[..., 0])
    states = recording.states()
    assert [states[0].state, states[-1].state] == [State.BASE, State.ADAPTED]
    assert states[-1].message == "now ADAPTED"


@pytest.mark.parametrize("echo", [{"answering": False}], indirect=True)
def test_in_real_time_frames_come_at_their_rate_whoever_answers(
    echo: EchoNode, images: Path, tmp_path: Path, start: Callable[..., Child]
) -> None:
    events, recording = Events(), Recording(tmp_path / "recording")
    camera = start(events, "camera", str(images), str(recording.folder))
    events.wait_for("camera", matched=True)
    camera.send("play")
    events.wait_for("camera", round=1)
    camera.stop()
    frames = [frame for frame in recording.frames() if frame.round == 0]
    assert frames[-1].time - frames[0].time == pytest.approx((FRAMES - 1) / RATE, abs=0.25)
    sequence = open_sequence(images)
    for index, message in enumerate(echo.images[:FRAMES]):
        assert (message.header.frame_id, message.encoding) == ("camera", "rgb8")
        np.testing.assert_array_equal(rgb_image(message), sequence.image(index))


def test_a_process_that_dies_is_an_error_with_its_last_words(tmp_path: Path, start: Callable[..., Child]) -> None:
    child = start(Events(), "camera", str(tmp_path / "nowhere"), str(tmp_path / "recording"))
    child.process.wait(30)
    with pytest.raises(ProcessDied, match=r"(?s)camera process ended with exit code 1;.*nowhere does not exist"):
        child.check()


def test_a_domain_in_use_is_not_chosen() -> None:
    sockets = [socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(100)]
    try:
        for domain, each in zip([*range(1, 77), *range(78, 102)], sockets, strict=True):
            with suppress(OSError):  # in use by somebody else: just as well
                each.bind(("", 7410 + 250 * domain))
        assert free_domain() == 77
    finally:
        for each in sockets:
            each.close()


def test_the_state_at_a_time() -> None:
    def message(time: float, state: State) -> NodeState:
        return NodeState(time, state, 0, 0, 4, 0.0, "", None, 0, 0)

    times = (1.0, State.BASE), (2.0, State.BASE), (3.0, State.ADAPTING), (4.0, State.ADAPTING), (5.0, State.ADAPTED)
    history = StateHistory([message(*each) for each in times])
    assert [change.state.value for change in history.changes] == ["BASE", "ADAPTING", "ADAPTED"]
    expected = {0.0: State.BASE, 2.9: State.BASE, 3.0: State.ADAPTING, 4.9: State.ADAPTING, 9.0: State.ADAPTED}
    assert {time: history.at(time) for time in expected} == expected


# --- all of it ------------------------------------------------------------------------------------------------------

CLIP_FRAMES, WARMUP = 16, 3
SIZE = 64, 96


def clip_labels(index: int) -> NDArray[np.uint8]:
    """Some labels: stripes of road, car and void that move with the texture."""
    columns = (np.arange(SIZE[1]) + index) // 16 % 3
    return np.broadcast_to(np.array([3, 8, 11], np.uint8)[columns], SIZE).copy()


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small labelled clip."""
    folder = tmp_path_factory.mktemp("clip")
    for part in ("images", "labels"):
        (folder / part).mkdir()
    for index in range(CLIP_FRAMES):
        name = f"{index:02}.png"
        cv2.imwrite(str(folder / "images" / name), cv2.cvtColor(texture(index, SIZE), cv2.COLOR_RGB2BGR))
        cv2.imwrite(str(folder / "labels" / name), clip_labels(index))
    return folder


class Demo:
    """`ditta demo` as users start it, in a process."""

    def __init__(self, out: Path, *arguments: str) -> None:
        self.out = out
        quick = ["--input-size", f"{SIZE[1]}x{SIZE[0]}", "--warmup-frames", str(WARMUP), "--out", str(out)]
        self.process = subprocess.Popen(
            [sys.executable, "-m", "ditta_ros.cli", "demo", *quick, *arguments],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def finish(self, timeout: float = 100.0) -> tuple[int, str, str]:
        """Exit code, standard output and standard error."""
        output, errors = self.process.communicate(timeout=timeout)
        return self.process.returncode, output, errors

    def processes(self) -> dict[int, str]:
        """Command lines of its processes that still run: they carry the folder of their logs."""
        found = {}
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                environment = (folder / "environ").read_bytes()
                command = (folder / "cmdline").read_bytes()
            except OSError:
                continue  # gone meanwhile, or another user's
            if f"ROS_LOG_DIR={self.out}/".encode() in environment:
                found[int(folder.name)] = command.replace(b"\0", b" ").decode()
        return found

    def wait_for_masks(self) -> None:
        """Wait until masks flow."""
        recording = Recording(self.out / "recording")
        wait_until(lambda: recording.masks() or self.process.poll() is not None, "masks", 60)
        assert self.process.poll() is None, self.finish()


@pytest.fixture
def one_thread() -> Iterator[None]:
    """torch on one thread: two that spin for each other are slow where the machine does other things too."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.mark.slow
@pytest.mark.usefixtures("one_thread")
def test_the_demo_shows_what_the_node_does(clip: Path, tmp_path: Path) -> None:
    demo = Demo(tmp_path / "out", "--clip", str(clip))
    code, output, errors = demo.finish()
    assert code == 0, errors
    assert demo.processes() == {}

    summary = json.loads((demo.out / "summary.json").read_text())
    assert summary["states"] == ["BASE", "COLLECTING", "ADAPTING", "ADAPTED"]
    assert summary["generation"] == 1
    assert summary["dropped"] == summary["lost"] == 0
    assert summary["frames_in"] == summary["masks_out"] >= 2 * CLIP_FRAMES - 1  # lockstep: every frame is answered
    assert summary["warmup_frames"] == WARMUP
    assert summary["compared_frames"] == CLIP_FRAMES - WARMUP
    assert summary["adaptation_seconds"] > 0
    latencies = summary["latency_ms"]
    counts = [latencies[phase]["masks"] for phase in ("base", "adapting", "adapted")]
    assert sum(counts) == summary["masks_out"]
    assert counts[1] == summary["masks_during_adaptation"] > 0
    assert 0 < latencies["adapted"]["p50"] <= latencies["adapted"]["p95"]
    for stream in ("source", "ditta"):
        assert 0 < summary["consistency"][stream] <= 100
        assert summary["accuracy"][stream]["vc8"] is not None
        assert summary["accuracy"][stream]["vc16"] is None  # 13 frames are too few

    model = load_model(ModelSource())
    recording = Recording(demo.out / "recording")
    last = [frame for frame in recording.frames() if frame.round == summary["passes"] - 1][WARMUP:]
    for stream, masks in (
        ("source", [segment_frame(model, texture(frame.index, SIZE), SIZE)[0] for frame in last]),
        ("ditta", [recording.read_mask(frame.stamp) for frame in last]),
    ):
        truth, predicted = np.stack([clip_labels(frame.index) for frame in last]), np.stack(masks)
        weighted = sklearn_metrics.jaccard_score(
            truth[truth != 11], predicted[truth != 11], average="weighted", zero_division=0
        )
        assert summary["accuracy"][stream]["wiou"] == pytest.approx(100 * weighted, abs=0.02), stream

    sent = [frame for frame in recording.frames() if frame.round in (0, last[0].round)]
    overlay = open_sequence(demo.out / "overlay.mp4")
    assert len(overlay) == len(sent)
    assert overlay.frame_rate == 15
    assert overlay.image(0).shape == cv2.imread(str(demo.out / "preview.png")).shape
    assert cv2.imread(str(demo.out / "timeline.png")) is not None
    html = (demo.out / "report.html").read_text(encoding="utf-8")
    for name in ("mIoU", "wIoU", "VC8", "VC16", "flow-warped consistency"):
        (line,) = re.findall(f"^{name} .*$", output, re.MULTILINE)
        cells = "".join(f"<td>{cell}</td>" for cell in re.split(r"\s{2,}", line.strip()))
        assert cells in html


def interrupt(demo: Demo) -> None:
    demo.wait_for_masks()
    demo.process.send_signal(signal.SIGINT)


def kill_the_node(demo: Demo) -> None:
    demo.wait_for_masks()
    (node,) = (pid for pid, command in demo.processes().items() if "-m ditta_ros.node" in command)
    os.kill(node, signal.SIGKILL)


@pytest.mark.parametrize(
    ("arguments", "happens", "code", "message"),
    [
        ((), interrupt, 130, "interrupted"),
        ((), kill_the_node, 1, r"the node process ended with exit code -9; the end of .*node\.log:"),
        (("--timeout", "0.1"), lambda _: None, 1, r"the adaptation did not finish within 0\.1 s: the node is "),
    ],
    ids=["ctrl-c", "dead node", "time limit"],
)
def test_a_demo_that_ends_early_says_why_and_leaves_no_process_behind(
    clip: Path,
    tmp_path: Path,
    arguments: tuple[str, ...],
    happens: Callable[[Demo], None],
    code: int,
    message: str,
) -> None:
    demo = Demo(tmp_path / "out", "--video", str(clip / "images"), *arguments)
    watcher = threading.Thread(target=happens, args=(demo,))
    watcher.start()
    returned, _, errors = demo.finish()
    watcher.join()
    assert returned == code, errors
    assert re.search(message, errors), errors
    assert demo.processes() == {}
    assert not (demo.out / "summary.json").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--video", "nowhere.mp4"), "nowhere.mp4 does not exist"),
        (("--model", "yolo"), "expected the model .* but got 'yolo'"),
        (("--video", "{clip}/images", "--warmup-frames", "16"), "expected a warm-up shorter than the video"),
    ],
)
def test_a_wrong_option_is_refused_before_anything_starts(
    clip: Path, tmp_path: Path, arguments: tuple[str, ...], message: str
) -> None:
    demo = Demo(tmp_path / "out", *(argument.format(clip=clip) for argument in arguments))
    code, _, errors = demo.finish()
    assert code == 2
    assert re.search(f"^ditta demo: .*{message}", errors), errors
    assert not (demo.out / "log").exists()


def test_the_default_video_is_there() -> None:
    video = open_sequence(default_video())
    assert (len(video), video.frame_rate, video.image(0).shape) == (250, 25.0, (272, 640, 3))
