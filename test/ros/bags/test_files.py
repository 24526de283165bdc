"""What lies on disk: bags in odd places, in many files, compressed, unfinished, or none of ROS 2; each is named."""

from __future__ import annotations

import shutil
import sqlite3
import struct
from pathlib import Path

import pytest
import yaml
from bag_harness import STORAGES, numbered, picture, storage_file, text, write
from rosbags.rosbag2 import CompressionFormat, CompressionMode, StoragePlugin, Writer

from ditta_core.datasets.names import DataWarning
from ditta_ros.bags.files import is_bag, storage_files
from ditta_ros.bags.reader import BagReader
from ditta_ros.bags.sequence import BagSequence
from ditta_ros.bags.writer import EPOCH, BagOptions, BagWriter, Storage, make_bag


def metadata_of(folder: Path) -> dict:
    return yaml.safe_load((folder / "metadata.yaml").read_text())


def change(folder: Path, **values: object) -> None:
    """Change what the metadata of a bag say."""
    metadata = metadata_of(folder)
    metadata["rosbag2_bagfile_information"].update(values)
    (folder / "metadata.yaml").write_text(yaml.safe_dump(metadata))


def split_bag(folder: Path, names: list[str], announced: list[str], storage: Storage) -> Path:
    """One frame in each file, in the order of the names; the metadata name them in the order announced."""
    made = [write(folder / f"{i}", [("/image", picture(100 * i, i), 100 * i)], storage) for i in range(len(names))]
    bag = shutil.copytree(made[0], folder / "bag", ignore=lambda *_: [storage_file(made[0]).name])
    suffix = storage_file(made[0]).suffix
    for part, name in zip(made, names, strict=True):
        shutil.copy(storage_file(part), bag / f"{name}{suffix}")
    topics = metadata_of(bag)["rosbag2_bagfile_information"]["topics_with_message_count"]
    topics[0]["message_count"] = len(names)
    change(bag, relative_file_paths=[f"{name}{suffix}" for name in announced], topics_with_message_count=topics)
    return bag


@pytest.mark.parametrize("storage", STORAGES)
@pytest.mark.parametrize("pattern", ["drive_{}", "{}_drive_2026-03-04"])
def test_the_files_of_a_split_bag_are_read_by_their_times(tmp_path: Path, pattern: str, storage: Storage) -> None:
    """Whatever reindexing made of their order: that of letters has 10 before 2, wherever the number stands."""
    names = [pattern.format(index) for index in range(12)]
    bag = split_bag(tmp_path, names, sorted(names), storage)
    sequence = BagSequence(bag)
    assert [int(sequence.image(index)[0, 0, 0]) for index in range(12)] == list(range(12))
    assert [sequence.stamp(index) for index in range(12)] == [EPOCH + index * 10**8 for index in range(12)]
    assert [int(sequence.image(index)[0, 0, 0]) for index in (11, 3, 10)] == [11, 3, 10]
    assert [file.stem for file in storage_files(bag)] == names


def test_a_file_that_the_metadata_do_not_name(tmp_path: Path) -> None:
    bag = split_bag(tmp_path, ["a_0", "a_1", "a_2"], ["a_0", "a_1"], "mcap")
    with pytest.raises(ValueError, match=r"names 2 of 3 files, not a_2\.mcap; .*metadata with `ros2 bag reindex"):
        BagSequence(bag)


def test_hidden_files_and_bags_of_ros_1_beside_a_bag_harm_nobody(tmp_path: Path) -> None:
    bag = split_bag(tmp_path, ["a_0", "a_1"], ["a_0", "a_1"], "mcap")
    (bag / "._a_0.mcap").write_bytes(b"of macOS")
    (bag / "original.bag").write_bytes(b"#ROSBAG V2.0\n")
    assert len(BagSequence(bag)) == 2


def test_a_file_that_is_missing(tmp_path: Path) -> None:
    bag = split_bag(tmp_path, ["a_0", "a_1"], ["a_0", "a_1"], "mcap")
    (bag / "a_1.mcap").unlink()
    with pytest.raises(
        ValueError, match=r"files are missing: .*a_1\.mcap.*; copy these too, or go without them"
    ) as error:
        BagSequence(bag)
    assert "recover" not in str(error.value)


@pytest.mark.parametrize("storage", STORAGES)
@pytest.mark.parametrize("name", ["50% off", "which?", "run #2", "a%20b"])
def test_a_path_with_letters_that_mean_more_in_a_uri(tmp_path: Path, name: str, storage: Storage) -> None:
    for folder in (tmp_path / name / "bag", tmp_path / "plain" / name):
        make_bag(numbered(3), folder, BagOptions(storage=storage))
        assert sorted(entry.suffix for entry in folder.iterdir()) == sorted([".yaml", storage_file(folder).suffix])
        assert [entry.name for entry in folder.parent.iterdir()] == [folder.name]
        for path in (folder, storage_file(folder)):
            sequence = BagSequence(path)
            assert (len(sequence), int(sequence.image(2)[0, 0, 0])) == (3, 2)
            assert sequence.labels(1) is not None


@pytest.mark.parametrize("storage", STORAGES)
def test_another_quality_of_service_in_the_metadata_changes_nothing(tmp_path: Path, storage: Storage) -> None:
    make_bag(numbered(5), tmp_path / "bag", BagOptions(storage=storage))
    topics = metadata_of(tmp_path / "bag")["rosbag2_bagfile_information"]["topics_with_message_count"]
    for topic in topics:
        topic["topic_metadata"]["offered_qos_profiles"] = ""
        topic["topic_metadata"]["type_description_hash"] = ""
    change(tmp_path / "bag", topics_with_message_count=topics)
    sequence = BagSequence(tmp_path / "bag")
    assert len(sequence) == 5
    assert sequence.classes is not None
    assert (sequence.image(4) == 4).all()


def test_a_topic_without_its_messages_is_told_and_harms_no_other(tmp_path: Path) -> None:
    path = write(tmp_path / "bag", [("/image", picture(0, 7), 0), ("/chatter", text("a"), 0)])
    topics = metadata_of(path)["rosbag2_bagfile_information"]["topics_with_message_count"]
    for topic in topics:
        topic["message_count"] = 3 if topic["topic_metadata"]["name"] == "/chatter" else 1
    change(path, topics_with_message_count=topics)
    with pytest.warns(DataWarning, match=r"only 1 of 3 messages on /chatter are in"):
        assert (BagSequence(path).image(0) == 7).all()
    with BagReader(path) as reader, pytest.raises(ValueError, match="only 1 of 3 messages on /chatter can be read"):
        list(reader.messages(["/chatter"]))


def test_a_type_that_is_not_the_announced_one(tmp_path: Path) -> None:
    path = write(tmp_path / "bag", [("/image", text("a"), 0)])
    metadata = path / "metadata.yaml"
    metadata.write_text(metadata.read_text().replace("std_msgs/msg/String", "sensor_msgs/msg/Image"))
    with pytest.warns(DataWarning), pytest.raises(ValueError, match="only 0 of 1 messages on /image can be read"):
        BagSequence(path)


@pytest.mark.parametrize("alone", [False, True])
def test_messages_that_wait_beside_the_file(tmp_path: Path, alone: bool) -> None:
    """What a killed recorder leaves: the last messages lie in a log of their own."""
    folder = write(tmp_path / "live", [("/image", picture(100 * i, i), 100 * i) for i in range(3)], "sqlite3")
    database = sqlite3.connect(storage_file(folder))
    database.execute("pragma journal_mode=wal")
    database.execute("insert into messages select id + 10, topic_id, timestamp + 1, data from messages")
    database.commit()
    crashed = shutil.copytree(folder, tmp_path / "crashed")
    database.close()
    file = storage_file(crashed)
    with pytest.raises(ValueError, match=rf"in {file.name}-wal have not come into .*`sqlite3 {file} 'PRAGMA wal_check"):
        BagSequence(file if alone else crashed)
    joined = sqlite3.connect(file)
    joined.execute("pragma wal_checkpoint(truncate)")
    joined.close()
    assert len(BagSequence(file)) == 6


@pytest.mark.parametrize("storage", STORAGES)
def test_compressed_messages_without_metadata(tmp_path: Path, storage: Storage) -> None:
    plugin = StoragePlugin.MCAP if storage == "mcap" else StoragePlugin.SQLITE3
    writer = Writer(tmp_path / "bag", version=8, storage_plugin=plugin)
    writer.set_compression(CompressionMode.MESSAGE, CompressionFormat.ZSTD)
    with writer:
        bag = BagWriter(writer)
        for index in range(4):
            bag.write("/image", picture(100 * index, index, 60, 80), EPOCH + index * 10**8)
    for path in (tmp_path / "bag", storage_file(tmp_path / "bag")):
        sequence = BagSequence(path)
        assert [int(sequence.image(index)[0, 0, 0]) for index in range(4)] == [0, 1, 2, 3]


def test_a_file_that_was_compressed_as_a_whole(tmp_path: Path) -> None:
    writer = Writer(tmp_path / "bag", version=8, storage_plugin=StoragePlugin.SQLITE3)
    writer.set_compression(CompressionMode.FILE, CompressionFormat.ZSTD)
    with writer:
        BagWriter(writer).write("/image", picture(0, 9), EPOCH)
    assert (BagSequence(tmp_path / "bag").image(0) == 9).all()
    (file,) = (tmp_path / "bag").glob("*.zstd")
    assert is_bag(file)
    with pytest.raises(ValueError, match=rf"{file} is a compressed file of one; give its folder, .*`zstd -d {file}`"):
        BagSequence(file)
    (tmp_path / "bag" / "metadata.yaml").unlink()
    assert is_bag(tmp_path / "bag")
    with pytest.raises(ValueError, match=r"metadata\.yaml is missing"):
        BagSequence(tmp_path / "bag")


def test_a_bag_of_ros_1(tmp_path: Path) -> None:
    file = tmp_path / "old drive.bag"
    file.write_bytes(b"#ROSBAG V2.0\n")
    assert is_bag(file)
    for path in (file, tmp_path):
        with pytest.raises(
            ValueError, match=r"one of ROS 1; convert it with `rosbags-convert --src '.*old drive\.bag'"
        ):
            BagSequence(path)


def mcap(path: Path, profile: str, schema: str) -> Path:
    """A whole mcap file with one channel, which holds no message."""

    def string(value: str) -> bytes:
        return struct.pack("<I", len(value)) + value.encode()

    def record(kind: int, body: bytes) -> bytes:
        return struct.pack("<BQ", kind, len(body)) + body

    magic = b"\x89MCAP0\r\n"
    records = [
        record(1, string(profile) + string("a test")),
        record(3, struct.pack("<H", 1) + string("Log") + string(schema) + string("{}")),
        record(4, struct.pack("<HH", 1, 1) + string("/log") + string("json") + string("")),
        record(15, bytes(4)),
        record(2, struct.pack("<QQI", 0, 0, 0)),
    ]
    path.write_bytes(magic + b"".join(records) + magic)
    return path


@pytest.mark.parametrize(
    ("profile", "schema", "message"),
    [
        ("ros2", "jsonschema", r"a schema in jsonschema; the bag is whole: leave the channel out with .*mcap filter"),
        ("ros2", "protobuf", r"a schema in protobuf; the bag is whole"),
        ("", "ros2msg", r"profile 'ros2' in .*, but got \[''\]; the file is whole: .*`ros2 bag convert`"),
        ("ros1", "ros1msg", r"but got \['ros1'\]; .*`rosbags-convert` reads bags of ROS 1"),
    ],
)
def test_an_mcap_of_others_is_not_called_damaged(tmp_path: Path, profile: str, schema: str, message: str) -> None:
    with pytest.raises(ValueError, match=message) as error:
        BagSequence(mcap(tmp_path / "x.mcap", profile, schema))
    assert "copy it again" not in str(error.value) and "recover" not in str(error.value)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"version": 12}, r"version 12 not supported.*; convert it with `ros2 bag convert`, or try a newer rosbags"),
        ({"storage_identifier": "hdf5"}, r"'hdf5' not supported.*; convert it"),
        ({"compression_mode": "file", "compression_format": "lz5"}, r"'lz5' is not supported; convert it"),
        (
            {"duration": None},
            r"Invalid bag metadata: .*; copy it again, or restore the metadata with `ros2 bag reindex",
        ),
    ],
)
def test_metadata_that_cannot_be_used(tmp_path: Path, values: dict[str, object], message: str) -> None:
    path = write(tmp_path / "bag", [("/image", picture(0), 0)])
    change(path, **values)
    with pytest.raises(ValueError, match=message) as error:
        BagSequence(path)
    assert "mcap recover" not in str(error.value)
