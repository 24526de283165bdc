"""Topics recorded from real publishers: what is in the bag is what was sent, with types that any tool can read."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from diagnostic_msgs.msg import DiagnosticArray
from lifecycle_msgs.msg import TransitionEvent
from rcl_interfaces.msg import ParameterEvent
from rclpy.node import Node
from rclpy.parameter import Parameter
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from rclpy.serialization import deserialize_message
from ros_harness import wait_until
from rosbags.interfaces import ConnectionExtRosbag2, QosDurability, QosReliability
from rosbags.rosbag2 import Reader, StoragePlugin, Writer
from rosbags.typesys import get_types_from_msg
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import CameraInfo, Image, PointCloud2
from std_msgs.msg import Header, String

from ditta_ros.adaptation_executor import BackgroundExecutor
from ditta_ros.bag_recorder import BagRecorder, Definitions, RecordOptions

ROOT = Path(__file__).resolve().parents[2]


class Recording:
    """A recorder in this process, and a node that publishes."""

    def __init__(self, folder: Path, *topics: str, use_sim_time: bool = False) -> None:
        self.path = folder / "bag"
        self.publisher_node = Node("publisher")
        parameters = [Parameter("use_sim_time", value=use_sim_time)]
        self.node = Node("recorder", parameter_overrides=parameters)
        self.writer = Writer(self.path, version=8, storage_plugin=StoragePlugin.MCAP)
        self.writer.open()
        self.recorder = BagRecorder(self.node, self.writer, RecordOptions(self.path, topics, use_sim_time))
        self.executor: BackgroundExecutor | None = BackgroundExecutor(self.node, "recorder")

    def publisher(self, kind: Any, topic: str, reliable: bool = True, latched: bool = False) -> Any:
        profile = QoSProfile(
            depth=10,
            reliability=ReliabilityPolicy.RELIABLE if reliable else ReliabilityPolicy.BEST_EFFORT,
            durability=DurabilityPolicy.TRANSIENT_LOCAL if latched else DurabilityPolicy.VOLATILE,
        )
        return self.publisher_node.create_publisher(kind, topic, profile)

    def wait_for(self, topic: str, count: int) -> None:
        recorded = self.recorder.recorded
        wait_until(lambda: topic in recorded and recorded[topic].count >= count, f"{count} messages on {topic}")

    def wait_for_subscription(self, publisher: Any) -> None:
        wait_until(publisher.get_subscription_count, f"the recorder to listen to {publisher.topic_name}")

    def end(self) -> None:
        if self.executor is not None:
            self.executor.stop()
            self.executor = None
            self.recorder.report()
            self.writer.close()
            self.node.destroy_node()
            self.publisher_node.destroy_node()

    def messages(self, kind: Any, topic: str) -> list[Any]:
        """What the bag holds of a topic, read by rosbags and decoded by ROS."""
        self.end()
        with Reader(self.path) as reader:
            connections = [each for each in reader.connections if each.topic == topic]
            return [deserialize_message(bytes(content), kind) for _, _, content in reader.messages(connections)]


@pytest.fixture
def recording(ros: None, tmp_path: Path) -> Iterator[Callable[..., Recording]]:
    """Makes recordings."""
    recordings: list[Recording] = []

    def make(*topics: str, **options: Any) -> Recording:
        recordings.append(Recording(tmp_path, *topics, **options))
        return recordings[-1]

    yield make
    for each in recordings:
        each.end()


def image(value: int) -> Image:
    return Image(
        header=Header(frame_id="camera"), height=4, width=6, encoding="mono8", step=6, data=bytes([value] * 24)
    )


def test_what_was_sent_is_in_the_bag(recording: Callable[..., Recording]) -> None:
    taken = recording("/camera/image", "/names", "/never")
    images = taken.publisher(Image, "/camera/image", reliable=False)
    names = taken.publisher(String, "/names", latched=True)
    other = taken.publisher(String, "/other")
    names.publish(String(data="before anybody listened"))
    taken.wait_for("/names", 1)
    taken.wait_for_subscription(images)
    sent = [image(value) for value in range(5)]
    for count, message in enumerate(sent, start=1):
        images.publish(message)
        taken.wait_for("/camera/image", count)  # best effort, sent one by one
    other.publish(String(data="not asked for"))
    assert taken.messages(Image, "/camera/image") == sent
    assert taken.messages(String, "/names") == [String(data="before anybody listened")]
    with Reader(taken.path) as reader:
        assert set(reader.topics) == {"/camera/image", "/names"}
        profiles = {}
        for connection in reader.connections:
            assert isinstance(connection.ext, ConnectionExtRosbag2)
            (profiles[connection.topic],) = connection.ext.offered_qos_profiles
    assert profiles["/camera/image"].reliability is QosReliability.BEST_EFFORT
    assert profiles["/names"].durability is QosDurability.TRANSIENT_LOCAL


def test_all_topics_but_hidden_ones_and_those_of_unknown_types(recording: Callable[..., Recording]) -> None:
    taken = recording()
    for topic in ("/one", "/_two", "/three"):
        taken.publisher(String, topic)
    wait_until(lambda: "/three" in taken.recorder.recorded and "/one" in taken.recorder.recorded, "the topics")
    late = taken.publisher(String, "/late")
    taken.wait_for_subscription(late)
    late.publish(String(data="came later"))
    taken.wait_for("/late", 1)
    assert "/_two" not in taken.recorder.recorded
    assert taken.messages(String, "/late") == [String(data="came later")]


def test_a_best_effort_publisher_that_comes_later_is_heard_as_well(recording: Callable[..., Recording]) -> None:
    taken = recording("/both")
    first = taken.publisher(String, "/both")
    taken.wait_for_subscription(first)
    first.publish(String(data="reliable"))
    taken.wait_for("/both", 1)
    second = taken.publisher(String, "/both", reliable=False)
    taken.wait_for_subscription(second)
    second.publish(String(data="best effort"))
    taken.wait_for("/both", 2)
    wait_until(first.get_subscription_count, "the first publisher to be heard still")
    first.publish(String(data="reliable again"))
    taken.wait_for("/both", 3)
    assert [each.data for each in taken.messages(String, "/both")] == ["reliable", "best effort", "reliable again"]


def test_simulated_time_is_the_time_of_the_messages(recording: Callable[..., Recording]) -> None:
    taken = recording("/names", use_sim_time=True)
    clock = taken.publisher(Clock, "/clock")
    names = taken.publisher(String, "/names")
    taken.wait_for_subscription(names)
    taken.wait_for_subscription(clock)
    names.publish(String(data="before time began"))
    message = Clock()
    message.clock.sec = 1234
    clock.publish(message)
    wait_until(lambda: taken.node.get_clock().now().nanoseconds == 1234 * 10**9, "the time")
    names.publish(String(data="then"))
    taken.wait_for("/names", 1)
    taken.end()
    with Reader(taken.path) as reader:
        times = [(deserialize_message(bytes(content), String).data, time) for _, time, content in reader.messages()]
    assert times[-1] == ("then", 1234 * 10**9)
    assert {time for _, time in times} == {1234 * 10**9}


KINDS = [Image, CameraInfo, PointCloud2, DiagnosticArray, String, Clock, ParameterEvent, TransitionEvent]


@pytest.mark.parametrize("kind", KINDS)
def test_definitions_are_those_of_ros(ros: None, kind: Any) -> None:
    """The hash that rosbags makes of a definition is the one that ROS announces for the type (REP 2016)."""
    package = kind.__module__.partition(".")[0]
    name = f"{package}/msg/{kind.__name__}"
    node = Node("publisher")
    try:
        publisher = node.create_publisher(kind, f"/definition/{kind.__name__.lower()}", 1)
        infos = wait_until(lambda: node.get_publishers_info_by_topic(publisher.topic_name), "the publisher")
        announced = infos[0].topic_type_hash
    finally:
        node.destroy_node()
    definition, digest = Definitions().of(name)
    assert digest == f"RIHS{announced.version:02d}_{bytes(announced.value).hex()}"
    # What a reader without this type gets to know from the bag.
    types = get_types_from_msg(definition, name)
    fields = [field for field, _ in types[name][1]]
    assert fields == list(kind.get_fields_and_field_types())


def test_a_type_without_its_definition_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "lone_msgs"
    (package / "msg").mkdir(parents=True)
    (package / "__init__.py").touch()
    monkeypatch.syspath_prepend(str(tmp_path))
    import_module("lone_msgs")
    with pytest.raises(ValueError, match="expected the definition of lone_msgs/msg/Thing"):
        Definitions().of("lone_msgs/msg/Thing")


# --- the command ----------------------------------------------------------------------------------------------------


def command(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "ditta_ros.cli", "bag", "record", *map(str, arguments)]


def test_the_command_leaves_a_readable_bag_when_it_is_interrupted_twice(ros: None, tmp_path: Path) -> None:
    node = Node("publisher")
    bag, text = tmp_path / "bag", "x" * 2**21
    process = subprocess.Popen(
        command("-o", bag, "--all"), cwd=ROOT, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True
    )
    try:
        publisher = node.create_publisher(String, "/names", QoSProfile(depth=10))
        wait_until(publisher.get_subscription_count, "the recorder")
        publisher.publish(String(data=text))
        # More than a chunk, so that it is seen in the file when it has been taken.
        wait_until(lambda: sum(file.stat().st_size for file in bag.glob("*.mcap")) > len(text), "the message")
        process.send_signal(signal.SIGINT)
        process.send_signal(signal.SIGINT)  # as ros2 launch adds to the terminal's
        _, errors = process.communicate(timeout=30)
    finally:
        process.kill()
        node.destroy_node()
    assert process.returncode == 0, errors
    with Reader(bag) as reader:
        connections = [each for each in reader.connections if each.topic == "/names"]
        assert [deserialize_message(bytes(each[2]), String).data for each in reader.messages(connections)] == [text]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["-o", "bag"], "expected topics, or --all, but got neither"),
        (["-o", "bag", "/names", "--all"], "expected topics, or --all, but got both"),
        (["-o", ".", "/names"], "expected a new folder"),
    ],
)
def test_the_command_refuses_what_it_cannot_do(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    message: str,
) -> None:
    from ditta_ros.cli import main

    monkeypatch.chdir(tmp_path)
    before = signal.getsignal(signal.SIGTERM)
    assert main(["bag", "record", *arguments]) == 2
    signal.signal(signal.SIGTERM, before)
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("action", ["record -o bag /names", "play bag"])
def test_the_command_names_what_is_missing_without_ros(action: str) -> None:
    without = "import sys; sys.modules['rclpy'] = None; from ditta_ros.cli import main; sys.exit(main(sys.argv[1:]))"
    result = subprocess.run(
        [sys.executable, "-c", without, "bag", *action.split()], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert result.returncode == 2
    assert "ditta_ros[ros,evaluate]" in result.stderr
    assert "Traceback" not in result.stderr
