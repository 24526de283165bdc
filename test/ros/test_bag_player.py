"""Bags played to real subscribers: the same bytes in the same order, with the same QoS, as much as can be read."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, HistoryPolicy, QoSProfile, ReliabilityPolicy
from ros_harness import wait_until
from rosbags.interfaces import Qos, QosDurability, QosHistory, QosReliability
from rosbags.rosbag2 import Reader, StoragePlugin, Writer
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import Image
from std_msgs.msg import String

from ditta_ros.adaptation_executor import BackgroundExecutor
from ditta_ros.bag import MCAP_MAGIC, STRING, message_types
from ditta_ros.bag_node import message_class, ros_profile
from ditta_ros.bag_player import BagPlayer, PlayOptions, open_readable
from ditta_ros.bag_writer import EPOCH, BagWriter, header_message, quality_of_service, raw_message

ROOT = Path(__file__).resolve().parents[2]
STEP = 50_000_000
"""Between two images of the bags here, nanoseconds."""
IMAGES, NAMES = "/played/image", "/played/names"


def write(folder: Path, frames: int = 5, height: int = 6, storage: StoragePlugin = StoragePlugin.MCAP) -> Path:
    """A bag of images, and a latched text at the time of the first."""
    with Writer(folder, version=8, storage_plugin=storage) as writer:
        bag = BagWriter(writer)
        bag.write(NAMES, message_types().types[STRING](data="road, car"), EPOCH, latched=True)
        for index in range(frames):
            image = np.random.default_rng(index).integers(0, 256, (height, 300, 3), np.uint8)
            stamp = EPOCH + index * STEP
            bag.write(IMAGES, raw_message(image, header_message(stamp, "camera")), stamp)
    return folder


def contents(path: Path, topic: str = IMAGES) -> list[bytes]:
    """The bytes of all messages of a topic."""
    with Reader(path) as reader:
        connections = [each for each in reader.connections if each.topic == topic]
        return [bytes(content) for _, _, content in reader.messages(connections)]


class Listener:
    """Takes bytes of messages, with the time of arrival in seconds of the monotonic clock."""

    def __init__(self) -> None:
        self.node = Node("listener")
        self.heard: dict[str, list[bytes]] = {}
        self.arrivals: dict[str, list[float]] = {}
        self.executor = BackgroundExecutor(self.node, "listener")

    def listen(self, kind: Any, topic: str, **qos: Any) -> list[bytes]:
        heard, arrivals = self.heard.setdefault(topic, []), self.arrivals.setdefault(topic, [])

        def take(content: bytes) -> None:
            arrivals.append(time.monotonic())
            heard.append(content)

        self.node.create_subscription(kind, topic, take, QoSProfile(depth=1000, **qos), raw=True)
        return heard

    def close(self) -> None:
        self.executor.stop()
        self.node.destroy_node()


@pytest.fixture
def listener(ros: None) -> Iterator[Listener]:
    listener = Listener()
    yield listener
    listener.close()


@pytest.fixture
def player(ros: None) -> Iterator[Callable[..., BagPlayer]]:
    """Makes players, which wait for a subscriber unless told otherwise."""
    node = Node("player")
    players: list[BagPlayer] = []

    def make(path: Path, stopped: threading.Event | None = None, **options: Any) -> BagPlayer:
        readers, _ = open_readable(path)
        options = {"wait_for_subscriber": True, **options}
        players.append(BagPlayer(node, readers, PlayOptions(**options), stopped or threading.Event()))
        return players[-1]

    yield make
    for each in players:
        each.__exit__()
        for reader in each.readers:
            reader.close()
    node.destroy_node()


@pytest.mark.parametrize("storage", [StoragePlugin.MCAP, StoragePlugin.SQLITE3])
def test_every_message_comes_out_as_it_was_recorded_and_never_early(
    tmp_path: Path, listener: Listener, player: Callable[..., BagPlayer], storage: StoragePlugin
) -> None:
    path = write(tmp_path / "bag", storage=storage)
    heard = listener.listen(Image, IMAGES)
    begin = time.monotonic()
    assert player(path, topics=(IMAGES,), rate=2.0).play() == ""
    wait_until(lambda: len(heard) == 5, "five images")
    assert heard == contents(path)
    for index, arrival in enumerate(listener.arrivals[IMAGES]):
        assert arrival - begin >= index * STEP / 1e9 / 2.0


def test_latched_topics_reach_those_who_come_late(
    tmp_path: Path, listener: Listener, player: Callable[..., BagPlayer]
) -> None:
    path = write(tmp_path / "bag")
    assert player(path, wait_for_subscriber=False, rate=100.0).play() == ""
    heard = listener.listen(String, NAMES, durability=DurabilityPolicy.TRANSIENT_LOCAL)
    wait_until(lambda: heard, "the latched text")
    assert heard == contents(path, NAMES)


def test_rounds_begin_again_and_the_clock_jumps_back(
    tmp_path: Path, listener: Listener, player: Callable[..., BagPlayer]
) -> None:
    path = write(tmp_path / "bag")
    images = listener.listen(Image, IMAGES)
    times: list[int] = []
    listener.node.create_subscription(
        Clock, "/clock", lambda each: times.append(each.clock.sec * 10**9 + each.clock.nanosec), 100
    )
    wait_until(lambda: listener.node.count_subscribers("/clock"), "the subscription to the clock")
    playing = player(path, rounds=3, clock=True)
    wait_until(lambda: listener.node.count_publishers("/clock"), "the clock")
    assert playing.play() == ""
    wait_until(lambda: len(images) == 15, "three rounds of five images")
    assert images == contents(path) * 3
    jumps = [after for before, after in pairwise(times) if after < before]
    assert jumps == [EPOCH, EPOCH]
    assert max(times) <= EPOCH + 4 * STEP


def test_a_start_offset_leaves_out_the_beginning(
    tmp_path: Path, listener: Listener, player: Callable[..., BagPlayer]
) -> None:
    path = write(tmp_path / "bag")
    heard = listener.listen(Image, IMAGES)
    assert player(path, start_offset=2.5 * STEP / 1e9).play() == ""
    wait_until(lambda: len(heard) == 2, "two images")
    assert heard == contents(path)[3:]


def test_what_is_stopped_plays_no_further(tmp_path: Path, player: Callable[..., BagPlayer]) -> None:
    stopped = threading.Event()
    stopped.set()
    playing = player(write(tmp_path / "bag"), stopped, rounds=None)
    assert playing.play() == ""  # nobody listens, and it has no end


def test_types_that_are_not_installed_are_left_out_and_named(
    tmp_path: Path, player: Callable[..., BagPlayer], capfd: pytest.CaptureFixture[str]
) -> None:
    with Writer(tmp_path / "bag", version=8, storage_plugin=StoragePlugin.MCAP) as writer:
        odd = writer.add_connection("/odd", "odd_msgs/msg/Odd", msgdef="uint8 value\n", rihs01="RIHS01_" + 64 * "0")
        writer.write(odd, EPOCH, b"\0\1\0\0\0")
        BagWriter(writer).write(NAMES, message_types().types[STRING](data="road"), EPOCH)
    playing = player(tmp_path / "bag")
    assert set(playing.publishers) == {NAMES}
    assert "/odd is left out: the type odd_msgs/msg/Odd is not installed" in capfd.readouterr().err
    with pytest.raises(ValueError, match=r"expected topics of installed types, but got .*odd_msgs"):
        player(tmp_path / "bag", topics=("/odd",))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"topics": ("/none",)}, r"expected topics of the bag, but got /none; it holds .*/played/image"),
        ({"start_offset": 10.0}, r"expected a start offset below 0.200 s, but got 10 s"),
        ({"rate": 0.0}, r"expected a rate above 0, but got 0.0"),
        ({"rounds": 0}, r"expected at least one round, but got 0"),
    ],
)
def test_options_that_do_not_fit_are_named(
    tmp_path: Path, player: Callable[..., BagPlayer], options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        player(write(tmp_path / "bag"), **options)


# --- QoS ------------------------------------------------------------------------------------------------------------


def recorded(reliability: str, durability: str = "VOLATILE", history: str = "UNKNOWN", depth: int = 0) -> Qos:
    profile = quality_of_service(latched=False)
    return profile._replace(
        history=QosHistory[history],
        depth=depth,
        reliability=QosReliability[reliability],
        durability=QosDurability[durability],
    )


@pytest.mark.parametrize(
    ("offers", "reliability", "durability", "history", "depth"),
    [
        ([], "RELIABLE", "VOLATILE", "KEEP_LAST", 10),
        ([recorded("BEST_EFFORT")], "BEST_EFFORT", "VOLATILE", "KEEP_LAST", 10),
        ([recorded("RELIABLE", "TRANSIENT_LOCAL", "KEEP_LAST", 3)], "RELIABLE", "TRANSIENT_LOCAL", "KEEP_LAST", 3),
        ([recorded("RELIABLE", history="KEEP_ALL")], "RELIABLE", "VOLATILE", "KEEP_ALL", 10),
        ([recorded("BEST_EFFORT"), recorded("RELIABLE")], "RELIABLE", "VOLATILE", "KEEP_LAST", 10),
        ([recorded("UNKNOWN", "UNKNOWN")], "RELIABLE", "VOLATILE", "KEEP_LAST", 10),
    ],
)
def test_one_publisher_stands_for_those_that_were_recorded(
    offers: list[Qos], reliability: str, durability: str, history: str, depth: int
) -> None:
    profile = ros_profile(offers)
    assert profile.reliability == ReliabilityPolicy[reliability]
    assert profile.durability == DurabilityPolicy[durability]
    assert profile.history == HistoryPolicy[history]
    assert profile.depth == depth


def test_classes_of_types_are_found_by_name() -> None:
    assert message_class("sensor_msgs/msg/Image") is Image
    for missing in ("sensor_msgs/msg/Nothing", "no_msgs/msg/Image", "Image", ""):
        with pytest.raises(ImportError, match="is not installed"):
            message_class(missing)


# --- damaged bags ---------------------------------------------------------------------------------------------------


def cut(path: Path, share: float) -> Path:
    """Cut the file of a bag to a share of its length."""
    (file,) = path.glob("*.mcap")
    file.write_bytes(file.read_bytes()[: int(file.stat().st_size * share)])
    return path


@pytest.mark.parametrize("share", [0.2, 0.5, 0.8, 0.999])
@pytest.mark.parametrize("metadata", [True, False])
def test_of_a_cut_bag_the_whole_messages_are_read(tmp_path: Path, share: float, metadata: bool) -> None:
    path = write(tmp_path / "bag", frames=12, height=400)  # 360 kB each, so that the file has several chunks
    whole = contents(path)
    (file,) = path.glob("*.mcap")
    if not metadata:
        (path / "metadata.yaml").unlink()
    for each in (cut(path, share), file):
        (reader,), damage = open_readable(each)
        connections = [connection for connection in reader.connections if connection.topic == IMAGES]
        read = [bytes(content) for _, _, content in reader.messages(connections)]
        reader.close()
        assert read == whole[: len(read)]
        assert share * 12 - 4 <= len(read) <= share * 12  # a chunk holds three
        assert "mcap recover" in damage or "metadata.yaml is missing" in damage


def test_a_bag_without_metadata_is_read_whole(tmp_path: Path) -> None:
    path = write(tmp_path / "bag")
    whole = contents(path)
    (path / "metadata.yaml").unlink()
    (reader,), damage = open_readable(path)
    assert [bytes(content) for connection, _, content in reader.messages() if connection.topic == IMAGES] == whole
    reader.close()
    assert "metadata.yaml is missing" in damage


def test_of_what_is_no_bag_nothing_is_read(tmp_path: Path) -> None:
    (tmp_path / "broken.mcap").write_bytes(MCAP_MAGIC)
    for path, kind in ((tmp_path / "none", FileNotFoundError), (tmp_path / "broken.mcap", ValueError)):
        with pytest.raises(kind):
            open_readable(path)
    with pytest.raises(ValueError, match="expected a bag"):
        open_readable(Path(__file__))


# --- the command ----------------------------------------------------------------------------------------------------


def command(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "ditta_ros.cli", "bag", "play", *map(str, arguments)]


def test_the_command_loops_renamed_until_it_is_interrupted_twice(tmp_path: Path, listener: Listener) -> None:
    path = write(tmp_path / "bag")
    heard = listener.listen(Image, "/other/image")
    options = ["--loop", "--wait-for-subscriber", "--remap", f"{IMAGES}:=/other/image"]
    process = subprocess.Popen(command(path, *options), cwd=ROOT, stderr=subprocess.PIPE, text=True)
    try:
        wait_until(lambda: len(heard) > 7, "a second round")
        process.send_signal(signal.SIGINT)
        process.send_signal(signal.SIGINT)  # as ros2 launch adds to the terminal's
        _, errors = process.communicate(timeout=30)
    finally:
        process.kill()
    assert process.returncode == 0, errors
    assert "Traceback" not in errors
    assert heard[:7] == (contents(path) * 2)[:7]


def test_the_command_plays_what_is_readable_and_says_what_is_missing(tmp_path: Path, listener: Listener) -> None:
    path = write(tmp_path / "bag", frames=12, height=400)
    whole = contents(path)
    heard = listener.listen(Image, IMAGES)
    options = ["--wait-for-subscriber", "--rate", "5"]
    result = subprocess.run(
        command(cut(path, 0.6), *options), cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
    )
    assert result.returncode == 1, result.stderr
    assert "only a part of the bag was played" in result.stderr
    wait_until(lambda: len(heard) >= 3, "what is readable")
    assert heard == whole[: len(heard)]


def test_the_command_refuses_what_is_no_bag(tmp_path: Path) -> None:
    result = subprocess.run(
        command(tmp_path / "none"), cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
    )
    assert result.returncode == 2
    assert "does not exist" in result.stderr
