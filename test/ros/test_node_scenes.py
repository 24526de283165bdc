"""The node as a process through what a drive brings: looped bags, cuts, gaps, several cameras, restarts."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from itertools import groupby
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from lifecycle_msgs.msg import Transition
from node_probe import ADAPTATION, change_state, diagnostic, set_parameter, values
from numpy.typing import NDArray
from rclpy.qos import ReliabilityPolicy
from ros_harness import LATCHED, NodeProcess, Probe, texture, wait_until
from sensor_msgs.msg import CompressedImage, Image
from std_msgs.msg import Header, String
from std_srvs.srv import Trigger

from ditta_core.datasets.base import VideoSequence
from ditta_core.datasets.open import open_video
from ditta_ros.bags.sequence import BagSequence
from ditta_ros.bags.writer import make_bag
from ditta_ros.demo.run import default_video
from ditta_ros.messages.images import image_message, label_image, stamp_of

StartNode = Callable[..., NodeProcess]
SECOND = 1_000_000_000


def header_at(stamp: int) -> Header:
    header = Header(frame_id="camera_optical_frame")
    header.stamp.sec, header.stamp.nanosec = divmod(stamp, SECOND)
    return header


class Camera:
    """Sends one image after the other, each when the mask of the last one is there."""

    def __init__(self, probe: Probe) -> None:
        self.probe = probe

    def show(self, image: NDArray[np.uint8], stamp: int) -> None:
        """Publish an image and wait for its mask."""
        self.send(self.probe.camera, image_message(image, header_at(stamp)))
        mask = self.probe.masks[-1]
        assert (mask.height, mask.width) == image.shape[:2]

    def lose(self, image: NDArray[np.uint8], stamp: int) -> None:
        """Publish an image that is rejected, and wait until it was."""
        before = self.probe.state["rejected"]
        self.probe.camera.publish(image_message(image, header_at(stamp)))
        wait_until(lambda: self.probe.state["rejected"] > before, f"the rejection of {stamp}")

    def send(self, publisher: Any, message: Image | CompressedImage) -> None:
        """Publish a message and wait for its mask."""
        stamp = stamp_of(message.header)
        tries = 1 if self.probe.masks else 60  # the first image until the node has found the camera
        for _ in range(tries):
            publisher.publish(message)
            deadline = time.monotonic() + 60 / tries
            while not self.answered(stamp) and time.monotonic() < deadline:
                time.sleep(0.002)
            if self.answered(stamp):
                break
        assert self.answered(stamp), f"no mask of {stamp}; the node is {self.probe.state}"

    def answered(self, stamp: int) -> bool:
        """Whether the last mask is that of this stamp."""
        return bool(self.probe.masks) and stamp_of(self.probe.masks[-1].header) == stamp


def history(states: list[dict[str, Any]]) -> list[tuple[str, int]]:
    """States and generations, each as often as it was entered."""
    return [key for key, _ in groupby((state["state"], state["generation"]) for state in states)]


@pytest.fixture(scope="module")
def drive(camvid_clip: Path, tmp_path_factory: pytest.TempPathFactory) -> BagSequence:
    """A real bag of two scenes at 10 Hz: 60 images of a street, then 60 of another one, filmed by another camera."""
    street, bikes = open_video(camvid_clip), open_video(default_video())

    class TwoScenes(VideoSequence):
        """Both videos at one size, one after the other."""

        name = "two_scenes"
        frame_rate = 10.0

        def __len__(self) -> int:
            return 120

        def image(self, index: int) -> NDArray[np.uint8]:
            # The second scene is one shot of its film, there and back.
            image = street.image(index) if index < 60 else bikes.image(25 - abs(25 - (index - 60) % 50))
            return np.asarray(cv2.resize(image, (320, 240), interpolation=cv2.INTER_AREA), np.uint8)

    bag = tmp_path_factory.mktemp("bag") / "two_scenes"
    make_bag(TwoScenes(), bag)
    return BagSequence(bag)


@pytest.mark.slow
def test_a_looped_bag_a_cut_a_gap_and_a_change_of_resolution(
    probe: Probe, start_node: StartNode, drive: BagSequence
) -> None:
    start_node(
        long_side=160,
        warmup_frames=5,
        passes=1,
        scene_confirmation=0.5,
        scene_cooldown=1.0,
        image_reliability="reliable",
    )
    probe.wait_for_state("BASE")
    camera = Camera(probe)

    def play(first: int, size: tuple[int, int] | None = None, offset: int = 0, outliers: int = 0) -> None:
        """Frames of one scene until the node has adapted to it, or come back to it, and some more.

        The first ones do not follow those before them, and are ``outliers`` until others agree.
        """
        mark, more = len(probe.states), 20
        for index in range(first, len(drive)):
            image = drive.image(index)
            if size is not None:
                image = np.asarray(cv2.resize(image, size[::-1], interpolation=cv2.INTER_AREA), np.uint8)
            show = camera.lose if index < first + outliers else camera.show
            show(image, drive.stamp(index) + offset)
            left = index > first + 12  # what was there before has been left by now
            if left and probe.state["state"] == "ADAPTED" and len(probe.states) > mark:
                more -= 1
            if not more:
                return
            if probe.state["state"] == "ADAPTING":
                time.sleep(0.2)  # which is not in the stamps
        pytest.fail(f"not adapted within the scene: {history(probe.states)}")

    for turn in range(3):  # the clock jumps back at each round
        play(0, outliers=2 if turn else 0)
        play(60)
        # A gap of ten seconds in the same scene changes nothing.
        for index in range(100, 110):
            camera.show(drive.image(index), drive.stamp(index) + 10 * SECOND)
    play(70, size=(180, 240), offset=20 * SECOND, outliers=2)  # about where this scene was learned

    learned = [("COLLECTING", 0), ("ADAPTING", 0)]
    known = [("BASE", 0), ("COLLECTING", 0)]
    assert history(probe.states) == [
        ("BASE", 0), *learned, ("ADAPTED", 1),
        ("BASE", 0), *learned, ("ADAPTED", 2),
        *[*known, ("ADAPTED", 1), *known, ("ADAPTED", 2)] * 2,
        *known, ("ADAPTED", 2),
    ]  # fmt: skip
    wait_until(lambda: probe.state["received"] == len(probe.masks) + 6, "the count of the last images")
    assert (probe.state["rejected"], probe.state["dropped"]) == (6, 0)


class Listener:
    """One of several cameras, and what the node says of it."""

    def __init__(self, probe: Probe, name: str) -> None:
        self.masks: list[Image] = []
        self.states: list[dict[str, Any]] = []
        self.camera = probe.node.create_publisher(Image, f"/{name}/image", 10)
        probe.subscribe(Image, f"/ditta/{name}/semantic", self.masks.append)
        probe.subscribe(String, f"/ditta/{name}/state", lambda m: self.states.append(json.loads(m.data)), LATCHED)
        self.adapt = probe.node.create_client(Trigger, f"/ditta/{name}/adapt")

    @property
    def generation(self) -> int:
        return self.states[-1]["generation"] if self.states else -1


@pytest.mark.slow
def test_several_cameras_adapt_in_turn_in_one_process(probe: Probe, start_node: StartNode) -> None:
    start_node(
        cameras="{front: /front/image, rear: {image: /rear/image}}", image_reliability="reliable", warmup_on="service"
    )
    front, rear = Listener(probe, "front"), Listener(probe, "rear")
    sizes = {"front": (64, 96), "rear": (96, 64)}
    sent = 0

    def film() -> None:
        nonlocal sent
        sent += 1
        for name, listener in (("front", front), ("rear", rear)):
            listener.camera.publish(image_message(texture(sent, sizes[name]), header_at(time.time_ns())))
        time.sleep(0.05)

    def film_until(condition: Callable[[], Any], what: str) -> None:
        wait_until(lambda: [film(), condition()][1], lambda: f"{what}: {front.states[-1:]} {rear.states[-1:]}", 60)

    film_until(lambda: len(front.masks) > 5 and len(rear.masks) > 5, "masks of both")
    assert {(mask.height, mask.width) for mask in front.masks} == {(64, 96)}
    assert {(mask.height, mask.width) for mask in rear.masks} == {(96, 64)}
    assert not probe.masks, "none on the topic of the only camera"

    assert front.adapt.wait_for_service(30)
    answer = probe.result(front.adapt.call_async(Trigger.Request()))
    assert (answer.success, answer.message) == (True, "adapting to the next 4 images")
    film_until(lambda: front.generation == 1, "the front to adapt")
    assert rear.generation == 0

    answer = probe.call("adapt")
    assert answer.message == "front: adapting to the next 4 images; rear: adapting to the next 4 images"
    film_until(lambda: (front.generation, rear.generation) == (2, 1), "both to adapt")
    for name in ("front", "rear"):
        diagnostic(probe, f"ditta: {name}: stream", "Hz in")
        assert values(diagnostic(probe, f"ditta: {name}: adaptation", "adapted"))["state"] == "ADAPTED"
    # Fair: neither got more than a few masks more than the other.
    counts = len(front.masks), len(rear.masks)
    assert min(counts) > 0.7 * max(counts)


@pytest.mark.slow
def test_compressed_images_give_the_masks_of_the_raw_ones(probe: Probe, start_node: StartNode) -> None:
    raw = start_node(warmup_on="service", smoothing=0.0)
    camera = Camera(probe)
    expected = []
    for index in range(3):
        camera.show(texture(index), (1000 + index) * SECOND)
        expected.append(label_image(probe.masks[-1]))
    raw.stop()

    probe.masks.clear()
    compressed = probe.node.create_publisher(CompressedImage, "/camera/image_raw/compressed", 10)
    node = start_node(warmup_on="service", smoothing=0.0, image_transport="compressed")
    for index in range(3):
        data = cv2.imencode(".png", cv2.cvtColor(texture(index), cv2.COLOR_RGB2BGR))[1].tobytes()
        header = header_at((1000 + index) * SECOND)
        camera.send(compressed, CompressedImage(header=header, format="rgb8; png compressed bgr8", data=data))
        np.testing.assert_array_equal(label_image(probe.masks[-1]), expected[index])
    compressed.publish(CompressedImage(header=header_at(2000 * SECOND), format="png", data=b"not a picture"))
    diagnostic(probe, "ditta: stream", "expected a JPEG or PNG image, but got 13 bytes of 'png' that are none")
    bomb = bytearray(cv2.imencode(".jpg", np.zeros((8, 8), np.uint8))[1].tobytes())
    place = bomb.index(b"\xff\xc0")
    bomb[place + 5 : place + 9] = (20000).to_bytes(2, "big") * 2
    compressed.publish(CompressedImage(header=header_at(2001 * SECOND), format="jpeg", data=bytes(bomb)))
    diagnostic(probe, "ditta: stream", "expected an image of at most 25 megapixels, but got one of 20000×20000")
    assert "Traceback" not in node.output


@pytest.mark.slow
def test_what_was_learned_outlives_the_process(probe: Probe, start_node: StartNode, tmp_path: Path) -> None:
    folder = tmp_path / "generations"
    probe.still = True
    node = start_node(state_dir=str(folder))
    probe.film()
    probe.wait_for_state("ADAPTED")
    probe.wait_for_masks()
    answer = probe.call("save")
    assert (answer.success, answer.message) == (
        True,
        f"generation 1 written to {folder / 'generation-0001.safetensors'}",
    )
    probe.hold()
    node.stop()

    (folder / "generation-0002.safetensors").write_bytes(b"half a file")
    probe.states.clear()
    second = start_node(state_dir=str(folder))
    probe.film()
    assert probe.wait_for_state("ADAPTED")["message"] == "back in a scene seen before: generation 1"
    assert history(probe.states) == [("BASE", 0), ("COLLECTING", 0), ("ADAPTED", 1)]
    assert "a saved generation is left out" in second.output
    assert "generation-0002" in values(diagnostic(probe, ADAPTATION, "back in"))["saved generation left out (1)"]

    mark = len(probe.states)
    assert probe.call("reset").success
    probe.wait_for_state("BASE", mark)
    assert probe.call("save").message == "expected an adapted generation, but the base model is serving; adapt first"
    assert probe.call("restore").success
    assert probe.wait_for_state("ADAPTED", mark)["generation"] == 1


def test_without_a_folder_nothing_is_saved(probe: Probe, start_node: StartNode) -> None:
    start_node(warmup_on="service")
    probe.film()
    probe.wait_for_masks()
    answer = probe.call("save")
    assert not answer.success
    assert answer.message.startswith("expected the parameter state_dir, but it is empty")
    answer = probe.call("restore")
    assert not answer.success
    assert "expected a generation to restore, but got none" in answer.message


@pytest.mark.slow
@pytest.mark.parametrize("cancel", [False, True])
def test_deactivating_keeps_or_gives_up_an_adaptation(probe: Probe, start_node: StartNode, cancel: bool) -> None:
    start_node(passes=60, cancel_on_deactivate=cancel, warmup_on="service")
    probe.film()
    probe.wait_for_masks()
    assert probe.call("adapt").success
    probe.wait_for_state("ADAPTING")
    mark = len(probe.states)
    assert change_state(probe, Transition.TRANSITION_DEACTIVATE)
    if cancel:
        assert "given up" in probe.wait_for_state("BASE", mark)["message"]
    else:
        assert probe.wait_for_state("ADAPTED", mark)["generation"] == 1
    assert change_state(probe, Transition.TRANSITION_ACTIVATE)
    probe.wait_for_masks()
    assert probe.state["generation"] == (0 if cancel else 1)


def test_parameters_change_while_images_flow(probe: Probe, start_node: StartNode) -> None:
    start_node(warmup_on="service")
    probe.film()
    probe.wait_for_masks()
    assert set_parameter(probe, "warmup_frames", 2) == ""
    assert set_parameter(probe, "passes", 1) == ""
    wait_until(lambda: probe.state["warmup_frames"] == 2, "the new length of the warm-up")
    assert "expected expected_frames with a warmup_ratio of 10 %" in set_parameter(probe, "warmup_ratio", 10)
    assert "expected startup, scene_change, service" in set_parameter(probe, "warmup_on", "sometimes")
    assert probe.call("adapt").message == "adapting to the next 2 images"
    adapted = probe.wait_for_state("ADAPTED")
    assert (adapted["collected"], len(adapted["losses"])) == (2, 1)
    assert probe.state["rejected"] == 0


def test_quality_of_service_of_the_masks_can_be_overridden(probe: Probe, start_node: StartNode) -> None:
    overrides = {"/ditta/semantic": {"publisher": {"reliability": "best_effort", "depth": 2}}}
    node = start_node(warmup_on="service", qos_overrides=overrides)
    semantic, confidence = (
        wait_until(lambda name=name: probe.node.get_publishers_info_by_topic(f"/ditta/{name}"), lambda: node.output)[0]
        for name in ("semantic", "confidence")
    )
    assert semantic.qos_profile.reliability is ReliabilityPolicy.BEST_EFFORT
    assert confidence.qos_profile.reliability is ReliabilityPolicy.RELIABLE
