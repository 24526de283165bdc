"""What images go through, and whether large ones arrive from one process to another on this machine.

Run as a program, it is these processes: without arguments the receiver, which starts itself as the camera.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from array import array
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ditta_ros.doctor.children import ChildFailed, ask_python
from ditta_ros.doctor.findings import Finding, error, ok, warning
from ditta_ros.process.children import free_domain
from ditta_ros.process.shared_memory import (
    CHOICES,
    profile_variables,
    share_folder,
    shared_memory_environment,
)

if TYPE_CHECKING:
    from rclpy.node import Node

WIDTH, HEIGHT = 1280, 720
IMAGES = 15
"""Images that are sent with each reliability, at 30 Hz."""
ENOUGH = 14
"""Images that have to arrive."""
START_SECONDS = 20.0
"""How long two processes may take to start and to find each other; it takes one second where nothing else runs."""
PARTICIPANT_BYTES = 68 * 2**20
"""Bytes of shared memory that a process with config/fastdds.xml takes; four should find room."""


def check_discovery(environment: Mapping[str, str]) -> Finding:
    """Who is heard: domain and machines."""
    scope = environment.get("ROS_AUTOMATIC_DISCOVERY_RANGE") or "SUBNET"
    text = f"domain {environment.get('ROS_DOMAIN_ID') or 0}, range {scope}"
    remedy = "let ROS_DOMAIN_ID and ROS_AUTOMATIC_DISCOVERY_RANGE (SUBNET or LOCALHOST) be the same for all nodes"
    if scope == "OFF":
        return error("discovery", f"{text}: no process hears any other, not even on this machine", remedy)
    return ok("discovery", text, remedy)


def check_shared_memory(folder: Path = Path("/dev/shm")) -> Finding:
    """Room for the segments through which images go."""
    free, total = shutil.disk_usage(folder).free, shutil.disk_usage(folder).total
    text = f"{free / 2**20:.0f} MB of {total / 2**20:.0f} MB are free in {folder}"
    if free >= 4 * PARTICIPANT_BYTES:
        return ok("shared memory", text)
    remedy = (
        "remove what killed processes left (fastdds shm clean), or make it larger: docker run --shm-size=1g (or "
        "--ipc=host), or mount -o remount,size=1g /dev/shm"
    )
    judge = warning if free >= PARTICIPANT_BYTES else error
    return judge("shared memory", f"{text}, but every process with config/fastdds.xml takes 70 MB", remedy)


@dataclass(frozen=True)
class Arrived:
    """Number of images that arrived by reliability, of :data:`IMAGES` that were sent."""

    best_effort: int = 0
    reliable: int = 0

    def __str__(self) -> str:
        return f"{self.best_effort} of {IMAGES} best effort and {self.reliable} of {IMAGES} reliable"


def check_transport(environment: Mapping[str, str], fast_dds: bool) -> Finding:
    """Send images in this environment and, where many are lost through Fast DDS, with the shared-memory profile."""

    def round_trip(variables: Mapping[str, str]) -> Arrived:
        return Arrived(**ask_python(["-m", "ditta_ros.doctor.transport"], variables, 3 * START_SECONDS))

    with tempfile.TemporaryDirectory() as folder:
        # In a domain of their own, on this machine alone: nobody else is to be disturbed by a doctor's images.
        isolated = {**environment, "ROS_DOMAIN_ID": str(free_domain()), "ROS_LOG_DIR": folder}
        isolated["ROS_AUTOMATIC_DISCOVERY_RANGE"] = "LOCALHOST"
        isolated.pop("ROS_LOCALHOST_ONLY", None)
        try:
            here, profile = round_trip(isolated), None
            if here.best_effort < ENOUGH and fast_dds:
                bare = {key: isolated[key] for key in isolated if key not in CHOICES}
                profile = round_trip(bare | shared_memory_environment(bare))
            return judge(here, profile)
        except ChildFailed as problem:
            remedy = "allow multicast and UDP on the loopback interface (ip link set lo multicast on; firewall)"
            return error("images", str(problem), f"{remedy}, and see what is said of shared memory above")


def judge(here: Arrived, profile: Arrived | None) -> Finding:
    """What the numbers mean: as it is here, and with the shared-memory profile, or None where that was not tried."""
    finding = f"of images of {WIDTH}×{HEIGHT}, {here} arrived"
    if here.best_effort >= ENOUGH:
        return ok("images", finding)
    remedies = []
    if profile is not None:
        finding += f"; with the shared-memory profile {profile}"
        if profile.best_effort >= ENOUGH:
            file = share_folder() / "config" / "fastdds.xml"
            remedies.append(f"export {profile_variables()[0]}={file} before the camera driver is started")
    if here.reliable >= ENOUGH:
        remedies.append("set image_reliability to reliable, where the camera publishes so")
    if remedies:
        return warning("images", finding, "; or ".join(remedies))
    remedy = "see what is said of shared memory above, or the machine is too busy: try again"
    return error("images", finding, remedy)


# --- the two processes -----------------------------------------------------------------------------------------------


def main() -> int:
    """Receive, and print what arrived as JSON; or, with an argument, send."""
    import rclpy
    from rclpy.node import Node
    from rclpy.qos import qos_profile_sensor_data

    profiles = {"best_effort": qos_profile_sensor_data, "reliable": 5}
    rclpy.init(args=[])
    role = "send" if sys.argv[1:] else "receive"
    node = Node(f"_ditta_doctor_{role}", enable_rosout=False, start_parameter_services=False)
    if role == "send":
        send(node, profiles)
    else:
        print(json.dumps(asdict(receive(node, profiles))))
    node.destroy_node()
    rclpy.shutdown()
    return 0


def send(node: Node, profiles: Mapping[str, Any]) -> None:
    """Send tiny images until the input is closed, then large ones."""
    from sensor_msgs.msg import Image

    publishers = [node.create_publisher(Image, f"/ditta_doctor/{name}", qos) for name, qos in profiles.items()]
    begin = threading.Thread(target=sys.stdin.read, daemon=True)
    begin.start()
    tiny = Image(width=1, height=1, encoding="rgb8", step=3, data=array("B", bytes(3)))
    while begin.is_alive():
        for publisher in publishers:
            publisher.publish(tiny)
        begin.join(0.05)
    large = Image(width=WIDTH, height=HEIGHT, encoding="rgb8", step=3 * WIDTH)
    large.data = array("B", bytes(3 * WIDTH * HEIGHT))
    for publisher in publishers:
        for _ in range(IMAGES):
            publisher.publish(large)
            time.sleep(1 / 30)
    time.sleep(1)  # the last may still be on its way


def receive(node: Node, profiles: Mapping[str, Any]) -> Arrived:
    """Start the camera, and count the large images that arrive.

    Raises:
        SystemExit: The processes do not hear each other, or the camera ends.
    """
    from sensor_msgs.msg import Image

    from ditta_ros.process.executor import BackgroundExecutor

    counts: dict[str, int] = {}

    def take(name: str, message: Image) -> None:
        counts[name] = counts.get(name, 0) + (message.width == WIDTH)

    for name, qos in profiles.items():
        node.create_subscription(Image, f"/ditta_doctor/{name}", lambda message, name=name: take(name, message), qos)
    executor = BackgroundExecutor(node, "receiver")
    command = [sys.executable, "-m", "ditta_ros.doctor.transport", "send"]
    with subprocess.Popen(command, stdin=subprocess.PIPE) as camera:
        deadline = time.monotonic() + START_SECONDS
        while len(counts) < len(profiles):
            if camera.poll() is not None or time.monotonic() > deadline:
                camera.kill()
                sys.exit(f"two processes did not hear each other within {START_SECONDS:.0f} s")
            time.sleep(0.05)
        camera.communicate()  # closes its input, and waits for its end
    executor.stop()
    return Arrived(**counts)


if __name__ == "__main__":
    sys.exit(main())
