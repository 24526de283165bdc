"""Writing bags."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import yaml
from bag_harness import STORAGES, Listed, numbered
from rosbags.highlevel import AnyReader

from ditta_core.classes import ClassList
from ditta_core.datasets.video import ImageFolder
from ditta_ros.bags.reader import CLASSES_TOPIC, GROUND_TRUTH_TOPIC
from ditta_ros.bags.sequence import BagSequence
from ditta_ros.bags.writer import (
    BagOptions,
    Storage,
    make_bag,
)


def test_what_the_bag_says_to_ros(tmp_path: Path) -> None:
    """The contents and QoS of all topics, read by another way than ours: ROS's own messages and the YAML itself."""
    from rclpy.serialization import deserialize_message
    from sensor_msgs.msg import CameraInfo, Image
    from std_msgs.msg import String

    from ditta_ros.messages.images import image_message

    sequence = numbered(3, every=2)
    make_bag(sequence, tmp_path / "bag", BagOptions(image_topic="/front/image_raw", frame_id="front"))
    types = {
        "/front/image_raw": Image,
        "/front/camera_info": CameraInfo,
        GROUND_TRUTH_TOPIC: Image,
        CLASSES_TOPIC: String,
    }
    messages: dict[str, list[Any]] = {topic: [] for topic in types}
    with AnyReader([tmp_path / "bag"]) as reader:
        for connection, timestamp, content in reader.messages():
            message = deserialize_message(bytes(content), types[connection.topic])
            messages[connection.topic].append(message)
            if connection.topic != CLASSES_TOPIC:
                stamp = message.header.stamp
                assert stamp.sec * 10**9 + stamp.nanosec == timestamp
                assert message.header.frame_id == "front"
    assert {topic: len(found) for topic, found in messages.items()} == dict(zip(types, (3, 3, 2, 1), strict=True))
    image = messages["/front/image_raw"][1]
    assert image == image_message(sequence.image(1), image.header)
    label = messages[GROUND_TRUTH_TOPIC][1]
    assert label == image_message(np.zeros((6, 8), np.uint8), label.header)
    assert label.header == messages["/front/image_raw"][2].header
    info = messages["/front/camera_info"][0]
    assert (info.height, info.width) == (6, 8)
    assert not info.k.any()
    assert json.loads(messages[CLASSES_TOPIC][0].data) == [
        {"id": 0, "name": "road", "color": [128, 64, 128]},
        {"id": 1, "name": "sky", "color": [70, 130, 180]},
        {"id": 255, "name": "unlabelled", "color": [0, 0, 0]},
    ]
    metadata = yaml.safe_load((tmp_path / "bag" / "metadata.yaml").read_text())["rosbag2_bagfile_information"]
    topics = [entry["topic_metadata"] for entry in metadata["topics_with_message_count"]]
    durability = {topic["name"]: yaml.safe_load(topic["offered_qos_profiles"])[0]["durability"] for topic in topics}
    transient_local, volatile = 1, 2
    assert durability.pop(CLASSES_TOPIC) == transient_local
    assert set(durability.values()) == {volatile}


def test_nothing_is_overwritten_unasked(tmp_path: Path) -> None:
    make_bag(numbered(2), tmp_path / "bag")
    with pytest.raises(FileExistsError, match=r"expected a new folder, but .*bag exists; choose another one, or"):
        make_bag(numbered(3), tmp_path / "bag")
    assert len(BagSequence(tmp_path / "bag")) == 2
    make_bag(numbered(3), tmp_path / "bag", BagOptions(overwrite=True, storage="sqlite3"))
    assert len(BagSequence(tmp_path / "bag")) == 3
    assert [entry.name for entry in tmp_path.iterdir()] == ["bag"]
    assert sorted(entry.name for entry in (tmp_path / "bag").iterdir()) == ["bag.db3", "metadata.yaml"]


@pytest.mark.parametrize(
    "kind", ["folder", "file", "link", "bag and notes", "bag and folder", "bag and parameters", "map"]
)
def test_only_bags_are_overwritten(tmp_path: Path, kind: str) -> None:
    out = tmp_path / "out"
    if kind == "file":
        out.write_text("a thesis")
    elif kind == "link":
        make_bag(numbered(2), tmp_path / "elsewhere")
        out.symlink_to(tmp_path / "elsewhere")
    else:
        out.mkdir()
        if kind == "map":
            (out / "metadata.yaml").write_text("image: map.pgm")
        elif kind != "folder":
            out.rmdir()
            make_bag(numbered(2), out)
        name = "parameters.yaml" if kind in ("bag and parameters", "map") else "thesis.txt"
        (out / "sub").mkdir() if kind == "bag and folder" else (out / name).write_text("a thesis")
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(FileExistsError, match=r"expected a bag and nothing else to overwrite, but .*out is not one"):
        make_bag(numbered(2), out, BagOptions(overwrite=True))
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("storage", STORAGES)
@pytest.mark.parametrize("interruption", [KeyboardInterrupt, OSError])
def test_an_aborted_bag_leaves_nothing_behind(tmp_path: Path, storage: Storage, interruption: type) -> None:
    def abort(done: int, frames: int) -> None:
        assert frames == 5
        if done == 3:
            raise interruption

    with pytest.raises(interruption):
        make_bag(numbered(5), tmp_path / "bag", BagOptions(storage=storage), abort)
    assert list(tmp_path.iterdir()) == []
    make_bag(numbered(2), tmp_path / "bag")
    with pytest.raises(interruption):
        make_bag(numbered(5), tmp_path / "bag", BagOptions(overwrite=True), abort)
    assert len(BagSequence(tmp_path / "bag")) == 2
    assert [entry.name for entry in tmp_path.iterdir()] == ["bag"]


@pytest.mark.parametrize("topic", ["image", "/", "/a//b", "/1a", "/a b", GROUND_TRUTH_TOPIC, "/camera/camera_info"])
def test_bad_topics_for_images(topic: str) -> None:
    with pytest.raises(ValueError, match=r"expected a"):
        BagOptions(image_topic=topic)


def test_sequences_that_are_no_bag(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"expected frames in listed, but got none"):
        make_bag(numbered(0), tmp_path / "bag")
    many = ClassList.of_names([f"class {index}" for index in range(256)])
    labelled = Listed([np.zeros((2, 2, 3), np.uint8)], [np.zeros((2, 2), np.uint8)], classes=many)
    with pytest.raises(ValueError, match=r"expected at most 255 classes, as labels have 8 bits, but got 256"):
        make_bag(labelled, tmp_path / "bag")
    assert list(tmp_path.iterdir()) == []


def test_frames_of_several_sizes_are_refused_by_their_name(tmp_path: Path) -> None:
    for index, width in enumerate((40, 40, 42)):
        cv2.imwrite(str(tmp_path / f"{index}.webp"), np.full((30, width, 3), 50, np.uint8))
    with pytest.raises(
        ValueError, match=r"40x30 pixels as .*0\.webp, but .*2\.webp has 42x30; make a bag of each size"
    ):
        make_bag(ImageFolder(tmp_path, 10.0), tmp_path / "bag")
    assert not (tmp_path / "bag").exists()


def test_what_no_stamp_and_no_header_can_hold_is_refused(tmp_path: Path) -> None:
    for index in range(2):
        cv2.imwrite(str(tmp_path / f"{index}.png"), np.full((4, 6, 3), 90 * index, np.uint8))
    with pytest.raises(
        ValueError, match=r"until 2038, but .*1\.png is 1e\+09 s after the first frame; .* --frame-rate"
    ):
        make_bag(ImageFolder(tmp_path, 1e-9), tmp_path / "bag")
    for frame_id in ("camera\udcff", "camera\0", "line\nline"):
        with pytest.raises(ValueError, match="expected a frame_id of characters"):
            BagOptions(frame_id=frame_id)
    assert not (tmp_path / "bag").exists()
