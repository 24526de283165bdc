"""Is the environment, of the shell and of the machine, one in which images arrive?"""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import sys
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from ditta_ros.doctor.findings import Finding, error, ok, warning
from ditta_ros.doctor.installation import Installation
from ditta_ros.doctor.profile import check_profile
from ditta_ros.process.shared_memory import profile_variables

LAST_DOMAIN = 232
"""Above it, port numbers end."""
LAST_SAFE_DOMAIN = 101
"""Above it, ports lie among those that Linux gives to other programs (from 32768)."""

PARTICIPANT_BYTES = 68 * 2**20
"""What a participant with config/fastdds.xml takes of /dev/shm, measured."""
LEFT_BEHIND_BYTES = 64 * 2**20
"""Below it, what is left behind matters to nobody; without a profile a killed process leaves half a megabyte."""
WANTED_PARTICIPANTS = 4
"""The camera, the node, and two that look at the masks."""

SOCKET_BUFFER = 4194304
"""Bytes that config/fastdds.xml asks for."""


def check_environment(environment: Mapping[str, str], installation: Installation) -> list[Finding]:
    """Domain, discovery, logs, package index, and what images go through."""
    findings = [
        check_domain(environment),
        check_discovery(environment),
        check_log_folder(environment),
        check_package_index(environment),
    ]
    if installation.fast_dds:
        findings += [
            check_profile(environment, profile_variables()),
            check_shared_memory(),
            check_left_behind(),
        ]
    return [*findings, check_socket_buffer(environment)]


# --- ROS -------------------------------------------------------------------------------------------------------------


def check_domain(environment: Mapping[str, str]) -> Finding:
    """ROS_DOMAIN_ID."""
    name, value = "domain", environment.get("ROS_DOMAIN_ID", "")
    choose = f"export ROS_DOMAIN_ID=<0 to {LAST_SAFE_DOMAIN}>, the same for camera and node"
    if not value:
        return ok(name, "ROS_DOMAIN_ID is not set: domain 0")
    if not re.fullmatch(r"\d+", value) or int(value) > LAST_DOMAIN:
        finding = f"expected a number of at most {LAST_DOMAIN} in ROS_DOMAIN_ID, but got {value!r}: no node can start"
        return error(name, finding, choose)
    if int(value) > LAST_SAFE_DOMAIN:
        return warning(name, f"ROS_DOMAIN_ID={value}: its ports may be taken by other programs", choose)
    return ok(name, f"ROS_DOMAIN_ID={value}")


RANGES = ("SUBNET", "LOCALHOST", "OFF", "SYSTEM_DEFAULT")


def check_discovery(environment: Mapping[str, str]) -> Finding:
    """Who is heard: ROS_AUTOMATIC_DISCOVERY_RANGE and its predecessor."""
    name, value = "discovery", environment.get("ROS_AUTOMATIC_DISCOVERY_RANGE", "")
    mend = "export ROS_AUTOMATIC_DISCOVERY_RANGE=SUBNET (or LOCALHOST for this machine alone), the same for all nodes"
    if environment.get("ROS_LOCALHOST_ONLY", "0") == "1":
        return ok(name, "this machine alone (ROS_LOCALHOST_ONLY=1)")
    if value and value not in RANGES:
        finding = (
            f"expected {', '.join(RANGES)} in ROS_AUTOMATIC_DISCOVERY_RANGE, but got {value!r}: ROS takes LOCALHOST"
        )
        return warning(name, finding, mend)
    if value == "OFF":
        return error(
            name, "ROS_AUTOMATIC_DISCOVERY_RANGE=OFF: no process hears any other, not even on this machine", mend
        )
    if only_this_machine(environment):
        return ok(name, "this machine alone (ROS_AUTOMATIC_DISCOVERY_RANGE=LOCALHOST): no camera of another is heard")
    return ok(name, "the whole subnet")


def only_this_machine(environment: Mapping[str, str]) -> bool:
    """Whether other machines are not heard."""
    return (
        environment.get("ROS_LOCALHOST_ONLY", "0") == "1"
        or environment.get("ROS_AUTOMATIC_DISCOVERY_RANGE") == "LOCALHOST"
    )


def check_log_folder(environment: Mapping[str, str]) -> Finding:
    """Where nodes write their logs, without which none starts."""
    name, mend = "log folder", "export ROS_LOG_DIR=<a folder that can be written>"
    if "ROS_LOG_DIR" in environment:
        folder = Path(environment["ROS_LOG_DIR"])
    elif "ROS_HOME" in environment:
        folder = Path(environment["ROS_HOME"]) / "log"
    elif environment.get("HOME"):
        folder = Path(environment["HOME"]) / ".ros" / "log"
    else:
        return error(name, "neither ROS_LOG_DIR nor HOME is set: no node can start", mend)
    problem = why_not_writable(folder)
    return error(name, f"{problem}: no node can start", mend) if problem else ok(name, str(folder))


def why_not_writable(folder: Path) -> str:
    """Why files cannot be written into a folder, which may not be there yet; empty where they can."""
    there = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    if not there.is_dir():
        return f"expected a folder, but {there} is a file"
    if not os.access(there, os.W_OK | os.X_OK):
        return f"expected a folder that can be written, but {there} cannot"
    return ""


def check_package_index(environment: Mapping[str, str]) -> Finding:
    """Whether ros2 launch and ros2 run find this package."""
    name, marker = "package index", Path("share/ament_index/resource_index/packages/ditta_ros")
    prefixes = [Path(prefix) for prefix in environment.get("AMENT_PREFIX_PATH", "").split(os.pathsep) if prefix]
    found = [prefix for prefix in prefixes if (prefix / marker).is_file()]
    if found:
        return ok(name, f"ros2 launch and ros2 run find ditta_ros in {found[0]}")
    if (Path(sys.prefix) / marker).is_file():
        mend = f"export AMENT_PREFIX_PATH={sys.prefix}${{AMENT_PREFIX_PATH:+:$AMENT_PREFIX_PATH}}"
    else:
        mend = (
            f"source install/setup.bash of the colcon workspace; or pip install . (without -e, which puts down no "
            f"launch files) and export AMENT_PREFIX_PATH={sys.prefix}"
        )
    return warning(name, "ros2 launch and ros2 run do not find ditta_ros (ditta node needs none of it)", mend)


# --- the machine -----------------------------------------------------------------------------------------------------


def check_shared_memory(folder: Path = Path("/dev/shm")) -> Finding:
    """Room for the segments through which images go."""
    name = "shared memory"
    mend = "make it larger: docker run --shm-size=1g (or --ipc=host), or mount -o remount,size=1g /dev/shm"
    if not folder.is_dir():
        return error(name, f"expected {folder}, but there is none: images go over UDP", mend)
    usage = shutil.disk_usage(folder)
    text = f"{usage.free / 2**20:.0f} MB of {usage.total / 2**20:.0f} MB are free in {folder}"
    if usage.free < PARTICIPANT_BYTES:
        return error(name, f"{text}, too little for even one process with config/fastdds.xml, which takes 70 MB", mend)
    if usage.free < WANTED_PARTICIPANTS * PARTICIPANT_BYTES:
        return warning(name, f"{text}; every process with config/fastdds.xml takes 70 MB", mend)
    return ok(name, text)


def check_left_behind(folder: Path = Path("/dev/shm")) -> Finding:
    """Segments of processes that were killed: nobody else removes them."""
    name = "left behind"
    sizes = left_behind(folder)
    text = f"{len(sizes)} shared memory segments of killed processes, {sum(sizes) / 2**20:.0f} MB"
    if sum(sizes) >= LEFT_BEHIND_BYTES:
        return warning(name, f"{text} of memory that nobody uses", "fastdds shm clean (leaves those in use alone)")
    return ok(name, text if sizes else "no shared memory segments of killed processes")


def left_behind(folder: Path) -> list[int]:
    """Bytes of each segment of Fast DDS in ``folder`` whose owner is dead: a living one locks the file beside it."""
    sizes = []
    for segment in folder.glob("fastdds_*"):
        locks = [lock for lock in (Path(f"{segment}_el"), Path(f"{segment}_sl")) if lock.exists()]
        if re.fullmatch(r"fastdds_([0-9a-f]{16}|port\d+)", segment.name) and locks and not any(map(is_locked, locks)):
            with suppress(FileNotFoundError):  # its owner has just come to its end
                sizes.append(segment.stat().st_blocks * 512)
    return sizes


def is_locked(file: Path) -> bool:
    """Whether any process holds a lock on a file; True as well where that cannot be told."""
    try:
        with file.open("rb") as opened:
            fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return True
    return False


def check_socket_buffer(environment: Mapping[str, str], limit: Path = Path("/proc/sys/net/core/rmem_max")) -> Finding:
    """Whether the socket of a camera on another machine can hold an image."""
    name, bytes_allowed = "socket buffer", int(limit.read_text())
    text = f"at most {bytes_allowed / 2**20:.1f} MB (net.core.rmem_max)"
    if bytes_allowed >= SOCKET_BUFFER:
        return ok(name, text)
    if only_this_machine(environment):
        return ok(name, f"{text}, which does not matter, since no other machine is heard")
    return warning(
        name,
        f"{text}, less than an image: large images of cameras on other machines are lost",
        f"sudo sysctl -w net.core.rmem_max={SOCKET_BUFFER} (needless where the camera runs on this machine)",
    )
