"""The camera: plays ranges of a sequence on an image topic, and on request the simulated clock that goes with them.

Between two ranges it holds. The clock runs while frames are played and never ahead of them, so that whoever lives by
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
from ditta_ros.replay.control import Commands, FrameRange, emit
from ditta_ros.replay.recording import JsonLines, PublishedFrame, Recording

FRAME_ID = "camera"
IMAGE_TOPIC, MASK_TOPIC = "/camera/image_raw", "/ditta/semantic"
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
        """Wait for the mask of an image or a later one, until it is there, the time is up or the range broken off.

        Returns:
            Whether the mask is there.
        """
        deadline = time.monotonic() + seconds
        with self._changed:
            while self._newest < stamp and not stopped.is_set() and (left := deadline - time.monotonic()) > 0:
                self._changed.wait(min(left, POLL_SECONDS))
            return self._newest >= stamp


class Camera:
    """Publishes the frames of a sequence with their stamps, as it is commanded, and writes every one down.

    Args:
        answered: Whether to listen to the masks, without which nothing can be played in lockstep.
        clock: Clock that is set to the stamp of every frame; None without simulated time.
    """

    def __init__(
        self,
        node: Node,
        sequence: VideoSequence,
        record: JsonLines,
        commands: Commands,
        answered: bool,
        clock: SimulatedClock | None = None,
    ) -> None:
        self._node = node
        self._sequence = sequence
        self._record = record
        self._commands = commands
        self._clock = clock
        self._publisher = node.create_publisher(Image, IMAGE_TOPIC, RELIABLE)
        self._masks = MaskWatcher() if answered else None
        if self._masks is not None:
            node.create_subscription(Image, MASK_TOPIC, self._masks.take, RELIABLE)

    def matched(self) -> bool:
        """Whether somebody listens, and where masks are waited for, answers."""
        heard = self._publisher.get_subscription_count() > 0
        return heard and (self._masks is None or self._node.count_publishers(MASK_TOPIC) > 0)

    def run(self) -> None:
        """Tell when the camera is matched, and play what is asked for until the end."""
        while not self.matched():
            if self._commands.quit.wait(0.05):
                return
        emit(matched=True)
        while (frames := self._commands.next_range()) is not None:
            emit(played=self._play(frames))

    def _play(self, frames: FrameRange) -> int:
        """Play a range.

        Returns:
            Index of the frame at which it was broken off; the end of the range where it was not.
        """
        due = time.monotonic()
        for index in range(frames.first, frames.end):
            image = self._sequence.image(index)
            stamp = frames.offset + self._sequence.stamp(index)
            following = index + 1 < frames.end
            until = frames.offset + self._sequence.stamp(index + 1) - 1 if following else stamp
            header = Header(frame_id=FRAME_ID)
            header.stamp.sec, header.stamp.nanosec = divmod(stamp, 1_000_000_000)
            message = image_message(image, header)
            if self._commands.stopped.wait(max(due - time.monotonic(), 0)):
                return index
            if self._clock is not None:
                self._clock.run(stamp, until, frames.rate)
            now = time.monotonic()
            self._publisher.publish(message)
            self._record.add(PublishedFrame(frames.round, index, stamp, now, due))
            emit(sent=index + 1)
            due += (until + 1 - stamp) / 1e9 / frames.rate
            if frames.answer_seconds is not None:
                self._wait_for_answer(index, stamp, frames.answer_seconds)
                due = max(due, time.monotonic())
        return frames.end

    def _wait_for_answer(self, index: int, stamp: int, seconds: float) -> None:
        """Wait for the mask of a frame; warn where it does not come."""
        if self._masks is None:
            raise ValueError("expected a camera that listens to the masks, but this one does not; start it --answered")
        if not self._masks.wait_for(stamp, seconds, self._commands.stopped) and not self._commands.stopped.is_set():
            self._node.get_logger().warning(f"no mask for frame {index} within {seconds:g} s: going on")


def main(arguments: list[str] | None = None) -> None:
    """Run as a process."""
    parser = argparse.ArgumentParser(description="play a sequence as a camera")
    parser.add_argument("recording", type=Path, help="folder with the sequence; takes what was published")
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
