"""What a file of parameters has for a node, compared with what ROS reads."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from rclpy.node import Node

from ditta_ros.process.parameter_file import read_parameter_file, values_for_node

NODES = (("/", "ditta"), ("/robot1", "ditta"), ("/site/robot1", "ditta"), ("/robot1", "other"))


@pytest.mark.parametrize(
    "text",
    [
        *(
            f"{{'{name}': {{ros__parameters: {{a: 1}}}}}}"
            for name in (
                *("/**", "/*", "*", "ditta", "/ditta", "robot1/ditta", "/robot1/ditta", "/*/ditta", "/**/ditta"),
                *("/robot1/*", "/robot1/**", "/**/robot1/ditta", "/site/*/ditta", "/other"),
            )
        ),
        "robot1: {ditta: {ros__parameters: {a: 1}}, ros__parameters: {a: 3}}",
        "/**: {robot1: {ditta: {ros__parameters: {a: 1, b: {c: 2}}}}}",
        "{/robot1/ditta: {ros__parameters: {a: 1}}, /**: {ros__parameters: {a: 2}}}",
        "{/**: {ros__parameters: {a: 2}}, /robot1/ditta: {ros__parameters: {a: 1}}}",
        "{/robot1/*: {ros__parameters: {a: 1}}, /**/ditta: {ros__parameters: {a: 3}}}",
    ],
)
def test_ros_reads_the_same(text: str, tmp_path: Path, ros: None) -> None:
    file = tmp_path / "parameters.yaml"
    file.write_text(text, encoding="utf-8")
    for namespace, name in NODES:
        mine = values_for_node(read_parameter_file(file), f"{namespace.rstrip('/')}/{name}")
        arguments = ["--ros-args", "--params-file", str(file)]
        node = Node(
            name,
            namespace=namespace,
            cli_args=arguments,
            enable_rosout=False,
            start_parameter_services=False,
            automatically_declare_parameters_from_overrides=True,
        )
        assert (mine.get("a") is not None) == node.has_parameter("a"), name
        if node.has_parameter("a"):
            assert mine["a"] == node.get_parameter("a").value
        node.destroy_node()


@pytest.mark.parametrize(
    ("content", "message"),
    [(None, "no such file"), (b"a: [", "in YAML"), (b"\xff\xfe\x00", "in YAML"), (b"[" * 5000, "in YAML")],
    ids=["missing", "unfinished", "no text", "too deep"],
)
def test_what_cannot_be_read_is_said_in_a_sentence(content: bytes | None, message: str, tmp_path: Path) -> None:
    file = tmp_path / "parameters.yaml"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(ValueError, match=f"expected a file of parameters.*{message}"):
        read_parameter_file(file)


def test_a_file_without_nodes_has_nothing() -> None:
    assert values_for_node(yaml.safe_load("[1, 2]"), "/ditta") == {}
    assert values_for_node(None, "/ditta") == {}
