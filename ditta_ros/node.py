"""The node: camera images in, label images out. No algorithm lives here; see ``ditta_core.engine`` for that."""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
import traceback
from dataclasses import dataclass, field
from typing import Any

import cv2
import rclpy
import torch
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from rcl_interfaces.msg import SetParametersResult
from rclpy.clock import Clock, ClockType
from rclpy.event_handler import QoSRequestedIncompatibleQoSInfo, SubscriptionEventCallbacks
from rclpy.exceptions import ParameterException
from rclpy.lifecycle import LifecycleNode, LifecycleState, TransitionCallbackReturn
from rclpy.parameter import Parameter
from rclpy.qos import DurabilityPolicy, HistoryPolicy, QoSProfile, ReliabilityPolicy
from rclpy.signals import SignalHandlerOptions
from rclpy.subscription import Subscription
from sensor_msgs.msg import Image
from std_msgs.msg import String

from ditta_core.engine import EngineStatus, FrameRejected, VideoSegmenter
from ditta_core.segmentation.registry import load_model
from ditta_core.teacher import check_teacher
from ditta_core.types import Frame, Segmentation, State
from ditta_ros.adaptation_executor import AdaptationExecutor, BackgroundExecutor
from ditta_ros.adaptation_worker import ProcessRunner
from ditta_ros.conversion import ConversionError, classes_json, frame_of, image_message, overlay
from ditta_ros.diagnostics import (
    StreamSnapshot,
    StreamStatistics,
    adaptation_diagnostic,
    describe_mismatches,
    describe_silence,
    status_message,
    stream_diagnostic,
)
from ditta_ros.mailbox import Mailbox
from ditta_ros.parameters import NodeParameters, changed, declare
from ditta_ros.transport import shared_memory_environment

RELIABLE = QoSProfile(history=HistoryPolicy.KEEP_LAST, depth=10, reliability=ReliabilityPolicy.RELIABLE)
LATCHED = QoSProfile(
    history=HistoryPolicy.KEEP_LAST,
    depth=10,  # a late subscriber asks for one; one that is there already must not miss a state between two
    reliability=ReliabilityPolicy.RELIABLE,
    durability=DurabilityPolicy.TRANSIENT_LOCAL,
)
WARNING_SECONDS = 5.0
"""Least time between two warnings about images."""


@dataclass(frozen=True)
class Arrival:
    """An image and when it came, in seconds of the monotonic clock."""

    message: Image
    time: float = field(default_factory=time.perf_counter)


class DittaNode(LifecycleNode):
    """Semantic segmentation of a camera topic that adapts to what the camera sees.

    Subscribes to the camera while active. Publishes ``~/semantic``, ``~/confidence``, ``~/overlay``, ``~/state``,
    ``~/classes`` and ``/diagnostics``; serves ``~/adapt`` and ``~/reset``. Parameters: :class:`NodeParameters`.
    """

    def __init__(self, **arguments: Any) -> None:
        super().__init__("ditta", **arguments)
        try:
            self.parameters = declare(self)
        except Exception:
            super().destroy_node()
            raise
        self._engine: VideoSegmenter | None = None
        self._subscription: Subscription[Image] | None = None
        self._inference: threading.Thread | None = None
        self._mailbox: Mailbox[Arrival] = Mailbox()
        self._dropped_before = 0
        self._statistics = StreamStatistics()
        self._silence = ""
        self._problem = ""
        self._state_lock = threading.Lock()
        self._announced: EngineStatus | None = None
        self._last_overlay = 0.0

        self._semantic = self.create_lifecycle_publisher(Image, "~/semantic", RELIABLE)
        self._confidence = self.create_lifecycle_publisher(Image, "~/confidence", RELIABLE)
        self._overlay = self.create_lifecycle_publisher(Image, "~/overlay", RELIABLE)
        self._state = self.create_publisher(String, "~/state", LATCHED)
        self._classes = self.create_publisher(String, "~/classes", LATCHED)
        self._diagnostics = self.create_publisher(DiagnosticArray, "/diagnostics", RELIABLE)

        self.add_on_set_parameters_callback(self._check_parameters)
        self.add_post_set_parameters_callback(self._take_parameters)
        # Steady, since simulated time may stand still or not have begun.
        steady = Clock(clock_type=ClockType.STEADY_TIME)
        self.create_timer(1.0, self._report, clock=steady)
        self._adaptation = AdaptationExecutor(self, self._poll, self._adapt, self._reset)
        self._autostart = self.create_timer(0.0, self._start_by_itself, clock=steady)

    def destroy_node(self) -> None:
        """Stop everything, then destroy the node. Its executor must have stopped."""
        self._deactivate()
        self._clean_up()
        self._adaptation.close()
        super().destroy_node()

    # --- lifecycle --------------------------------------------------------------------------------------------------

    def _start_by_itself(self) -> None:
        self.destroy_timer(self._autostart)
        if self.parameters.autostart and self.trigger_configure() == TransitionCallbackReturn.SUCCESS:
            self.trigger_activate()

    def on_configure(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Load the model and start the adaptation's process."""
        try:
            self._configure()
        except Exception as error:  # a lifecycle transition answers; what went wrong is for the user to read
            return self._refuse("configure", error)
        self._problem = ""
        return super().on_configure(state)

    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Subscribe to the camera and segment."""
        try:
            self._activate()
        except Exception as error:
            return self._refuse("activate", error)
        self._problem = ""
        return super().on_activate(state)

    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Stop segmenting; an adaptation in flight goes on."""
        self._deactivate()
        return super().on_deactivate(state)

    def on_cleanup(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Free the model and end the adaptation's process."""
        self._clean_up()
        return super().on_cleanup(state)

    def on_shutdown(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Stop and free everything."""
        self._deactivate()
        self._clean_up()
        return super().on_shutdown(state)

    def on_error(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Free everything, so that the node can be configured again."""
        self._deactivate()
        self._clean_up()
        return super().on_error(state)

    def _refuse(self, transition: str, error: Exception) -> TransitionCallbackReturn:
        expected = isinstance(error, (ValueError, FileNotFoundError, ImportError))
        cause = str(error) if expected else f"{type(error).__name__}: {error}"
        self._problem = f"could not {transition}: {cause}"
        self.get_logger().error(self._problem)
        self.get_logger().debug(traceback.format_exc())
        return TransitionCallbackReturn.FAILURE

    def _configure(self) -> None:
        parameters = self.parameters
        threads = parameters.threads or os.cpu_count() or 1
        torch.set_num_threads(threads)
        cv2.setNumThreads(threads)
        source = parameters.model_source()
        model = load_model(source)
        check_teacher(parameters.teacher_config())
        config = parameters.engine_config(model.size_multiple)
        runner = ProcessRunner(parameters.adaptation_threads, parameters.adaptation_niceness)
        engine = VideoSegmenter(
            source, config, parameters.adaptation_config(), parameters.teacher_config(), runner, self._on_event, model
        )
        self._classes.publish(String(data=classes_json(model.classes)))
        self._publish_state(engine)
        self._engine = engine
        self.get_logger().info(f"model {source.name} on {source.device}: {', '.join(model.classes.names)}")

    def _activate(self) -> None:
        parameters = self.parameters
        reliability = ReliabilityPolicy[parameters.image_reliability.upper()]
        self._statistics.start()
        self._subscription = self.create_subscription(
            Image,
            parameters.image_topic,
            self._receive,
            QoSProfile(history=HistoryPolicy.KEEP_LAST, depth=1, reliability=reliability),
            event_callbacks=SubscriptionEventCallbacks(incompatible_qos=self._on_incompatible_qos),
        )
        self._inference = threading.Thread(target=self._segment_images, name="inference", daemon=True)
        self._inference.start()
        self.get_logger().info(f"waiting for images on {self._subscription.topic_name}")

    def _deactivate(self) -> None:
        if self._subscription is not None:
            self.destroy_subscription(self._subscription)
            self._subscription = None
        self._dropped_before += self._mailbox.dropped
        self._mailbox.close()
        self._mailbox = Mailbox()
        if self._inference is not None:
            self._inference.join()
            self._inference = None

    def _clean_up(self) -> None:
        engine, self._engine = self._engine, None
        if engine is not None:
            engine.close()

    # --- images -----------------------------------------------------------------------------------------------------

    def _receive(self, message: Image) -> None:
        self._statistics.receive()
        self._mailbox.put(Arrival(message))

    def _segment_images(self) -> None:
        engine, mailbox = self._engine, self._mailbox
        assert engine is not None
        while (arrival := mailbox.get()) is not None:
            self._segment(engine, arrival)

    def _segment(self, engine: VideoSegmenter, arrival: Arrival) -> None:
        """Publish the label image of one image; whatever is wrong with it, the stream goes on."""
        try:
            self._segment_and_publish(engine, arrival)
        except (ConversionError, FrameRejected) as error:
            self._statistics.reject(str(error))
            self.get_logger().warning(f"image rejected: {error}", throttle_duration_sec=WARNING_SECONDS)
        except Exception as error:
            self._statistics.fail(f"{type(error).__name__}: {error}")
            self.get_logger().error(
                f"an image could not be segmented:\n{traceback.format_exc()}", throttle_duration_sec=WARNING_SECONDS
            )

    def _segment_and_publish(self, engine: VideoSegmenter, arrival: Arrival) -> None:
        taken = time.perf_counter()
        frame = frame_of(arrival.message)
        converted = time.perf_counter()
        segmentation = engine.push(frame)
        segmented = time.perf_counter()
        header = arrival.message.header
        self._semantic.publish(image_message(segmentation.class_ids, header))
        if self._confidence.get_subscription_count():
            self._confidence.publish(image_message(segmentation.confidence, header))
        published = time.perf_counter()
        seconds = {
            "wait": taken - arrival.time,
            "convert": converted - taken,
            "segment": segmented - converted,
            "publish": published - segmented,
            "total": published - arrival.time,
        }
        milliseconds = {stage: 1e3 * value for stage, value in seconds.items()}
        self._statistics.publish({**milliseconds, **segmentation.latency_ms})
        if self._overlay.get_subscription_count():
            self._publish_overlay(engine, frame, segmentation, arrival)

    def _publish_overlay(
        self, engine: VideoSegmenter, frame: Frame, segmentation: Segmentation, arrival: Arrival
    ) -> None:
        if arrival.time - self._last_overlay < 1 / self.parameters.overlay_rate:
            return
        self._last_overlay = arrival.time
        picture = overlay(frame.image, segmentation.class_ids, engine.model.classes, self.parameters.overlay_opacity)
        self._overlay.publish(image_message(picture, arrival.message.header))

    # --- adaptation: called by the adaptation executor --------------------------------------------------------------

    def _poll(self) -> None:
        engine = self._engine
        if engine is not None:
            engine.poll()
            if engine.status != self._announced:
                self._publish_state(engine)

    def _adapt(self) -> str:
        engine = self._active_engine()
        engine.request_adaptation()
        return f"adapting to the next {engine.status.warmup_frames} images"

    def _reset(self) -> str:
        self._active_engine().reset()
        return "back to the base model with the next image"

    def _active_engine(self) -> VideoSegmenter:
        engine = self._engine
        if engine is None or self._inference is None:
            state = "unconfigured" if engine is None else "inactive"
            raise ValueError(f"expected an active node, but it is {state}; configure and activate it first")
        return engine

    # --- reports ----------------------------------------------------------------------------------------------------

    def _on_event(self, message: str) -> None:
        """The engine has news."""
        engine = self._engine
        if engine is None:
            return
        if engine.status.state is State.FAILED:
            self.get_logger().warning(message)
        else:
            self.get_logger().info(message)
        self._publish_state(engine)

    def _on_incompatible_qos(self, _: QoSRequestedIncompatibleQoSInfo) -> None:
        if self._subscription is not None:
            reasons = describe_mismatches(self, self._subscription)
            self.get_logger().warning("; ".join(reasons) or "a publisher with an incompatible QoS came and went")

    def _report(self) -> None:
        """Once a second: watch the input, publish diagnostics and state."""
        engine = self._engine
        silence = self._silence_of_input()
        if silence and silence != self._silence:
            self.get_logger().warning(silence)
        self._silence = silence
        name, topic = self.get_name(), self.parameters.image_topic
        if self._problem:
            statuses = [status_message(DiagnosticStatus.ERROR, f"{name}: stream", self._problem, topic, {})]
        elif engine is None:
            statuses = [status_message(DiagnosticStatus.OK, f"{name}: stream", "not configured", topic, {})]
        else:
            statuses = [
                stream_diagnostic(name, topic, self._snapshot(), silence),
                adaptation_diagnostic(name, topic, engine.status),
            ]
            self._publish_state(engine)
        array = DiagnosticArray(status=statuses)
        array.header.stamp = self.get_clock().now().to_msg()
        self._diagnostics.publish(array)

    def _snapshot(self) -> StreamSnapshot:
        return self._statistics.snapshot(self._dropped_before + self._mailbox.dropped)

    def _silence_of_input(self) -> str:
        """Why no image comes in; empty where images do, or where none are asked for."""
        silent = self._snapshot().silence > self.parameters.input_timeout
        return describe_silence(self, self._subscription) if silent and self._subscription is not None else ""

    def _publish_state(self, engine: VideoSegmenter) -> None:
        stream = self._snapshot()
        with self._state_lock:  # so that no older status is published after a newer one
            status = self._announced = engine.status
            state = {
                "state": status.state.value,
                "generation": status.generation,
                "collected": status.collected,
                "warmup_frames": status.warmup_frames,
                "progress": status.progress,
                "losses": status.losses,
                "message": status.message,
                "adaptation_seconds": status.report.seconds if status.report is not None else None,
                "dropped": stream.dropped,
                "received": stream.received,
                "published": stream.published,
                "rejected": stream.rejected,
            }
            self._state.publish(String(data=json.dumps(state)))

    # --- parameters -------------------------------------------------------------------------------------------------

    def _check_parameters(self, parameters: list[Parameter[Any]]) -> SetParametersResult:
        try:
            self._changed(parameters)
        except ValueError as error:
            return SetParametersResult(successful=False, reason=str(error))
        return SetParametersResult(successful=True)

    def _take_parameters(self, parameters: list[Parameter[Any]]) -> None:
        self.parameters = self._changed(parameters)

    def _changed(self, parameters: list[Parameter[Any]]) -> NodeParameters:
        changes = [(parameter.name, parameter.value) for parameter in parameters]
        return changed(self.parameters, changes, configured=self._engine is not None)


def main(args: list[str] | None = None) -> int:
    """Run the node until SIGINT or SIGTERM.

    Returns:
        Exit code: 0 after a signal, 1 after an unexpected error, 2 where an argument or parameter is wrong.
    """
    os.environ.update(shared_memory_environment(os.environ))
    try:
        # rclpy's own handlers turn every signal into an exception somewhere; a second Ctrl-C, or the one that ros2
        # launch adds to the terminal's, would then interrupt the clean-up.
        rclpy.init(args=args, signal_handler_options=SignalHandlerOptions.NO)
    except Exception as error:
        print(f"ditta: {error}", file=sys.stderr)
        return 2
    try:
        node = DittaNode()
    except (ParameterException, ValueError) as error:
        rclpy.logging.get_logger("ditta").fatal(str(error))
        rclpy.shutdown()
        return 2
    executor = BackgroundExecutor(node, "stream executor")
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: executor.ended.set())
    executor.ended.wait()
    executor.stop()
    if executor.error is not None:
        node.get_logger().fatal("".join(traceback.format_exception(executor.error)))
    node.destroy_node()
    rclpy.shutdown()
    return 0 if executor.error is None else 1


if __name__ == "__main__":
    sys.exit(main())
