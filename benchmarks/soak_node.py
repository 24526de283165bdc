"""The running node under load: a camera of 1280×720 at 30 Hz, adaptations and requests all the while.

Two processes, as on a robot: the node, and here the camera with whoever listens. Measured are what share of the images
reached the node, how old a mask is when it arrives, how long services and parameters take to answer, and how the
memory grows. ``python benchmarks/soak_node.py --seconds 60 --out benchmarks/results/soak.json``
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from ditta_core.datasets.open import open_sequence
from ditta_core.versions import software_versions
from ditta_ros.replay.processes import isolated_environment

GIVEN_UP = 10.0
"""Seconds for an answer."""


@dataclass
class Measured:
    """What was seen.

    Attributes:
        sent: images published.
        ages: (time, seconds from the stamp of an image to the arrival of its mask).
        answers: (name, seconds) of requests.
        memory: (time, megabytes of the node, megabytes of its adaptation process).
        states: JSON of ``~/state``.
        inference: median milliseconds of one inference, of the node's own count, over time.
    """

    sent: int = 0
    ages: list[tuple[float, float]] = field(default_factory=list)
    answers: list[tuple[str, float]] = field(default_factory=list)
    memory: list[tuple[float, float, float]] = field(default_factory=list)
    states: list[dict[str, Any]] = field(default_factory=list)
    inference: list[float] = field(default_factory=list)


def megabytes(pid: int) -> float:
    """Resident memory of a process; 0 where there is none."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0.0
    return next((int(line.split()[1]) / 1000 for line in lines if line.startswith("VmRSS")), 0.0)


def children(pid: int) -> list[int]:
    """Processes that a process started."""
    return [int(child) for file in Path(f"/proc/{pid}/task").glob("*/children") for child in file.read_text().split()]


def images(video: Path, count: int = 60) -> list[NDArray[np.uint8]]:
    """The beginning of a video at 1280×720, there and back."""
    sequence = open_sequence(video)
    forth = [
        np.asarray(cv2.resize(sequence.image(index), (1280, 720)), np.uint8)
        for index in range(min(count, len(sequence)))
    ]
    return forth + forth[-2:0:-1]


def percentile(values: list[float], percent: float) -> float:
    """A percentile; NaN of nothing."""
    return float(np.percentile(values, percent)) if values else float("nan")


def run(options: argparse.Namespace, log: Path) -> Measured:
    """Start the node, film, listen, ask."""
    os.environ.update(isolated_environment(log))  # before rclpy, for both processes
    import rclpy
    from diagnostic_msgs.msg import DiagnosticArray
    from rcl_interfaces.srv import GetParameters
    from rclpy.node import Node
    from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
    from sensor_msgs.msg import Image
    from std_msgs.msg import Header, String
    from std_srvs.srv import Trigger

    from ditta_ros.adaptation_executor import BackgroundExecutor
    from ditta_ros.conversion import image_message, stamp_of

    frames = images(options.video)
    command = [sys.executable, "-m", "ditta_ros.node", "--ros-args", "-p", "warmup_on:=service"]
    with (log / "node.log").open("w") as output:
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT)
    rclpy.init()
    node = Node("soak")
    measured = Measured()
    masks = QoSProfile(depth=10, reliability=ReliabilityPolicy.RELIABLE)
    latched = QoSProfile(depth=10, reliability=ReliabilityPolicy.RELIABLE, durability=DurabilityPolicy.TRANSIENT_LOCAL)

    def on_mask(message: Image) -> None:
        now = time.time_ns()
        measured.ages.append((time.monotonic(), (now - stamp_of(message.header)) / 1e9))

    def on_diagnostics(message: DiagnosticArray) -> None:
        for status in message.status:
            for value in status.values:
                if value.key == "latency segment p50 (ms)":
                    measured.inference.append(float(value.value))

    node.create_subscription(Image, "/ditta/semantic", on_mask, masks)
    node.create_subscription(
        String, "/ditta/state", lambda message: measured.states.append(json.loads(message.data)), latched
    )
    node.create_subscription(DiagnosticArray, "/diagnostics", on_diagnostics, 10)
    camera = node.create_publisher(
        Image, "/camera/image_raw", QoSProfile(depth=1, reliability=ReliabilityPolicy.BEST_EFFORT)
    )
    adapt = node.create_client(Trigger, "/ditta/adapt")
    parameters = node.create_client(GetParameters, "/ditta/get_parameters")
    executor = BackgroundExecutor(node, "listener")
    stopped = threading.Event()

    def film() -> None:
        next_time = time.monotonic()
        while not stopped.is_set():
            header = Header(frame_id="camera_optical_frame")
            header.stamp.sec, header.stamp.nanosec = divmod(time.time_ns(), 1_000_000_000)
            camera.publish(image_message(frames[measured.sent % len(frames)], header))
            measured.sent += 1
            next_time += 1 / options.rate
            time.sleep(max(0.0, next_time - time.monotonic()))

    def ask(client: Any, request: Any, name: str) -> None:
        start, done = time.perf_counter(), threading.Event()
        client.call_async(request).add_done_callback(lambda _: done.set())
        measured.answers.append((name, time.perf_counter() - start if done.wait(GIVEN_UP) else GIVEN_UP))

    try:
        if not (adapt.wait_for_service(60) and parameters.wait_for_service(60)):
            raise RuntimeError(f"the node did not start:\n{(log / 'node.log').read_text()}")
        while camera.get_subscription_count() == 0:
            time.sleep(0.1)
        time.sleep(1.0)
        filming = threading.Thread(target=film)
        begin = time.monotonic()
        filming.start()
        second = 0
        while time.monotonic() < begin + options.seconds:
            time.sleep(max(0.0, begin + second - time.monotonic()))
            worker = sum(megabytes(child) for child in children(process.pid))
            measured.memory.append((time.monotonic() - begin, megabytes(process.pid), worker))
            if second % options.adapt_every == 5:
                ask(adapt, Trigger.Request(), "~/adapt")
            ask(parameters, GetParameters.Request(names=["passes"]), "get_parameters")
            second += 1
        stopped.set()
        filming.join()
        time.sleep(2.5)  # the last counters
        measured.ages = [(at - begin, age) for at, age in measured.ages]
        return measured
    finally:
        stopped.set()
        process.terminate()
        process.wait(20)
        executor.stop()
        node.destroy_node()
        rclpy.shutdown()


def summary(measured: Measured, options: argparse.Namespace) -> dict[str, Any]:
    """The figures, with what they were to be."""
    state = measured.states[-1]
    ages = [1e3 * age for _, age in measured.ages]
    inference = percentile(measured.inference, 50)
    requests = {name: [1e3 * each for n, each in measured.answers if n == name] for name, _ in measured.answers}
    settled = [(node, worker) for at, node, worker in measured.memory if at >= options.settle]
    growth = max(node for node, _ in settled) - settled[0][0]
    received = 100 * state["received"] / measured.sent
    p95_age = percentile(ages, 95)
    slowest = max(requests["~/adapt"])
    return {
        "what": f"1280×720 rgb8 at {options.rate:g} Hz for {options.seconds} s, two processes, "
        f"~/adapt every {options.adapt_every} s",
        "goals": [
            {"name": "images received", "value": received, "goal": ">= 99", "unit": "%", "met": received >= 99},
            {
                "name": "p95 age of a mask",
                "value": p95_age,
                "goal": f"<= {3 * inference:.0f} (3 inferences)",
                "unit": "ms",
                "met": p95_age <= 3 * inference,
            },
            {"name": "slowest ~/adapt", "value": slowest, "goal": "< 100", "unit": "ms", "met": slowest < 100},
            {
                "name": f"growth of memory after {options.settle} s",
                "value": growth,
                "goal": "< 30",
                "unit": "MB",
                "met": growth < 30,
            },
        ],
        "sent": measured.sent,
        "received": state["received"],
        "published": state["published"],
        "dropped": state["dropped"],
        "masks_per_second": len(ages) / options.seconds,
        "generations": state["generation"],
        "inference_ms": inference,
        "age_ms": {"p50": percentile(ages, 50), "p95": p95_age, "max": max(ages)},
        "answer_ms": {
            name: {"count": len(each), "p50": percentile(each, 50), "max": max(each)} for name, each in requests.items()
        },
        "memory_mb": [[round(value, 1) for value in each] for each in measured.memory],
        "machine": software_versions(),
    }


def main() -> int:
    """Run, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=int, default=60)
    parser.add_argument("--settle", type=int, default=20, help="seconds after which memory counts")
    parser.add_argument("--rate", type=float, default=30.0, help="of the camera, Hz")
    parser.add_argument("--adapt-every", type=int, default=15, metavar="SECONDS")
    parser.add_argument("--video", type=Path, required=True)
    parser.add_argument("--out", type=Path, help="JSON file")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        result = summary(run(options, Path(folder)), options)
    for goal in result["goals"]:
        verdict = "met" if goal["met"] else "MISSED"
        print(f"{goal['name']:32} {goal['value']:10.1f} {goal['unit']:3} goal {goal['goal']:24} {verdict}")
    if options.out is not None:
        options.out.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
