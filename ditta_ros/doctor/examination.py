"""The whole examination, section by section, each as soon as it is done."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ditta_core.segmentation.source import ModelSource
from ditta_core.teacher.config import TeacherConfig
from ditta_ros.doctor.children import ask_findings
from ditta_ros.doctor.findings import Finding, Section, examined, warning
from ditta_ros.doctor.installation import check_installation, try_imports
from ditta_ros.doctor.transport import check_discovery, check_shared_memory, check_transport

if TYPE_CHECKING:
    from ditta_ros.parameters import NodeParameters


def examine(
    params_file: Path | None, image_topic: str, transport: bool, environment: Mapping[str, str]
) -> Iterator[Section]:
    """Examine everything.

    Args:
        params_file: File of the user's parameters; None for the defaults.
        image_topic: Topic of the camera in place of that of the parameters; empty for theirs.
        transport: Whether images are sent between two processes.
    """
    imports = try_imports(environment)
    yield examined("installation", lambda: check_installation(imports, environment))
    parameters: NodeParameters | None = None
    rmw = imports["rclpy"].facts.get("rmw", "")
    if rmw:
        fast_dds = rmw.startswith("rmw_fastrtps")
        yield examined("environment", lambda: [check_discovery(environment), check_shared_memory()])
        if transport:
            yield examined("transport", lambda: [check_transport(environment, fast_dds)])
        from ditta_ros.doctor.parameters_file import read_parameters  # imports ROS, which works

        parameters, findings = read_parameters(params_file)
        yield Section("parameters", tuple(findings))
        if image_topic:
            parameters = replace(parameters, image_topic=image_topic, cameras="")
        unless_running = not image_topic and params_file is None
        yield examined("graph", lambda: check_graph(parameters, unless_running, environment))
    else:
        unchecked = ("environment", "parameters", "graph")
        remedy = "make it work first, as said above"
        yield Section("ROS 2", tuple(warning(name, "not checked without ROS 2", remedy) for name in unchecked))
    if imports["torch"].problem:
        yield Section("models", (warning("models", "not checked without torch", "install it first, as said above"),))
    else:
        yield examined("models", lambda: check_models(parameters, environment))


def check_graph(parameters: NodeParameters, unless_running: bool, environment: Mapping[str, str]) -> list[Finding]:
    """Let a process look at what runs now."""
    from ditta_ros.camera.topics import camera_topics

    try:
        topics = [each.input(parameters) for each in camera_topics(parameters)]
    except ValueError:
        return [warning("graph", "not checked: which cameras there are is not known", "correct it, as said above")]
    compressed = parameters.image_transport == "compressed"
    question = {
        "topics": topics,
        "kind": f"sensor_msgs/msg/{'CompressedImage' if compressed else 'Image'}",
        "reliability": parameters.image_reliability,
        "unless_running": unless_running,
    }
    return ask_findings("graph", question, environment, "correct it: ROS_DOMAIN_ID, ROS_LOG_DIR, and so on")


def check_models(parameters: NodeParameters | None, environment: Mapping[str, str]) -> list[Finding]:
    """Let a process load model and teacher; those of the defaults where the parameters are not known."""
    question: dict[str, Any] = {"model": asdict(ModelSource()), "teacher": asdict(TeacherConfig())}
    if parameters is not None:
        question = {
            "model": asdict(parameters.model_source()),
            "teacher": asdict(parameters.teacher_config()),
            "state_dir": str(parameters.state_path()) if parameters.state_dir else "",
            "input_size": (parameters.input_height, parameters.input_width),
            "masks": _masks(parameters),
        }
    return ask_findings("models", question, environment, "set another model (ditta models lists them)")


def _masks(parameters: NodeParameters) -> list[str]:
    """Files of the cameras' masks; none where it is not known which cameras there are, which is told elsewhere."""
    from ditta_ros.camera.topics import camera_topics

    try:
        return [camera.ignore_mask for camera in camera_topics(parameters) if camera.ignore_mask]
    except ValueError:
        return []
