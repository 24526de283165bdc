"""Bags: what is read is what was written, in whatever order, and damage is told."""

from __future__ import annotations

import json
import pickle
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import cv2
import numpy as np
import pytest
import yaml
from hypothesis import example, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from rosbags.highlevel import AnyReader
from rosbags.rosbag2 import Reader, StoragePlugin, Writer

from ditta_core.classes import ClassList
from ditta_core.datasets.base import VideoSequence
from ditta_core.datasets.excerpt import Excerpt
from ditta_core.datasets.open import open_video
from ditta_ros.bags.reader import CLASSES_TOPIC, GROUND_TRUTH_TOPIC, SEEK_DISTANCE, STRING, is_bag, message_types
from ditta_ros.bags.sequence import BagSequence
from ditta_ros.bags.summary import summarise
from ditta_ros.bags.writer import (
    EPOCH,
    BagOptions,
    BagWriter,
    Storage,
    compressed_message,
    header_message,
    make_bag,
    raw_message,
)
from ditta_ros.cli.main import main

ROOT = Path(__file__).resolve().parents[3]
MILLISECOND = 1_000_000
CLASSES = ClassList(("road", "sky"), ((128, 64, 128), (70, 130, 180)), (("road",), ("sky",)))
STORAGES: tuple[Storage, ...] = ("mcap", "sqlite3")
SUFFIXES = {"mcap": ".mcap", "sqlite3": ".db3"}


class Listed(VideoSequence):
    """Images and labels from memory."""

    def __init__(
        self,
        images: Sequence[NDArray[np.uint8]],
        labels: Sequence[NDArray[np.uint8] | None] | None = None,
        frame_rate: float = 10.0,
        classes: ClassList | None = CLASSES,
    ) -> None:
        self.name = "listed"
        self.frame_rate = frame_rate
        self._images, self._labels, self._classes = images, labels, classes

    def __len__(self) -> int:
        return len(self._images)

    @property
    def classes(self) -> ClassList | None:
        return None if self._labels is None else self._classes

    def image(self, index: int) -> NDArray[np.uint8]:
        return self._images[index]

    def labels(self, index: int) -> NDArray[np.uint8] | None:
        return None if self._labels is None else self._labels[index]


def numbered(frames: int, every: int = 1, height: int = 6, width: int = 8) -> Listed:
    """Frames whose pixels are their number; every so many of them have labels."""
    images = [np.full((height, width, 3), index, np.uint8) for index in range(frames)]
    labels = [np.full((height, width), index % 2, np.uint8) if index % every == 0 else None for index in range(frames)]
    return Listed(images, labels)


def write(folder: Path, messages: Sequence[tuple[str, Any, int]], storage: Storage = "mcap") -> Path:
    """A bag of any messages: topic, message, and milliseconds after the epoch at which it is recorded."""
    plugin = StoragePlugin.MCAP if storage == "mcap" else StoragePlugin.SQLITE3
    with Writer(folder, version=8, storage_plugin=plugin) as writer:
        bag = BagWriter(writer)
        for topic, message, time in messages:
            bag.write(topic, message, EPOCH + time * MILLISECOND)
    return folder


def at(time: float) -> Any:
    """The header of so many milliseconds after the epoch."""
    return header_message(EPOCH + round(time * MILLISECOND), "camera")


def picture(time: float, value: int = 0, height: int = 6, width: int = 8) -> Any:
    """An image of one colour, stamped so many milliseconds after the epoch."""
    return raw_message(np.full((height, width, 3), value, np.uint8), at(time))


def mask(time: float, value: int = 0, height: int = 6, width: int = 8, dtype: type = np.uint8) -> Any:
    """A label image of one class, stamped so many milliseconds after the epoch."""
    return raw_message(np.full((height, width), value, dtype), at(time))


def text(value: str) -> Any:
    return message_types().types[STRING](data=value)


def storage_file(folder: Path) -> Path:
    return next(file for file in folder.iterdir() if file.suffix in (".mcap", ".db3"))


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Grows by the topic of every message that is read from any bag."""
    topics: list[str] = []
    original = Reader.messages

    def counted(self: Reader, *arguments: Any, **options: Any) -> Iterator[tuple[Any, int, bytes]]:
        for connection, timestamp, content in original(self, *arguments, **options):
            topics.append(connection.topic)
            yield connection, timestamp, content

    monkeypatch.setattr(Reader, "messages", counted)
    return topics


# --- what comes out is what went in -----------------------------------------------------------------------------------


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


@pytest.fixture(scope="module")
def numbered_bags(tmp_path_factory: pytest.TempPathFactory) -> dict[Storage, Path]:
    """90 frames, every third labelled, large enough for several chunks."""
    folder = tmp_path_factory.mktemp("numbered")
    for storage in STORAGES:
        make_bag(numbered(90, every=3, height=120, width=160), folder / storage, BagOptions(storage=storage))
    return {storage: folder / storage for storage in STORAGES}


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


# --- reading is one pass ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("storage", STORAGES)
def test_opening_and_reading_in_order_are_one_pass_each(
    numbered_bags: dict[Storage, Path], storage: Storage, reads: list[str]
) -> None:
    bag = BagSequence(numbered_bags[storage])
    opening = len(reads)
    assert opening <= 90 + 30 + 1 + 1  # images, labels, classes, and the first image for its size
    for index in range(90):
        bag.image(index)
        bag.labels(index)
        bag.image(index)
    assert len(reads) - opening <= 90 + 30


@pytest.mark.parametrize("storage", STORAGES)
def test_a_frame_elsewhere_takes_few_reads(
    numbered_bags: dict[Storage, Path], storage: Storage, reads: list[str]
) -> None:
    bag = BagSequence(numbered_bags[storage])
    bag.image(0)
    del reads[:]
    bag.image(89)
    assert len(reads) == 1
    bag.image(1)
    bag.image(2)
    assert len(reads) == 3


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


def test_the_files_of_a_split_bag_may_overlap(tmp_path: Path) -> None:
    """Recorders switch files while messages are on their way, so that times go back from one file to the next."""
    times = [[0, 100, 200, 340], [300, 310, 400, 400]]
    parts = []
    for number, part in enumerate(times):
        messages = [("/image", picture(100 * (4 * number + i), 4 * number + i), time) for i, time in enumerate(part)]
        parts.append(write(tmp_path / f"part{number}", messages))
    metadata = yaml.safe_load((parts[0] / "metadata.yaml").read_text())
    information = metadata["rosbag2_bagfile_information"]
    information["relative_file_paths"] = ["part0.mcap", "part1.mcap"]
    information["topics_with_message_count"][0]["message_count"] = 8
    shutil.copy(parts[1] / "part1.mcap", parts[0])
    (parts[0] / "metadata.yaml").write_text(yaml.safe_dump(metadata))
    for order in (range(8), reversed(range(8)), (3, 0, 5, 4, 7, 6, 3)):
        bag = BagSequence(parts[0])
        for index in order:
            assert (bag.image(index) == index).all()


# --- writing ----------------------------------------------------------------------------------------------------------


def test_nothing_is_overwritten_unasked(tmp_path: Path) -> None:
    make_bag(numbered(2), tmp_path / "bag")
    with pytest.raises(FileExistsError, match=r"expected a new folder, but .*bag exists; choose another one, or"):
        make_bag(numbered(3), tmp_path / "bag")
    assert len(BagSequence(tmp_path / "bag")) == 2
    make_bag(numbered(3), tmp_path / "bag", BagOptions(overwrite=True, storage="sqlite3"))
    assert len(BagSequence(tmp_path / "bag")) == 3
    assert [entry.name for entry in tmp_path.iterdir()] == ["bag"]
    assert sorted(entry.name for entry in (tmp_path / "bag").iterdir()) == ["bag.db3", "metadata.yaml"]


@pytest.mark.parametrize("kind", ["folder", "file", "link", "bag and notes", "bag and folder"])
def test_only_bags_are_overwritten(tmp_path: Path, kind: str) -> None:
    out = tmp_path / "out"
    if kind == "file":
        out.write_text("a thesis")
    elif kind == "link":
        make_bag(numbered(2), tmp_path / "elsewhere")
        out.symlink_to(tmp_path / "elsewhere")
    else:
        out.mkdir()
        if kind != "folder":
            out.rmdir()
            make_bag(numbered(2), out)
        (out / "sub").mkdir() if kind == "bag and folder" else (out / "thesis.txt").write_text("a thesis")
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


# --- damage -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("alone", [False, True])
@pytest.mark.parametrize("kept", [0.001, 0.3, 0.7, 0.999])
def test_a_truncated_mcap_is_refused(
    numbered_bags: dict[Storage, Path], tmp_path: Path, kept: float, alone: bool
) -> None:
    folder = shutil.copytree(numbered_bags["mcap"], tmp_path / "bag")
    file = storage_file(folder)
    file.write_bytes(file.read_bytes()[: int(file.stat().st_size * kept)])
    expected = r"expected a whole bag in .*, but mcap\.mcap is cut short: at least (\d+) messages of it can be read; "
    with pytest.raises(ValueError, match=expected + "mend it with `mcap recover .*ros2 bag reindex") as error:
        BagSequence(file if alone else folder)
    found = re.search(expected, str(error.value))
    assert found is not None
    # A chunk holds some 18 frames, of which each has an image, a camera info, and every third a label.
    assert 0.8 * kept - 0.2 <= int(found[1]) / (90 * 2 + 30 + 1) <= kept + 0.01


@pytest.mark.parametrize("kept", [0.0, 0.01, 0.5, 0.99])
def test_a_truncated_sqlite_is_refused(numbered_bags: dict[Storage, Path], tmp_path: Path, kept: float) -> None:
    folder = shutil.copytree(numbered_bags["sqlite3"], tmp_path / "bag")
    file = storage_file(folder)
    file.write_bytes(file.read_bytes()[: int(file.stat().st_size * kept)])
    for path in (folder, file):
        with pytest.raises(ValueError, match=r"expected a whole bag in .*; .*mend a damaged \.db3 with `sqlite3"):
            BagSequence(path)


def test_bytes_that_were_changed_are_no_other_error(numbered_bags: dict[Storage, Path], tmp_path: Path) -> None:
    """Whatever rosbags makes of them, what comes out is a ValueError or a bag of the right length."""
    random = np.random.default_rng(0)
    errors = 0
    for storage in STORAGES:
        folder = shutil.copytree(numbered_bags[storage], tmp_path / storage)
        file = storage_file(folder)
        content = file.read_bytes()
        for _ in range(15):
            changed = bytearray(content)
            for position in random.integers(0, len(content), 200):
                changed[position] = random.integers(256)
            file.write_bytes(changed)
            try:
                bag = BagSequence(folder)
                assert len(bag) == 90
                bag.image(60)
            except ValueError:
                errors += 1
    assert errors > 0


def test_a_bag_without_metadata(numbered_bags: dict[Storage, Path], tmp_path: Path) -> None:
    folder = shutil.copytree(numbered_bags["mcap"], tmp_path / "bag")
    (folder / "metadata.yaml").unlink()
    with pytest.raises(ValueError, match=r"but metadata.yaml is missing; copy it again, or .*`ros2 bag reindex .*bag`"):
        BagSequence(folder)
    assert is_bag(folder)
    assert len(BagSequence(storage_file(folder))) == 90


@pytest.mark.parametrize("storage", STORAGES)
def test_a_bag_with_fewer_messages_than_it_announces(tmp_path: Path, storage: Storage) -> None:
    make_bag(numbered(4), tmp_path / "bag", BagOptions(storage=storage))
    path = tmp_path / "bag" / "metadata.yaml"
    path.write_text(path.read_text().replace("message_count: 4", "message_count: 5"))
    with pytest.raises(ValueError, match=r"but only 4 of 5 messages on /camera/image_raw can be read; copy it again"):
        BagSequence(tmp_path / "bag")


def test_a_bag_that_changes_while_it_is_read(tmp_path: Path) -> None:
    make_bag(numbered(4), tmp_path / "bag")
    packed = pickle.dumps(BagSequence(tmp_path / "bag"))
    make_bag(Listed(numbered(4)._images, frame_rate=3.0), tmp_path / "bag", BagOptions(overwrite=True))
    with pytest.raises(ValueError, match=r"as it was when it was opened, but it has changed; open it again"):
        pickle.loads(packed).image(2)


def test_what_is_no_bag(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("no bag")
    (tmp_path / "notes.mcap").write_text("no bag, but named like one")
    (tmp_path / "empty.mcap").touch()
    (tmp_path / "folder").mkdir()
    with pytest.raises(FileNotFoundError, match=r"expected a bag, but .*nowhere does not exist"):
        BagSequence(tmp_path / "nowhere")
    for name in ("notes.txt", "folder"):
        assert not is_bag(tmp_path / name)
        with pytest.raises(ValueError, match=rf"expected a bag: a folder with metadata\.yaml, .*{name} is none"):
            BagSequence(tmp_path / name)
    for name, reason in (("notes.mcap", "File magic is invalid"), ("empty.mcap", "seems to be empty")):
        with pytest.raises(ValueError, match=f"expected a whole bag in .*{name}, but .*{reason}"):
            BagSequence(tmp_path / name)


# --- topics, sizes and values that do not fit -------------------------------------------------------------------------

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


def test_topics_that_were_asked_for(tmp_path: Path) -> None:
    path = write(tmp_path / "bag", [("/a", picture(0, 1), 0), ("/b", picture(0, 2), 0), ("/c", text(""), 0)])
    assert (BagSequence(path, "/b").image(0) == 2).all()
    with pytest.raises(ValueError, match=r"expected the topic /d in .*, but got /a \(sensor_msgs/msg/Image, 1 m"):
        BagSequence(path, "/d")
    with pytest.raises(ValueError, match=r"expected the topic /labels in .*, but got /a .*/c \(std_msgs/msg/String, 1"):
        BagSequence(path, "/a", "/labels")
    with pytest.raises(ValueError, match=r"expected sensor_msgs/msg/Image or .*CompressedImage, but got /c \(std_msgs"):
        BagSequence(path, "/c")
    with pytest.raises(ValueError, match=r"expected two topics, but got /a for images and for the ground truth"):
        BagSequence(path, "/a", "/a")


@pytest.mark.parametrize("storage", STORAGES)
def test_an_empty_topic(tmp_path: Path, storage: Storage) -> None:
    plugin = StoragePlugin.MCAP if storage == "mcap" else StoragePlugin.SQLITE3
    with Writer(tmp_path / "bag", version=8, storage_plugin=plugin) as writer:
        writer.add_connection("/image", "sensor_msgs/msg/Image", typestore=message_types())
        BagWriter(writer).write("/chatter", text("hello"), EPOCH)
    with pytest.raises(ValueError, match=r"expected messages on /image in .*, but got none; the bag holds .*/chatter"):
        BagSequence(tmp_path / "bag")


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


# --- the command ------------------------------------------------------------------------------------------------------


def test_the_summary_counts_what_is_odd(tmp_path: Path) -> None:
    stamps = [0, 100, 200, 150, 300, 300, 400, 800, 900]
    messages = [("/image", picture(stamp, index), 100 * index) for index, stamp in enumerate(stamps)]
    messages += [(GROUND_TRUTH_TOPIC, mask(stamp), 900) for stamp in (0, 200, 850)]
    summary = summarise(BagSequence(write(tmp_path / "bag", messages)))
    assert (summary.out_of_order, summary.duplicates, summary.gaps) == (1, 1, 1)
    assert (summary.frames, summary.frame_rate, summary.duration) == (9, 10.0, 0.9)
    assert (summary.labels, summary.matched, summary.classes) == (3, 2, None)
    assert len(summary.missing) == 3
    assert "name those of the labels" in summary.missing[0]
    assert summary.missing[1:] == ("7 of 9 images have no label", "1 of 3 label images belong to no image")


def test_made_and_described_without_ros(camvid_clip: Path, tmp_path: Path) -> None:
    """Both commands where no part of ROS can be imported."""
    part = tmp_path / "clip"
    for name in ("images", "labels"):
        (part / name).mkdir(parents=True)
        for file in sorted((camvid_clip / name).iterdir())[:3]:
            shutil.copy(file, part / name)
    hide = "import sys; sys.modules.update(dict.fromkeys(['rclpy', 'sensor_msgs', 'std_msgs', 'message_filters']))"
    outputs = []
    for arguments in (
        ["make", str(part), str(tmp_path / "bag"), "--storage", "sqlite3", "--frame-rate", "5", "--compressed", "png"],
        ["info", str(tmp_path / "bag")],
    ):
        code = f"{hide}; from ditta_ros.cli.main import main; sys.exit(main({['bag', *arguments]}))"
        result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=False)
        assert (result.returncode, result.stderr) == (0, "")
        outputs.append(result.stdout)
    assert outputs[0] == f"{tmp_path / 'bag'}\n"
    assert (
        "/camera/image_raw/compressed (sensor_msgs/msg/CompressedImage, rgb8; png compressed bgr8, 480×360)"
        in outputs[1]
    )
    assert re.search(r"frames +3 at 5 Hz", outputs[1])
    assert re.search(r"ground truth +/ground_truth/semantic \(3 label images, 3 of 3 images matched\)", outputs[1])
    assert re.search(r"classes +11: sky, building, ", outputs[1])
    assert re.search(r"missing +nothing", outputs[1])


def test_the_summary_as_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_bag(Listed(numbered(3)._images), tmp_path / "bag")
    assert main(["bag", "info", str(tmp_path / "bag"), "--json"]) == 0
    summary = json.loads(capsys.readouterr().out)
    assert summary["frames"] == 3
    assert summary["size"] == [8, 6]
    assert summary["ground_truth_topic"] is None
    assert summary["missing"] == ["no ground truth: only consistency can be measured, not accuracy"]
    assert {"name": "/camera/camera_info", "message_type": "sensor_msgs/msg/CameraInfo", "count": 3} in summary[
        "topics"
    ]


def test_several_sequences_become_several_bags(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("morning", "evening"):
        for part in ("images", "labels"):
            (tmp_path / "clips" / name / part).mkdir(parents=True)
            cv2.imwrite(str(tmp_path / "clips" / name / part / "a.png"), np.full((4, 6), 3, np.uint8))
    out = tmp_path / "bags"
    assert main(["bag", "make", str(tmp_path / "clips"), str(out)]) == 0
    assert sorted(entry.name for entry in out.iterdir()) == ["evening", "morning"]
    assert BagSequence(out / "morning").name == "morning"
    assert main(["bag", "make", str(tmp_path / "clips"), str(out / "evening")]) == 2
    assert "expected a folder for 2 bags, but" in capsys.readouterr().err
    shutil.rmtree(out / "evening")
    assert main(["bag", "make", str(tmp_path / "clips"), str(out)]) == 2
    assert sorted(entry.name for entry in out.iterdir()) == ["morning"]  # nothing is made where one is in the way


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["info", "{tmp}/nowhere"], "ditta bag info: expected a bag, but {tmp}/nowhere does not exist"),
        (["make", "{tmp}/nowhere", "{tmp}/out"], "ditta bag make: expected a video file or a folder of frames"),
        (["make", "{tmp}", "{tmp}/out", "--image-topic", "image"], "ditta bag make: expected an absolute topic"),
        (["info", "{tmp}/bag", "--image-topic", "/left"], "ditta bag info: expected the topic /left in {tmp}/bag"),
        (["info", "{tmp}/bag", "--slop", "-1"], "ditta bag info: expected a slop of 0 or at least"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], expected: str
) -> None:
    make_bag(numbered(2), tmp_path / "bag")
    assert main(["bag", *(argument.format(tmp=tmp_path) for argument in arguments)]) == 2
    output = capsys.readouterr()
    assert output.out == ""
    assert output.err.startswith(expected.format(tmp=tmp_path))
    assert output.err.count("\n") == 1


def test_without_rosbags_the_remedy_is_named() -> None:
    hide = "import sys; sys.modules['rosbags'] = None"
    code = f"{hide}; from ditta_ros.cli.main import main; sys.exit(main(['bag', 'info', 'x']))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=False)
    assert result.returncode == 2
    assert "pip install 'ditta_ros[evaluate]'" in result.stderr
    assert result.stderr.count("\n") == 1
