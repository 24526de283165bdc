"""What the graph says: names, and hints for topics on which nothing comes."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from rclpy.node import Node
from ros_harness import wait_until
from sensor_msgs.msg import CompressedImage

from ditta_ros.process.graph import (
    describe_mixture,
    describe_namesake,
    describe_silence,
    diagnostics_name,
    resolved_topic,
    transport_hint,
)


@pytest.fixture
def node(ros: None) -> Iterator[Node]:
    node = Node("eye", namespace="/robot7/head", cli_args=["--ros-args", "-r", "lens:=/left/lens"])
    yield node
    node.destroy_node()


def test_names_hold_their_namespace(node: Node) -> None:
    assert diagnostics_name(node) == "robot7/head/eye"
    assert resolved_topic(node, "image") == "/robot7/head/image"
    assert resolved_topic(node, "lens") == "/left/lens"


@pytest.mark.parametrize("topic", ["", "a b", "a//b", "{robot}/image", "image?"])
def test_what_is_no_name_stays(node: Node, topic: str) -> None:
    assert resolved_topic(node, topic) == topic


def test_a_namesake_is_found_where_it_is_one(node: Node) -> None:
    others = [Node("eye", namespace="/robot8/head"), Node("ear", namespace="/robot7/head")]
    wait_until(lambda: ("ear", "/robot7/head") in node.get_node_names_and_namespaces(), "the others")
    assert describe_namesake(node) == ""
    others.append(Node("eye", namespace="/robot7/head"))
    text = wait_until(lambda: describe_namesake(node), "the namesake")
    assert text.startswith("2 nodes are named /robot7/head/eye, and") and "-r __node:=other" in text
    assert describe_namesake(others[-1]) == text
    for other in others:
        other.destroy_node()


def test_several_publishers_of_one_topic_are_named(node: Node) -> None:
    subscription = node.create_subscription(CompressedImage, "/shared", lambda _: None, 1)
    others = [Node(name, namespace="/cameras") for name in ("right", "left")]
    others[0].create_publisher(CompressedImage, "/shared", 1)
    wait_until(lambda: node.count_publishers("/shared"), "the first publisher")
    assert describe_mixture(node, subscription) == ""
    others[1].create_publisher(CompressedImage, "/shared", 1)
    text = wait_until(lambda: describe_mixture(node, subscription), "the second publisher")
    assert text.startswith("2 publishers mix their images on /shared: /cameras/left, /cameras/right; give every camera")
    for other in others:
        other.destroy_node()


@pytest.mark.parametrize(
    ("topic", "hint"),
    [
        ("/a/image/compressed", "set image_topic to /a/image and image_transport to compressed"),
        ("/b/image", "check image_transport"),
    ],
)
def test_the_parameters_for_images_of_the_other_type(topic: str, hint: str) -> None:
    assert transport_hint(topic) == hint


@pytest.mark.parametrize(
    ("topic", "hint"),
    [
        ("/c/image/compressed/compressed", "nobody publishes it; set image_topic to /c/image, as"),
        ("/d/image/compressed", "nobody publishes it; set image_topic, or start the camera"),
    ],
)
def test_a_topic_that_is_said_to_be_compressed_twice(node: Node, topic: str, hint: str) -> None:
    subscription = node.create_subscription(CompressedImage, topic, lambda _: None, 1)
    assert f"no image on {topic}: {hint}" in describe_silence(node, subscription)
