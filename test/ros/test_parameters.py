from __future__ import annotations

import importlib.util
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import rclpy
import yaml
from rcl_interfaces.msg import ParameterType
from rclpy.exceptions import ParameterException
from rclpy.node import Node
from rclpy.parameter import Parameter

from ditta_core.adaptation.config import AdaptationConfig
from ditta_core.inference.config import DEFAULT_LONG_SIDE, InferenceConfig
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
)

ROOT = Path(__file__).resolve().parents[2]
RANGED = [spec for spec in PARAMETERS if spec.range is not None]


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
    assert spec.range is not None
    low, high = spec.range
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


def test_parameters_for_live_mode_alone_do_not_count_in_parity() -> None:
    others: dict[str, Any] = {"reliability_threshold": 0.3, "smoothing": 0.5, "statistics_share": 1.0}
    others |= {"guarded": True, "restoration": True, "self_training_steps": 50}
    for spec in PARAMETERS:
        assert ("live mode alone" in spec.description) == (spec.name in {*others, "mode"}), spec.name
    parameters = NodeParameters(mode="parity", **others)
    assert parameters.adaptation_config() == AdaptationConfig.parity()
    assert parameters.inference_config() == InferenceConfig.parity()


def test_the_size_of_the_input_is_found_by_default() -> None:
    default = NodeParameters()
    assert default.inference_config().finds_input_size and default.stream_config().target_rate == 10
    assert default.stream_config(cameras=3).target_rate == 30, "they share the time"
    assert not NodeParameters(long_side=480).inference_config().finds_input_size
    assert not NodeParameters(input_width=640, input_height=480).inference_config().finds_input_size
    assert NodeParameters(mode="parity").inference_config().long_side == DEFAULT_LONG_SIDE
    assert NodeParameters(mode="parity", long_side=320).inference_config() == InferenceConfig.parity(long_side=320)


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


@pytest.fixture(scope="module")
def tool() -> ModuleType:
    """``tools/write_parameters.py``."""
    spec = importlib.util.spec_from_file_location("write_parameters", ROOT / "tools" / "write_parameters.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_parameters_file_is_that_of_the_table(tool: ModuleType) -> None:
    text = (ROOT / "config" / "ditta.yaml").read_text(encoding="utf-8")
    assert text == tool.parameters_file(), "run tools/write_parameters.py"
    assert yaml.safe_load(text)["/**"]["ros__parameters"] == asdict(NodeParameters())


def test_page_of_parameters_is_that_of_the_table(tool: ModuleType) -> None:
    text = (ROOT / "docs" / "parameters.md").read_text(encoding="utf-8")
    assert text == tool.parameters_page(), "run tools/write_parameters.py"
    head, rule, *rows = (line for line in text.splitlines() if line.startswith("|"))
    assert {line.count("|") for line in (head, rule, *rows)} == {6}
    assert [row.split("`")[1] for row in rows] == [spec.name for spec in PARAMETERS]


def test_descriptions_are_sentences() -> None:
    for spec in PARAMETERS:
        assert spec.description[0].isupper() or spec.description.startswith("live:"), spec.name
        assert spec.description.endswith("."), spec.name


def test_importing_them_takes_neither_torch_nor_opencv() -> None:
    program = (
        "import sys; sys.modules.update(torch=None, torchvision=None, cv2=None); import ditta_ros.parameters; "
        "values = ditta_ros.parameters.NodeParameters(); values.stream_config(); values.adaptation_config(); "
        "values.teacher_config(); values.model_source(); values.runtime_config()"
    )
    subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=True, timeout=60)


def test_ros_reads_the_parameters_file(ros: None) -> None:
    context = rclpy.Context()
    context.init(["--ros-args", "--params-file", str(ROOT / "config" / "ditta.yaml")])
    node = Node("anything", context=context)
    assert declare(node) == NodeParameters()
    node.destroy_node()
    context.shutdown()
