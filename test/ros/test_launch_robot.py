"""The launch file in that of a robot, by the real launch: what the robot gives it, and what it does to the robot.

``launch`` and ``launch_ros`` are not on PyPI.
"""

from __future__ import annotations

import importlib
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from node_probe import lifecycle_state
from ros_harness import RELIABLE, Probe, wait_until
from sensor_msgs.msg import Image
from test_launch import NODE_LAUNCH, actions_when_active, command_of, launched, of_kind, parameters_of

__all__ = ["launched"]

Launched = Callable[..., tuple[Any, list[Any]]]
PACKAGES = ("rviz2", "foxglove_bridge", "ros2bag")


def text_of(context: Any, substitutions: Any) -> str:
    """What a value of an action is in a launch."""
    utilities = importlib.import_module("launch.utilities")
    return utilities.perform_substitutions(context, utilities.normalize_to_list_of_substitutions(substitutions))


# --- what the robot gives it ----------------------------------------------------------------------------------------


def simulated(launched: Launched, tmp_path: Path, text: str = "{}", **arguments: Any) -> tuple[Any, bool]:
    """The parameter use_sim_time that the node is given here, None for none, and whether the bag has a clock."""
    file = tmp_path / "parameters.yaml"
    file.write_text(text, encoding="utf-8")
    context, actions = launched(NODE_LAUNCH, packages=PACKAGES, params_file=str(file), bag="drive", **arguments)
    (node,) = of_kind(actions, "LifecycleNode")
    (play,) = of_kind(actions_when_active(actions), "ExecuteProcess")
    return parameters_of(node, context).get("use_sim_time"), "--clock" in command_of(play, context)


def test_simulated_time_is_as_the_robot_says_unless_it_is_given(launched: Launched, tmp_path: Path) -> None:
    file = "/**: {ros__parameters: {use_sim_time: true}}"
    assert simulated(launched, tmp_path) == (None, False)
    assert simulated(launched, tmp_path, file) == (None, True)
    assert simulated(launched, tmp_path, file, use_sim_time="False") == (False, False)
    assert simulated(launched, tmp_path, use_sim_time="True") == (True, True)
    assert simulated(launched, tmp_path, global_params=[("use_sim_time", True)]) == (None, True)
    other = tmp_path / "other.yaml"
    other.write_text(file, encoding="utf-8")
    assert simulated(launched, tmp_path, global_params=[str(other)]) == (None, True)


@pytest.mark.parametrize(
    ("section", "counts"),
    [
        ("/**", True),
        ("/robot1/ditta", True),
        ("robot1: {ditta", True),
        ("/*/ditta", True),
        ("ditta", False),
        ("/x", False),
    ],
)
def test_the_file_of_parameters_is_read_for_the_node_alone(
    launched: Launched, tmp_path: Path, section: str, counts: bool
) -> None:
    closing = "}" * (section.count("{") + 1)
    text = f"{section}: {{ros__parameters: {{use_sim_time: true}}{closing}"
    assert simulated(launched, tmp_path, text, namespace="robot1")[1] is counts
    assert simulated(launched, tmp_path, text, ros_namespace="/robot1")[1] is counts


def test_the_namespace_of_the_robot_reaches_all_that_is_started(launched: Launched) -> None:
    context, actions = launched(
        NODE_LAUNCH,
        packages=PACKAGES,
        ros_namespace="/robot1",
        ros_remaps=[("image", "/front/image")],
        namespace="left",
        rviz="True",
        foxglove="true",
        record="out",
        log_level="DEBUG",
    )
    (node,) = of_kind(actions, "LifecycleNode")
    levels = [text_of(context, part) for part in node._Node__ros_arguments]
    assert levels == ["--log-level", "robot1.left.ditta:=debug"]
    record, rviz, foxglove = actions_when_active(actions)
    assert "/robot1/left/ditta/semantic" in command_of(record, context)
    context.launch_configurations.pop("ros_namespace")  # the group of the robot has ended when the node is active
    for each in (rviz, foxglove):
        each._perform_substitutions(context)
        assert each.node_name.startswith("/robot1/left/")
    assert ("/camera/image_raw", "/front/image") in rviz.expanded_remapping_rules
    assert ("/ditta/semantic", "/robot1/left/ditta/semantic") in rviz.expanded_remapping_rules


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"params_file": "/nowhere.yaml"}, "expected a file of parameters, but got /nowhere.yaml: no such file"),
        ({"warmup_frames": "ten"}, "expected a whole number for the argument warmup_frames, but got 'ten'"),
        ({"respawn_delay": "soon"}, "expected a number for the argument respawn_delay, but got 'soon'"),
        ({"bag": "drive", "bag_rate": "fast"}, "expected a number for the argument bag_rate, but got 'fast'"),
        ({"log_level": "loud"}, "expected debug, info, warn, error, fatal for log_level, but got 'loud'"),
    ],
)
def test_a_wrong_argument_is_said_in_a_sentence(launched: Launched, arguments: dict[str, str], message: str) -> None:
    with pytest.raises(RuntimeError, match=f"^{re.escape(message)}"):
        launched(NODE_LAUNCH, packages=PACKAGES, **arguments)
    assert launched(NODE_LAUNCH, packages=PACKAGES, required="false", **arguments)[1] == []


# --- what it does to the robot --------------------------------------------------------------------------------------

PARENT = """
import sys
from launch import LaunchDescription, LaunchService
from launch.actions import ExecuteProcess, IncludeLaunchDescription
from launch.launch_description_sources import PythonLaunchDescriptionSource
file, *arguments = sys.argv[1:]
pairs = [argument.split(":=", 1) for argument in arguments]
controller = ExecuteProcess(cmd=["sleep", "1000"], name="base_controller", output="screen")
node = IncludeLaunchDescription(PythonLaunchDescriptionSource(file), launch_arguments=pairs)
service = LaunchService(noninteractive=True)
service.include_launch_description(LaunchDescription([controller, node]))
sys.exit(service.run())
"""
QUICK = "long_side: 96, warmup_frames: 4, threads: 1, runtime: torch, warmup_on: service"


class Robot:
    """A launch with a base controller, and with segmentation."""

    def __init__(self, folder: Path, *arguments: str) -> None:
        file = folder / "parameters.yaml"
        file.write_text(f"/**: {{ros__parameters: {{{QUICK}}}}}", encoding="utf-8")
        self._log = folder / "log.txt"
        command = [sys.executable, "-c", PARENT, str(NODE_LAUNCH), f"params_file:={file}", *arguments]
        with self._log.open("w") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, start_new_session=True)

    @property
    def output(self) -> str:
        return self._log.read_text(encoding="utf-8", errors="replace")

    def pids(self, name: str) -> list[int]:
        """Process ids of all processes of a name that were started."""
        return [int(pid) for pid in re.findall(rf"\[{name}-\d+\]: process started with pid \[(\d+)\]", self.output)]

    def wait_for(self, text: str) -> None:
        wait_until(lambda: text in self.output, lambda: f"{text!r} in {self.output}", 60)

    def lives(self, seconds: float = 3.0) -> bool:
        """Whether launch and controller live, also some time from now."""
        time.sleep(seconds)
        (controller,) = self.pids("base_controller")
        return self.process.poll() is None and Path(f"/proc/{controller}").exists()

    def stop(self) -> None:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)
        self.process.wait(40)


@pytest.fixture
def robot(tmp_path: Path, launched: object) -> Iterator[Callable[..., Robot]]:
    """Starts a robot whose launch includes the node with some arguments."""
    if "ditta_ros" not in importlib.import_module("ament_index_python").get_packages_with_prefixes():
        pytest.skip("needs an installation by colcon or pip, with AMENT_PREFIX_PATH at it")
    robots: list[Robot] = []

    def start(*arguments: str) -> Robot:
        robots.append(Robot(tmp_path, *arguments))
        return robots[-1]

    yield start
    for each in robots:
        each.stop()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["model:=nonsense"], "the node could not be configured; its message above says why"),
        (["warmup_frames:=0"], "the node ended with exit code 2; its messages above say why"),
        (["params_file:=/nowhere.yaml"], "expected a file of parameters, but got /nowhere.yaml: no such file"),
    ],
)
def test_a_failed_segmentation_does_not_take_the_robot_down(
    robot: Callable[..., Robot], arguments: list[str], message: str
) -> None:
    started = robot("required:=false", *arguments)
    started.wait_for(message)
    assert started.lives()
    assert "Caught exception" not in started.output


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_the_end_of_the_node_does_not_take_the_robot_down(
    probe: Probe, robot: Callable[..., Robot], number: signal.Signals
) -> None:
    started = robot("required:=false")
    probe.film()
    probe.wait_for_masks()
    (node,) = started.pids("ditta_node")
    subprocess.run(["kill", f"-{number.value}", str(node)], check=True)
    started.wait_for("process has died" if number is signal.SIGKILL else "process has finished cleanly")
    assert started.lives()


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_respawn_brings_the_masks_back(probe: Probe, robot: Callable[..., Robot], number: signal.Signals) -> None:
    started = robot("required:=false", "respawn:=True", "respawn_delay:=0.5")
    probe.film()
    probe.wait_for_masks()
    (node,) = started.pids("ditta_node")
    subprocess.run(["kill", f"-{number.value}", str(node)], check=True)
    wait_until(lambda: len(started.pids("ditta_node")) == 2, "the node to be started again")
    time.sleep(1)  # what was on its way
    probe.wait_for_masks()
    assert lifecycle_state(probe) == "active"
    assert started.lives(0)


@pytest.mark.slow
def test_a_required_node_takes_the_robot_down_with_an_exit_code(robot: Callable[..., Robot]) -> None:
    started = robot("model:=nonsense")
    assert started.process.wait(60) == 1
    assert "the node could not be configured" in started.output


@pytest.mark.slow
def test_a_namespace_is_enough_for_a_robot_of_several(probe: Probe, robot: Callable[..., Robot]) -> None:
    masks: list[Image] = []
    probe.subscribe(Image, "/robot1/ditta/semantic", masks.append)
    camera = probe.node.create_publisher(Image, "/robot1/camera/image_raw", RELIABLE)
    robot("namespace:=robot1")

    def filmed() -> bool:
        camera.publish(probe.send())
        time.sleep(0.1)
        return len(masks) >= 3

    wait_until(filmed, "masks of the robot", 60)
    assert not probe.masks
