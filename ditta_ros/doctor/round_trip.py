"""Images between two real processes: how many arrive, and how fast.

Two programs, controlled over their standard input and output: the camera sends tiny images until it is told that these
arrive, then large ones; the receiver tells of each that came.
"""

from __future__ import annotations

import argparse
import sys
import threading
import time
from array import array

import rclpy
from rclpy.node import Node
from rclpy.qos import QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import Image

from ditta_ros.process.executor import BackgroundExecutor
from ditta_ros.replay.control import emit

WIDTH, HEIGHT = 1280, 720
IMAGES = 15
RATE = 30.0
PAUSE = 0.05
"""Seconds between two tiny images."""

QOS = {
    policy.name.lower(): QoSProfile(depth=5, reliability=policy)
    for policy in (ReliabilityPolicy.BEST_EFFORT, ReliabilityPolicy.RELIABLE)
}


def topic(reliability: str) -> str:
    """Where images of a reliability go."""
    return f"/ditta_doctor/{reliability}"


def image(width: int, height: int) -> Image:
    """A grey image, stamped with the clock that all processes of this machine share."""
    message = Image(width=width, height=height, encoding="rgb8", step=3 * width)
    message.data = array("B", bytes([128]) * (3 * width * height))
    return message


def stamp(message: Image) -> None:
    """Write the time into an image."""
    message.header.stamp.sec, message.header.stamp.nanosec = divmod(time.monotonic_ns(), 1_000_000_000)


def send(node: Node) -> None:
    """Send tiny images until a line comes in, then large ones; end when the input is closed."""
    publishers = {name: node.create_publisher(Image, topic(name), qos) for name, qos in QOS.items()}
    begin = threading.Event()

    def listen() -> None:
        sys.stdin.readline()
        begin.set()

    threading.Thread(target=listen, daemon=True).start()
    tiny, large = image(1, 1), image(WIDTH, HEIGHT)
    while not begin.wait(PAUSE):
        for publisher in publishers.values():
            publisher.publish(tiny)
    for name, publisher in publishers.items():
        due = time.monotonic()
        for _ in range(IMAGES):
            stamp(large)
            publisher.publish(large)
            due += 1 / RATE
            time.sleep(max(0.0, due - time.monotonic()))
        emit(event="sent", reliability=name)
    sys.stdin.read()


def receive(node: Node) -> None:
    """Tell of the first tiny image and of every large one, by reliability; end when the input is closed."""
    heard: set[str] = set()

    def take(name: str, message: Image) -> None:
        now = time.monotonic_ns()
        if message.width == WIDTH:
            sent = message.header.stamp.sec * 1_000_000_000 + message.header.stamp.nanosec
            emit(event="image", reliability=name, milliseconds=(now - sent) / 1e6)
        elif name not in heard:
            heard.add(name)
            emit(event="heard", reliability=name)

    for name, qos in QOS.items():
        node.create_subscription(Image, topic(name), lambda message, name=name: take(name, message), qos)
    executor = BackgroundExecutor(node, "receiver")
    sys.stdin.read()
    executor.stop()


def main() -> int:
    """Run one of the two programs."""
    programs = {"send": send, "receive": receive}
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("program", choices=programs)
    program = parser.parse_args().program
    rclpy.init(args=[])
    node = Node(f"_ditta_doctor_{program}", enable_rosout=False, start_parameter_services=False)
    programs[program](node)
    node.destroy_node()
    rclpy.shutdown()
    return 0


if __name__ == "__main__":
    sys.exit(main())
