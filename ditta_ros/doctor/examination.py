"""The whole examination, section by section, each as soon as it is done."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from ditta_ros.doctor.children import ChildFailed, ask_python
from ditta_ros.doctor.environment import check_environment
from ditta_ros.doctor.findings import Finding, Level, Section, error, examined, ok, warning
from ditta_ros.doctor.installation import Installation, check_cv_bridge, check_installation, check_optional_packages
from ditta_ros.doctor.transport import check_transport

if TYPE_CHECKING:
    from ditta_core.segmentation.base import SegmentationModel
    from ditta_ros.parameters import NodeParameters

GRAPH_SECONDS = 90.0
"""How long the look at what runs may take: six seconds where the machine is free, thirty where it is not."""


@dataclass(frozen=True)
class DoctorOptions:
    """What is examined.

    Attributes:
        params_file: the user's parameters; None for the defaults.
        image_topic: in place of that of the parameters; empty for theirs.
        transport: whether images are sent between two processes.
    """

    params_file: Path | None = None
    image_topic: str = ""
    transport: bool = True


def examine(options: DoctorOptions, environment: Mapping[str, str]) -> Iterator[Section]:
    """Examine everything.

    Args:
        options: what, in particular.
        environment: that of the shell, with which everything of ROS is tried.
    """
    found = Installation(torch=False, rmw="")

    def installed() -> list[Finding]:
        nonlocal found
        findings, found = check_installation(environment)
        return findings

    yield Section("installation", tuple(examined("installation", installed)))
    optional = [
        *examined("cv_bridge", check_cv_bridge),
        *examined("optional packages", check_optional_packages),
    ]
    if found.torch:
        from ditta_ros.doctor.models import check_packages

        optional += examined("optional packages", check_packages)
    yield Section("optional packages", tuple(optional))
    if not found.rmw:
        remedy = "bring ROS 2 in order first, as said above"
        unchecked = [warning(name, "not checked without ROS 2", remedy) for name in ("environment", "images", "graph")]
        yield Section("ROS 2", tuple(unchecked))
    else:
        yield Section("environment", tuple(examined("environment", lambda: check_environment(environment, found))))
        if options.transport:
            yield Section("transport", tuple(examined("images", lambda: check_transport(environment, found))))
    parameters, findings = chosen_parameters(options)
    yield Section("parameters", tuple(findings))
    if found.rmw and parameters is not None:
        yield Section("graph", tuple(examined("graph", lambda: check_graph(parameters, options, environment))))
    if not found.torch:
        yield Section("models", (warning("models", "not checked without torch", "install torch first, as said above"),))
    else:
        yield Section("models", tuple(check_models(parameters)))


def chosen_parameters(options: DoctorOptions) -> tuple[NodeParameters | None, list[Finding]]:
    """The parameters with which the node would start, and what is wrong with them; None where they cannot be known."""
    try:
        from ditta_ros.doctor.parameters_file import read_parameters
        from ditta_ros.parameters import NodeParameters
    except ImportError as problem:
        remedy = "bring torch and ROS 2 in order first, as said above"
        return None, [warning("parameters", f"not checked, since they cannot be read: {problem}", remedy)]
    parameters = NodeParameters()

    def read() -> tuple[Finding, ...]:
        nonlocal parameters
        parameters, findings = read_parameters(options.params_file)
        return findings

    findings = examined("parameters", read)
    if options.image_topic:
        parameters = replace(parameters, image_topic=options.image_topic, cameras="")
    return parameters, findings


def check_graph(parameters: NodeParameters, options: DoctorOptions, environment: Mapping[str, str]) -> list[Finding]:
    """Let a process look at what runs now."""
    from ditta_ros.camera.topics import camera_topics
    from ditta_ros.doctor.graph import CameraTopic, GraphQuestion

    if parameters.image_transport == "compressed":
        kind, suffix = "sensor_msgs/msg/CompressedImage", "/compressed"
    else:
        kind, suffix = "sensor_msgs/msg/Image", ""
    question = GraphQuestion(
        cameras=tuple(CameraTopic(f"{camera.image}{suffix}", kind) for camera in camera_topics(parameters)),
        reliability=parameters.image_reliability,
        prefer_running=not options.image_topic and options.params_file is None,
    )
    try:
        arguments = ["-m", "ditta_ros.doctor.graph", json.dumps(asdict(question))]
        answer = ask_python(arguments, environment, GRAPH_SECONDS)
    except ChildFailed as problem:
        return [error("graph", f"ROS cannot be asked: {problem}", "mend what is said of the environment above")]
    return [Finding(**{**values, "level": Level(values["level"])}) for values in answer]


def check_models(parameters: NodeParameters | None) -> list[Finding]:
    """Weights, classes, teacher and saved generations; those of the defaults where the parameters are not known."""
    from ditta_core.segmentation.source import ModelSource
    from ditta_core.teacher.config import TeacherConfig
    from ditta_ros.doctor.models import check_model, check_state_folder, check_teacher_config

    model: SegmentationModel | None = None

    def load() -> list[Finding]:
        nonlocal model
        model, findings = check_model(ModelSource() if parameters is None else parameters.model_source())
        return findings

    def check_states() -> list[Finding]:
        if parameters is None:
            return []
        if not parameters.state_dir:
            return [ok("state_dir", "none", "set state_dir to a folder, to keep what was learned by ~/save")]
        from ditta_ros.camera.topics import camera_topics

        cameras = [camera.name for camera in camera_topics(parameters)]
        return [check_state_folder(parameters.state_path(), cameras, model)]

    teacher = TeacherConfig() if parameters is None else parameters.teacher_config()
    return [
        *examined("model", load),
        *examined("teacher", lambda: [check_teacher_config(teacher)]),
        *examined("state_dir", check_states),
    ]
