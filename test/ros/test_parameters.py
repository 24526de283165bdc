from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import rclpy
import yaml
from rcl_interfaces.msg import ParameterType
from rclpy.exceptions import ParameterException
from rclpy.node import Node
from rclpy.parameter import Parameter

from ditta_core.adaptation.config import AdaptationConfig
from ditta_core.inference.config import InferenceConfig
from ditta_core.stream.config import WarmupTrigger
from ditta_core.stream.scene.config import SceneConfig
from ditta_ros.parameters import (
    PARAMETERS,
    Change,
    NodeParameters,
    ParameterSpec,
    Value,
    changed,
    declare,
    markdown_table,
    parameters_file,
)

ROOT = Path(__file__).resolve().parents[2]
RANGED = [spec for spec in PARAMETERS if spec.range != (None, None)]


def make_node(**overrides: Value) -> Node:
    return Node("parameters", parameter_overrides=[Parameter(name, value=value) for name, value in overrides.items()])


@pytest.fixture
def node(ros: None) -> Iterator[Node]:
    node = make_node()
    yield node
    node.destroy_node()


def test_declared_as_in_the_table(node: Node) -> None:
    assert declare(node) == NodeParameters()
    kinds = {
        bool: ParameterType.PARAMETER_BOOL,
        int: ParameterType.PARAMETER_INTEGER,
        float: ParameterType.PARAMETER_DOUBLE,
        str: ParameterType.PARAMETER_STRING,
    }
    for spec in PARAMETERS:
        descriptor = node.describe_parameter(spec.name)
        assert descriptor.type == kinds[type(spec.default)]
        assert descriptor.description == spec.description
        assert descriptor.read_only == (spec.change is Change.NEVER)
        ranges = [*descriptor.integer_range, *descriptor.floating_point_range]
        assert [(each.from_value, each.to_value) for each in ranges] == ([spec.range] if spec in RANGED else [])
        for choice in spec.choices:
            assert choice in descriptor.additional_constraints


@pytest.mark.usefixtures("ros")
def test_values_from_outside_are_read() -> None:
    node = make_node(model="espnetv2:weights.pth", passes=7, smoothing=0.25, warmup_on="service")
    expected = replace(NodeParameters(), model="espnetv2:weights.pth", passes=7, smoothing=0.25, warmup_on="service")
    assert declare(node) == expected
    node.destroy_node()


@pytest.mark.usefixtures("ros")
@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        ({"passes": 0}, r"passes out of range.*Min: 1.*value: 0"),
        ({"smoothing": 1.5}, r"smoothing out of range.*Max: 1\.0, value: 1\.5"),
        ({"passes": "five"}, r"passes.*STRING.*INTEGER"),
        ({"mode": "fast"}, r"expected live, parity for the parameter mode, but got 'fast'"),
    ],
)
def test_wrong_values_from_outside_are_named(overrides: dict[str, Value], expected: str) -> None:
    node = make_node(**overrides)
    with pytest.raises((ParameterException, ValueError), match=expected):
        declare(node)
    node.destroy_node()


@pytest.mark.parametrize("spec", RANGED, ids=lambda spec: spec.name)
def test_bounds_belong_to_the_range(spec: ParameterSpec) -> None:
    low, high = spec.range
    assert low is not None
    assert high is not None
    kind = type(spec.default)
    for value in (low, high, spec.default):
        assert getattr(NodeParameters(**{spec.name: kind(value)}), spec.name) == kind(value)
    for value in (low - 1, high + 1):
        with pytest.raises(ValueError, match=rf"expected .* to .* for the parameter {spec.name}, but got"):
            NodeParameters(**{spec.name: kind(value)})


def test_not_a_number_is_in_no_range() -> None:
    with pytest.raises(ValueError, match="smoothing"):
        NodeParameters(smoothing=float("nan"))


def test_change_at_run_time() -> None:
    current = NodeParameters()
    assert changed(current, [("overlay_rate", 2.0), ("use_sim_time", True)], configured=True).overlay_rate == 2.0
    assert changed(current, [("passes", 3)], configured=True).passes == 3
    assert changed(current, [("long_side", 320)], configured=False).long_side == 320
    with pytest.raises(ValueError, match="long_side is read when the node is configured; clean the node up"):
        changed(current, [("long_side", 320)], configured=True)
    with pytest.raises(ValueError, match=r"expected 0\.1 to 1000 for the parameter overlay_rate, but got 0\.0"):
        changed(current, [("overlay_rate", 0.0)], configured=True)


def test_configurations_carry_the_values() -> None:
    parameters = NodeParameters(
        model="espnetv2:x.pth",
        classes="[road]",
        device="cuda:1",
        long_side=320,
        warmup_frames=7,
        warmup_on="service",
        scene_sensitivity=0.25,
        scene_confirmation=2.0,
        scene_cooldown=5.0,
        remembered_scenes=2,
        teacher="object_vote:flow",
        passes=2,
        learning_rate=0.01,
        seed=1,
        reliability_threshold=0.5,
        smoothing=0.1,
        max_fusion_gap=0.2,
        max_clock_jump=3.0,
    )
    source = parameters.model_source()
    assert (source.name, source.classes, source.device) == ("espnetv2:x.pth", "[road]", "cuda:1")
    stream = parameters.stream_config()
    assert (stream.inference.long_side, stream.inference.input_size, stream.warmup_frames) == (320, None, 7)
    assert (stream.warmup_on, stream.inference.exact) == (WarmupTrigger.SERVICE, False)
    assert (stream.inference.reliability_threshold, stream.inference.smoothing) == (0.5, 0.1)
    assert (stream.inference.max_fusion_gap, stream.max_clock_jump) == (0.2, 3.0)
    assert stream.scene == SceneConfig(sensitivity=0.25, confirmation=2.0, cooldown=5.0)
    assert stream.remembered_scenes == 2
    expected = AdaptationConfig(passes=2, learning_rate=0.01, seed=1, temporal_branch=True)
    assert parameters.adaptation_config() == expected
    assert not NodeParameters(reliability_threshold=0.0).adaptation_config().temporal_branch
    assert parameters.teacher_config().name == "object_vote:flow"


def test_parity_is_the_published_behaviour() -> None:
    parameters = NodeParameters(mode="parity", passes=3)
    assert parameters.adaptation_config() == AdaptationConfig.parity(passes=3)
    assert parameters.stream_config().inference == InferenceConfig.parity()


def test_warmup_by_ratio_is_the_papers() -> None:
    assert NodeParameters(warmup_ratio=10, expected_frames=71).stream_config().warmup_frames == 7
    with pytest.raises(ValueError, match="expected expected_frames with a warmup_ratio of 10 %, but got 0"):
        NodeParameters(warmup_ratio=10).stream_config()


def test_input_size_needs_both_sides() -> None:
    assert NodeParameters(input_width=640, input_height=352).stream_config(16).inference.input_size == (352, 640)
    with pytest.raises(ValueError, match=r"in multiples of 16 for the model camvid, but got 640 and 360"):
        NodeParameters(input_width=640, input_height=360).stream_config(16)
    with pytest.raises(ValueError, match="expected both input_width and input_height, or neither, but got 640 and 0"):
        NodeParameters(input_width=640).stream_config(16)


def test_saved_generations_lie_in_the_home_of_ros_unless_the_path_is_absolute(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ROS_HOME", "/robot/ros")
    assert NodeParameters(state_dir="ditta").state_path() == Path("/robot/ros/ditta")
    assert NodeParameters(state_dir="/data/ditta").state_path() == Path("/data/ditta")
    monkeypatch.delenv("ROS_HOME")
    assert NodeParameters(state_dir="~/ditta").state_path() == Path.home() / "ditta"


def test_parameters_file_is_that_of_the_table() -> None:
    text = (ROOT / "config" / "ditta.yaml").read_text(encoding="utf-8")
    assert text == parameters_file()
    assert yaml.safe_load(text)["/**"]["ros__parameters"] == asdict(NodeParameters())


def test_ros_reads_the_parameters_file(ros: None) -> None:
    context = rclpy.Context()
    context.init(["--ros-args", "--params-file", str(ROOT / "config" / "ditta.yaml")])
    node = Node("anything", context=context)
    assert declare(node) == NodeParameters()
    node.destroy_node()
    context.shutdown()


def test_markdown_table_has_one_row_per_parameter() -> None:
    head, rule, *rows = markdown_table().splitlines()
    assert {line.count("|") for line in (head, rule, *rows)} == {6}
    assert [row.split("`")[1] for row in rows] == [spec.name for spec in PARAMETERS]


def test_table_of_the_readme_is_made_from_the_same_source() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    _, after = text.split("<!-- parameters -->\n")
    assert after.split("<!-- end of parameters -->")[0] == markdown_table()
