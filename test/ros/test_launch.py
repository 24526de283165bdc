"""The launch file: by the real launch where ROS is sourced, and by its text anywhere (launch is not on PyPI)."""

from __future__ import annotations

import ast
import importlib
import importlib.util
import os
from pathlib import Path
from typing import Any

import pytest

from ditta_ros.parameters import PARAMETERS

ROOT = Path(__file__).resolve().parents[2]
LAUNCH = ROOT / "launch" / "ditta.launch.py"
TREE = ast.parse(LAUNCH.read_text(encoding="utf-8"))


def calls(tree: ast.AST, name: str) -> list[ast.Call]:
    return [
        node
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == name
    ]


def keywords(call: ast.Call) -> dict[str, Any]:
    """The keyword arguments of a call; None for those that are no constants."""
    return {
        each.arg or "": each.value.value if isinstance(each.value, ast.Constant) else None for each in call.keywords
    }


def declared() -> dict[str, dict[str, Any]]:
    """The declared arguments and how they are declared."""
    arguments = {}
    for call in calls(TREE, "DeclareLaunchArgument"):
        (name,) = call.args
        assert isinstance(name, ast.Constant)
        arguments[str(name.value)] = keywords(call)
    return arguments


def test_every_argument_is_described_and_has_a_default() -> None:
    arguments = declared()
    assert {"image_topic", "params_file", "namespace", "model", "classes", "warmup_frames", "log_level"} <= set(
        arguments
    )
    for name, options in arguments.items():
        assert options["description"], name
        assert "default_value" in options, name


def test_every_argument_that_is_used_is_declared_and_the_other_way_round() -> None:
    (overrides,) = (
        ast.literal_eval(ast.Dict(node.value.keys, [ast.Constant(0)] * len(node.value.keys)))
        for node in TREE.body
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Dict)
    )
    assert set(overrides) <= {spec.name for spec in PARAMETERS}
    used = {call.args[0].value for call in calls(TREE, "LaunchConfiguration") if isinstance(call.args[0], ast.Constant)}
    assert used | set(overrides) == set(declared())


def test_starts_the_executable_that_setup_installs() -> None:
    (node,) = calls(TREE, "Node")
    options = keywords(node)
    setup = (ROOT / "setup.py").read_text(encoding="utf-8")
    assert f'PACKAGE = "{options["package"]}"' in setup
    assert f'"{options["executable"]} = ditta_ros.node:main"' in setup
    assert f"scripts/{options['executable']}" in setup
    assert (ROOT / "scripts" / options["executable"]).is_file()


def test_launch_reads_it(monkeypatch: pytest.MonkeyPatch) -> None:
    actions = pytest.importorskip("launch_ros.actions", reason="needs a sourced ROS: launch_ros is not on PyPI")
    launch = importlib.import_module("launch")
    monkeypatch.delenv("FASTDDS_DEFAULT_PROFILES_FILE", raising=False)
    monkeypatch.delenv("FASTRTPS_DEFAULT_PROFILES_FILE", raising=False)
    spec = importlib.util.spec_from_file_location("ditta_launch", LAUNCH)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    description = module.generate_launch_description()
    assert {each.name for each in description.get_launch_arguments()} == set(declared())
    context = launch.LaunchContext(argv=[])
    for entity in description.entities:
        if not isinstance(entity, launch.actions.OpaqueFunction):
            entity.visit(context)
    context.launch_configurations.update({"classes": "[road, car]", "warmup_frames": "3"})
    assert context.environment.get("FASTDDS_DEFAULT_PROFILES_FILE") or context.environment.get(
        "FASTRTPS_DEFAULT_PROFILES_FILE"
    )
    (node,) = module.start_node(context)
    assert isinstance(node, actions.Node)
    assert os.fspath(ROOT) in context.launch_configurations["params_file"]
