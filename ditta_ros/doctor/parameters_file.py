"""A file of parameters, read as ROS reads it for the node: what ROS ignores without a word is said here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from ditta_ros.camera.topics import camera_topics
from ditta_ros.doctor.findings import Finding, error, ok, warning
from ditta_ros.parameters import PARAMETERS, NodeParameters, ParameterSpec, Value
from ditta_ros.process.parameter_file import EXAMPLE, parameter_groups, read_parameter_file

OWN_NAMES_OF_ROS = ("use_sim_time", "start_type_description_service", "qos_overrides")
"""Parameters that every node has."""

HINTS: Mapping[type[Value], str] = {
    float: "write it with a decimal point",
    str: "put it between quotation marks",
    int: "write a whole number",
    bool: "write true or false",
}


def read_parameters(file: Path | None) -> tuple[NodeParameters, list[Finding]]:
    """The parameters of the node, with defaults where a file has none that can be used, and what is wrong with it."""
    parameters, findings, name = NodeParameters(), [], "parameters"
    if file is None:
        return parameters, [ok(name, "defaults; give yours with --params-file")]
    try:
        values = values_for_any_node(read_parameter_file(file), file)
    except ValueError as problem:
        return parameters, [error(name, str(problem), EXAMPLE)]
    specs = {spec.name: spec for spec in PARAMETERS}
    for key, value in values.items():
        if key in specs:
            try:
                change: dict[str, Any] = {key: typed(specs[key], value)}
                parameters = replace(parameters, **change)
            except ValueError as problem:
                findings.append(error(key, str(problem), f"correct it in {file}"))
        elif key.partition(".")[0] not in OWN_NAMES_OF_ROS:
            close = " or ".join(get_close_matches(key, specs, 2))
            remedy = f"perhaps {close}" if close else "see config/ditta.yaml for the names there are"
            findings.append(warning(key, "the node has no such parameter, and ROS ignores it without a word", remedy))
    try:
        parameters.stream_config()
        camera_topics(parameters)
    except ValueError as problem:
        findings.append(error(name, str(problem), f"correct it in {file}"))
    return parameters, findings or [ok(name, f"{len(values)} of {file}")]


def values_for_any_node(content: Any, file: Path) -> dict[str, Any]:
    """Names and values that apply to a node of this package in some namespace, of which the file alone tells.

    Raises:
        ValueError: There are none for it.
    """
    groups = list(parameter_groups(content))
    own = [values for path, values in groups if path.rpartition("/")[2] in ("ditta", "*", "**")]
    merged = {name: value for values in own for name, value in values.items()}
    if not merged:
        raise ValueError(
            f"expected ros__parameters for the node ditta or for all (/**) in {file}, but got them for "
            f"{', '.join(path for path, _ in groups) or 'no node'}; the node starts with its defaults"
        )
    return merged


def typed(spec: ParameterSpec, value: Any) -> Value:
    """A value, if ROS takes it for this parameter.

    Raises:
        ValueError: It is of another type.
    """
    kind = type(spec.default)
    if kind is float and isinstance(value, str):
        try:
            return float(value)  # 1e-3, which is text to YAML 1.1 and a number to ROS
        except ValueError:
            pass
    if type(value) is kind:
        return kind(value)
    raise ValueError(
        f"expected {kind.__name__} for the parameter {spec.name}, but got {type(value).__name__} {value!r}, with which "
        f"the node does not start; {HINTS[kind]}"
    )
