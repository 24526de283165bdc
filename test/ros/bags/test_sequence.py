"""Bags as sequences: what is read is what was written, in whatever order."""

from __future__ import annotations

import dataclasses
import pickle
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import cv2
import numpy as np
import pytest
from bag_harness import CLASSES, STORAGES, Listed, at, mask, numbered, picture, storage_file, text, write
from hypothesis import example, given, settings
from hypothesis import strategies as st
from rosbags.rosbag2 import Writer

from ditta_core.classes import ClassList
from ditta_core.datasets.excerpt import Excerpt
from ditta_core.datasets.open import open_video
from ditta_ros.bags.reader import CLASSES_TOPIC, GROUND_TRUTH_TOPIC, SEEK_DISTANCE, message_types
from ditta_ros.bags.sequence import BagSequence
from ditta_ros.bags.writer import (
    EPOCH,
    BagOptions,
    Storage,
    compressed_message,
    make_bag,
)


@st.composite
def sequences(draw: st.DrawFn) -> Listed:
    frames, height, width = draw(st.integers(1, 5)), draw(st.integers(1, 9)), draw(st.integers(1, 9))
    random = np.random.default_rng(draw(st.integers(0, 2**32)))
    images = [random.integers(0, 256, (height, width, 3), np.uint8) for _ in range(frames)]
    labelled = draw(st.lists(st.booleans(), min_size=frames, max_size=frames))
    labels = [random.choice(np.array([0, 1, 255], np.uint8), (height, width)) if has else None for has in labelled]
    return Listed(images, draw(st.sampled_from([labels, None])), draw(st.sampled_from([0.3, 1.0, 15.0, 29.97, 1000.0])))


@settings(max_examples=40, deadline=None)
@given(sequences(), st.sampled_from(STORAGES), st.sampled_from([None, "png"]))
def test_a_sequence_comes_back_bit_for_bit(sequence: Listed, storage: Storage, compression: Any) -> None:
    with TemporaryDirectory() as folder:
        path = Path(folder, "some bag")
        make_bag(sequence, path, BagOptions(storage=storage, compression=compression))
        for source in (path, storage_file(path)):
            bag = BagSequence(source)
            assert bag.name == "some bag"
            assert len(bag) == len(sequence)
            assert bag.frame_rate == pytest.approx(sequence.frame_rate if len(sequence) > 1 else 10, rel=1e-5)
            has_labels = any(sequence.labels(index) is not None for index in range(len(sequence)))
            assert bag.classes == (CLASSES if has_labels else None)
            for index in range(len(sequence)):
                assert bag.stamp(index) == EPOCH + sequence.stamp(index)
                image, labels, expected = bag.image(index), bag.labels(index), sequence.labels(index)
                np.testing.assert_array_equal(image, sequence.image(index))
                assert image.flags.writeable and image.flags.c_contiguous
                assert (labels is None) == (expected is None)
                if labels is not None and expected is not None:
                    np.testing.assert_array_equal(labels, expected)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(0, 89), min_size=1, max_size=8), st.sampled_from(STORAGES))
@example([0, 89, 0, 1, 1, 2, 2 + SEEK_DISTANCE, 3 + 2 * SEEK_DISTANCE, 40], "mcap")
def test_any_frame_is_found(numbered_bags: dict[Storage, Path], indices: list[int], storage: Storage) -> None:
    bag = BagSequence(numbered_bags[storage])
    for index in indices:
        assert (bag.image(index) == index).all()
        labels = bag.labels(index)
        assert (labels is not None) == (index % 3 == 0)
        assert labels is None or (labels == index % 2).all()


@pytest.mark.parametrize("storage", STORAGES)
def test_real_frames_and_labels_come_back_bit_for_bit(camvid_clip: Path, tmp_path: Path, storage: Storage) -> None:
    clip = open_video(camvid_clip)
    make_bag(Excerpt(clip, 12), tmp_path / "bag", BagOptions(storage=storage))
    bag = BagSequence(tmp_path / "bag")
    assert len(bag) == 12
    assert bag.frame_rate == 15.0
    assert bag.classes is not None and clip.classes is not None
    assert (bag.classes.names, bag.classes.colors) == (clip.classes.names, clip.classes.colors)
    for index in range(12):
        labels, expected = bag.labels(index), clip.labels(index)
        assert labels is not None and expected is not None
        np.testing.assert_array_equal(bag.image(index), clip.image(index))
        np.testing.assert_array_equal(labels, expected)
        assert bag.stamp(index) - bag.stamp(0) == clip.stamp(index)


@pytest.mark.parametrize("compression", ["jpeg", "png"])
def test_compressed_images_look_like_raw_ones(camvid_clip: Path, tmp_path: Path, compression: Any) -> None:
    clip = Excerpt(open_video(camvid_clip), 2)
    make_bag(clip, tmp_path / "bag", BagOptions(compression=compression, image_topic="/front/image_raw"))
    bag = BagSequence(tmp_path / "bag")
    assert bag.images.topic.name == "/front/image_raw/compressed"
    error = np.abs(bag.image(1).astype(int) - clip.image(1))
    assert error.max() == 0 if compression == "png" else 0 < error.mean() < 2
    np.testing.assert_array_equal(bag.labels(1), clip.labels(1))


def test_what_ros_wrote_is_read(tmp_path: Path) -> None:
    """Padded rows, another channel order and 16-bit labels of the other byte order, serialised by ROS."""
    from array import array

    from rclpy.serialization import serialize_message
    from sensor_msgs.msg import Image
    from std_msgs.msg import Header

    header = Header(frame_id="left")
    header.stamp.sec, header.stamp.nanosec = 1_700_000_000, 5
    padded = array("B", bytes([1, 2, 3, 4, 5, 6, 99]) * 2)
    image = Image(header=header, height=2, width=2, encoding="bgr8", step=7, data=padded)
    wide = array("B", np.array([[0, 1], [65535, 1]], ">u2").tobytes())
    label = Image(header=header, height=2, width=2, encoding="16UC1", step=4, is_bigendian=1, data=wide)
    with Writer(tmp_path / "bag", version=8) as writer:
        for topic, message in (("/left", image), (GROUND_TRUTH_TOPIC, label)):
            connection = writer.add_connection(topic, "sensor_msgs/msg/Image", typestore=message_types())
            writer.write(connection, EPOCH, serialize_message(message))
    bag = BagSequence(tmp_path / "bag", classes=CLASSES)
    assert bag.image(0).tolist() == [[[3, 2, 1], [6, 5, 4]]] * 2
    labels = bag.labels(0)
    assert labels is not None
    assert labels.tolist() == [[0, 1], [255, 1]]
    assert bag.stamp(0) == 1_700_000_000_000_000_005


def test_labels_as_png_are_read_and_as_jpeg_refused(tmp_path: Path) -> None:
    ids = np.array([[0, 1], [255, 1]], np.uint8)
    for kind in ("png", "jpg"):
        _, data = cv2.imencode(f".{kind}", ids)
        label = compressed_message(np.zeros((2, 2, 3), np.uint8), at(0), "png")
        label.data, label.format = data.reshape(-1), f"mono8; {kind} compressed"
        messages = [("/image", picture(0, 7, 2, 2), 0), (GROUND_TRUTH_TOPIC, label, 0)]
        write(tmp_path / kind, messages)
    np.testing.assert_array_equal(BagSequence(tmp_path / "png").labels(0), ids)
    with pytest.raises(ValueError, match=r"expected a label image compressed as PNG, .* got 'mono8; jpg compressed'"):
        BagSequence(tmp_path / "jpg").labels(0)


def test_labels_that_come_late_are_matched_within_the_slop(tmp_path: Path) -> None:
    images = [("/image", picture(100 * index, index), 100 * index) for index in range(5)]
    labels = [(GROUND_TRUTH_TOPIC, mask(100 * index + 4, index % 2), 100 * index + 60) for index in (1, 4)]
    write(tmp_path / "bag", sorted(images + labels, key=lambda message: message[2]))
    with pytest.raises(ValueError, match=r"none of 2 is within 0 s, the nearest 0\.004 s away; give a slop above that"):
        BagSequence(tmp_path / "bag")
    bag = BagSequence(tmp_path / "bag", slop=0.01)
    assert bag.matches == [None, 0, None, None, 1]
    read = [bag.labels(index) for index in range(5)]
    assert [None if labels is None else labels[0, 0] for labels in read] == [None, 1, None, None, 0]


def test_a_sequence_travels_to_another_process(
    numbered_bags: dict[Storage, Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, reads: list[str]
) -> None:
    monkeypatch.chdir(numbered_bags["mcap"].parent)
    bag = BagSequence("mcap")
    bag.image(50)
    packed = pickle.dumps(bag)
    assert len(packed) < 10_000
    monkeypatch.chdir(tmp_path)
    del reads[:]
    code = "import pickle, sys; bag = pickle.load(sys.stdin.buffer); print(bag.image(51)[0, 0], bag.labels(51)[0, 0])"
    result = subprocess.run([sys.executable, "-c", code], input=packed, capture_output=True, check=True)
    assert result.stdout.decode().split() == ["[51", "51", "51]", "1"]
    copy = pickle.loads(packed)
    assert (copy.image(51) == 51).all()
    assert len(reads) == 1  # no second pass over the bag
    assert copy.classes == CLASSES


OTHER_SIZE = "expected labels of 8×6, as the images on /image, but got 3×6 on /ground_truth/semantic"


@pytest.mark.parametrize(
    ("messages", "expected"),
    [
        ([("/a", text("x"), 0)], r"expected one topic of images .* got none; .*/a \(std_msgs/msg/String, 1 messages\)"),
        (
            [("/a", picture(0), 0), ("/b", picture(0), 0), (GROUND_TRUTH_TOPIC, mask(0), 0)],
            r"expected one topic of images .* but got \['/a', '/b'\]; name the image topic to use; it holds .*/a \(",
        ),
        ([("/image", picture(0), 0), (GROUND_TRUTH_TOPIC, mask(0, 0, 6, 3), 0)], OTHER_SIZE),
        (
            [("/image", picture(0), 0), (GROUND_TRUTH_TOPIC, picture(0), 0)],
            r"expected class ids on /ground_truth/semantic in one of .*'mono8'\], but got 'rgb8'; record class ids",
        ),
        (
            [("/image", picture(0), 0), (GROUND_TRUTH_TOPIC, text("sky"), 0)],
            r"expected sensor_msgs/msg/Image or .*, but got /ground_truth/semantic \(std_msgs/msg/String, 1 messages\)",
        ),
        (
            [("/image", picture(0), 0), ("/image", picture(10, 0, 5), 10)],
            r"expected images of one size on /image, but got \['8×5', '8×6'\]",
        ),
        ([("/image", picture(7), 0), ("/image", picture(7), 10)], "expected stamps that advance on /image"),
        (
            [("/image", picture(0), 0), (GROUND_TRUTH_TOPIC, mask(0), 0), (CLASSES_TOPIC, text("road, sky"), 0)],
            "expected classes as JSON in /ground_truth/classes of .*, but got 'road, sky'",
        ),
        (
            [("/image", picture(0), 0), (CLASSES_TOPIC, text('[{"id": 3, "name": "road"}]'), 0)],
            r"expected the keys name, id \(its position, 0\)",
        ),
        (
            [("/image", picture(0), 0), (CLASSES_TOPIC, mask(0), 0)],
            r"expected one topic of images",
        ),
    ],
)
def test_bags_that_fit_no_evaluation(tmp_path: Path, messages: list[Any], expected: str) -> None:
    with pytest.raises(ValueError, match=expected):
        BagSequence(write(tmp_path / "bag", messages))


def test_class_ids_outside_the_list(tmp_path: Path) -> None:
    values = [0, 1, 2, 255]
    messages = [(CLASSES_TOPIC, text('["road", "sky"]'), 0)]
    for index, value in enumerate(values):
        messages += [("/image", picture(index), index), (GROUND_TRUTH_TOPIC, mask(index, value), index)]
    bag = BagSequence(write(tmp_path / "bag", messages))
    assert [(bag.labels(index) == values[index]).all() for index in (0, 1, 3)] == [True] * 3
    with pytest.raises(ValueError, match=r"of 0\.\.1, or 255 for unlabelled, on .*, but got \[2\] at frame 2; give"):
        bag.labels(2)
    three = ClassList.of_names(["road", "sky", "car"])
    assert (BagSequence(tmp_path / "bag", classes=three).labels(2) == 2).all()


def test_compressed_images_that_change_their_size(tmp_path: Path) -> None:
    images = [np.zeros((size, 8, 3), np.uint8) for size in (6, 5)]
    messages = [("/image", compressed_message(image, at(i), "png"), i) for i, image in enumerate(images)]
    bag = BagSequence(write(tmp_path / "bag", messages))
    with pytest.raises(ValueError, match=r"expected images of 8×6 on /image, but got one of 8×5 at frame 1"):
        bag.image(1)


@pytest.mark.parametrize("index", [-1, 4])
def test_a_frame_that_is_not_there(tmp_path: Path, index: int) -> None:
    make_bag(numbered(4), tmp_path / "bag")
    bag = BagSequence(tmp_path / "bag")
    for read in (bag.image, bag.labels):
        with pytest.raises(IndexError, match=rf"expected a frame of 0\.\.3 of .*bag, but got {index}"):
            read(index)


@pytest.mark.parametrize("damage", ["cut", "gap"])
def test_a_damaged_compressed_image_is_refused_by_its_number(tmp_path: Path, damage: str) -> None:
    noise = np.random.default_rng(1).integers(0, 256, (12, 16, 3), np.uint8)
    image = cv2.resize(noise, (160, 120), interpolation=cv2.INTER_CUBIC)
    messages = [compressed_message(image, at(100 * index), "jpeg") for index in range(3)]
    data, middle = messages[2].data, len(messages[2].data) // 2
    kept = data[:middle] if damage == "cut" else np.delete(data, slice(middle, middle + 200))
    messages[2] = dataclasses.replace(messages[2], data=kept)
    path = write(tmp_path / "bag", [("/image", message, 100 * index) for index, message in enumerate(messages)])
    bag = BagSequence(path)
    assert bag.image(1).shape == (120, 160, 3)
    with pytest.raises(ValueError, match=r"frame 2 on /image of .*bag is (cut short|damaged \(Corrupt JPEG data)"):
        bag.image(2)


@pytest.mark.parametrize(
    "wrong",
    [
        (GROUND_TRUTH_TOPIC, mask(900.0), 900 * 10**9),
        (GROUND_TRUTH_TOPIC, mask(1.0, height=3), 10**9),
        (GROUND_TRUTH_TOPIC, picture(1.0), 10**9),
        (CLASSES_TOPIC, text("no JSON"), 10**9),
    ],
    ids=["late", "small", "coloured", "classes"],
)
def test_labels_that_nobody_asks_for_are_of_no_matter(tmp_path: Path, wrong: Any) -> None:
    messages = [("/camera/image_raw", picture(second, 40 + second), second * 10**9) for second in (1, 2)]
    if wrong[0] == CLASSES_TOPIC:
        messages.append((GROUND_TRUTH_TOPIC, mask(1.0), 10**9))
    bag = write(tmp_path / "bag", [*messages, wrong])
    with pytest.raises(ValueError, match="expected"):
        BagSequence(bag)
    sequence = BagSequence(bag, labelled=False)
    assert sequence.classes is None and sequence.labels(0) is None
    assert [int(sequence.image(index).max()) for index in range(2)] == [41, 42]
