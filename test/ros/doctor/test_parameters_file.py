"""A file of parameters, read as ROS reads it."""

from __future__ import annotations

from pathlib import Path

import pytest
from rclpy.node import Node
from ros_harness import ROOT

from ditta_ros.doctor.findings import Finding, Level
from ditta_ros.doctor.parameters_file import read_parameters
from ditta_ros.parameters import NodeParameters, declare


def by_name(findings: list[Finding]) -> dict[str, Finding]:
    return {finding.name: finding for finding in findings}


def read(folder: Path, text: str) -> tuple[NodeParameters, dict[str, Finding]]:
    file = folder / "parameters.yaml"
    file.write_text(text, encoding="utf-8")
    parameters, findings = read_parameters(file)
    return parameters, by_name(list(findings))


def test_overrides_of_qos_are_known_to_ros(tmp_path: Path) -> None:
    overrides = "{qos_overrides./ditta/semantic.publisher.depth: 5, qos_overrides: {/a: {publisher: {depth: 5}}}}"
    assert read(tmp_path, f"ditta: {{ros__parameters: {overrides}}}")[1]["parameters"].level is Level.OK


@pytest.mark.parametrize("name", ["/**", "ditta", "/ditta", "/front/ditta", "/**/ditta"])
def test_parameters_for_the_node(name: str, tmp_path: Path) -> None:
    parameters, findings = read(tmp_path, f"{name}:\n  ros__parameters: {{passes: 7, use_sim_time: true}}\n")
    assert parameters == NodeParameters(passes=7)
    assert list(findings) == ["parameters"] and findings["parameters"].level is Level.OK


def test_parameters_in_nested_namespaces(tmp_path: Path) -> None:
    assert read(tmp_path, "front: {ditta: {ros__parameters: {passes: 3}}}")[0].passes == 3


def test_the_file_that_comes_with_the_package() -> None:
    parameters, findings = read_parameters(ROOT / "config" / "ditta.yaml")
    assert parameters == NodeParameters()
    assert [finding.level for finding in findings] == [Level.OK]


@pytest.mark.parametrize(
    "text",
    [
        "/**: {ros__parameters: {learning_rate: 1e-3, autostart: false, classes: '[road]', smoothing: .5}}",
        "{/**: {ros__parameters: {passes: 7, seed: 1}}, ditta: {ros__parameters: {passes: 8}}}",
        "{ditta: {ros__parameters: {passes: 8}}, /**: {ros__parameters: {passes: 7, seed: 1}}}",
        "{/*: {ros__parameters: {passes: 7}}, /**/ditta: {ros__parameters: {seed: 1}}}",
        "{/front/ditta: {ros__parameters: {passes: 7}}, /ditta: {ros__parameters: {passes: 8}}}",
    ],
)
def test_ros_reads_the_same(text: str, tmp_path: Path, ros: None) -> None:
    mine = read(tmp_path, text)[0]
    node = Node("ditta", cli_args=["--ros-args", "--params-file", str(tmp_path / "parameters.yaml")])
    theirs = declare(node)
    node.destroy_node()
    assert mine == theirs != NodeParameters()


@pytest.mark.parametrize(
    ("text", "name", "level", "words"),
    [
        ("/**: {ros__parameters: {pases: 7}}", "pases", Level.WARNING, "perhaps passes"),
        ("/**: {ros__parameters: {classes: [road, car]}}", "classes", Level.ERROR, "quotation marks"),
        ("/**: {ros__parameters: {smoothing: 1}}", "smoothing", Level.ERROR, "decimal point"),
        ("/**: {ros__parameters: {passes: 2.0}}", "passes", Level.ERROR, "whole number"),
        ("/**: {ros__parameters: {autostart: 1}}", "autostart", Level.ERROR, "true or false"),
        ("/**: {ros__parameters: {passes: 0}}", "passes", Level.ERROR, "1 to 1000"),
        ("/**: {ros__parameters: {input_width: 640}}", "parameters", Level.ERROR, "input_height"),
        ("/**: {ros__parameters: {cameras: '{front: [a]}'}}", "parameters", Level.ERROR, "front"),
        ("/other: {ros__parameters: {passes: 7}}", "parameters", Level.ERROR, "/other"),
        ("passes: 7", "parameters", Level.ERROR, "ros__parameters"),
        ("a: [", "parameters", Level.ERROR, "config/ditta.yaml"),
    ],
)
def test_what_ros_does_not_say(text: str, name: str, level: Level, words: str, tmp_path: Path) -> None:
    parameters, findings = read(tmp_path, text)
    assert parameters == NodeParameters() or name == "parameters"
    assert findings[name].level is level
    assert words in f"{findings[name].finding} {findings[name].remedy}"
