"""Start DiTTA on a camera: ``ros2 launch ditta_ros ditta.launch.py image_topic:=/camera/image_raw``."""

import os

from launch.actions import DeclareLaunchArgument, OpaqueFunction, SetEnvironmentVariable
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import Node
from launch_ros.parameter_descriptions import ParameterValue

from ditta_ros.transport import share_folder, shared_memory_environment
from launch import LaunchContext, LaunchDescription

PARAMETERS = {"image_topic": str, "model": str, "classes": str, "warmup_frames": int}
"""Arguments that, where given, take precedence over the file of parameters; with their types."""


def start_node(context: LaunchContext) -> list[Node]:
    """The node with the arguments that were given."""
    given = {name: LaunchConfiguration(name).perform(context) for name in PARAMETERS}
    # With its type, since launch would read the text [road, car] as a list.
    overrides = {
        name: ParameterValue(kind(given[name]), value_type=kind) for name, kind in PARAMETERS.items() if given[name]
    }
    return [
        Node(
            package="ditta_ros",
            executable="ditta_node",
            name="ditta",
            namespace=LaunchConfiguration("namespace"),
            parameters=[LaunchConfiguration("params_file"), overrides],
            ros_arguments=["--log-level", LaunchConfiguration("log_level")],
            output="screen",
            emulate_tty=True,
        )
    ]


def generate_launch_description() -> LaunchDescription:
    """The arguments, the transport, and the node."""
    arguments = [
        DeclareLaunchArgument(
            "image_topic", default_value="", description="Topic of the camera images; empty: as in params_file."
        ),
        DeclareLaunchArgument(
            "model", default_value="", description="camvid or espnetv2:<weight file>; empty: as in params_file."
        ),
        DeclareLaunchArgument(
            "classes",
            default_value="",
            description="Classes to publish, as YAML text, file or packaged list; empty: as in params_file.",
        ),
        DeclareLaunchArgument(
            "warmup_frames", default_value="", description="Frames of a warm-up; empty: as in params_file."
        ),
        DeclareLaunchArgument(
            "params_file",
            default_value=str(share_folder() / "config" / "ditta.yaml"),
            description="File with the parameters of the node.",
        ),
        DeclareLaunchArgument("namespace", default_value="", description="Namespace of the node."),
        DeclareLaunchArgument("log_level", default_value="info", description="debug, info, warn, error or fatal."),
    ]
    # For every process of this launch, so that a camera started here publishes through shared memory as well.
    transport = [SetEnvironmentVariable(*each) for each in shared_memory_environment(os.environ).items()]
    return LaunchDescription([*arguments, *transport, OpaqueFunction(function=start_node)])
