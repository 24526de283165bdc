"""The running node under load: a camera, listeners and requests in this process, the node in another, as on a robot."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from ditta_core.datasets.base import VideoSequence
from ditta_ros.process.children import isolated_environment

GIVEN_UP = 10.0
"""Seconds for an answer."""


@dataclass(frozen=True)
class Load:
    """What is asked of the node.

    Attributes:
        size: of the images, (height, width).
        rate: of the camera, Hz.
        seconds: how long it films, after the first mask.
        parameters: of the node.
        adapt_at: seconds after the first mask at which ``~/adapt`` is called.
        cache: folder for what the node keeps for its next start; None for an empty one.
        memory_alone: whether the memory is all that counts: it is looked at ten times a second, and so closely that the
            camera and the listener are held up.
    """

    size: tuple[int, int]
    rate: float
    seconds: float
    parameters: dict[str, Any] = field(default_factory=dict)
    adapt_at: Sequence[float] = ()
    cache: Path | None = None
    memory_alone: bool = False


@dataclass(frozen=True)
class Memory:
    """What was held at a time.

    Attributes:
        at: seconds after the first mask.
        node: megabytes of the node that are resident.
        together: megabytes of the node and the processes that it started, see :func:`held_megabytes`; the sum of what
            is resident of each where the memory is not all that counts.
    """

    at: float
    node: float
    together: float


@dataclass
class Measured:
    """What was seen; times in seconds after the first mask.

    Attributes:
        sent: images published after the first mask.
        masks: (time of arrival, seconds since the stamp of the image).
        answers: (name, seconds) of requests.
        memory: what was held, once a second or more often.
        states: (time, ``~/state``).
        stages: the last p50 in milliseconds of every stage, of the node's own count.
        active: when the node was active and the camera had found it, before the first mask: negative.
        start_seconds: CPU seconds of the node's process from its start until it was active.
    """

    sent: int = 0
    masks: list[tuple[float, float]] = field(default_factory=list)
    answers: list[tuple[str, float]] = field(default_factory=list)
    memory: list[Memory] = field(default_factory=list)
    states: list[tuple[float, dict[str, Any]]] = field(default_factory=list)
    stages: dict[str, float] = field(default_factory=dict)
    active: float = 0.0
    start_seconds: float = 0.0

    def rate(self, begin: float, end: float) -> float:
        """Masks per second in this time."""
        return len(self.ages(begin, end)) / (end - begin)

    def frames_until(self, share: float, steady: float) -> float:
        """Time from active until a second has this share of the steady rate, in frames of that rate."""
        times = [at for at, _ in self.masks]
        reached = next(
            (at for at in times if self.rate(at, at + 1) >= share * steady), max(times, default=float("nan"))
        )
        return (reached - self.active) * steady

    def ages(self, begin: float = 0.0, end: float = float("inf")) -> list[float]:
        """Milliseconds between image and mask of what arrived in this time."""
        return [1e3 * age for at, age in self.masks if begin <= at < end]

    def count(self, name: str) -> int:
        """What the node counted during the load."""
        return int(self.states[-1][1][name] - self.states[0][1][name])

    def when(self, state: str) -> tuple[float, float]:
        """When the node was first in a state, and when it left it again."""
        begin = next(at for at, each in self.states if each["state"] == state)
        end = next((at for at, each in self.states if at > begin and each["state"] != state), float("inf"))
        return begin, end


def resident_megabytes(pid: int | None = None, peak: bool = False) -> float:
    """Resident memory of a process (this one), now or at its peak so far; 0 where there is none."""
    try:
        lines = Path(f"/proc/{pid or 'self'}/status").read_text().splitlines()
    except OSError:
        return 0.0
    name = "VmHWM" if peak else "VmRSS"
    return next((int(line.split()[1]) * 1024 / 1e6 for line in lines if line.startswith(name)), 0.0)


def held_megabytes(pids: Sequence[int]) -> float:
    """What processes hold together: what is each one's own, and once what several of them map of the same file.

    Pages of a file that one of them has touched and another has not are counted for the one that has touched most.
    """
    own, files = 0, dict[str, int]()
    for pid in pids:
        try:
            lines = Path(f"/proc/{pid}/smaps").read_text().splitlines()
        except OSError:  # it has ended meanwhile
            continue
        path, resident, of_files = "", 0, dict[str, int]()
        for line in lines:
            words = line.split()
            if words[0] == "Rss:":
                resident = int(words[1])
            elif words[0] == "Anonymous:":
                own += int(words[1])
                of_files[path] = of_files.get(path, 0) + resident - int(words[1])
            elif not words[0].endswith(":"):  # the first line of a mapping
                path = words[5] if len(words) > 5 else ""
        for path, shared in of_files.items():
            files[path] = max(files.get(path, 0), shared)
    return (own + sum(files.values())) * 1024 / 1e6


def cpu_seconds(pid: int) -> float:
    """CPU seconds of a process so far, all of its threads; 0 where there is none."""
    try:
        values = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(values[11]) + int(values[12])) / os.sysconf("SC_CLK_TCK")


def children(pid: int) -> list[int]:
    """Processes that a process started."""
    return [int(child) for file in Path(f"/proc/{pid}/task").glob("*/children") for child in file.read_text().split()]


def images_of(
    sequence: VideoSequence, size: tuple[int, int], count: int = 60, first: int = 0
) -> list[NDArray[np.uint8]]:
    """So many frames of a video from a ``first`` one on at a size, there and back."""
    forth = [
        np.asarray(cv2.resize(sequence.image(index), size[::-1]), np.uint8)
        for index in range(first, min(first + count, len(sequence)))
    ]
    return forth + forth[-2:0:-1]


def percentile(values: Sequence[float], percent: float) -> float:
    """A percentile; NaN of nothing."""
    return float(np.percentile(values, percent)) if values else float("nan")


def run_load(load: Load, images: Sequence[NDArray[np.uint8]]) -> Measured:
    """Start the node, film, listen, ask; both processes in a ROS domain of their own, with the shared-memory profile.

    Raises:
        RuntimeError: the node did not start, or sent no mask.
    """
    with tempfile.TemporaryDirectory() as folder:
        os.environ.update(isolated_environment(Path(folder)))  # before rclpy, for both processes
        os.environ["XDG_CACHE_HOME"] = str(load.cache or folder)
        return Session(load, images, Path(folder) / "node.log").run()


class Session:
    """One load: the node's process, and the camera and listener of this one."""

    def __init__(self, load: Load, images: Sequence[NDArray[np.uint8]], log: Path) -> None:
        self.load = load
        self.images = images
        self.log = log
        self.measured = Measured()
        self.begin = float("inf")
        self.shown = 0
        self.stopped = threading.Event()

    def run(self) -> Measured:
        """See :func:`run_load`."""
        import rclpy

        from ditta_ros.process.executor import BackgroundExecutor

        arguments = [f"{name}:={json.dumps(value)}" for name, value in self.load.parameters.items()]
        command = [sys.executable, "-m", "ditta_ros.node", "--ros-args"]
        command += [part for argument in arguments for part in ("-p", argument)]
        with self.log.open("w") as output:
            process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT)
        rclpy.init()
        node = rclpy.create_node("load")
        try:
            self.listen(node)
            executor = BackgroundExecutor(node, "listener")
            camera = threading.Thread(target=self.film)
            camera.start()
            try:
                active = self.wait_until_active(process.pid)
                self.wait_for_first_mask()
                self.measured.active = active - self.begin
                self.ask_and_watch(process.pid)
            finally:
                self.stopped.set()
                camera.join()
            time.sleep(2.5)  # the last counters
            executor.stop()
        finally:
            process.terminate()
            process.wait(20)
            node.destroy_node()
            rclpy.shutdown()
        return self.measured

    def listen(self, node: Any) -> None:
        """Subscribe to what the node says, and prepare to ask."""
        from diagnostic_msgs.msg import DiagnosticArray
        from rcl_interfaces.srv import GetParameters
        from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
        from sensor_msgs.msg import Image
        from std_msgs.msg import String
        from std_srvs.srv import Trigger

        latched = QoSProfile(
            depth=10, reliability=ReliabilityPolicy.RELIABLE, durability=DurabilityPolicy.TRANSIENT_LOCAL
        )
        newest = QoSProfile(depth=1, reliability=ReliabilityPolicy.BEST_EFFORT)
        node.create_subscription(Image, "/ditta/semantic", self.on_mask, 10)
        node.create_subscription(String, "/ditta/state", self.on_state, latched)
        node.create_subscription(DiagnosticArray, "/diagnostics", self.on_diagnostics, 10)
        self.camera = node.create_publisher(Image, "/camera/image_raw", newest)
        self.adapt = node.create_client(Trigger, "/ditta/adapt")
        self.parameters = node.create_client(GetParameters, "/ditta/get_parameters")

    def on_mask(self, message: Any) -> None:
        """How old it is."""
        from ditta_ros.messages.images import stamp_of

        now, at = time.time_ns(), time.monotonic()
        self.begin = min(self.begin, at)
        self.measured.masks.append((at - self.begin, (now - stamp_of(message.header)) / 1e9))

    def on_state(self, message: Any) -> None:
        """What the node is doing; its counters are those of the load from the first mask on."""
        if self.begin < float("inf"):
            self.measured.states.append((time.monotonic() - self.begin, json.loads(message.data)))
            if len(self.measured.states) == 1:
                self.measured.sent = 0

    def on_diagnostics(self, message: Any) -> None:
        """Where its time goes."""
        for status in message.status:
            for value in status.values:
                if value.key.startswith("latency ") and value.key.endswith(" p50 (ms)"):
                    self.measured.stages[value.key.split()[1]] = float(value.value)

    def film(self) -> None:
        """Publish images at the rate."""
        from std_msgs.msg import Header

        from ditta_ros.messages.images import image_message

        next_time = time.monotonic()
        while not self.stopped.is_set():
            header = Header(frame_id="camera_optical_frame")
            header.stamp.sec, header.stamp.nanosec = divmod(time.time_ns(), 1_000_000_000)
            self.camera.publish(image_message(self.images[self.shown % len(self.images)], header))
            self.shown += 1
            self.measured.sent += 1
            next_time += 1 / self.load.rate
            time.sleep(max(0.0, next_time - time.monotonic()))

    def wait_until_active(self, pid: int) -> float:
        """By what the node writes into its log; returns when the camera has found it besides."""
        deadline = time.monotonic() + 60
        while "waiting for images on" not in self.log.read_text():
            if time.monotonic() > deadline:
                raise RuntimeError(f"expected an active node, but it is not:\n{self.log.read_text()}")
            time.sleep(0.01)
        self.measured.start_seconds = cpu_seconds(pid)
        while not self.camera.get_subscription_count() and time.monotonic() < deadline:
            time.sleep(0.005)
        return time.monotonic()

    def wait_for_first_mask(self) -> None:
        """And for the first counters after it."""
        deadline = time.monotonic() + 60
        while not self.measured.states:
            if time.monotonic() > deadline:
                raise RuntimeError(f"expected masks of the node, but got none:\n{self.log.read_text()}")
            time.sleep(0.05)

    def ask_and_watch(self, pid: int) -> None:
        """Look at the memory and get a parameter again and again; call ``~/adapt`` when it is time."""
        from rcl_interfaces.srv import GetParameters
        from std_srvs.srv import Trigger

        begin, adapt_at = time.monotonic(), sorted(self.load.adapt_at)
        while (elapsed := time.monotonic() - begin) < self.load.seconds:
            processes = [pid, *children(pid)]
            together = held_megabytes(processes) if self.load.memory_alone else sum(map(resident_megabytes, processes))
            self.measured.memory.append(Memory(elapsed, resident_megabytes(pid), together))
            if adapt_at and elapsed >= adapt_at[0]:
                adapt_at.pop(0)
                self.ask("~/adapt", self.adapt, Trigger.Request())
            self.ask("get_parameters", self.parameters, GetParameters.Request(names=["passes"]))
            period = 0.1 if self.load.memory_alone else 1.0
            next_time = begin + (elapsed // period + 1) * period
            time.sleep(max(0.0, next_time - time.monotonic()))

    def ask(self, name: str, client: Any, request: Any) -> None:
        """Call a service and note how long it takes."""
        start, done = time.perf_counter(), threading.Event()
        client.call_async(request).add_done_callback(lambda _: done.set())
        self.measured.answers.append((name, time.perf_counter() - start if done.wait(GIVEN_UP) else GIVEN_UP))
