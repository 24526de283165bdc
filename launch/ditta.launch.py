"""Start DiTTA on a camera: ``ros2 launch ditta_ros ditta.launch.py image_topic:=/camera/image_raw``.

The node is configured and activated from here; a bag to play, rviz, Foxglove and a recording start when it is active.
Where it cannot be configured or activated, the launch ends with exit code 1. With ``autostart:=false`` it is left
unconfigured, for a lifecycle manager such as Nav2's.
"""

import os
from pathlib import Path

import yaml
from ament_index_python.packages import PackageNotFoundError, get_package_prefix
from launch.action import Action
from launch.actions import (
    DeclareLaunchArgument,
    EmitEvent,
    ExecuteProcess,
    OpaqueFunction,
    RegisterEventHandler,
    SetEnvironmentVariable,
    Shutdown,
    UnregisterEventHandler,
)
from launch.event_handlers import OnProcessExit
from launch.events import matches_action
from launch.events.process import ProcessExited
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import LifecycleNode, Node
from launch_ros.event_handlers import OnStateTransition
from launch_ros.events.lifecycle import ChangeState
from launch_ros.parameter_descriptions import ParameterValue
from lifecycle_msgs.msg import Transition

from ditta_ros import parameters
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
    "namespace": ("", "Namespace of the node."),
    "name": ("ditta", "Name of the node, from which its topics have theirs."),
    "bag": ("", "Bag that ros2 bag plays when the node is active; empty: none."),
    "bag_rate": ("1.0", "How many times as fast as it was recorded the bag is played."),
    "record": ("", "New folder in which ros2 bag records what the node publishes, without the overlay; empty: none."),
    "log_level": ("info", "debug, info, warn, error or fatal."),
}
FLAGS = {
    "autostart": ("true", "Whether to configure and activate the node; otherwise a lifecycle manager does."),
    "use_sim_time": ("false", "Whether time is that of /clock, which the bag then publishes."),
    "bag_loop": ("false", "Whether the bag is played again and again."),
    "rviz": ("false", "Whether to start rviz2 with camera, class colours, overlay and point cloud."),
    "foxglove": ("false", "Whether to start foxglove_bridge; a layout for it is in share/ditta_ros/foxglove."),
}
FLAG = ["true", "false"]
PACKAGES = {"rviz": "rviz2", "foxglove": "foxglove_bridge", "bag": "ros2bag", "record": "ros2bag"}
"""Packages that arguments need."""
OUTPUTS = ("semantic", "confidence", "camera_info", "points", "state", "classes", "label_info")
"""Topics of each camera that are recorded: not overlay and colours, which can be drawn from these."""


def start(context: LaunchContext) -> list[Action]:
    """The node with the arguments that were given, and what goes with it."""
    given = {name: LaunchConfiguration(name).perform(context) for name in (*PARAMETERS, *ARGUMENTS, *FLAGS)}
    given["params_file"] = LaunchConfiguration("params_file").perform(context)
    for argument, package in PACKAGES.items():
        if given[argument] not in ("", "false") and not is_installed(package):
            debian = f"ros-{os.environ.get('ROS_DISTRO', '<distribution>')}-{package.replace('_', '-')}"
            raise RuntimeError(
                f"expected the package {package} for {argument}:={given[argument]}, but it is not installed; install "
                f"{debian}, or leave the argument out"
            )
    # With its type, since launch would read the text [road, car] as a list.
    kinds = {name: type(SPECS[name].default) for name in PARAMETERS if given[name]}
    overrides = {name: ParameterValue(kind(given[name]), value_type=kind) for name, kind in kinds.items()}
    overrides["use_sim_time"] = ParameterValue(given["use_sim_time"] == "true", value_type=bool)
    overrides["autostart"] = ParameterValue(False, value_type=bool)  # the lifecycle is driven from here, or elsewhere
    node = LifecycleNode(
        package="ditta_ros",
        executable="ditta_node",
        name=given["name"],
        namespace=given["namespace"],
        parameters=[given["params_file"], overrides],
        ros_arguments=["--log-level", given["log_level"]],
        output="screen",
        emulate_tty=True,
        sigterm_timeout="10",  # an image or an adaptation may be under way
    )
    active = OnStateTransition(
        target_lifecycle_node=node, goal_state="active", entities=actions_when_active(given), handle_once=True
    )
    before, after = drive_lifecycle(node) if given["autostart"] == "true" else ([], [])
    return [RegisterEventHandler(active), *before, node, *after]


def is_installed(package: str) -> bool:
    """Whether ROS knows a package."""
    try:
        get_package_prefix(package)
    except PackageNotFoundError:
        return False
    return True


# --- lifecycle ------------------------------------------------------------------------------------------------------


def drive_lifecycle(node: LifecycleNode) -> tuple[list[Action], list[Action]]:
    """What configures and then activates the node, and ends the launch where that fails or the node dies.

    Returns:
        Actions that come before the node's, and those that come after.
    """

    def change(transition: int) -> EmitEvent:
        return EmitEvent(event=ChangeState(lifecycle_node_matcher=matches_action(node), transition_id=transition))

    def on(start_state: str | None, goal_state: str, *actions: Action) -> OnStateTransition:
        states = {"start_state": start_state, "goal_state": goal_state}
        return OnStateTransition(target_lifecycle_node=node, **states, entities=list(actions), handle_once=True)

    failures = [
        on("configuring", "unconfigured", failure("could not be configured")),
        on("configuring", "errorprocessing", failure("could not be configured")),
        on("activating", "inactive", failure("could not be activated")),
        on("activating", "errorprocessing", failure("could not be activated")),
    ]
    configured = on("configuring", "inactive", change(Transition.TRANSITION_ACTIVATE))
    # What becomes of later transitions is up to whoever asks for them.
    active = on(None, "active", *(UnregisterEventHandler(handler) for handler in failures))
    ended = OnProcessExit(target_action=node, on_exit=end_with_node)
    before = [RegisterEventHandler(handler) for handler in (*failures, configured, active, ended)]
    return before, [change(Transition.TRANSITION_CONFIGURE)]


def failure(what: str) -> OpaqueFunction:
    """Ends the launch: an exception is what gives it an exit code other than 0."""

    def end(context: LaunchContext) -> None:
        raise RuntimeError(f"the node {what}; its message above says why")

    return OpaqueFunction(function=end)


def end_with_node(event: ProcessExited, context: LaunchContext) -> Action | None:
    """End the launch when the node has ended by itself."""
    if context.is_shutdown:
        return None
    if event.returncode != 0:
        raise RuntimeError(f"the node ended with exit code {event.returncode}; its messages above say why")
    return Shutdown(reason="the node has ended")


# --- what starts when the node is active ----------------------------------------------------------------------------


def actions_when_active(given: dict[str, str]) -> list[Action]:
    """The recording, rviz, Foxglove and the bag, as far as they are asked for; the bag last, which the others show."""
    base = "/".join(["", *(part for part in (given["namespace"].strip("/"), given["name"]) if part)])
    cameras = image_topics(given)
    streams = [f"{base}/{name}" if name else base for name in cameras]
    simulated = given["use_sim_time"] == "true"
    actions: list[Action] = []
    if given["record"]:
        topics = [f"{stream}/{output}" for stream in streams for output in OUTPUTS]
        clock = ["--use-sim-time"] if simulated else []
        actions.append(rosbag("record", "-o", given["record"], *clock, *topics, "/diagnostics"))
    if given["rviz"] == "true":
        # The names in the configuration are those of a node without arguments; of several cameras the first is shown.
        remappings = [(f"/ditta/{output}", f"{streams[0]}/{output}") for output in (*OUTPUTS, "overlay", "colored")]
        remappings.append((SPECS["image_topic"].default, next(iter(cameras.values()))))
        config = str(share_folder() / "rviz" / "ditta.rviz")
        options = {"arguments": ["-d", config], "remappings": remappings}
        actions.append(Node(package="rviz2", executable="rviz2", output="screen", **options))
    if given["foxglove"] == "true":
        actions.append(Node(package="foxglove_bridge", executable="foxglove_bridge", output="screen"))
    if given["bag"]:
        flags = [*(["--loop"] if given["bag_loop"] == "true" else []), *(["--clock"] if simulated else [])]
        actions.append(rosbag("play", given["bag"], "--rate", given["bag_rate"], *flags))
    return actions


def rosbag(command: str, *arguments: str) -> ExecuteProcess:
    """One of the commands of ros2 bag."""
    return ExecuteProcess(cmd=["ros2", "bag", command, *arguments], name=command, output="screen", sigterm_timeout="10")


def image_topics(given: dict[str, str]) -> dict[str, str]:
    """The topics of the images by the names of several cameras; that of a single one has an empty name."""
    try:
        cameras = yaml.safe_load(value_of("cameras", given))
    except yaml.YAMLError:
        cameras = None  # the node says what is wrong with it
    if not isinstance(cameras, dict) or not cameras:
        return {"": value_of("image_topic", given) or SPECS["image_topic"].default}
    images = {name: each.get("image") if isinstance(each, dict) else each for name, each in cameras.items()}
    return {str(name): str(image) for name, image in images.items()}


def describe(name: str) -> str:
    """The text of an argument that is a parameter."""
    values = f" Values: {SPECS[name].values}." if SPECS[name].values else ""
    return f"{SPECS[name].description}{values} Left out, it is as in params_file."


def value_of(parameter: str, given: dict[str, str]) -> str:
    """The value of a parameter: the argument, or what the file of parameters says for any node; empty for neither."""
    if given[parameter]:
        return given[parameter]
    nodes = yaml.safe_load(Path(given["params_file"]).read_text(encoding="utf-8")) or {}
    values = [node.get("ros__parameters", {}).get(parameter) for node in nodes.values() if isinstance(node, dict)]
    return str(next((value for value in values if value), ""))


def generate_launch_description() -> LaunchDescription:
    """The arguments, the transport, and the node."""
    file = str(share_folder() / "config" / "ditta.yaml"), "File with the parameters of the node."
    described = {**{name: ("", describe(name)) for name in PARAMETERS}, "params_file": file, **ARGUMENTS, **FLAGS}
    arguments = [
        DeclareLaunchArgument(name, default_value=default, description=text, choices=FLAG if name in FLAGS else None)
        for name, (default, text) in described.items()
    ]
    # For every process of this launch, so that a camera started here publishes through shared memory as well.
    transport = [SetEnvironmentVariable(*each) for each in shared_memory_environment(os.environ).items()]
    return LaunchDescription([*arguments, *transport, OpaqueFunction(function=start)])
