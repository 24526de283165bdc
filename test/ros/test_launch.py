"""The launch files and layouts: by their text and the real node, and by the real launch where it is installed.

``launch`` and ``launch_ros`` are not on PyPI.
"""

from __future__ import annotations

import argparse
import ast
import importlib
import importlib.util
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Collection, Iterator
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from ditta_ros.cli.evaluate import add_evaluate_parser
from ditta_ros.parameters import PARAMETERS
from ditta_ros.process.shared_memory import CHOICES

if TYPE_CHECKING:
    from ros_harness import NodeProcess, Probe

ROOT = Path(__file__).resolve().parents[2]
LAUNCH_FILES = sorted((ROOT / "launch").glob("*.launch.py"))
NODE_LAUNCH, EVALUATE_LAUNCH = ROOT / "launch" / "ditta.launch.py", ROOT / "launch" / "evaluate.launch.py"


@cache
def tree(file: Path) -> ast.Module:
    return ast.parse(file.read_text(encoding="utf-8"))


def calls(file: Path, name: str) -> list[ast.Call]:
    return [
        node
        for node in ast.walk(tree(file))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == name
    ]


def table(file: Path, name: str) -> Any:
    """The value of a table at the top of a launch file."""
    (value,) = (
        node.value
        for node in tree(file).body
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name) and node.targets[0].id == name
    )
    return ast.literal_eval(value)


# --- the text of the launch files -----------------------------------------------------------------------------------


@pytest.mark.parametrize("file", LAUNCH_FILES, ids=lambda file: file.stem)
def test_every_argument_is_described(file: Path) -> None:
    for call in calls(file, "DeclareLaunchArgument"):
        assert {each.arg for each in call.keywords} >= {"description"}, ast.unparse(call)
    tables = [table(file, "FLAGS"), *([table(file, "ARGUMENTS")] if file == NODE_LAUNCH else [table(file, "OPTIONS")])]
    for default, description in (value for each in tables for value in each.values()):
        assert isinstance(default, str)
        assert description.endswith(".")
    assert {default for default, _ in table(file, "FLAGS").values()} <= {"true", "false"}


def test_arguments_that_are_parameters_are_those_of_the_node() -> None:
    kinds = {spec.name: type(spec.default) for spec in PARAMETERS}
    for name in table(NODE_LAUNCH, "PARAMETERS"):
        assert kinds[name] in (int, float, str), f"{name} has a type that is not made from its text"
    assert "autostart" in kinds  # which the launch file sets
    assert not set(table(NODE_LAUNCH, "PARAMETERS")) & {*table(NODE_LAUNCH, "ARGUMENTS"), *table(NODE_LAUNCH, "FLAGS")}


def test_options_of_an_evaluation_are_those_of_the_command() -> None:
    parser = argparse.ArgumentParser()
    commands = parser.add_subparsers()
    add_evaluate_parser(commands)
    actions = {option: action for action in commands.choices["evaluate"]._actions for option in action.option_strings}
    for name, (default, _) in table(EVALUATE_LAUNCH, "OPTIONS").items():
        action = actions[f"--{name.replace('_', '-')}"]
        assert action.nargs != 0, f"{name} is a flag"
        if default and action.type is not None:
            action.type(default)
    for name in table(EVALUATE_LAUNCH, "FLAGS"):
        assert actions[f"--{name.replace('_', '-')}"].nargs == 0, f"{name} is no flag"


def test_starts_the_executable_that_setup_installs() -> None:
    (node,) = calls(NODE_LAUNCH, "LifecycleNode")
    options = {each.arg: each.value.value for each in node.keywords if isinstance(each.value, ast.Constant)}
    setup = (ROOT / "setup.py").read_text(encoding="utf-8")
    assert f'PACKAGE = "{options["package"]}"' in setup
    assert f'"{options["executable"]} = ditta_ros.cli.node:start"' in setup
    assert f"scripts/{options['executable']}" in setup
    assert (ROOT / "scripts" / str(options["executable"])).is_file()


# --- the layouts ----------------------------------------------------------------------------------------------------

RVIZ_CLASSES = {
    "rviz_common/Displays": None,
    "rviz_common/Views": None,
    "rviz_default_plugins/Grid": None,
    "rviz_default_plugins/Image": "sensor_msgs/msg/Image",
    "rviz_default_plugins/MoveCamera": None,
    "rviz_default_plugins/Orbit": None,
    "rviz_default_plugins/PointCloud2": "sensor_msgs/msg/PointCloud2",
    "rviz_default_plugins/TF": None,
}
"""Those of rviz's own plugins that are used, with the types that they show."""
FOXGLOVE_PANELS = {
    "3D": "sensor_msgs/msg/PointCloud2",
    "DiagnosticSummary": "diagnostic_msgs/msg/DiagnosticArray",
    "Image": "sensor_msgs/msg/Image",
    "Plot": None,
    "RawMessages": "std_msgs/msg/String",
    "StateTransitions": None,
}
CAMERA = "/camera/image_raw"


def rviz_layout() -> dict[str, Any]:
    return yaml.safe_load((ROOT / "rviz" / "ditta.rviz").read_text(encoding="utf-8"))


def foxglove_layout() -> dict[str, Any]:
    return json.loads((ROOT / "foxglove" / "ditta.json").read_text(encoding="utf-8"))


def rviz_topics() -> dict[str, str | None]:
    """Every topic with the type that its display shows."""
    displays = rviz_layout()["Visualization Manager"]["Displays"]
    return {each["Topic"]["Value"]: RVIZ_CLASSES[each["Class"]] for each in displays if "Topic" in each}


def foxglove_topics() -> dict[str, str | None]:
    """Every topic with the type that its panel shows."""
    topics: dict[str, str | None] = {}
    for name, panel in foxglove_layout()["configById"].items():
        kind = FOXGLOVE_PANELS[name.partition("!")[0]]
        shown = [
            panel.get("imageMode", {}).get("imageTopic"),
            panel.get("topicPath"),
            panel.get("topicToRender"),
            *panel.get("topics", {}),
        ]
        topics.update({topic: kind for topic in shown if topic})
    return topics


def classes_of(value: Any) -> Iterator[str]:
    """All classes that a configuration of rviz names."""
    if isinstance(value, dict):
        if value.get("Class"):
            yield value["Class"]
        value = list(value.values())
    if isinstance(value, list):
        for each in value:
            yield from classes_of(each)


def test_rviz_shows_camera_overlay_colours_and_points() -> None:
    assert set(classes_of(rviz_layout())) <= set(RVIZ_CLASSES)
    assert {CAMERA, "/ditta/overlay", "/ditta/colored", "/ditta/points"} <= set(rviz_topics())
    (points,) = (
        each
        for each in rviz_layout()["Visualization Manager"]["Displays"]
        if each["Class"] == "rviz_default_plugins/PointCloud2"
    )
    assert points["Channel Name"] == "label"


def test_foxglove_has_a_place_for_every_panel_and_a_panel_for_every_place() -> None:
    layout = foxglove_layout()

    def places(part: Any) -> list[str]:
        return [part] if isinstance(part, str) else places(part["first"]) + places(part["second"])

    assert sorted(places(layout["layout"])) == sorted(layout["configById"])
    assert {"/ditta/overlay", "/ditta/colored", "/ditta/state", "/diagnostics"} <= set(foxglove_topics())


def test_no_layout_shows_class_ids_as_brightness() -> None:
    """Which are black to the eye: the ids of a dozen classes are the darkest dozen of 256 greys."""
    assert "/ditta/semantic" not in {**rviz_topics(), **foxglove_topics()}


def script_of_foxglove() -> tuple[set[str], set[str]]:
    """The keys of the diagnostics that the script of the layout reads, and the fields of what it publishes."""
    (script,) = foxglove_layout()["userNodes"].values()
    source = script["sourceCode"]
    declared = source[source.index("type Output") : source.index("};")]
    return set(re.findall(r'values\["([^"]+)"\]', source)), set(re.findall(r"^  (\w+): ", declared, re.MULTILINE))


def test_plots_of_foxglove_are_of_fields_of_its_script() -> None:
    _, fields = script_of_foxglove()
    paths = [path["value"] for panel in foxglove_layout()["configById"].values() for path in panel.get("paths", [])]
    assert len(paths) >= 4
    for path in paths:
        topic, _, field = path.partition(".")
        assert topic == "/studio_script/ditta"
        assert field in fields


@pytest.mark.slow
def test_the_node_publishes_what_is_shown_and_recorded(start_node: Callable[..., NodeProcess], probe: Probe) -> None:
    from ros_harness import wait_until

    start_node()
    probe.film()
    probe.wait_for_masks()
    keys, _ = script_of_foxglove()

    def told() -> set[str]:
        return {entry.key for status in probe.diagnostics.values() for entry in status.values}

    wait_until(lambda: keys <= told(), lambda: f"diagnostics of {sorted(keys - told())}")
    topics = probe.node.get_topic_names_and_types()
    published = {topic: types for topic, types in topics if probe.node.count_publishers(topic)}
    for topic, kind in {**rviz_topics(), **foxglove_topics()}.items():
        assert published.get(topic) == [kind], topic
    recorded = {f"/ditta/{output}" for output in table(NODE_LAUNCH, "OUTPUTS")}
    if importlib.util.find_spec("vision_msgs") is None:
        recorded.remove("/ditta/label_info")
    assert recorded <= set(published)


# --- the real launch ------------------------------------------------------------------------------------------------


def load(file: Path) -> ModuleType:
    """A launch file as a module."""
    spec = importlib.util.spec_from_file_location("launch_file", file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def launched(monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[Any, list[Any]]]:
    """Has the real launch read a launch file where ``packages`` are installed: its context, and its actions."""
    pytest.importorskip("launch_ros", reason="needs a sourced ROS: launch_ros is not on PyPI")
    launch = importlib.import_module("launch")
    for name in CHOICES:
        monkeypatch.delenv(name, raising=False)

    def read(file: Path, packages: Collection[str] = (), **arguments: Any) -> tuple[Any, list[Any]]:
        module = load(file)
        known = getattr(module, "is_installed", None)
        monkeypatch.setattr(module, "is_installed", lambda name: name in packages or known(name), raising=False)
        description = module.generate_launch_description()
        context = launch.LaunchContext(argv=[])
        context.launch_configurations.update(arguments)
        for entity in description.entities:
            if not isinstance(entity, launch.actions.OpaqueFunction):
                entity.visit(context)
        return context, module.start(context)

    return read


def of_kind(actions: list[Any], kind: str) -> list[Any]:
    return [action for action in actions if type(action).__name__ == kind]


def parameters_of(node: Any, context: Any) -> dict[str, Any]:
    """The values that are given to a node besides its file of parameters."""
    evaluate = importlib.import_module("launch_ros.utilities").evaluate_parameters
    _, overrides = evaluate(context, node._Node__parameters)
    return dict(overrides)


def command_of(process: Any, context: Any) -> list[str]:
    perform = importlib.import_module("launch.utilities").perform_substitutions
    return [perform(context, part) for part in process.cmd]


def actions_when_active(actions: list[Any]) -> list[Any]:
    """What starts when the node is active."""
    (first, *_) = of_kind(actions, "RegisterEventHandler")
    return list(first.event_handler.entities)


def test_launch_gives_the_node_its_parameters_with_their_types(launched: Callable[..., tuple[Any, list[Any]]]) -> None:
    context, actions = launched(NODE_LAUNCH, classes="[road, car]", warmup_frames="3", use_sim_time="true")
    profiles = [context.environment.get(f"FAST{name}_DEFAULT_PROFILES_FILE") for name in ("DDS", "RTPS")]
    assert any(profiles)
    assert os.fspath(ROOT) in context.launch_configurations["params_file"]
    (node,) = of_kind(actions, "LifecycleNode")
    expected = {"classes": "[road, car]", "warmup_frames": 3, "use_sim_time": True, "autostart": False}
    assert parameters_of(node, context) == expected
    assert actions_when_active(actions) == []


def test_the_lifecycle_is_driven_unless_a_manager_does(launched: Callable[..., tuple[Any, list[Any]]]) -> None:
    def handlers(actions: list[Any]) -> set[str]:
        return {type(each.event_handler).__name__ for each in of_kind(actions, "RegisterEventHandler")}

    assert "OnProcessStart" in handlers(launched(NODE_LAUNCH)[1])
    for flag in ("false", "False"):
        context, actions = launched(NODE_LAUNCH, autostart=flag)
        assert handlers(actions) == {"OnStateTransition"}
        assert parameters_of(of_kind(actions, "LifecycleNode")[0], context)["autostart"] is False


def test_bag_and_recording_are_of_ros2_bag_with_the_names_of_the_node(
    launched: Callable[..., tuple[Any, list[Any]]],
) -> None:
    cameras = "{front: /front/image, rear: {image: /rear/image}}"
    context, actions = launched(
        NODE_LAUNCH,
        packages=["ros2bag"],
        bag="drive",
        record="out",
        namespace="robot",
        cameras=cameras,
        bag_loop="true",
        use_sim_time="true",
    )
    record, play = (command_of(each, context) for each in actions_when_active(actions))
    outputs = table(NODE_LAUNCH, "OUTPUTS")
    topics = [f"/robot/ditta/{camera}/{output}" for camera in ("front", "rear") for output in outputs]
    assert record == ["ros2", "bag", "record", "-o", "out", "--use-sim-time", *topics, "/diagnostics"]
    assert play == ["ros2", "bag", "play", "drive", "--rate", "1.0", "--loop", "--clock"]


def test_arguments_that_are_parameters_have_the_texts_of_the_table(
    launched: Callable[..., tuple[Any, list[Any]]],
) -> None:
    entities = load(NODE_LAUNCH).generate_launch_description().entities
    arguments = {each.name: each for each in of_kind(entities, "DeclareLaunchArgument")}
    described = {spec.name: spec for spec in PARAMETERS if spec.name in table(NODE_LAUNCH, "PARAMETERS")}
    for name, spec in described.items():
        assert arguments[name].description.startswith(spec.description)
        assert spec.values in arguments[name].description
    assert {*described, *table(NODE_LAUNCH, "ARGUMENTS"), *table(NODE_LAUNCH, "FLAGS"), "params_file"} == set(arguments)


@pytest.mark.parametrize(
    ("argument", "package"),
    [("rviz", "rviz2"), ("foxglove", "foxglove_bridge"), ("bag", "ros2bag"), ("record", "ros2bag")],
)
def test_what_is_not_installed_is_named_before_anything_starts(
    launched: Callable[..., tuple[Any, list[Any]]], argument: str, package: str
) -> None:
    if importlib.import_module("ament_index_python").get_packages_with_prefixes().get(package):
        _, actions = launched(NODE_LAUNCH, **{argument: "true"})
        assert actions_when_active(actions)
    else:
        with pytest.raises(RuntimeError, match=f"expected the package {package} for {argument}:=true"):
            launched(NODE_LAUNCH, **{argument: "true"})


def test_an_evaluation_is_the_command_with_the_arguments(launched: Callable[..., tuple[Any, list[Any]]]) -> None:
    context, actions = launched(EVALUATE_LAUNCH, bag="drive", warmup_ratio="25", lockstep="true")
    (process,) = of_kind(actions, "ExecuteProcess")
    command = command_of(process, context)
    assert command[:5] == [sys.executable, "-m", "ditta_ros.cli", "evaluate", "drive"]
    parser = argparse.ArgumentParser()
    add_evaluate_parser(parser.add_subparsers())
    options = parser.parse_args(command[3:])
    assert options.node and options.lockstep and not options.quick
    assert options.warmup_ratio == (25,)


RUN = """
import sys
from launch import LaunchDescription, LaunchService
from launch.actions import IncludeLaunchDescription
from launch.launch_description_sources import PythonLaunchDescriptionSource
file, *arguments = sys.argv[1:]
pairs = [argument.split(":=", 1) for argument in arguments]
service = LaunchService(argv=arguments, noninteractive=True)
service.include_launch_description(
    LaunchDescription([IncludeLaunchDescription(PythonLaunchDescriptionSource(file), launch_arguments=pairs)])
)
sys.exit(service.run())
"""


@pytest.mark.parametrize(
    ("file", "arguments", "messages"),
    [
        (NODE_LAUNCH, ["model:=nonsense"], ["expected the model", "the node could not be configured"]),
        (NODE_LAUNCH, ["warmup_frames:=0"], ["warmup_frames", "the node ended with exit code 2"]),
        (EVALUATE_LAUNCH, ["bag:=/nowhere"], ["/nowhere", "the evaluation ended with exit code 2"]),
    ],
)
def test_what_cannot_run_ends_the_launch_with_an_exit_code(
    launched: object, file: Path, arguments: list[str], messages: list[str]
) -> None:
    index = importlib.import_module("ament_index_python")
    if "ditta_ros" not in index.get_packages_with_prefixes():
        pytest.skip("needs an installation by colcon or pip, with AMENT_PREFIX_PATH at it")
    result = subprocess.run(
        [sys.executable, "-c", RUN, str(file), *arguments], capture_output=True, text=True, timeout=100, check=False
    )
    output = result.stdout + result.stderr
    assert result.returncode == 1, output
    for message in messages:
        assert message in output
