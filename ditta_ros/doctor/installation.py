"""Is everything installed, and does it fit together? Packages are imported in processes of their own."""

from __future__ import annotations

import os
import platform
import re
import sys
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib import metadata, util
from pathlib import Path
from typing import Any

from ditta_ros.doctor.children import ChildFailed, ask_python
from ditta_ros.doctor.findings import Finding, error, ok, warning

IMPORT_SECONDS = 60.0
"""Longest time that an import may take; torch from a cold disk takes ten seconds."""

INSTALL_ROS = (
    "source an installation (source /opt/ros/<distribution>/setup.bash), or, in a virtual environment, pip install "
    "'ditta_ros[ros]' (from a checkout: pip install '.[ros]')"
)

# A camera info has arrays of fixed length, which messages keep in NumPy arrays: the way there and back goes through
# compiled code of ROS that was made for one major version of NumPy.
TRIALS = {
    **{name: f"import json, {name}; print(json.dumps({name}.__version__))" for name in ("numpy", "cv2")},
    "torch": """
import json, torch
gpus = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
where = f'CUDA on {", ".join(gpus)}: set device to cuda:0' if gpus else 'no CUDA: models run on the CPU, slow for SAM 2'
print(json.dumps(f'{torch.__version__}, {where}'))
""",
    "rclpy": """
import json, rclpy
from diagnostic_msgs.msg import DiagnosticArray
from lifecycle_msgs.srv import GetState
from rcl_interfaces.msg import ParameterDescriptor
from rclpy.serialization import deserialize_message, serialize_message
from rclpy.utilities import get_rmw_implementation_identifier
from sensor_msgs.msg import CameraInfo, Image
from std_msgs.msg import String
from std_srvs.srv import Trigger
received = deserialize_message(serialize_message(CameraInfo(k=[float(index) for index in range(9)])), CameraInfo)
assert list(received.k) == list(range(9)), f'a message came back as {received.k}'
print(json.dumps({'file': rclpy.__file__, 'rmw': get_rmw_implementation_identifier()}))
""",
    "cv_bridge": """
import json
from ditta_ros.messages.cv_bridge import try_bridge
print(json.dumps({'encodings': sorted({encoding for encoding, _ in try_bridge()})}))
""",
}
"""Code by package that uses it and prints as JSON what it tells of itself."""


@dataclass(frozen=True)
class Import:
    """An attempt to import a package.

    Attributes:
        facts: What the package told of itself; empty where it could not be imported.
        problem: Why it could not be imported; empty where it could.
        missing: Whether it could not be imported because it is not installed.
    """

    facts: Any
    problem: str = ""
    missing: bool = False

    @classmethod
    def attempt(cls, package: str, code: str, environment: Mapping[str, str]) -> Import:
        """Run ``code``, which imports the package, in a process of its own."""
        if util.find_spec(package) is None:
            return cls({}, f"the package {package} is not installed", missing=True)
        try:
            return cls(ask_python(["-c", code], environment, IMPORT_SECONDS))
        except ChildFailed as problem:
            return cls({}, f"it cannot be used: {problem}")


def try_imports(environment: Mapping[str, str]) -> dict[str, Import]:
    """Import all packages, at the same time: most of an import is waiting for the disk."""
    with ThreadPoolExecutor(len(TRIALS)) as pool:
        attempts = pool.map(lambda package: Import.attempt(package, TRIALS[package], environment), TRIALS)
        return dict(zip(TRIALS, attempts, strict=True))


def check_installation(imports: Mapping[str, Import], environment: Mapping[str, str]) -> list[Finding]:
    """Python, NumPy, OpenCV, torch, ROS and cv_bridge."""
    return [
        ok("Python", f"{platform.python_version()}, {sys.executable}"),
        *(
            error(name, imports[name].problem, f"pip install --force-reinstall --no-deps {package}")
            if imports[name].problem
            else ok(name, str(imports[name].facts))
            for name, package in (("numpy", "numpy"), ("cv2", "opencv-python-headless"), ("torch", "torch"))
        ),
        *check_ros(imports["rclpy"], environment),
        check_cv_bridge(imports["cv_bridge"]),
    ]


def installed_version(distribution: str) -> str:
    """The version of an installed distribution; empty where it is not installed."""
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return ""


def check_ros(attempt: Import, environment: Mapping[str, str]) -> list[Finding]:
    """Whether rclpy works, where it comes from, and which middleware it uses."""
    if attempt.missing:
        return [error("rclpy", "no ROS 2: rclpy cannot be imported, so there is no node", INSTALL_ROS)]
    prefixes = [prefix for prefix in environment.get("AMENT_PREFIX_PATH", "").split(os.pathsep) if prefix]
    sourced = [prefix for prefix in prefixes if prefix != sys.prefix and Path(prefix, "share", "rclpy").is_dir()]
    if installed_version("ros-rclpy") and sourced:
        finding = f"two ROS 2 are mixed: wheels in {sys.prefix}, and {', '.join(sourced)} in AMENT_PREFIX_PATH"
        remedy = (
            "use a shell that has not sourced the other one (env -u AMENT_PREFIX_PATH -u LD_LIBRARY_PATH -u PYTHONPATH "
            "bash), or a virtual environment without the wheels"
        )
        return [error("rclpy", finding, remedy)]
    if attempt.problem:
        wanted = environment.get("RMW_IMPLEMENTATION", "")
        return [error("rclpy", attempt.problem, broken_ros_remedy(attempt.problem, wanted))]
    rmw = attempt.facts["rmw"]
    rclpy = ok("rclpy", f"{installed_version('rclpy')} in {Path(attempt.facts['file']).parent}")
    if rmw.startswith("rmw_fastrtps"):
        return [rclpy, ok("middleware", rmw)]
    remedy = f"set up shared memory as {rmw} has it, or use Fast DDS: export RMW_IMPLEMENTATION=rmw_fastrtps_cpp"
    return [rclpy, warning("middleware", f"{rmw}, to which config/fastdds.xml does not apply", remedy)]


def broken_ros_remedy(problem: str, middleware: str = "") -> str:
    """How to fix an rclpy that cannot be imported, or does not work, with the middleware that is asked for."""
    spec = util.find_spec("rclpy")
    made_for = re.search(r"python(3\.\d+)", (spec.origin or "") if spec is not None else "")
    running = f"{sys.version_info.major}.{sys.version_info.minor}"
    if made_for and made_for[1] != running:
        return f"rclpy is made for Python {made_for[1]}, not {running}: run ditta with /usr/bin/python{made_for[1]}"
    if middleware and re.search(r"rmw", problem, re.IGNORECASE):
        package = middleware.replace("_", "-")
        return (
            f"unset RMW_IMPLEMENTATION, which asks for {middleware[:80]!r}, or install that: apt install "
            f"ros-<distribution>-{package}"
        )
    if "librmw" in problem:
        return "pip install 'ros-jazzy-rclpy[fastrtps]' (wheels), or apt install ros-<distribution>-rmw-fastrtps-cpp"
    if re.search(r"numpy|multiarray|_ARRAY_API", problem, re.IGNORECASE):
        return "take the NumPy for which ROS was made: pip uninstall numpy, or pip install 'numpy<2'"
    if missing := re.search(r"No module named '(\w+_(?:msgs|srvs|interfaces))", problem):
        package = missing[1].replace("_", "-")
        return f"apt install ros-<distribution>-{package}, or pip install ros-jazzy-{package}"
    return INSTALL_ROS


def check_cv_bridge(attempt: Import) -> Finding:
    """Whether it converts images as it should, for which it needs the NumPy and OpenCV that it was compiled for."""
    name, otherwise = "cv_bridge", "NumPy and OpenCV convert images instead, to the same pixels"
    if attempt.missing:
        return ok(name, f"not installed: {otherwise}")
    if attempt.problem:
        return warning(name, f"{attempt.problem}: {otherwise}", "use the NumPy and OpenCV of its own installation")
    return ok(name, f"converts {', '.join(attempt.facts['encodings'])}; NumPy and OpenCV convert the others")
