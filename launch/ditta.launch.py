"""Start DiTTA on a camera: ``ros2 launch ditta_ros ditta.launch.py image_topic:=/camera/image_raw``.

The node is configured and activated from here, again whenever it is respawned; a bag to play, rviz, Foxglove and a
recording start when it is active. Where it cannot be configured or activated, or ends, the launch ends, with exit code
1 where that is a failure. Included in the launch file of a robot, ``required:=false`` leaves all else running then.
With ``autostart:=false`` the node is left unconfigured, for a lifecycle manager such as Nav2's.
"""

import os
import threading
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ament_index_python.packages import PackageNotFoundError, get_package_prefix
from launch.action import Action
from launch.actions import (
    DeclareLaunchArgument,
    ExecuteProcess,
    OpaqueFunction,
    RegisterEventHandler,
    SetEnvironmentVariable,
    Shutdown,
)
from launch.event import Event
from launch.event_handler import EventHandler
from launch.event_handlers import OnProcessExit, OnProcessStart
from launch.events.process import ProcessExited, ProcessStarted
from launch.logging import get_logger
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import LifecycleNode, Node
from launch_ros.event_handlers import OnStateTransition
from launch_ros.parameter_descriptions import ParameterValue
from launch_ros.ros_adapters import get_ros_node
from launch_ros.utilities import make_namespace_absolute, prefix_namespace

from ditta_ros import parameters
from ditta_ros.camera.topics import camera_topics, full_name
from ditta_ros.process.lifecycle import LifecycleClient
from ditta_ros.process.parameter_file import read_parameter_file, values_for_node
from ditta_ros.process.shared_memory import share_folder, shared_memory_environment
from launch import LaunchContext, LaunchDescription

PARAMETERS = (
    "image_topic",
    "image_transport",
    "cameras",
    "camera_info_topic",
    "depth_topic",
    "model",
    "classes",
    "device",
    "teacher",
    "warmup_frames",
    "warmup_on",
    "state_dir",
)
"""Arguments that are parameters of the node. Those that are given take precedence over the file of parameters."""
SPECS = {spec.name: spec for spec in parameters.PARAMETERS}

ARGUMENTS = {
    "namespace": ("", "Namespace of the node, below that of the launch file which includes this one."),
    "name": ("ditta", "Name of the node, from which its topics have theirs."),
    "respawn_delay": ("2.0", "Seconds after which the node is started again, with respawn."),
    "use_sim_time": ("", "Whether time is that of /clock, which the bag then publishes. Empty: as params_file says."),
    "bag": ("", "Bag that ros2 bag plays when the node is active; empty: none."),
    "bag_rate": ("1.0", "How many times as fast as it was recorded the bag is played."),
    "record": ("", "New folder in which ros2 bag records what the node publishes, without the overlay; empty: none."),
    "log_level": ("info", "Level of the node's own logger: debug, info, warn, error or fatal."),
}
FLAGS = {
    "autostart": ("true", "Whether to configure and activate the node; otherwise a lifecycle manager does."),
    "required": (
        "true",
        "Whether the launch ends where the node fails or ends, unless a lifecycle manager drives it. Include this file "
        "with false in that of a robot, which then goes on without segmentation.",
    ),
    "respawn": ("false", "Whether the node is started again when it has ended, however it did."),
    "bag_loop": ("false", "Whether the bag is played again and again."),
    "rviz": ("false", "Whether to start rviz2 with camera, class colours, overlay and point cloud."),
    "foxglove": ("false", "Whether to start foxglove_bridge; a layout for it is in share/ditta_ros/foxglove."),
}
FLAG = ["true", "false", "True", "False"]
CHOICES = {**dict.fromkeys(FLAGS, FLAG), "use_sim_time": ["", *FLAG]}
LEVELS = ("debug", "info", "warn", "error", "fatal")
PACKAGES = {"rviz": "rviz2", "foxglove": "foxglove_bridge", "bag": "ros2bag", "record": "ros2bag"}
"""Packages that arguments need."""
OUTPUTS = ("semantic", "confidence", "camera_info", "points", "state", "classes", "label_info")
"""Topics of each camera that are recorded: not overlay and colours, which can be drawn from these."""


def start(context: LaunchContext) -> list[Action]:
    """The node with the arguments that were given, and what goes with it; nothing where they are wrong."""
    required = is_true(LaunchConfiguration("required").perform(context))
    try:
        return start_node(read_settings(context), required)
    except ValueError as error:
        fail(str(error), required)
        return []


def fail(problem: str, required: bool) -> None:
    """End the launch, or say only what is wrong. An exception is what gives a launch an exit code other than 0."""
    if required:
        raise RuntimeError(problem)
    get_logger("ditta").error(problem)


def start_node(settings: "Settings", required: bool) -> list[Action]:
    """The node, and what goes with it."""
    given = settings.given
    # With its type, since launch would read the text [road, car] as a list.
    overrides = {name: ParameterValue(value, value_type=type(value)) for name, value in settings.overrides.items()}
    respawn = is_true(given["respawn"])
    node = LifecycleNode(
        package="ditta_ros",
        executable="ditta_node",
        name=given["name"],
        namespace=given["namespace"],
        parameters=[given["params_file"], overrides],
        ros_arguments=["--log-level", f"{settings.node.strip('/').replace('/', '.')}:={given['log_level'].lower()}"],
        output="screen",
        emulate_tty=True,
        respawn=respawn,
        respawn_delay=number("respawn_delay", given, float),
        sigterm_timeout="10",  # an image or an adaptation may be under way
    )
    active = OnStateTransition(
        target_lifecycle_node=node, goal_state="active", entities=actions_when_active(settings), handle_once=True
    )
    # What a node means to a robot whose lifecycle manager drives it is for that one to decide.
    handlers = LifecycleDriver(node, required, respawn).handlers() if is_true(given["autostart"]) else []
    return [RegisterEventHandler(active), *map(RegisterEventHandler, handlers), node]


def is_installed(package: str) -> bool:
    """Whether ROS knows a package."""
    try:
        get_package_prefix(package)
    except PackageNotFoundError:
        return False
    return True


# --- the arguments --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Settings:
    """What was asked for.

    Attributes:
        given: Texts of all arguments.
        overrides: Parameters of the node that take precedence over the file of parameters.
        namespace: Full namespace of the node.
        values: Parameters of the node as far as they are known here.
        remappings: Remappings that the including launch file has set for all its nodes.
    """

    given: dict[str, str]
    overrides: dict[str, Any]
    namespace: str
    values: dict[str, Any] = field(default_factory=dict)
    remappings: tuple[tuple[str, str], ...] = ()

    @property
    def node(self) -> str:
        """The full name of the node."""
        return full_name(self.given["name"], self.namespace)

    @property
    def simulated(self) -> bool:
        """Whether the node takes its time from /clock."""
        return self.values.get("use_sim_time") is True

    def resolve(self, topic: str) -> str:
        """The full name of a topic of the node, remapped."""
        name = full_name(topic, self.namespace)
        targets = (target for source, target in self.remappings if full_name(source, self.namespace) == name)
        return full_name(next(targets, name), self.namespace)


def read_settings(context: LaunchContext) -> Settings:
    """Read the arguments, the file of parameters, and what the including launch file has set for all its nodes.

    Raises:
        ValueError: one of them is wrong.
    """
    names = (*PARAMETERS, *ARGUMENTS, *FLAGS, "params_file")
    given = {name: LaunchConfiguration(name).perform(context) for name in names}
    for argument, package in PACKAGES.items():
        if given[argument].lower() not in ("", "false") and not is_installed(package):
            debian = f"ros-{os.environ.get('ROS_DISTRO', '<distribution>')}-{package.replace('_', '-')}"
            raise ValueError(
                f"expected the package {package} for {argument}:={given[argument]}, but it is not installed; install "
                f"{debian}, or leave the argument out"
            )
    if given["log_level"].lower() not in LEVELS:
        raise ValueError(f"expected {', '.join(LEVELS)} for log_level, but got {given['log_level']!r}")
    overrides: dict[str, Any] = {
        name: number(name, given, type(SPECS[name].default)) for name in PARAMETERS if given[name]
    }
    if given["use_sim_time"]:
        overrides["use_sim_time"] = is_true(given["use_sim_time"])
    overrides["autostart"] = False  # the lifecycle is driven from here, or elsewhere
    outer = context.launch_configurations.get("ros_namespace")
    namespace = make_namespace_absolute(prefix_namespace(outer, given["namespace"])) or "/"
    settings = Settings(
        given, overrides, namespace, remappings=tuple(context.launch_configurations.get("ros_remaps", ()))
    )
    values: dict[str, Any] = {}
    for each in context.launch_configurations.get("global_params", ()):  # of SetParameter and SetParametersFromFile
        values.update([each] if isinstance(each, tuple) else values_of(each, settings.node))
    values.update(values_of(given["params_file"], settings.node))
    return replace(settings, values={**values, **overrides})


def values_of(file: str, node: str) -> dict[str, Any]:
    """What a file of parameters has for a node."""
    return values_for_node(read_parameter_file(Path(file)), node)


def is_true(flag: str) -> bool:
    """Whether a flag is set."""
    return flag.lower() == "true"


def number(name: str, given: dict[str, str], kind: type) -> Any:
    """An argument as a value of its type.

    Raises:
        ValueError: it is none.
    """
    try:
        return kind(given[name])
    except ValueError:
        wanted = "a whole number" if kind is int else "a number"
        raise ValueError(f"expected {wanted} for the argument {name}, but got {given[name]!r}") from None


# --- lifecycle ------------------------------------------------------------------------------------------------------


class BringUpFailed(Event):
    """The node could not be configured or activated."""

    name = "ditta_ros.BringUpFailed"

    def __init__(self, node: LifecycleNode, problem: str) -> None:
        self.node = node
        self.problem = problem


class LifecycleDriver:
    """Configures and activates the node whenever it starts, and ends the launch with it where it is required."""

    def __init__(self, node: LifecycleNode, required: bool, respawn: bool) -> None:
        self._node = node
        self._required = required
        self._respawn = respawn
        self._ended = threading.Event()
        self._client: LifecycleClient | None = None

    def handlers(self) -> list[EventHandler]:
        """What drives the node, and what ends with it."""
        failed = EventHandler(
            matcher=lambda event: isinstance(event, BringUpFailed) and event.node is self._node,
            entities=[OpaqueFunction(function=self._on_failure)],
        )
        started = OnProcessStart(target_action=self._node, on_start=self._on_start)
        return [started, failed, OnProcessExit(target_action=self._node, on_exit=self._on_exit)]

    def _on_start(self, event: ProcessStarted, context: LaunchContext) -> None:
        ended = self._ended = threading.Event()
        client = self._client = self._client or LifecycleClient(get_ros_node(context), self._node.node_name)
        loop = context.asyncio_loop

        def given_up() -> bool:
            return ended.is_set() or context.is_shutdown

        def drive() -> None:
            try:
                problem = client.bring_up(given_up)
            except Exception as error:  # which nobody would hear of, as where the launch ends in the midst of it
                problem = "" if given_up() else f"could not be asked for its state: {error}"
            if problem:
                event = BringUpFailed(self._node, problem)
                loop.call_soon_threadsafe(lambda: context.emit_event_sync(event))

        context.add_completion_future(loop.run_in_executor(None, drive))

    def _on_failure(self, context: LaunchContext) -> None:
        fail(f"the node {context.locals.event.problem}; its message above says why", self._required)

    def _on_exit(self, event: ProcessExited, context: LaunchContext) -> Action | None:
        self._ended.set()
        if context.is_shutdown or self._respawn:
            return None
        if event.returncode != 0:
            fail(f"the node ended with exit code {event.returncode}; its messages above say why", self._required)
        return Shutdown(reason="the node has ended") if self._required else None


# --- what starts when the node is active ----------------------------------------------------------------------------


def actions_when_active(settings: Settings) -> list[Action]:
    """The recording, rviz, Foxglove and the bag, as far as they are asked for; the bag last, which the others show."""
    given, simulated = settings.given, settings.simulated
    cameras = images_of(settings)
    streams = [f"{settings.node}/{name}" if name else settings.node for name in cameras]
    actions: list[Action] = []
    if given["record"]:
        topics = [f"{stream}/{output}" for stream in streams for output in OUTPUTS]
        clock = ["--use-sim-time"] if simulated else []
        actions.append(rosbag("record", "-o", given["record"], *clock, *topics, "/diagnostics"))
    # They start later, when the namespace of the including launch file may count no more.
    beside = {"namespace": settings.namespace, "output": "screen", "parameters": [{"use_sim_time": simulated}]}
    if is_true(given["rviz"]):
        # The names in the configuration are those of a node without arguments; of several cameras the first is shown.
        outputs = (*OUTPUTS, "overlay", "colored")
        remappings = [(f"/ditta/{output}", f"{streams[0]}/{output}") for output in outputs]
        remappings.append(("/camera/image_raw", next(iter(cameras.values()))))
        arguments = ["-d", str(share_folder() / "rviz" / "ditta.rviz")]
        actions.append(Node(package="rviz2", executable="rviz2", arguments=arguments, remappings=remappings, **beside))
    if is_true(given["foxglove"]):
        actions.append(Node(package="foxglove_bridge", executable="foxglove_bridge", **beside))
    if given["bag"]:
        flags = [*(["--loop"] if is_true(given["bag_loop"]) else []), *(["--clock"] if simulated else [])]
        rate = number("bag_rate", given, float)
        actions.append(rosbag("play", given["bag"], "--rate", str(rate), *flags))
    return actions


def rosbag(command: str, *arguments: str) -> ExecuteProcess:
    """One of the commands of ros2 bag."""
    return ExecuteProcess(cmd=["ros2", "bag", command, *arguments], name=command, output="screen", sigterm_timeout="10")


def images_of(settings: Settings) -> dict[str, str]:
    """The topics of the images by the names of several cameras; that of a single one has an empty name."""
    known = {name: settings.values[name] for name in ("image_topic", "cameras") if settings.values.get(name)}
    try:
        topics = camera_topics(parameters.NodeParameters(**known), settings.namespace, settings.resolve)
    except ValueError:  # the node says what is wrong
        topics = camera_topics(parameters.NodeParameters(), settings.namespace, settings.resolve)
    return {each.name: each.image for each in topics}


def describe(name: str) -> str:
    """The text of an argument that is a parameter."""
    values = f" Values: {SPECS[name].values}." if SPECS[name].values else ""
    return f"{SPECS[name].description}{values} Left out, it is as in params_file."


def generate_launch_description() -> LaunchDescription:
    """The arguments, the transport, and the node."""
    file = str(share_folder() / "config" / "ditta.yaml"), "File with the parameters of the node."
    described = {**{name: ("", describe(name)) for name in PARAMETERS}, "params_file": file, **ARGUMENTS, **FLAGS}
    arguments = [
        DeclareLaunchArgument(name, default_value=default, description=text, choices=CHOICES.get(name))
        for name, (default, text) in described.items()
    ]
    # For every process of this launch, so that a camera started here publishes through shared memory as well.
    transport = [SetEnvironmentVariable(*each) for each in shared_memory_environment(os.environ).items()]
    return LaunchDescription([*arguments, *transport, OpaqueFunction(function=start)])
