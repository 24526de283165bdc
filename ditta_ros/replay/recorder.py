"""The recorder: writes down every mask and every state of the node, with the time it arrived."""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import rclpy
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import Image
from std_msgs.msg import String

from ditta_ros.messages.images import label_image, stamp_of
from ditta_ros.process.executor import BackgroundExecutor
from ditta_ros.replay.control import Commands, emit
from ditta_ros.replay.recording import ArrivedMask, ArrivedState, JsonLines, Recording

MASK_TOPIC, STATE_TOPIC = "/ditta/semantic", "/ditta/state"
MASKS = QoSProfile(depth=50, reliability=ReliabilityPolicy.RELIABLE)
DIAGNOSTICS = QoSProfile(depth=10, reliability=ReliabilityPolicy.RELIABLE)
STATES = QoSProfile(depth=10, reliability=ReliabilityPolicy.RELIABLE, durability=DurabilityPolicy.TRANSIENT_LOCAL)


class Recorder:
    """Subscribes to the node and writes everything into a recording."""

    def __init__(self, node: Node, recording: Recording, masks: JsonLines, states: JsonLines) -> None:
        self.node = node
        self.recording = recording
        self.masks = masks
        self.states = states
        self.count = 0
        node.create_subscription(Image, MASK_TOPIC, self.take_mask, MASKS)
        node.create_subscription(String, STATE_TOPIC, self.take_state, STATES)
        node.create_subscription(DiagnosticArray, "/diagnostics", self.take_diagnostics, DIAGNOSTICS)

    def take_mask(self, message: Image) -> None:
        """Keep a mask."""
        mask = ArrivedMask(stamp_of(message.header), time.monotonic())
        self.recording.write_mask(mask.stamp, label_image(message))
        self.masks.add(mask)
        self.count += 1

    def take_state(self, message: String) -> None:
        """Keep a state, and pass it on with the number of masks so far."""
        self.states.add(ArrivedState.of_message(message.data, time.monotonic()))
        emit(masks=self.count, ready=self.node.count_publishers(MASK_TOPIC) > 0, state=message.data)

    def take_diagnostics(self, message: DiagnosticArray) -> None:
        """Pass on what is wrong with the node: one that cannot be configured says so here alone."""
        for status in message.status:
            if status.level == DiagnosticStatus.ERROR:
                emit(problem=status.message)


def main(arguments: list[str] | None = None) -> None:
    """Run as a process."""
    parser = argparse.ArgumentParser(description="record masks and states of the node")
    parser.add_argument("recording", type=Path)
    options = parser.parse_args(arguments)
    rclpy.init(args=[], signal_handler_options=rclpy.SignalHandlerOptions.NO)
    recording = Recording(options.recording)
    node = Node("recorder")
    with JsonLines(recording.masks_file) as masks, JsonLines(recording.states_file) as states:
        recorder = Recorder(node, recording, masks, states)
        executor = BackgroundExecutor(recorder.node, "recorder")
        commands = Commands()
        while not commands.quit.wait(0.1) and not executor.ended.is_set():
            pass
        executor.stop()
    node.destroy_node()
    rclpy.shutdown()
    if executor.error is not None:
        raise executor.error


if __name__ == "__main__":
    main()
