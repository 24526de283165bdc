"""The node paused, slowed down, told to stop adapting; in a namespace, with remappings, with a QoS of the user's."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest
from diagnostic_msgs.msg import DiagnosticStatus
from node_probe import STREAM, StartNode, diagnostic, lifecycle_state, set_parameter, values
from rclpy.qos import ReliabilityPolicy
from ros_harness import LATCHED, RELIABLE, Probe, texture, wait_until
from sensor_msgs.msg import Image
from std_msgs.msg import Header, String

from ditta_ros.messages.images import image_message


@pytest.mark.slow
def test_it_pauses_and_goes_on_with_all_that_it_has_learned(probe: Probe, start_node: StartNode) -> None:
    start_node(passes=2)
    probe.film()
    generation = probe.wait_for_state("ADAPTED")["generation"]
    answer = probe.call("enable", data=False)
    assert (answer.success, answer.message) == (True, "paused; images are received and left out")
    time.sleep(0.5)  # what was under way comes out
    masks, sent, skipped = len(probe.masks), len(probe.sent), probe.state["skipped"]
    status = diagnostic(probe, STREAM, "paused")
    assert status.level == DiagnosticStatus.OK
    assert "~/enable" in status.message
    wait_until(
        lambda: probe.state["paused"] and probe.state["skipped"] >= skipped + 5, lambda: f"skipped: {probe.state}"
    )
    assert lifecycle_state(probe) == "active"
    assert len(probe.masks) == masks < len(probe.sent) - sent + masks

    assert probe.call("enable", data=True).success
    probe.wait_for_masks()
    wait_until(lambda: not probe.state["paused"], "the news that it goes on")
    state = probe.state
    assert (state["state"], state["generation"]) == ("ADAPTED", generation)
    told = values(diagnostic(probe, STREAM, "Hz out"))
    # One image may wait in the mailbox.
    parts = sum(int(told[key]) for key in ("published", "dropped", "rejected", "skipped"))
    assert 0 <= int(told["received"]) - parts <= 2


@pytest.mark.slow
def test_a_running_adaptation_is_cancelled_and_the_last_model_serves(probe: Probe, start_node: StartNode) -> None:
    start_node(passes=2, warmup_on="service")
    probe.film()
    probe.wait_for_masks()
    refused = probe.call("cancel")
    assert not refused.success
    assert refused.message == "expected a warm-up or an adaptation under way, but the state is BASE"
    probe.call("adapt")
    generation = probe.wait_for_state("ADAPTED")["generation"]
    assert set_parameter(probe, "passes", 1000) == ""
    for begun in ("ADAPTING", "COLLECTING"):
        since = len(probe.states)
        assert probe.call("adapt").success
        probe.wait_for_state(begun, since)
        since = len(probe.states)
        assert probe.call("cancel").success
        state = probe.wait_for_state("ADAPTED", since)
        assert (state["generation"], state["message"]) == (generation, "warm-up given up: it was stopped")
        probe.wait_for_masks()


def test_a_training_beside_its_statistics_is_cancelled_too(probe: Probe, start_node: StartNode) -> None:
    start_node(self_training_steps=1000, warmup_frames=6)
    probe.film()
    state = probe.wait_for_state("ADAPTED")
    assert (state["generation"], state["training"]) == (1, True)
    since = len(probe.states)
    answer = probe.call("cancel")
    assert (answer.success, answer.message) == (True, "given up; the model that serves goes on")
    state = probe.wait_for_state("ADAPTED", since)
    assert (state["generation"], state["training"]) == (1, False)
    assert not probe.call("cancel").success
    probe.wait_for_masks()


@pytest.mark.slow
def test_images_above_the_largest_rate_are_counted_not_lost_in_silence(probe: Probe, start_node: StartNode) -> None:
    start_node(max_rate=4.0, warmup_on="service", input_timeout=30.0)
    probe.film()  # ten per second
    probe.wait_for_masks()
    begin, masks, skipped = time.monotonic(), len(probe.masks), probe.state["skipped"]
    wait_until(lambda: probe.state["skipped"] - skipped >= 18, lambda: f"skipped images: {probe.state}")
    rate = (len(probe.masks) - masks) / (time.monotonic() - begin)
    assert 1 < rate < 4.6, "slower on a busy machine"
    assert set_parameter(probe, "max_rate", 0.0) == ""
    before = int(values(diagnostic(probe, STREAM, "Hz out"))["skipped"])
    probe.wait_for_masks(20)
    time.sleep(1.1)
    assert int(values(diagnostic(probe, STREAM, "Hz out"))["skipped"]) - before <= 3


class Camera:
    """A camera of a robot's namespace, and what comes out there."""

    def __init__(self, probe: Probe, image: str, outputs: str) -> None:
        self.masks: list[Image] = []
        self.states: list[String] = []
        self._publisher = probe.node.create_publisher(Image, image, RELIABLE)
        probe.subscribe(Image, f"{outputs}/semantic", self.masks.append)
        probe.subscribe(String, f"{outputs}/state", self.states.append, LATCHED)

    def send(self) -> None:
        now = time.time_ns()
        header = Header(frame_id="camera")
        header.stamp.sec, header.stamp.nanosec = divmod(now, 1_000_000_000)
        self._publisher.publish(image_message(texture(now // 100_000_000 % 300), header))
        time.sleep(0.1)

    def until(self, condition: Callable[[], Any], what: str) -> None:
        def filmed() -> Any:
            self.send()
            return condition()

        wait_until(filmed, what)


@pytest.mark.parametrize(
    ("arguments", "image", "outputs"),
    [
        (["-r", "__ns:=/robot1"], "/robot1/camera/image_raw", "/robot1/ditta"),
        (["-r", "__ns:=/robot1", "-r", "image:=front/image"], "/robot1/front/image", "/robot1/ditta"),
        (["-r", "image:=/front/image"], "/front/image", "/ditta"),
    ],
)
def test_the_topic_of_the_images_is_one_as_everywhere(
    probe: Probe, start_node: StartNode, arguments: list[str], image: str, outputs: str
) -> None:
    camera = Camera(probe, image, outputs)
    start_node(*arguments, warmup_on="service")
    camera.until(lambda: len(camera.masks) >= 2 and camera.states, f"masks of {image} below {outputs}")
    topics = {topic for topic, _ in probe.node.get_topic_names_and_types()}
    assert {f"{outputs}/{name}" for name in ("semantic", "confidence", "overlay", "points", "classes")} <= topics


def test_every_quality_of_service_can_be_overridden(probe: Probe, start_node: StartNode) -> None:
    names = [
        *(f"/ditta/{name}.publisher" for name in ("semantic", "confidence", "overlay", "points", "camera_info")),
        *(f"/ditta/{name}.publisher" for name in ("state", "classes")),
        "/diagnostics.publisher",
    ]
    reversed_ = {f"qos_overrides.{name}.reliability": "best_effort" for name in names}
    reversed_["qos_overrides./camera/image_raw.subscription.reliability"] = "reliable"
    start_node(warmup_on="service", **reversed_)
    probe.film()

    def of_the_node(infos: list[Any]) -> list[Any]:
        return [each.qos_profile.reliability for each in infos if each.node_name == "ditta"]

    for name in names:
        topic = name.removesuffix(".publisher")
        found = wait_until(
            lambda topic=topic: of_the_node(probe.node.get_publishers_info_by_topic(topic)), f"a publisher of {topic}"
        )
        assert found == [ReliabilityPolicy.BEST_EFFORT], topic
    subscriptions = wait_until(
        lambda: of_the_node(probe.node.get_subscriptions_info_by_topic("/camera/image_raw")), "the subscription"
    )
    assert subscriptions == [ReliabilityPolicy.RELIABLE]
