"""Reading bags: in one pass, and damage is told."""

from __future__ import annotations

import os
import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest
import yaml
from bag_harness import STORAGES, Listed, numbered, picture, storage_file, text, write
from rosbags.rosbag2 import StoragePlugin, Writer

from ditta_core.datasets.names import DataWarning
from ditta_ros.bags.files import is_bag
from ditta_ros.bags.reader import message_types
from ditta_ros.bags.sequence import BagSequence
from ditta_ros.bags.writer import (
    EPOCH,
    BagOptions,
    BagWriter,
    Storage,
    make_bag,
)


@pytest.mark.parametrize("alone", [False, True])
@pytest.mark.parametrize("kept", [0.001, 0.3, 0.7, 0.999])
def test_a_truncated_mcap_is_refused(
    numbered_bags: dict[Storage, Path], tmp_path: Path, kept: float, alone: bool
) -> None:
    folder = shutil.copytree(numbered_bags["mcap"], tmp_path / "bag")
    file = storage_file(folder)
    file.write_bytes(file.read_bytes()[: int(file.stat().st_size * kept)])
    expected = rf"expected a whole bag in .*, but mcap\.mcap is cut short; .*`mcap recover {file} -o recovered\.mcap`"
    with pytest.raises(ValueError, match=expected):
        BagSequence(file if alone else folder)


def test_a_truncated_mcap_is_not_read(numbered_bags: dict[Storage, Path], tmp_path: Path) -> None:
    """Its last bytes decide, however large it is: here 64 GB, of which the disk holds nothing."""
    file = Path(shutil.copy(storage_file(numbered_bags["mcap"]), tmp_path / "cut.mcap"))
    os.truncate(file, 64 * 2**30)
    with pytest.raises(ValueError, match="cut short"):
        BagSequence(file)


@pytest.mark.parametrize("kept", [0.0, 0.01, 0.5, 0.99])
def test_a_truncated_sqlite_is_refused(numbered_bags: dict[Storage, Path], tmp_path: Path, kept: float) -> None:
    folder = shutil.copytree(numbered_bags["sqlite3"], tmp_path / "bag")
    file = storage_file(folder)
    file.write_bytes(file.read_bytes()[: int(file.stat().st_size * kept)])
    for path in (folder, file):
        with pytest.raises(ValueError, match=r"expected a whole bag in .*; .*recover a damaged \.db3 with `sqlite3"):
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
    with pytest.raises(ValueError, match=r"but metadata.yaml is missing; copy it again, .*`ros2 bag reindex .*bag`"):
        BagSequence(folder)
    assert is_bag(folder)
    assert len(BagSequence(storage_file(folder))) == 90


@pytest.mark.parametrize("storage", STORAGES)
def test_a_bag_with_fewer_messages_than_it_announces(tmp_path: Path, storage: Storage) -> None:
    make_bag(numbered(4), tmp_path / "bag", BagOptions(storage=storage))
    path = tmp_path / "bag" / "metadata.yaml"
    path.write_text(path.read_text().replace("message_count: 4", "message_count: 5"))
    expected = r"but only 4 of 5 messages on /camera/image_raw can be read; copy it again"
    warned = r"only 4 of 5 messages on /camera/camera_info are in .*bag"
    with pytest.warns(DataWarning, match=warned), pytest.raises(ValueError, match=expected):
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
