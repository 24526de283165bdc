"""What runs: cameras and nodes."""

from __future__ import annotations

import os
import re
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import ros_harness
import yaml
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from ros_harness import BEST_EFFORT, RELIABLE, wait_until
from sensor_msgs.msg import CompressedImage, Image
from std_msgs.msg import Header

from ditta_ros.doctor.examination import check_graph
from ditta_ros.doctor.findings import Finding, Level
from ditta_ros.messages.images import image_message
from ditta_ros.parameters import NodeParameters
from ditta_ros.process.graph import UNNAMED


def by_name(findings: list[Finding]) -> dict[str, Finding]:
    return {finding.name: finding for finding in findings}


@pytest.fixture
def cameras(ros: None) -> Iterator[Node]:
    """A node that publishes in its own way on each topic."""
    node = Node("cameras")
    stopped = threading.Event()

    def publisher(kind: Any, topic: str, qos: QoSProfile) -> Any:
        return node.create_publisher(kind, topic, qos)

    publishers = {name: publisher(Image, f"/{name}", RELIABLE) for name in ("fine", "unstamped", "unreadable")}
    publisher(Image, "/silent", RELIABLE)
    publisher(CompressedImage, "/packed", RELIABLE)
    publisher(Image, "/best_effort", BEST_EFFORT)
    mixed = [Node(name) for name in ("left", "right")]
    publishers |= {each.get_name(): each.create_publisher(Image, "/mixed", RELIABLE) for each in mixed}

    def film() -> None:
        while not stopped.wait(0.05):
            for name, each in publishers.items():
                header = Header(frame_id="camera")
                if name != "unstamped":
                    header.stamp.sec, header.stamp.nanosec = divmod(time.time_ns(), 1_000_000_000)
                message = image_message(ros_harness.texture(0), header)
                if name == "unreadable":
                    message.encoding = "infrared7"
                each.publish(message)

    thread = threading.Thread(target=film)
    thread.start()
    yield node
    stopped.set()
    thread.join()
    for each in (node, *mixed):
        each.destroy_node()


def test_cameras_of_every_kind(cameras: Node) -> None:
    names = "fine", "unstamped", "unreadable", "silent", "packed", "best_effort", "mixed", "absent"
    text = yaml.safe_dump({name: f"/{name}" for name in names})
    parameters = NodeParameters(cameras=text, image_reliability="reliable")
    found: dict[str, list[Finding]] = {}
    for finding in check_graph(parameters, False, os.environ):
        found.setdefault(finding.name, []).append(finding)
    levels = {name: [finding.level for finding in found[f"/{name}"]] for name in names}
    assert levels == {
        "fine": [Level.OK],
        "unstamped": [Level.WARNING],
        "unreadable": [Level.ERROR],
        "silent": [Level.ERROR],
        "packed": [Level.ERROR],
        "best_effort": [Level.ERROR],
        "mixed": [Level.WARNING, Level.OK],
        "absent": [Level.WARNING],
    }, found
    sentences = {name: found[f"/{name}"][0] for name in names}
    name = f"(/cameras|{UNNAMED})"  # the name of a node may be discovered long after its topics
    assert re.match(rf"96×64 at \d+\.\d Hz from {name}", sentences["fine"].finding)
    assert "same stamp" in sentences["unstamped"].finding
    assert "infrared7" in sentences["unreadable"].finding
    assert "no image on /silent, though a publisher matches" in sentences["silent"].finding
    assert "publishes sensor_msgs/msg/CompressedImage" in sentences["packed"].finding
    assert "image_transport" in sentences["packed"].remedy
    asked = rf"expected a QoS that satisfies \(reliable, volatile\), but {name} offers \(best_effort, volatile\)"
    assert re.search(asked, sentences["best_effort"].finding)
    assert sentences["best_effort"].remedy == "set image_reliability to best_effort"
    for side in ("/left", "/right"):
        assert side in sentences["mixed"].finding or UNNAMED in sentences["mixed"].finding
    assert "nobody publishes it" in sentences["absent"].finding
    assert "/fine" in sentences["absent"].remedy and "/best_effort" in sentences["absent"].remedy
    assert found["node"][0].level is Level.OK


def test_an_environment_in_which_ros_does_not_start() -> None:
    (finding,) = check_graph(NodeParameters(), True, {**os.environ, "ROS_DOMAIN_ID": "robot"})
    assert finding.level is Level.ERROR and "ROS_DOMAIN_ID is not an integral number" in finding.finding
    (coloured,) = check_graph(NodeParameters(), True, {**os.environ, "ROS_DOMAIN_ID": "300"})
    assert coloured.level is Level.ERROR and "\x1b" not in coloured.finding


def test_cameras_that_cannot_be_read_are_not_looked_for() -> None:
    (finding,) = check_graph(NodeParameters(cameras="{front: 7}"), True, os.environ)
    assert finding.level is Level.WARNING and "which cameras there are is not known" in finding.finding


def findings_of_the_node(parameters: NodeParameters, unless_running: bool) -> dict[str, Finding]:
    """Of a look at which the node was discovered; where all cores are busy, that can take longer than one look."""

    def look() -> dict[str, Finding] | None:
        findings = by_name(check_graph(parameters, unless_running, os.environ))
        return findings if "/ditta" in findings else None

    return wait_until(look, "the node", 90)


@pytest.mark.slow
def test_a_node_that_runs(
    probe: ros_harness.Probe, start_node: Callable[..., ros_harness.NodeProcess], tmp_path: Path
) -> None:
    start_node(image_topic="/camera/image_raw", passes=1)
    probe.film()
    probe.wait_for_masks()
    late = QoSProfile(depth=1, reliability=ReliabilityPolicy.RELIABLE, durability=DurabilityPolicy.TRANSIENT_LOCAL)
    probe.subscribe(Image, "/ditta/semantic", lambda _: None, late)
    findings = findings_of_the_node(NodeParameters(image_topic="/camera/image_raw"), False)
    assert findings["/ditta"].finding == "active"
    # A machine that is too busy may lose images on the way, which is then what is found.
    assert re.search("96×64 at .* from /probe|though a publisher matches", findings["/camera/image_raw"].finding)
    assert findings["/ditta diagnostics"].level is not Level.ERROR
    assert findings["/ditta/semantic"].level is Level.ERROR
    assert "/probe asks for (reliable, transient_local)" in findings["/ditta/semantic"].finding


def test_a_node_that_could_not_be_configured(start_node: Callable[..., ros_harness.NodeProcess]) -> None:
    process = start_node(model="espnetv2:absent.pth")
    wait_until(lambda: "could not configure" in process.output, "the refusal")
    findings = findings_of_the_node(NodeParameters(), True)
    assert "/camera/image_raw" not in findings  # the node itself tells of its cameras
    assert findings["/ditta"].level is Level.WARNING and "unconfigured" in findings["/ditta"].finding
    assert findings["/ditta diagnostics"].level is Level.ERROR
    assert "absent.pth" in findings["/ditta diagnostics"].finding
