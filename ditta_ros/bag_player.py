"""A bag played to ROS 2 where there is no ``ros2 bag``, as with ROS from wheels.

Messages go out as the bytes that were recorded, at the times at which they were recorded; nothing is converted, so that
stamps and contents are those of the drive.
"""

from __future__ import annotations

import io
import struct
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, cast

from rclpy.duration import Duration
from rclpy.node import Node
from rclpy.publisher import Publisher
from rosbags.interfaces import ConnectionExtRosbag2
from rosbags.rosbag2 import Reader

from ditta_ros.bag import (
    MCAP_MAGIC,
    is_bag,
    is_cut_mcap,
    messages_of,
    open_reader,
    storage_files,
    topic_list,
    topics_of,
)
from ditta_ros.bag_node import bag_node, message_class, ros_profile
from ditta_ros.replay.camera import SimulatedClock
from ditta_ros.stop import Stop

CLOCK_TOPIC = "/clock"
POLL_SECONDS = 0.05
ANSWER_SECONDS = 2.0
"""How long the end waits for reliable subscribers to have taken the last messages."""

MCAP_END = struct.pack("<BQQQI", 0x02, 20, 0, 0, 0) + MCAP_MAGIC
"""The footer of an mcap file without a summary: https://mcap.dev/spec."""


@dataclass(frozen=True)
class PlayOptions:
    """How a bag is played.

    Attributes:
        rate: how many times as fast as it was recorded.
        rounds: how often; None: until it is stopped. The clock jumps back to the beginning with every round.
        topics: those to be played; empty for all.
        clock: whether to publish ``/clock``: the times of the recording.
        start_offset: seconds of the bag that are left out at its beginning, in every round.
        remappings: such as ``/camera/image_raw:=/front/image``.
        wait_for_subscriber: begin when somebody listens to one of the topics.

    Raises:
        ValueError: a value lies out of its range.
    """

    rate: float = 1.0
    rounds: int | None = 1
    topics: tuple[str, ...] = ()
    clock: bool = False
    start_offset: float = 0.0
    remappings: tuple[str, ...] = ()
    wait_for_subscriber: bool = False

    def __post_init__(self) -> None:
        if not 0 < self.rate < float("inf"):
            raise ValueError(f"expected a rate above 0, but got {self.rate}; 1 plays as recorded")
        if self.rounds is not None and self.rounds < 1:
            raise ValueError(f"expected at least one round, but got {self.rounds}")
        if not 0 <= self.start_offset < float("inf"):
            raise ValueError(f"expected a start offset of 0 seconds or more, but got {self.start_offset}")


def play_bag(path: Path, options: PlayOptions) -> str:
    """Play a bag, in a node of its own, until its end, Ctrl-C or SIGTERM.

    Returns:
        What is wrong with the bag and how to mend it, where not all of it could be read; else nothing.

    Raises:
        FileNotFoundError: there is nothing at the path.
        ValueError: it is no bag or cannot be read at all, or the options do not go with it.
    """
    with ExitStack() as stack:
        readers, damage = open_readable(path)
        for reader in readers:
            stack.callback(reader.close)
        node, stopped = stack.enter_context(bag_node("ditta_bag_player", options.remappings))
        player = stack.enter_context(BagPlayer(node, readers, options, stopped))
        return player.play() or damage


class BagPlayer:
    """Publishes the messages of a bag; a context that ends the clock.

    Args:
        node: publishes them. It need not be spun.
        readers: of the bag, open; one after another.
        options: how.
        stopped: breaks off, when it is set.

    Raises:
        ValueError: a topic is not in the bag, none can be published, or the start offset lies behind the end.
    """

    def __init__(self, node: Node, readers: Sequence[Reader], options: PlayOptions, stopped: Stop) -> None:
        self.node = node
        self.readers = readers
        self.options = options
        self.stopped = stopped
        self.begin = min(reader.start_time for reader in readers) + round(options.start_offset * 1e9)
        self.end = max(reader.end_time for reader in readers) - 1  # rosbags counts to after the last message
        topics = {name: topic for reader in readers for name, topic in topics_of(reader).items() if topic.count}
        if not topics:
            raise ValueError(f"expected messages in {readers[0].path}, but got {topic_list(topics)}; record it again")
        if self.begin > self.end:
            length = (self.end - self.begin) / 1e9 + options.start_offset
            raise ValueError(f"expected a start offset below {length:.3f} s, but got {options.start_offset:g} s")
        unknown = [name for name in options.topics if name not in topics]
        if unknown:
            raise ValueError(f"expected topics of the bag, but got {', '.join(unknown)}; it holds {topic_list(topics)}")
        self.publishers: dict[str, Publisher[Any]] = {}
        for name, topic in topics.items():
            if name in (options.topics or topics) and not (options.clock and name == CLOCK_TOPIC):
                self._advertise(name, topic.message_type)
        if not self.publishers:
            raise ValueError(
                f"expected topics of installed types, but got {topic_list(topics)}; install their packages"
            )
        self.clock = SimulatedClock(node) if options.clock else None

    def __enter__(self) -> BagPlayer:
        return self

    def __exit__(self, *_: object) -> None:
        if self.clock is not None:
            self.clock.close()

    def _advertise(self, topic: str, message_type: str) -> None:
        """Make a publisher like those that were recorded; warn where the type is not installed."""
        try:
            kind = message_class(message_type)
        except ImportError as error:
            self.node.get_logger().warning(f"{topic} is left out: {error if message_type else 'it has several types'}")
            return
        offers = [
            offer
            for reader in self.readers
            for connection in reader.connections
            if connection.topic == topic and isinstance(connection.ext, ConnectionExtRosbag2)
            for offer in connection.ext.offered_qos_profiles
        ]
        self.publishers[topic] = self.node.create_publisher(kind, topic, ros_profile(offers))

    def play(self) -> str:
        """Play all rounds.

        Returns:
            What is wrong with the bag, where not all of it could be read; else nothing.
        """
        while self.options.wait_for_subscriber and not self._heard():
            if self.stopped.wait(POLL_SECONDS):
                return ""
        seconds = (self.end - self.begin) / 1e9 / self.options.rate
        self.node.get_logger().info(f"playing {len(self.publishers)} topics for {seconds:.1f} s")
        damage = ""
        played = 0
        while not self.stopped.is_set() and played != self.options.rounds:
            messages, problem = self._play_once()
            damage = damage or problem
            played += 1
            if messages == 0:
                break  # another round would not take any time
        for publisher in self.publishers.values():
            if not self.stopped.is_set():
                publisher.wait_for_all_acked(Duration(seconds=ANSWER_SECONDS))
        return damage

    def _heard(self) -> bool:
        return any(publisher.get_subscription_count() for publisher in self.publishers.values())

    def _play_once(self) -> tuple[int, str]:
        """Play one round; return the number of messages and what is wrong with the bag."""
        count = 0
        origin = time.monotonic()
        if self.clock is not None:
            self.clock.run(self.begin, self.end, self.options.rate)
        try:
            for topic, timestamp, content in self._messages():
                due = origin + (timestamp - self.begin) / 1e9 / self.options.rate
                if self.stopped.wait(max(due - time.monotonic(), 0)):
                    break
                self.publishers[topic].publish(bytes(content))
                count += 1
        except ValueError as error:
            return count, str(error)
        return count, ""

    def _messages(self) -> Iterator[tuple[str, int, bytes]]:
        for reader in self.readers:
            yield from messages_of(reader, list(self.publishers), self.begin)


# --- damaged bags ---------------------------------------------------------------------------------------------------


def open_readable(path: Path) -> tuple[list[Reader], str]:
    """Open a bag, or where it is damaged the files of it that can be read; they are to be closed by the caller.

    Returns:
        The readers, and what is wrong with the bag: nothing where it is whole.

    Raises:
        FileNotFoundError: there is nothing at the path.
        ValueError: it is no bag, or nothing of it can be read.
    """
    try:
        return [open_reader(path)], ""
    except ValueError as error:
        if not is_bag(path):
            raise
        readers = []
        for file in storage_files(path):
            cut = file.suffix == ".mcap" and is_cut_mcap(file)
            reader = Reader(cast(Any, CutMcap(file)) if cut else file)  # opens whatever has the methods of a path
            try:
                reader.open()
            except Exception:  # of each storage's own kind: nothing can be read of this file
                continue
            readers.append(reader)
        if not readers:
            raise
        return readers, str(error)


class CutMcap:
    """An mcap file without its end, as a path that ``rosbags`` opens: its complete records, and the footer it lacks.

    Args:
        path: of the file, which stays as it is.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.suffix = path.suffix
        self.stem = path.stem

    def __str__(self) -> str:
        return str(self.path)

    def exists(self) -> bool:
        """Whether it is there."""
        return self.path.exists()

    def is_dir(self) -> bool:
        """It is a file."""
        return False

    def open(self, mode: str = "rb") -> BinaryIO:
        """Open it for reading."""
        return cast(BinaryIO, io.BufferedReader(WithFooter(cast(BinaryIO, self.path.open(mode)))))


class WithFooter(io.RawIOBase):
    """The complete records of an mcap file, followed by a footer.

    Args:
        file: open for reading; closed with this.
    """

    def __init__(self, file: BinaryIO) -> None:
        self.file = file
        self.length = length_of_records(file)
        self.position = 0

    def readable(self) -> bool:
        """It is."""
        return True

    def seekable(self) -> bool:
        """It is."""
        return True

    def tell(self) -> int:
        """Bytes before the next one."""
        return self.position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Go to a position."""
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self.position, io.SEEK_END: self.length + len(MCAP_END)}[whence]
        self.position = base + offset
        return self.position

    def readinto(self, buffer: Any) -> int:
        """Read what fits, from the file or from the footer."""
        if self.position < self.length:
            self.file.seek(self.position)
            content = self.file.read(min(len(buffer), self.length - self.position))
        else:
            content = MCAP_END[self.position - self.length :][: len(buffer)]
        buffer[: len(content)] = content
        self.position += len(content)
        return len(content)

    def close(self) -> None:
        """Close the file."""
        self.file.close()
        super().close()


def length_of_records(file: BinaryIO) -> int:
    """Bytes of an mcap file up to the end of its last complete record."""
    size = file.seek(0, io.SEEK_END)
    end = file.seek(len(MCAP_MAGIC))
    while len(head := file.read(9)) == 9:
        (length,) = struct.unpack("<Q", head[1:])
        if end + len(head) + length > size:
            break
        end = file.seek(end + len(head) + length)
    return end
