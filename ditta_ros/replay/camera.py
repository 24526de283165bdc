"""The camera: plays stretches of a sequence on an image topic, and on request the simulated clock that goes with them.

Between two stretches it holds. The clock runs while frames are played and never ahead of them, so that whoever lives by
it sees no time pass in which no frame could come.
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
from ditta_ros.messages.images import image_message, stamp_of
from ditta_ros.process.clock import SimulatedClock
from ditta_ros.process.executor import BackgroundExecutor
from ditta_ros.replay.control import Commands, FrameRange, tell
from ditta_ros.replay.recording import JsonLines, PublishedFrame, Recording

FRAME_ID = "camera"
RELIABLE = QoSProfile(depth=5, reliability=ReliabilityPolicy.RELIABLE)
POLL_SECONDS = 0.1


class MaskWatcher:
    """Knows up to which image the masks have come."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._newest = 0

    def take(self, mask: Image) -> None:
        """A mask has come."""
        with self._changed:
            self._newest = max(self._newest, stamp_of(mask.header))
            self._changed.notify()

    def wait_for(self, stamp: int, seconds: float, stopped: threading.Event) -> bool:
        """Wait for the mask of an image or a later one, until it is there, the time is up or the stretch broken off.

        Returns:
            Whether the mask is there.
        """
        deadline = time.monotonic() + seconds
        with self._changed:
            while self._newest < stamp and not stopped.is_set() and (left := deadline - time.monotonic()) > 0:
                self._changed.wait(min(left, POLL_SECONDS))
            return self._newest >= stamp


class Camera:
    """Publishes the frames of a sequence.

    Args:
        node: publishes them.
        sequence: gives the frames and their stamps.
        frames: where every published frame is written down.
        commands: say what to play, and when to end.
        answered: whether to listen to the masks, without which nothing can be played in lockstep.
        clock: is set to the stamp of every frame; None without simulated time.
        topics: of the images and of the masks.
    """

    def __init__(
        self,
        node: Node,
        sequence: VideoSequence,
        frames: JsonLines,
        commands: Commands,
        answered: bool,
        clock: SimulatedClock | None = None,
        topics: tuple[str, str] = ("/camera/image_raw", "/ditta/semantic"),
    ) -> None:
        self.node = node
        self.sequence = sequence
        self.frames = frames
        self.commands = commands
        self.clock = clock
        self.publisher = node.create_publisher(Image, topics[0], RELIABLE)
        self.answers = MaskWatcher() if answered else None
        if self.answers is not None:
            node.create_subscription(Image, topics[1], self.answers.take, RELIABLE)
        self.mask_topic = topics[1]

    def matched(self) -> bool:
        """Whether somebody listens, and where masks are waited for, answers."""
        heard = self.publisher.get_subscription_count() > 0
        return heard and (self.answers is None or self.node.count_publishers(self.mask_topic) > 0)

    def run(self) -> None:
        """Tell when the camera is matched, and play what is asked for until the end."""
        while not self.matched():
            if self.commands.quit.wait(0.05):
                return
        tell(matched=True)
        while (stretch := self.commands.next_stretch()) is not None:
            tell(played=self.play(stretch))

    def play(self, stretch: FrameRange) -> int:
        """Play a stretch.

        Returns:
            Index of the frame at which it was broken off; the end of the stretch where it was not.
        """
        due = time.monotonic()
        for index in range(stretch.first, stretch.end):
            image = self.sequence.image(index)
            stamp = stretch.offset + self.sequence.stamp(index)
            following = index + 1 < stretch.end
            until = stretch.offset + self.sequence.stamp(index + 1) - 1 if following else stamp
            header = Header(frame_id=FRAME_ID)
            header.stamp.sec, header.stamp.nanosec = divmod(stamp, 1_000_000_000)
            message = image_message(image, header)
            if self.commands.stopped.wait(max(due - time.monotonic(), 0)):
                return index
            if self.clock is not None:
                self.clock.run(stamp, until, stretch.rate)
            now = time.monotonic()
            self.publisher.publish(message)
            self.frames.add(PublishedFrame(stretch.round, index, stamp, now, due))
            tell(sent=index + 1)
            due += (until + 1 - stamp) / 1e9 / stretch.rate
            if stretch.answer_seconds is not None:
                self.wait_for_answer(index, stamp, stretch.answer_seconds)
                due = max(due, time.monotonic())
        return stretch.end

    def wait_for_answer(self, index: int, stamp: int, seconds: float) -> None:
        """Wait for the mask of a frame; warn where it does not come."""
        if self.answers is None:
            raise ValueError("expected a camera that listens to the masks, but this one does not; start it --answered")
        if not self.answers.wait_for(stamp, seconds, self.commands.stopped) and not self.commands.stopped.is_set():
            self.node.get_logger().warning(f"no mask for frame {index} within {seconds:g} s: going on")


def main(arguments: list[str] | None = None) -> None:
    """Run as a process."""
    parser = argparse.ArgumentParser(description="play a sequence as a camera")
    parser.add_argument("recording", type=Path, help="folder with the pickled sequence; takes what was published")
    parser.add_argument("--answered", action="store_true", help="listen to the masks, for playing in lockstep")
    parser.add_argument("--clock", action="store_true", help="publish simulated time")
    options = parser.parse_args(arguments)
    recording = Recording(options.recording)
    sequence = recording.read_sequence()
    rclpy.init(args=[], signal_handler_options=rclpy.SignalHandlerOptions.NO)
    node = Node("camera")
    executor = BackgroundExecutor(node, "camera")
    clock = SimulatedClock(node) if options.clock else None
    try:
        with JsonLines(recording.frames_file) as frames:
            Camera(node, sequence, frames, Commands(), options.answered, clock).run()
    finally:
        if clock is not None:
            clock.close()
        executor.stop()
        node.destroy_node()
        rclpy.shutdown()


if __name__ == "__main__":
    main()
