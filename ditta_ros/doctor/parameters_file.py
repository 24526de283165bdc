"""A file of parameters, read as ROS reads it for the node: what ROS ignores without a word is said here."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import yaml

from ditta_ros.camera.topics import camera_topics
from ditta_ros.doctor.findings import Finding, error, ok, warning
from ditta_ros.parameters import PARAMETERS, NodeParameters, ParameterSpec, Value

NODE_NAME = "ditta"
NAME = "parameters"


def read_parameters(file: Path | None) -> tuple[NodeParameters, tuple[Finding, ...]]:
    """The parameters of the node, with defaults in place of what cannot be used, and what is wrong with them.

    Args:
        file: as --params-file takes it; None for the defaults.
    """
    if file is None:
        return NodeParameters(), (ok(NAME, "defaults; give yours with --params-file"),)
    try:
        values = values_for_node(yaml.safe_load(file.read_text(encoding="utf-8")), file)
    except (OSError, UnicodeDecodeError) as problem:
        return NodeParameters(), (error(NAME, str(problem), "give the path of a file that is there"),)
    except (yaml.YAMLError, ValueError) as problem:
        example = "begin from config/ditta.yaml: '/**:', below it 'ros__parameters:', below that names and values"
        return NodeParameters(), (error(NAME, " ".join(str(problem).split()), example),)
    parameters, findings = NodeParameters(), []
    specs = {spec.name: spec for spec in PARAMETERS}
    for name, value in values.items():
        spec = specs.get(name)
        if spec is None:
            if name.partition(".")[0] not in OWN_NAMES_OF_ROS:
                findings.append(unknown(name, list(specs)))
            continue
        try:
            change: dict[str, Any] = {name: typed(spec, value)}
            parameters = replace(parameters, **change)
        except ValueError as problem:
            findings.append(error(name, str(problem), f"mend it in {file}"))
    try:
        parameters.stream_config()
        camera_topics(parameters)
    except ValueError as problem:
        findings.append(error(NAME, str(problem), f"mend it in {file}"))
    if not findings:
        findings.append(ok(NAME, f"{len(values)} of {file}"))
    return parameters, tuple(findings)


OWN_NAMES_OF_ROS = ("use_sim_time", "start_type_description_service", "qos_overrides")
"""Parameters that every node has."""


def values_for_node(content: Any, file: Path) -> dict[str, Any]:
    """Names and values that apply to the node, later ones first.

    Raises:
        ValueError: there are none for it.
    """
    values: dict[str, Any] = {}
    others = []
    for path, parameters in parameter_groups(content):
        if path.rpartition("/")[2] in (NODE_NAME, "*", "**"):
            values |= parameters
        else:
            others.append(path)
    if others and not values:
        raise ValueError(
            f"expected parameters for the node {NODE_NAME} or for all (/**) in {file}, but got them for "
            f"{', '.join(others)}, and the node starts with its defaults"
        )
    if not values:
        raise ValueError(f"expected ros__parameters in {file}, but found none")
    return values


def parameter_groups(content: Any, path: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    """Every group of parameters with the name of its node, whose namespaces may be nested."""
    if not isinstance(content, Mapping):
        return
    for key, value in content.items():
        if key == "ros__parameters" and isinstance(value, Mapping):
            yield path, dict(value)
        else:
            yield from parameter_groups(value, f"{path}/{str(key).strip('/')}")


def unknown(name: str, names: list[str]) -> Finding:
    """A parameter that is none of the node's."""
    close = get_close_matches(name, names, 2)
    mend = f"perhaps {' or '.join(close)}" if close else "see config/ditta.yaml for the names there are"
    return warning(name, "the node has no such parameter, and ROS ignores it without a word", mend)


def typed(spec: ParameterSpec, value: Any) -> Value:
    """A value, if ROS takes it for this parameter.

    Raises:
        ValueError: it is of another type.
    """
    if isinstance(spec.default, float) and isinstance(value, str):
        try:
            return float(value)  # 1e-3, which is text to YAML 1.1 and a number to ROS
        except ValueError:
            pass
    kind = type(spec.default)
    if type(value) is kind:
        return kind(value)
    hints = {
        float: "write it with a decimal point",
        str: "put it between quotation marks",
        int: "write a whole number",
        bool: "write true or false",
    }
    raise ValueError(
        f"expected {kind.__name__} for the parameter {spec.name}, but got {type(value).__name__} {value!r}, with which "
        f"the node does not start; {hints[kind]}"
    )
