"""Which topics a node subscribes to, by what it is given, compared with the names that ROS makes of them."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import pytest
import rclpy
from hypothesis import given
from hypothesis import strategies as st
from rclpy.exceptions import InvalidTopicNameException
from rclpy.expand_topic_name import expand_topic_name
from rclpy.node import Node
from rclpy.validate_full_topic_name import validate_full_topic_name

from ditta_ros.camera.topics import CameraTopics, camera_topics
from ditta_ros.parameters import NodeParameters
from ditta_ros.process.graph import resolved_topic


@pytest.fixture(scope="module")
def ros() -> Iterator[None]:
    """One participant for all: none is talked to, and Fast DDS can hang as one ends (its issues 6193 and 6502)."""
    rclpy.init()
    yield
    rclpy.shutdown()


def topics(parameters: NodeParameters, namespace: str = "/", *remappings: str) -> CameraTopics:
    """The only camera of a real node with these remappings."""
    arguments = [word for rule in remappings for word in ("-r", rule)]
    node = Node("ditta", namespace=namespace, cli_args=["--ros-args", *arguments], enable_rosout=False)
    (camera,) = camera_topics(parameters, node.get_namespace(), partial(resolved_topic, node))
    node.destroy_node()
    return camera


@pytest.mark.parametrize(
    ("namespace", "remappings", "image", "camera_info"),
    [
        ("/", [], "/camera/image_raw", "/camera/camera_info"),
        ("/robot1", [], "/robot1/camera/image_raw", "/robot1/camera/camera_info"),
        ("/", ["image:=/front/image_rect"], "/front/image_rect", "/front/camera_info"),
        ("/robot1", ["image:=front/image_rect"], "/robot1/front/image_rect", "/robot1/front/camera_info"),
        ("/robot1", ["image:=/front/image", "camera_info:=/front/info"], "/front/image", "/front/info"),
        ("/", ["/camera/image_raw:=/front/image"], "/front/image", "/front/camera_info"),
        ("/robot1", ["camera/image_raw:=eye/image"], "/robot1/eye/image", "/robot1/eye/camera_info"),
        ("/", ["/camera/camera_info:=/info"], "/camera/image_raw", "/info"),
    ],
)
def test_the_image_and_its_camera_info(
    ros: None, namespace: str, remappings: list[str], image: str, camera_info: str
) -> None:
    assert topics(NodeParameters(), namespace, *remappings) == CameraTopics("", image, camera_info)


def test_topics_that_are_given_are_taken_as_they_are(ros: None) -> None:
    given = NodeParameters(image_topic="/image", camera_info_topic="info", depth_topic="depth/image")
    assert topics(given, "/robot1") == CameraTopics("", "/image", "/robot1/info", "/robot1/depth/image")
    several = NodeParameters(cameras="{front: {image: front/image, depth: /depth}}")
    expected = CameraTopics("front", "/robot1/front/image", "/robot1/front/camera_info", "/depth")
    assert topics(several, "/robot1") == expected == camera_topics(several, "/robot1")[0]


def test_without_a_node_nothing_is_remapped() -> None:
    assert camera_topics(NodeParameters()) == (CameraTopics("", "/camera/image_raw", "/camera/camera_info"),)
    assert camera_topics(NodeParameters(image_topic="eye/image"))[0].camera_info == "/eye/camera_info"


@pytest.mark.parametrize("cameras", ["{größe: /x}", "{front: /straße/image}", "{'': /x}", "{../up: /x}", "{١: /x}"])
def test_names_that_ros_does_not_take_are_refused(ros: None, cameras: str) -> None:
    with pytest.raises(ValueError, match=r"expected (a camera's name in|for the camera front in) cameras"):
        topics(NodeParameters(cameras=cameras))


@pytest.mark.parametrize("name", ["image_topic", "camera_info_topic", "depth_topic"])
@pytest.mark.parametrize("topic", ["/straße", "/2nd/image", "two words", "/a//b", "a\n", "a/b/", "/", "~a"])
def test_what_is_no_topic_is_refused_by_its_parameter(ros: None, name: str, topic: str) -> None:
    with pytest.raises(ValueError, match=f"expected the name of a topic for {name}, but got"):
        topics(NodeParameters(**{name: topic}))
    with pytest.raises(ValueError, match="for image_topic, but got ''"):
        topics(NodeParameters(image_topic=""))


@given(st.sampled_from(["", "~/"]), st.text("ab1_/", min_size=1, max_size=8))
def test_topics_are_those_that_ros_takes(beginning: str, rest: str) -> None:
    topic = beginning + rest
    try:
        validate_full_topic_name(expand_topic_name(topic, "ditta", "/"))
    except (InvalidTopicNameException, ValueError):
        with pytest.raises(ValueError, match="expected the name of a topic for image_topic"):
            camera_topics(NodeParameters(image_topic=topic))
    else:
        camera_topics(NodeParameters(image_topic=topic))
