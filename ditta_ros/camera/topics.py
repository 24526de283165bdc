"""Which cameras there are, and their topics."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from ditta_core.classes import read_yaml
from ditta_core.types import quoted
from ditta_ros.parameters import IMAGE, NodeParameters

DEFAULT_IMAGE = "camera/image_raw"
"""What the topic ``image`` is where nothing remaps it."""
CAMERA_INFO = "camera_info"
KEYS = ("image", CAMERA_INFO, "depth")


@dataclass(frozen=True)
class CameraTopics:
    """What is subscribed to for one camera.

    Attributes:
        name: Name below which its own topics and services stand; empty for the only camera, whose stand right below the
            node's name.
        image: Topic of the images.
        camera_info: Topic of the CameraInfo.
        depth: Topic of the registered depth images; empty for none.
        ignore_mask: Image file of the pixels that are ignored; empty for none.
    """

    name: str
    image: str
    camera_info: str
    depth: str = ""
    ignore_mask: str = ""

    def input(self, parameters: NodeParameters) -> str:
        """The topic that is subscribed to for the images, which is that of the images and its transport."""
        return f"{self.image}/compressed" if parameters.image_transport == "compressed" else self.image

    def private(self, topic: str) -> str:
        """The private name of one of this camera's own topics or services.

        >>> CameraTopics("", "/image", "/info").private("semantic")
        '~/semantic'
        >>> CameraTopics("front", "/image", "/info").private("semantic")
        '~/front/semantic'
        """
        return f"~/{self.name}/{topic}" if self.name else f"~/{topic}"


def sibling(topic: str, name: str) -> str:
    """The topic ``name`` in the namespace of ``topic``.

    >>> sibling("/camera/image_raw", "camera_info"), sibling("image", "camera_info")
    ('/camera/camera_info', 'camera_info')
    """
    namespace, slash, _ = topic.rpartition("/")
    return f"{namespace}{slash}{name}"


def full_name(topic: str, namespace: str) -> str:
    """A topic of a node in a namespace.

    >>> full_name("image", "/"), full_name("image", "/robot1"), full_name("/image", "/robot1")
    ('/image', '/robot1/image', '/image')
    """
    return topic if not topic or topic[0] in "/~" else f"{namespace.rstrip('/')}/{topic}"


def camera_topics(
    parameters: NodeParameters, namespace: str = "/", resolve: Callable[[str], str] | None = None
) -> tuple[CameraTopics, ...]:
    """The cameras that the parameters name, with full names of their topics; at least one.

    Args:
        namespace: Namespace of the node.
        resolve: Gives the full name of a topic of the node, remapped; None: nothing is remapped.

    Raises:
        ValueError: ``cameras`` is no YAML mapping of names to topics, or the name of a topic is none.
    """

    def resolved(topic: str) -> str:
        return full_name(topic, namespace) if resolve is None else resolve(topic)

    def remapped(topic: str) -> str:
        """What a relative topic is remapped to; empty where it is not."""
        name = resolved(topic)
        return "" if name == full_name(topic, namespace) else name

    def complete(topics: CameraTopics) -> CameraTopics:
        """The camera info lies beside the images as they are remapped, since drivers publish it there."""
        image = resolved(topics.image)
        info = topics.camera_info or sibling(image, CAMERA_INFO)
        return replace(topics, image=image, camera_info=resolved(info), depth=topics.depth and resolved(topics.depth))

    if not parameters.cameras.strip():
        topics = {name: getattr(parameters, name) for name in ("image_topic", "camera_info_topic", "depth_topic")}
        wrong = [name for name, topic in topics.items() if not _may_be_topic(topic)]
        if wrong or not parameters.image_topic:
            name = (wrong or ["image_topic"])[0]
            raise ValueError(f"expected the name of a topic for {name}, but got {quoted(topics[name])}")
        is_default = parameters.image_topic == IMAGE
        image = (remapped(IMAGE) or DEFAULT_IMAGE) if is_default else parameters.image_topic
        info = parameters.camera_info_topic or (remapped(CAMERA_INFO) if is_default else "")
        return (complete(CameraTopics("", image, info, parameters.depth_topic, parameters.ignore_mask)),)
    example = "'{front: /front/image_raw, rear: {image: /rear/image_raw, depth: /rear/depth}}'"
    entries = read_yaml(parameters.cameras, "the parameter cameras")
    if not isinstance(entries, Mapping) or not entries:
        found = quoted(parameters.cameras)
        raise ValueError(f"expected the parameter cameras as YAML such as {example}, but got {found}")
    given = [name for name in ("camera_info_topic", "depth_topic", "ignore_mask") if getattr(parameters, name)]
    if given:
        raise ValueError(
            f"expected camera_info_topic, depth_topic and ignore_mask to be empty beside cameras, but got "
            f"{' and '.join(given)}; give them in cameras, for each camera"
        )
    return tuple(complete(camera_of(name, entry, example)) for name, entry in entries.items())


def _may_be_topic(topic: Any) -> bool:
    """Whether ROS takes it for a topic's name: no part begins with a digit, or ends in nothing. May be empty."""
    part = r"[A-Za-z_]\w*"
    return isinstance(topic, str) and re.fullmatch(rf"(~|(~/|/)?{part}(/{part})*)?", topic, re.ASCII) is not None


def camera_of(name: Any, entry: Any, example: str) -> CameraTopics:
    """One entry of the parameter ``cameras``.

    Raises:
        ValueError: it is none.
    """
    if not isinstance(name, str) or not (name.isascii() and name.isidentifier()) or name[0] == "_":
        raise ValueError(
            f"expected a camera's name in cameras of letters, digits and underscores, not beginning with a digit or an "
            f"underscore, but got {quoted(name)}"
        )
    topics = {"image": entry} if isinstance(entry, str) else dict(entry) if isinstance(entry, Mapping) else {}
    ignore_mask = topics.pop("ignore_mask", "")
    known = set(topics) <= set(KEYS) and isinstance(ignore_mask, str)
    if not known or not topics.get("image") or not all(map(_may_be_topic, topics.values())):
        raise ValueError(
            f"expected for the camera {name} in cameras a topic, or topics by {', '.join(KEYS)} of which image must be "
            f"there (and the file ignore_mask), as in {example}, but got {quoted(entry)}"
        )
    info, depth = topics.get("camera_info", ""), topics.get("depth", "")
    return CameraTopics(name, topics["image"], info, depth, ignore_mask)
