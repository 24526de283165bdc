"""One camera of the node: its subscription, the engine that segments it, and the topics that come of it.

It has no thread of its own: images come by the node's executor, are segmented by the node's inference thread, and the
news of adaptations come by the adaptation executor.
"""

from __future__ import annotations

import json
import threading
import time
import traceback
from dataclasses import dataclass, field
from typing import Any

from diagnostic_msgs.msg import DiagnosticStatus
from rclpy.event_handler import QoSRequestedIncompatibleQoSInfo, SubscriptionEventCallbacks
from rclpy.lifecycle import LifecycleNode, LifecyclePublisher
from rclpy.qos import DurabilityPolicy, HistoryPolicy, QoSProfile, ReliabilityPolicy
from rclpy.qos_overriding_options import QoSOverridingOptions
from rclpy.subscription import Subscription
from sensor_msgs.msg import CameraInfo, CompressedImage, Image, PointCloud2
from std_msgs.msg import String

from ditta_core.inference.compiled_network import Compiler
from ditta_core.inference.temporal_branch import TemporalSegmenter
from ditta_core.stream.runner import AdaptationRunner
from ditta_core.stream.status import FrameRejected, StreamStatus
from ditta_core.stream.video_segmenter import VideoSegmenter
from ditta_core.types import Frame, Segmentation, State
from ditta_ros.camera.diagnostics import adaptation_diagnostic, stream_diagnostic
from ditta_ros.camera.mailbox import Mailbox
from ditta_ros.camera.state_folder import SavedGenerations, StateFolder
from ditta_ros.camera.statistics import StreamSnapshot, StreamStatistics
from ditta_ros.camera.synchronized_outputs import SynchronizedOutputs
from ditta_ros.camera.topics import CameraTopics
from ditta_ros.messages.classes import classes_json
from ditta_ros.messages.cv_bridge import ImageConverter
from ditta_ros.messages.images import ConversionError, image_message, overlay
from ditta_ros.messages.label_info import label_info_message
from ditta_ros.parameters import NodeParameters
from ditta_ros.process.graph import describe_mismatches, describe_silence

LATCHED = QoSProfile(
    history=HistoryPolicy.KEEP_LAST,
    depth=10,  # a late subscriber asks for one; one that is there already must not miss a state between two
    reliability=ReliabilityPolicy.RELIABLE,
    durability=DurabilityPolicy.TRANSIENT_LOCAL,
)
WARNING_SECONDS = 5.0
"""Least time between two warnings about images."""


def reliable() -> QoSProfile:
    """Of what is published for every image: both kinds of subscriber can connect. A new one, as overrides change it."""
    return QoSProfile(history=HistoryPolicy.KEEP_LAST, depth=10, reliability=ReliabilityPolicy.RELIABLE)


@dataclass(frozen=True)
class ReceivedImage:
    """An image and when it came, in seconds of the monotonic clock."""

    message: Image | CompressedImage
    time: float = field(default_factory=time.perf_counter)


class CameraStream:
    """One camera, from ``configure`` to ``cleanup``.

    Args:
        node: that has it.
        topics: of the camera.
        parameters: of the node; replaced by ``take_parameters``.
        base: the model, shared by all cameras.
        runner: where this camera's adaptations run.
        compiler: of the networks, shared by all cameras.
        converter: of the images.
        fingerprint: of the model, for the saved generations.
    """

    def __init__(
        self,
        node: LifecycleNode,
        topics: CameraTopics,
        parameters: NodeParameters,
        base: TemporalSegmenter,
        runner: AdaptationRunner,
        compiler: Compiler,
        converter: ImageConverter,
        fingerprint: str,
    ) -> None:
        self.node = node
        self.topics = topics
        self.parameters = parameters
        self.converter = converter
        self.statistics = StreamStatistics()
        self.silence = ""
        self._logger = node.get_logger().get_child(topics.name) if topics.name else node.get_logger()
        self._subscription: Subscription[Any] | None = None
        self._mailbox: Mailbox[str, ReceivedImage] = Mailbox()
        self._dropped_before = 0
        self._state_lock = threading.Lock()
        self._announced: StreamStatus | None = None
        self._last_overlay = 0.0
        self._companions: SynchronizedOutputs | None = None

        self.folder, saved = None, SavedGenerations()
        if parameters.state_dir:
            self.folder = StateFolder(parameters.state_path(), topics.name, fingerprint)
            saved = self.folder.read(parameters.remembered_scenes)
        self.refusals = saved.refusals
        for refusal in saved.refusals:
            self._logger.warning(f"a saved generation is left out: {refusal}")
        self.engine = VideoSegmenter(
            parameters.model_source(),
            parameters.stream_config(base.model.size_multiple),
            adaptation=parameters.adaptation_config(),
            teacher=parameters.teacher_config(),
            runner=runner,
            notify=self._on_event,
            base=base,
            generations=saved.generations,
            compiler=compiler,
        )
        if saved.generations:
            self._logger.info(f"{len(saved.generations)} saved generations read from {parameters.state_dir}")
        self._create_publishers()

    # --- lifecycle --------------------------------------------------------------------------------------------------

    def _create_publishers(self) -> None:
        node, private = self.node, self.topics.private

        def image_publisher(topic: str) -> LifecyclePublisher[Image]:
            overrides = QoSOverridingOptions.with_default_policies()
            return node.create_lifecycle_publisher(Image, private(topic), reliable(), qos_overriding_options=overrides)

        self._semantic = image_publisher("semantic")
        self._confidence = image_publisher("confidence")
        self._overlay = image_publisher("overlay")
        self._camera_info = node.create_lifecycle_publisher(CameraInfo, private("camera_info"), reliable())
        self._points = node.create_lifecycle_publisher(PointCloud2, private("points"), reliable())
        self._managed: list[LifecyclePublisher[Any]] = [self._semantic, self._confidence, self._overlay]
        self._managed += [self._camera_info, self._points]
        self._state = node.create_publisher(String, private("state"), LATCHED)
        self._classes = node.create_publisher(String, private("classes"), LATCHED)
        self._latched: list[Any] = [self._state, self._classes]
        classes = self.engine.model.classes
        self._classes.publish(String(data=classes_json(classes)))
        label_info = label_info_message(classes)
        if label_info is not None:
            publisher = node.create_publisher(type(label_info), private("label_info"), LATCHED)
            publisher.publish(label_info)
            self._latched.append(publisher)
        self.publish_state()

    def activate(self, mailbox: Mailbox[str, ReceivedImage]) -> None:
        """Subscribe; images go into this camera's slot of the mailbox."""
        parameters = self.parameters
        self._mailbox = mailbox
        self.statistics.start()
        self.engine.resume()
        self._companions = SynchronizedOutputs.open(
            self.node,
            self.topics,
            self._camera_info,
            self._points,
            parameters.sync_slop,
            parameters.points_step,
            self._on_companion_problem,
        )
        compressed = parameters.image_transport == "compressed"
        self._subscription = self.node.create_subscription(
            CompressedImage if compressed else Image,
            f"{self.topics.image}/compressed" if compressed else self.topics.image,
            self._receive,
            QoSProfile(
                history=HistoryPolicy.KEEP_LAST,
                depth=1,
                reliability=ReliabilityPolicy[parameters.image_reliability.upper()],
            ),
            event_callbacks=SubscriptionEventCallbacks(incompatible_qos=self._on_incompatible_qos),
        )
        self._logger.info(f"waiting for images on {self._subscription.topic_name}")

    def unsubscribe(self) -> None:
        """Take in no more images."""
        if self._subscription is not None:
            self.node.destroy_subscription(self._subscription)
            self._subscription = None

    def deactivate(self) -> None:
        """Stop; the inference thread has ended."""
        self.unsubscribe()
        if self._companions is not None:
            self._companions.close()
            self._companions = None
        self._dropped_before += self._mailbox.dropped(self.topics.name)
        self._mailbox = Mailbox()
        self.engine.pause(self.parameters.cancel_on_deactivate)

    def close(self) -> None:
        """Free the engine and the topics."""
        self.engine.close()
        for publisher in self._managed:
            self.node.destroy_lifecycle_publisher(publisher)
        for publisher in self._latched:
            self.node.destroy_publisher(publisher)

    def take_parameters(self, parameters: NodeParameters) -> None:
        """Go on with changed parameters; those of the engine from the next frame on.

        Raises:
            ValueError: two of them do not go together.
        """
        self.parameters = parameters
        if self._companions is not None:
            self._companions.points_step = parameters.points_step
        self.engine.reconfigure(
            parameters.stream_config(self.engine.model.size_multiple),
            parameters.adaptation_config(),
            parameters.teacher_config(),
        )

    # --- images -----------------------------------------------------------------------------------------------------

    def _receive(self, message: Image | CompressedImage) -> None:
        self.statistics.receive()
        self._mailbox.put(self.topics.name, ReceivedImage(message))

    def segment(self, arrival: ReceivedImage) -> None:
        """Publish the label image of one image; whatever is wrong with it, the stream goes on."""
        try:
            self._segment_and_publish(arrival)
        except (ConversionError, FrameRejected) as error:
            self.statistics.reject(str(error))
            self._logger.warning(f"image rejected: {error}", throttle_duration_sec=WARNING_SECONDS)
        except Exception as error:
            self.statistics.fail(f"{type(error).__name__}: {error}")
            self._logger.error(
                f"an image could not be segmented:\n{traceback.format_exc()}", throttle_duration_sec=WARNING_SECONDS
            )

    def _segment_and_publish(self, arrival: ReceivedImage) -> None:
        taken = time.perf_counter()
        frame = self.converter.frame(arrival.message)
        converted = time.perf_counter()
        segmentation = self.engine.push(frame)
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
        self.statistics.publish({**milliseconds, **segmentation.latency_ms})
        if self._overlay.get_subscription_count():
            self._publish_overlay(frame, segmentation, arrival)
        if self._companions is not None:
            self._companions.masked(segmentation, header)

    def _publish_overlay(self, frame: Frame, segmentation: Segmentation, arrival: ReceivedImage) -> None:
        if arrival.time - self._last_overlay < 1 / self.parameters.overlay_rate:
            return
        self._last_overlay = arrival.time
        classes, opacity = self.engine.model.classes, self.parameters.overlay_opacity
        picture = overlay(frame.image, segmentation.class_ids, classes, opacity)
        self._overlay.publish(image_message(picture, arrival.message.header))

    # --- requests: answered by the adaptation executor ---------------------------------------------------------------

    def adapt(self) -> str:
        """Begin a warm-up with the next image."""
        self.engine.request_adaptation()
        return f"adapting to the next {self.engine.config.warmup_frames} images"

    def reset(self) -> str:
        """Go back to the base model with the next image."""
        self.engine.reset()
        return "back to the base model with the next image"

    def restore(self) -> str:
        """Go on with the newest generation that is kept.

        Raises:
            ValueError: none is kept.
        """
        self.engine.request_restore()
        return "back to the newest generation with the next image"

    def save(self) -> str:
        """Write the generation that is serving.

        Raises:
            ValueError: there is no folder, or nothing to be saved.
            OSError: the folder cannot be written to.
        """
        if self.folder is None:
            raise ValueError("expected the parameter state_dir, but it is empty; set it before the node is configured")
        generation = self.engine.generation
        if generation is None:
            raise ValueError("expected an adapted generation, but the base model is serving; adapt first")
        return f"generation {generation.number} written to {self.folder.save(generation)}"

    # --- reports ----------------------------------------------------------------------------------------------------

    def poll(self) -> None:
        """Take in news of the adaptation."""
        self.engine.poll()
        if self.engine.status != self._announced:
            self.publish_state()

    def watch(self) -> None:
        """Warn where no image comes in."""
        silence = self._silence_of_input()
        if silence and silence != self.silence:
            self._logger.warning(silence)
        self.silence = silence

    def diagnostics(self) -> list[DiagnosticStatus]:
        """Of the stream, and of its adaptation."""
        name = f"{self.node.get_name()}: {self.topics.name}" if self.topics.name else self.node.get_name()
        return [
            stream_diagnostic(name, self.topics.image, self.snapshot(), self.silence, self.engine.runtime),
            adaptation_diagnostic(name, self.topics.image, self.engine.status, self.refusals),
        ]

    def snapshot(self) -> StreamSnapshot:
        """The stream so far."""
        return self.statistics.snapshot(self._dropped_before + self._mailbox.dropped(self.topics.name))

    def publish_state(self) -> None:
        """Publish what the engine is doing, with the counters of the stream."""
        stream = self.snapshot()
        with self._state_lock:  # so that no older status is published after a newer one
            status = self._announced = self.engine.status
            report = status.report
            state = {
                "state": status.state.value,
                "generation": status.generation,
                "collected": status.collected,
                "warmup_frames": status.warmup_frames,
                "progress": status.progress,
                "losses": status.losses,
                "message": status.message,
                "adaptation_seconds": report.seconds if report is not None else None,
                "adaptation_reason": report.reason if report is not None else "",
                "statistics_share": report.statistics_share if report is not None else None,
                "deployed_share": report.deployed_share if report is not None else None,
                "remembered": status.remembered,
                "dropped": stream.dropped,
                "received": stream.received,
                "published": stream.published,
                "rejected": stream.rejected,
            }
            self._state.publish(String(data=json.dumps(state)))

    def _on_event(self, message: str) -> None:
        """The engine has news."""
        if self.engine.status.state is State.FAILED:
            self._logger.warning(message)
        else:
            self._logger.info(message)
        self.publish_state()

    def _on_companion_problem(self, problem: str) -> None:
        self._logger.warning(problem, throttle_duration_sec=WARNING_SECONDS)

    def _on_incompatible_qos(self, _: QoSRequestedIncompatibleQoSInfo) -> None:
        if self._subscription is not None:
            reasons = describe_mismatches(self.node, self._subscription)
            self._logger.warning("; ".join(reasons) or "a publisher with an incompatible QoS came and went")

    def _silence_of_input(self) -> str:
        """Why no image comes in; empty where images do, or where none are asked for."""
        silent = self.snapshot().silence > self.parameters.input_timeout
        return describe_silence(self.node, self._subscription) if silent and self._subscription is not None else ""
