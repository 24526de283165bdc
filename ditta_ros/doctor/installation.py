"""Is everything installed, and does it fit together?"""

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
from ditta_ros.process.shared_memory import share_folder

IMPORT_SECONDS = 60.0
"""How long an import may take; torch from a cold disk takes ten."""

OLDEST_PYTHON = (3, 10)

INSTALL_ROS = (
    "source an installation (source /opt/ros/<distribution>/setup.bash), or, in a virtual environment, pip install "
    "'ditta_ros[ros]' (from a checkout: pip install '.[ros]')"
)

NUMPY = "import json, numpy; print(json.dumps({'version': numpy.__version__}))"

OPENCV = "import json, cv2; print(json.dumps({'version': cv2.__version__, 'file': cv2.__file__}))"

TORCH = """
import json, torch
available = torch.cuda.is_available()
names = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())] if available else []
print(json.dumps({
    'version': torch.__version__, 'threads': torch.get_num_threads(), 'cuda': torch.version.cuda, 'devices': names,
}))
"""

# A camera info has arrays of fixed length, which messages keep in NumPy arrays: the way there and back goes through
# compiled code of ROS that was made for one major version of NumPy.
ROS = """
import json, rclpy
from diagnostic_msgs.msg import DiagnosticArray
from lifecycle_msgs.srv import GetState
from rcl_interfaces.msg import ParameterDescriptor
from rclpy.serialization import deserialize_message, serialize_message
from rclpy.utilities import get_rmw_implementation_identifier
from sensor_msgs.msg import CameraInfo, Image
from std_msgs.msg import String
from std_srvs.srv import Trigger
sent = CameraInfo(k=[float(index) for index in range(9)])
received = deserialize_message(serialize_message(sent), CameraInfo)
assert list(received.k) == list(range(9)), f'a message came back as {received.k}'
print(json.dumps({'file': rclpy.__file__, 'rmw': get_rmw_implementation_identifier()}))
"""


@dataclass(frozen=True)
class Installation:
    """What was found to work, on which other checks build.

    Attributes:
        torch: whether it can be imported.
        rmw: the middleware of ROS, such as rmw_fastrtps_cpp; empty where ROS does not work.
    """

    torch: bool
    rmw: str

    @property
    def fast_dds(self) -> bool:
        """Whether images go through Fast DDS."""
        return self.rmw.startswith("rmw_fastrtps")


def check_installation(environment: Mapping[str, str]) -> tuple[list[Finding], Installation]:
    """Python, this package, torch, NumPy, OpenCV and ROS."""
    codes = {"numpy": NUMPY, "cv2": OPENCV, "torch": TORCH, "rclpy": ROS}
    with ThreadPoolExecutor(len(codes)) as pool:  # most of an import is waiting for the disk
        attempts = pool.map(lambda package: Import.attempt(package, codes[package], environment), codes)
        imports = dict(zip(codes, attempts, strict=True))
    ros_findings = check_ros(imports["rclpy"], environment)
    findings = [
        check_python(),
        check_package(),
        check_torch(imports["torch"]),
        check_import("NumPy", imports["numpy"], "pip install numpy"),
        check_opencv(imports["cv2"]),
        *ros_findings,
    ]
    ros = imports["rclpy"]
    return findings, Installation(torch=not imports["torch"].problem, rmw="" if ros.problem else ros.facts["rmw"])


@dataclass(frozen=True)
class Import:
    """An attempt to import a package.

    Attributes:
        facts: what the package told of itself; empty where it could not be imported.
        problem: why it could not be imported; empty where it could.
        missing: whether that is because it is not there.
    """

    facts: Mapping[str, Any]
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


def installed_version(distribution: str) -> str:
    """The version of an installed distribution; empty where it is not installed."""
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return ""


# --- without ROS -----------------------------------------------------------------------------------------------------


def check_python() -> Finding:
    """Its version, and where it lies."""
    text = f"{platform.python_version()}, {sys.executable}"
    if sys.version_info < OLDEST_PYTHON:
        return error("Python", text, f"expected Python {'.'.join(map(str, OLDEST_PYTHON))} or later; install one")
    return ok("Python", text)


def check_package() -> Finding:
    """This package, and the files of it that are not code."""
    version = installed_version("ditta_ros")
    code = Path(__file__).resolve().parents[2]
    reinstall = "pip install . (from the checkout, without -e), or colcon build"
    if not version:
        return warning("ditta_ros", f"it runs from {code}, but is not installed", reinstall)
    try:
        share = share_folder()
    except FileNotFoundError as problem:
        return error("ditta_ros", str(problem), reinstall)
    missing = [name for name in ("launch/ditta.launch.py", "config/ditta.yaml") if not (share / name).is_file()]
    if missing:
        return error("ditta_ros", f"{version}, but {share} lacks {' and '.join(missing)}", reinstall)
    return ok("ditta_ros", f"{version}, launch and config files in {share}")


def check_import(name: str, attempt: Import, remedy: str) -> Finding:
    """A package of which nothing but the version matters."""
    return error(name, attempt.problem, remedy) if attempt.problem else ok(name, attempt.facts["version"])


def check_torch(attempt: Import, nvidia: Path = Path("/proc/driver/nvidia/version")) -> Finding:
    """Torch, its threads and its GPU.

    Args:
        nvidia: a file that is there where the driver of NVIDIA is.
    """
    install = "pip install torch (without a GPU: --index-url https://download.pytorch.org/whl/cpu)"
    if attempt.problem:
        return error("torch", attempt.problem, install)
    facts = attempt.facts
    text = f"{facts['version']}, {facts['threads']} threads"
    if facts["devices"]:
        return ok(
            "torch", f"{text}, CUDA {facts['cuda']} on {', '.join(facts['devices'])}: set device to cuda:0 to use it"
        )
    if nvidia.exists() and facts["cuda"] is None:
        return warning("torch", f"{text}, made without CUDA, though there is an NVIDIA GPU", "pip install torch")
    if nvidia.exists():
        return warning(
            "torch",
            f"{text}, made for CUDA {facts['cuda']}, but it finds no GPU, though the driver of NVIDIA is there",
            "update the driver, or install the torch that fits it (https://pytorch.org/get-started/locally)",
        )
    return ok("torch", f"{text}, no CUDA: models run on the CPU, which suits camvid and espnetv2, not SAM 2")


OPENCV_DISTRIBUTIONS = (
    "opencv-python",
    "opencv-python-headless",
    "opencv-contrib-python",
    "opencv-contrib-python-headless",
)


def check_opencv(attempt: Import) -> Finding:
    """OpenCV, of which there must be one: all of pip's unpack into the same folder, one over the other."""
    found = [name for name in OPENCV_DISTRIBUTIONS if installed_version(name)]
    again = "pip install --force-reinstall --no-deps opencv-python-headless"
    if len(found) > 1:
        return warning(
            "OpenCV",
            f"{' and '.join(found)} are installed into the same folder, and which one is imported is chance",
            f"pip uninstall -y {' '.join(found)} && {again}",
        )
    return check_import("OpenCV", attempt, again)


# --- ROS -------------------------------------------------------------------------------------------------------------


def check_ros(attempt: Import, environment: Mapping[str, str]) -> list[Finding]:
    """Whether rclpy works, where it comes from, and which middleware it uses."""
    if attempt.missing:
        return [error("rclpy", "no ROS 2: rclpy cannot be imported, so there is no node", INSTALL_ROS)]
    wheels, sourced = installed_version("ros-rclpy"), sourced_installations(environment)
    if wheels and sourced:
        return [
            error(
                "rclpy",
                f"two ROS 2 are mixed: wheels in {sys.prefix}, and {', '.join(map(str, sourced))} in AMENT_PREFIX_PATH",
                "use a shell that has not sourced the other one (env -u AMENT_PREFIX_PATH -u LD_LIBRARY_PATH -u "
                "PYTHONPATH bash), or a virtual environment without the wheels",
            )
        ]
    if attempt.problem:
        return [error("rclpy", attempt.problem, broken_ros_remedy(attempt.problem))]
    source = "wheels" if wheels else "an installation"
    version = installed_version("rclpy")
    findings = [
        ok("rclpy", f"{version} of {distribution(environment)}, from {source}: {Path(attempt.facts['file']).parent}")
    ]
    rmw = attempt.facts["rmw"]
    if rmw.startswith("rmw_fastrtps"):
        findings.append(ok("middleware", rmw))
    else:
        findings.append(
            warning(
                "middleware",
                f"{rmw}, to which config/fastdds.xml does not apply",
                f"set up shared memory or large socket buffers as the documentation of {rmw} says, or use Fast DDS: "
                f"export RMW_IMPLEMENTATION=rmw_fastrtps_cpp",
            )
        )
    return findings


def distribution(environment: Mapping[str, str]) -> str:
    """The name of the ROS distribution: of the wheels, or as sourced."""
    for name in ("jazzy", "kilted"):
        if installed_version(f"ros-{name}-rclpy"):
            return name
    return environment.get("ROS_DISTRO", "an unknown distribution")


def sourced_installations(environment: Mapping[str, str]) -> list[Path]:
    """The prefixes in AMENT_PREFIX_PATH, other than that of this Python, that hold an rclpy."""
    prefixes = [Path(prefix) for prefix in environment.get("AMENT_PREFIX_PATH", "").split(os.pathsep) if prefix]
    folders = "lib/python3*/*-packages/rclpy", "local/lib/python3*/*-packages/rclpy"
    return [
        prefix
        for prefix in prefixes
        if prefix.resolve() != Path(sys.prefix).resolve() and any(any(prefix.glob(folder)) for folder in folders)
    ]


def broken_ros_remedy(problem: str) -> str:
    """What mends an rclpy that cannot be imported, or does not work."""
    spec = util.find_spec("rclpy")
    made_for = re.search(r"python(3\.\d+)", (spec.origin or "") if spec is not None else "")
    running = f"{sys.version_info.major}.{sys.version_info.minor}"
    if made_for and made_for[1] != running:
        return (
            f"this rclpy is made for Python {made_for[1]}, not {running}: run ditta with /usr/bin/python{made_for[1]}"
        )
    if "librmw" in problem:
        return "pip install 'ros-kilted-rclpy[fastrtps]' (wheels), or apt install ros-<distribution>-rmw-fastrtps-cpp"
    if re.search(r"numpy|multiarray|_ARRAY_API", problem, re.IGNORECASE):
        return "take the NumPy for which ROS was made: pip uninstall numpy, or pip install 'numpy<2'"
    if missing := re.search(r"No module named '(\w+_(?:msgs|srvs|interfaces))", problem):
        package = missing[1].replace("_", "-")
        return f"apt install ros-<distribution>-{package}, or pip install ros-kilted-{package}"
    return INSTALL_ROS


# --- optional packages -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class OptionalPackage:
    """A package without which something is left out.

    Attributes:
        name: of the module.
        gives: what it turns on.
        without: what happens without it.
        install: the command that brings it.
    """

    name: str
    gives: str
    without: str
    install: str


def of_ros(name: str) -> str:
    """The command that installs a package of ROS that is not on PyPI."""
    return f"apt install ros-<distribution>-{name.replace('_', '-')} (not on PyPI)"


OPTIONAL_PACKAGES = (
    OptionalPackage(
        "message_filters",
        "pairs images with camera info and depth",
        "no camera info beside the mask, no labelled points",
        of_ros("message_filters"),
    ),
    OptionalPackage("vision_msgs", "~/label_info for Nav2", "classes only as JSON on ~/classes", of_ros("vision_msgs")),
    OptionalPackage(
        "launch_ros", "ros2 launch ditta_ros ditta.launch.py", "only ditta node starts it", of_ros("launch_ros")
    ),
    OptionalPackage("rosbags", "ditta bag, ditta evaluate BAG", "no bags", "pip install 'ditta_ros[evaluate]'"),
    OptionalPackage(
        "ray", "ditta evaluate --engine ray", "evaluation on this machine alone", "pip install 'ditta_ros[ray]'"
    ),
)


def check_optional_packages() -> list[Finding]:
    """What else is there, and what the rest would bring."""
    return [check_optional_package(package) for package in OPTIONAL_PACKAGES]


def check_optional_package(package: OptionalPackage) -> Finding:
    """One of them."""
    if util.find_spec(package.name) is None:
        return ok(package.name, f"not installed, so {package.without}; it gives: {package.gives}", package.install)
    return ok(package.name, package.gives)


def check_cv_bridge() -> list[Finding]:
    """Whether images are converted by it, which is tried."""
    from ditta_ros.messages.cv_bridge import try_bridge

    name, otherwise = "cv_bridge", "NumPy and OpenCV convert instead, to the same pixels"
    if util.find_spec(name) is None:
        return [ok(name, f"not installed: {otherwise}", of_ros(name))]
    try:
        layouts = try_bridge()
    except ValueError as problem:
        finding = f"{problem}: {otherwise}"
        remedy = "nothing has to be done; to have it, use the NumPy and OpenCV of its installation (that of PyPI fails)"
        return [warning(name, finding, remedy)]
    encodings = sorted({encoding for encoding, _ in layouts})
    return [ok(name, f"converts {', '.join(encodings)}; NumPy and OpenCV the others")]
