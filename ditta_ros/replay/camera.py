"""The demo's camera: plays a sequence on an image topic, again and again, until it is told to play it a last time.

Every round begins two seconds after the last one ended, by the stamps as by the clock, so that the node takes the first
frame for what it is: not the successor of the last.
"""

from __future__ import annotations

import argparse
import threading
import time
from pathlib import Path

import rclpy
from rclpy.node import Node
from rclpy.qos import QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import Image
from std_msgs.msg import Header

from ditta_core.datasets.base import VideoSequence
from ditta_core.datasets.video import open_sequence
from ditta_ros.adaptation_executor import BackgroundExecutor
from ditta_ros.conversion import image_message, stamp_of
from ditta_ros.replay.control import Commands, tell
from ditta_ros.replay.recording import JsonLines, PublishedFrame, Recording

FRAME_ID = "camera"
PAUSE_SECONDS = 2.0
ANSWER_SECONDS = 10.0
"""How long the camera waits for a mask in lockstep. A rejected frame never gets one."""
RELIABLE = QoSProfile(depth=5, reliability=ReliabilityPolicy.RELIABLE)


class Answers:
    """Knows up to which image the masks have come."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._newest = 0

    def take(self, mask: Image) -> None:
        """A mask has come."""
        with self._changed:
            self._newest = max(self._newest, stamp_of(mask.header))
            self._changed.notify()

    def wait_for(self, stamp: int) -> bool:
        """Wait for the mask of an image or a later one; whether it came in time."""
        with self._changed:
            return self._changed.wait_for(lambda: self._newest >= stamp, ANSWER_SECONDS)


class Camera:
    """Publishes the frames of a sequence.

    Args:
        node: publishes them.
        sequence: gives the frames and their rate.
        frames: where every published frame is written down.
        commands: say when to begin, when to play the last round, and when to end.
        lockstep: wait for the mask of a frame before the next one is sent. Otherwise frames come at their rate, whoever
            can follow.
        topics: of the images and, for lockstep, of the masks.
    """

    def __init__(
        self,
        node: Node,
        sequence: VideoSequence,
        frames: JsonLines,
        commands: Commands,
        lockstep: bool,
        topics: tuple[str, str] = ("/camera/image_raw", "/ditta/semantic"),
    ) -> None:
        self.node = node
        self.sequence = sequence
        self.frames = frames
        self.commands = commands
        self.period = 1 / sequence.frame_rate
        self.publisher = node.create_publisher(Image, topics[0], RELIABLE)
        self.answers = Answers() if lockstep else None
        if self.answers is not None:
            node.create_subscription(Image, topics[1], self.answers.take, RELIABLE)
        self.mask_topic = topics[1]

    def matched(self) -> bool:
        """Whether somebody listens, and in lockstep, answers."""
        heard = self.publisher.get_subscription_count() > 0
        return heard and (self.answers is None or self.node.count_publishers(self.mask_topic) > 0)

    def run(self) -> None:
        """Tell when the camera is matched, wait for the command to play, and play until the end."""
        while not self.matched():
            if self.commands.quit.wait(0.05):
                return
        tell(matched=True)
        self.commands.play.wait()
        stamp, number = time.time_ns(), 0
        while not self.commands.quit.is_set():
            last = self.commands.finish.is_set()
            tell(round=number, last=last)
            stamp = self.play(number, stamp, last)
            if last:
                tell(done=True)
                self.commands.quit.wait()
            stamp += round(PAUSE_SECONDS * 1e9)
            number += 1
            self.commands.quit.wait(PAUSE_SECONDS)

    def play(self, number: int, begin: int, last: bool) -> int:
        """Play one round; break off when a command asks for it.

        Args:
            number: of the round.
            begin: stamp of its first frame.
            last: whether it is the last, which only ``quit`` breaks off.

        Returns:
            The stamp that the next frame would have.
        """
        due = time.monotonic()
        for index in range(len(self.sequence)):
            image = self.sequence.image(index)
            if self.commands.quit.wait(max(due - time.monotonic(), 0)) or (self.commands.finish.is_set() and not last):
                return begin + self.sequence.stamp(index)
            stamp = begin + self.sequence.stamp(index)
            header = Header(frame_id=FRAME_ID)
            header.stamp.sec, header.stamp.nanosec = divmod(stamp, 1_000_000_000)
            message = image_message(image, header)
            now = time.monotonic()
            self.publisher.publish(message)
            self.frames.add(PublishedFrame(number, index, stamp, now))
            tell(sent=index + 1)
            due += self.period
            if self.answers is not None:
                if not self.answers.wait_for(stamp):
                    self.node.get_logger().warning(f"no mask for frame {index} within {ANSWER_SECONDS} s: going on")
                due = max(due, time.monotonic())
        return begin + self.sequence.stamp(len(self.sequence))


def main(arguments: list[str] | None = None) -> None:
    """Run as a process."""
    parser = argparse.ArgumentParser(description="play a sequence as a camera")
    parser.add_argument("sequence", type=Path)
    parser.add_argument("recording", type=Path)
    parser.add_argument("--lockstep", action="store_true")
    options = parser.parse_args(arguments)
    rclpy.init(args=[], signal_handler_options=rclpy.SignalHandlerOptions.NO)
    node = Node("camera")
    executor = BackgroundExecutor(node, "camera")
    try:
        with JsonLines(Recording(options.recording).frames_file) as frames:
            Camera(node, open_sequence(options.sequence), frames, Commands(), options.lockstep).run()
    finally:
        executor.stop()
        node.destroy_node()
        rclpy.shutdown()


if __name__ == "__main__":
    main()
