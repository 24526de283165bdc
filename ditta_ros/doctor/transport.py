"""Do large images arrive, from one process to another on this machine, and if not, what would make them?"""

from __future__ import annotations

import queue
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ditta_ros.doctor.findings import Finding, error, ok, warning
from ditta_ros.doctor.installation import Installation
from ditta_ros.doctor.profile import export_profile
from ditta_ros.process.children import Child, ReplayError, free_domain
from ditta_ros.process.shared_memory import (
    OLD_PROFILE_VARIABLE,
    PROFILE_VARIABLE,
    profile_variables,
    shared_memory_environment,
)

IMAGES = 15
"""How many images are sent of each reliability; see :mod:`ditta_ros.doctor.round_trip`, which needs ROS."""
START_SECONDS = 20.0
"""How long two processes may take to start and to find each other; it takes one where nothing else runs."""
LATE_SECONDS = 1.0
"""How long after the last image was sent another may still arrive."""
MOST_LOST = 1
"""Images that may be missing without anything being wrong."""


@dataclass(frozen=True)
class Arrivals:
    """The images of one reliability that arrived.

    Attributes:
        milliseconds: between sending and taking, of each.
    """

    milliseconds: tuple[float, ...]

    @property
    def complete(self) -> bool:
        """Whether all came, or nearly all."""
        return len(self.milliseconds) >= IMAGES - MOST_LOST

    def __str__(self) -> str:
        counts = f"{len(self.milliseconds)} of {IMAGES}"
        if not self.milliseconds:
            return counts
        return f"{counts} ({np.median(self.milliseconds):.0f} ms, slowest {max(self.milliseconds):.0f} ms)"


@dataclass(frozen=True)
class RoundTrip:
    """What became of the images of one pair of processes."""

    best_effort: Arrivals
    reliable: Arrivals


def check_transport(environment: Mapping[str, str], installation: Installation) -> list[Finding]:
    """Send images in this environment and, where many are lost, with the shared-memory profile."""
    name = "images"
    with tempfile.TemporaryDirectory() as folder:
        # In a domain of their own, on this machine alone: nobody else is to be disturbed by a doctor's images.
        isolated = {
            **environment,
            "ROS_DOMAIN_ID": str(free_domain()),
            "ROS_AUTOMATIC_DISCOVERY_RANGE": "LOCALHOST",
            "ROS_LOG_DIR": folder,
        }
        isolated.pop("ROS_LOCALHOST_ONLY", None)
        try:
            here = measure(isolated, isolated, Path(folder))
            if here.best_effort.complete or not installation.fast_dds:
                return [judge(here, None)]
            bare = {key: isolated[key] for key in isolated if key not in (PROFILE_VARIABLE, OLD_PROFILE_VARIABLE)}
            profile = bare | shared_memory_environment(bare)
            return [judge(here, measure(profile, isolated, Path(folder)))]
        except ReplayError as problem:
            return [
                error(
                    name,
                    str(problem).replace("\n", " "),
                    "allow multicast and UDP on the loopback interface (ip link set lo multicast on; firewall), and "
                    "see what is said of shared memory above",
                )
            ]


def judge(here: RoundTrip, profile: RoundTrip | None) -> Finding:
    """What the numbers mean.

    Args:
        here: in the environment as it is.
        profile: with the shared-memory profile; None where that was not tried.
    """
    name = "images"
    sent = f"of 1280×720 rgb8 images sent at 30 Hz, {here.best_effort} arrived best effort, {here.reliable} reliable"
    if here.best_effort.complete:
        return ok(name, sent)
    remedies = []
    if profile is not None:
        sent += f"; with the shared-memory profile {profile.best_effort} and {profile.reliable}"
        if profile.best_effort.complete:
            remedies.append(f"{export_profile(profile_variables())} before the camera driver is started")
    if here.reliable.complete:
        remedies.append("set image_reliability to reliable, where the camera publishes so")
    if remedies:
        return warning(name, sent, "; or ".join(remedies))
    return error(
        name, sent, "see what is said of shared memory and socket buffer above, or the machine is too busy: try again"
    )


def measure(camera: Mapping[str, str], receiver: Mapping[str, str], folder: Path) -> RoundTrip:
    """Send images from a process with one environment to one with another.

    Args:
        folder: for logs.

    Raises:
        ReplayError: they do not find each other, or one ends.
    """
    events: queue.Queue[tuple[str, dict[str, Any]]] = queue.Queue()
    module, children = "ditta_ros.doctor.round_trip", []
    try:
        children.append(Child("receiver", module, ["receive"], receiver, folder / "receiver.log", events))
        children.append(Child("camera", module, ["send"], camera, folder / "camera.log", events))
        return listen(children, events)
    finally:
        for child in children:
            child.ask_to_end()
        for child in children:
            child.wait_for_end()


def listen(children: list[Child], events: queue.Queue[tuple[str, dict[str, Any]]]) -> RoundTrip:
    """Begin when images of both reliabilities are heard, and collect what arrives until nothing more can be expected.

    Raises:
        ReplayError: see :func:`measure`.
    """
    arrived: dict[str, list[float]] = {"best_effort": [], "reliable": []}
    heard: set[str] = set()
    deadline = time.monotonic() + START_SECONDS
    while len(heard) < len(arrived):
        event = next_event(children, events)
        if event is not None:
            heard.add(event["reliability"])
        elif time.monotonic() > deadline:
            raise ReplayError(f"two processes did not hear each other within {START_SECONDS:.0f} s")
    children[-1].send("go")
    sent: set[str] = set()
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline and not all(len(times) == IMAGES for times in arrived.values()):
        event = next_event(children, events)
        if event is not None and event["event"] == "image":
            arrived[event["reliability"]].append(event["milliseconds"])
        elif event is not None:
            sent.add(event["reliability"])
            if len(sent) == len(arrived):
                deadline = time.monotonic() + LATE_SECONDS
    return RoundTrip(Arrivals(tuple(arrived["best_effort"])), Arrivals(tuple(arrived["reliable"])))


def next_event(children: list[Child], events: queue.Queue[tuple[str, dict[str, Any]]]) -> dict[str, Any] | None:
    """The next thing that a child tells; None after a while without.

    Raises:
        ReplayError: one of them has ended.
    """
    for child in children:
        child.check()
    try:
        return events.get(timeout=0.1)[1]
    except queue.Empty:
        return None
