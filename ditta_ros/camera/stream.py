"""One camera of the node: receive an image, segment it, publish its masks.

It has no thread of its own: images come by the node's executor, are segmented by the node's inference thread, and the
news of adaptations come by the adaptation executor.
"""

from __future__ import annotations

import threading
import time
import traceback
from dataclasses import dataclass, field
from typing import Any, Protocol

from diagnostic_msgs.msg import DiagnosticStatus
from rclpy.event_handler import QoSRequestedIncompatibleQoSInfo, SubscriptionEventCallbacks
from rclpy.lifecycle import LifecycleNode
from rclpy.qos import HistoryPolicy, QoSProfile, ReliabilityPolicy
from rclpy.subscription import Subscription
from sensor_msgs.msg import CompressedImage, Image

from ditta_core.datasets.white_level import WhiteLevel
from ditta_core.inference.compiled_network import Compiler
from ditta_core.inference.temporal_branch import TemporalSegmenter
from ditta_core.segmentation.files import objection_to_folder
from ditta_core.stream.generation_file import largest_file
from ditta_core.stream.ignore_mask import IgnoreMask
from ditta_core.stream.runner import AdaptationRunner
from ditta_core.stream.status import FrameRejected, StreamStatus
from ditta_core.stream.video_segmenter import VideoSegmenter
from ditta_core.types import State
from ditta_ros.camera.diagnostics import adaptation_diagnostic, stream_diagnostic
from ditta_ros.camera.mailbox import Mailbox
from ditta_ros.camera.outputs import OVERRIDABLE, CameraOutputs
from ditta_ros.camera.pacing import Pacing
from ditta_ros.camera.state_folder import SavedGenerations, StateFolder
from ditta_ros.camera.statistics import StageTimes, StreamSnapshot, StreamStatistics
from ditta_ros.camera.synchronized_outputs import SynchronizedOutputs
from ditta_ros.camera.topics import CameraTopics
from ditta_ros.messages.images import ConversionError, ToRgb, frame_of, rgb_image
from ditta_ros.messages.state import StreamState
from ditta_ros.parameters import NodeParameters
from ditta_ros.process.graph import (
    describe_mismatches,
    describe_mixture,
    describe_silence,
    diagnostics_name,
    resolved_topic,
)

WARNING_SECONDS = 5.0
"""Least time between two warnings about images."""


@dataclass(frozen=True)
class ReceivedImage:
    """An image and when it came, in seconds of the monotonic clock."""

    message: Image | CompressedImage
    time: float = field(default_factory=time.perf_counter)


class SupervisedRunner(AdaptationRunner, Protocol):
    """A runner that knows whether its job gets on."""

    @property
    def idle_seconds(self) -> float:
        """Seconds without progress of the job that is being run; 0 where none is."""


class CameraStream:
    """One camera, from ``configure`` to ``cleanup``.

    Args:
        parameters: Parameters of the node; replaced by ``take_parameters``.
        base, compiler: Base model, and compiler of the networks; shared by all cameras.
        fingerprint: Fingerprint of the base model, for the saved generations.
        to_rgb: What makes RGB uint8 [H, W, 3] of an image that is not compressed.
        cameras: Number of cameras that the inference thread serves.
    """

    def __init__(
        self,
        node: LifecycleNode,
        topics: CameraTopics,
        parameters: NodeParameters,
        base: TemporalSegmenter,
        runner: SupervisedRunner,
        compiler: Compiler,
        fingerprint: str,
        to_rgb: ToRgb = rgb_image,
        cameras: int = 1,
    ) -> None:
        self.topics = topics
        self._node = node
        self._parameters = parameters
        self._to_rgb = to_rgb
        self._runner = runner
        self._size_multiple = base.model.size_multiple
        self._input_topic = resolved_topic(node, topics.input(parameters))
        self._cameras = cameras
        self._logger = node.get_logger().get_child(topics.name) if topics.name else node.get_logger()
        self._white = WhiteLevel(parameters.image_bits, self._logger.info)
        self._statistics = StreamStatistics()
        self._pacing = Pacing()
        self._frame_id: str | None = None  # of the last image that got a mask
        self._input_problem = ""
        self._subscription: Subscription[Any] | None = None
        self._mailbox: Mailbox[str, ReceivedImage] = Mailbox()
        self._dropped_before = 0
        self._state_lock = threading.Lock()
        self._published_status: StreamStatus | None = None
        self._synchronized: SynchronizedOutputs | None = None
        ignore_mask = IgnoreMask.read(topics.ignore_mask)
        self._outputs = CameraOutputs(node, topics, base.model.classes)

        self._folder, saved = None, SavedGenerations()
        if parameters.state_dir:
            self._folder = StateFolder(parameters.state_path(), topics.name, fingerprint, largest_file(base))
            saved = self._folder.read(parameters.remembered_scenes)
            objection = objection_to_folder(self._folder.path)
            if objection:
                self._logger.warning(f"nothing can be saved: expected a state_dir to write to, but {objection}")
        self._refusals = saved.refusals
        for refusal in saved.refusals:
            self._logger.warning(f"a saved generation is left out: {refusal}")
        if saved.generations:
            self._logger.info(f"{len(saved.generations)} saved generations read from {parameters.state_dir}")
        self._segmenter = VideoSegmenter(
            parameters.model_source(),
            parameters.stream_config(self._size_multiple, self._cameras),
            adaptation=parameters.adaptation_config(),
            teacher=parameters.teacher_config(),
            runner=runner,
            notify=self._on_event,
            base=base,
            generations=saved.generations,
            compiler=compiler,
            ignore_mask=ignore_mask,
        )
        self.publish_state()

    # --- lifecycle --------------------------------------------------------------------------------------------------

    def activate(self, mailbox: Mailbox[str, ReceivedImage]) -> None:
        """Subscribe; images go into this camera's slot of the mailbox."""
        parameters = self._parameters
        self._mailbox = mailbox
        self._frame_id = None
        self._pacing = Pacing()  # who activates it wants masks, however it was left
        self._statistics.start()
        self._segmenter.resume()
        try:
            self._synchronized = SynchronizedOutputs(
                self._node,
                self.topics,
                self._outputs.camera_info,
                self._outputs.points,
                parameters.sync_slop,
                parameters.points_step,
                self._on_unpublished,
            )
        except ImportError as error:
            self._logger.warning(str(error))
        self._subscription = self._node.create_subscription(
            CompressedImage if parameters.image_transport == "compressed" else Image,
            self._input_topic,
            self._receive,
            QoSProfile(
                history=HistoryPolicy.KEEP_LAST,
                depth=1,
                reliability=ReliabilityPolicy[parameters.image_reliability.upper()],
            ),
            event_callbacks=SubscriptionEventCallbacks(incompatible_qos=self._on_incompatible_qos),
            qos_overriding_options=OVERRIDABLE,
        )
        self._logger.info(f"waiting for images on {self._subscription.topic_name}")

    def unsubscribe(self) -> None:
        """Take in no more images."""
        if self._subscription is not None:
            self._node.destroy_subscription(self._subscription)
            self._subscription = None

    def deactivate(self) -> None:
        """Stop; the inference thread has ended."""
        self.unsubscribe()
        if self._synchronized is not None:
            self._synchronized.close()
            self._synchronized = None
        self._dropped_before += self._mailbox.dropped(self.topics.name)
        self._mailbox = Mailbox()
        self._segmenter.pause(self._parameters.cancel_on_deactivate)

    def close(self) -> None:
        """Free the segmenter and the topics."""
        self._segmenter.close()
        self._outputs.close()

    def check_parameters(self, parameters: NodeParameters) -> None:
        """Find out whether ``take_parameters`` can take them.

        Raises:
            ValueError: two of them do not go together, or with the model.
        """
        parameters.stream_config(self._size_multiple, self._cameras)
        parameters.adaptation_config()

    def take_parameters(self, parameters: NodeParameters) -> None:
        """Go on with changed parameters; those of the segmenter from the next frame on.

        Raises:
            ValueError: two of them do not go together, or with the model.
        """
        self._parameters = parameters
        if self._synchronized is not None:
            self._synchronized.points_step = parameters.points_step
        self._segmenter.reconfigure(
            parameters.stream_config(self._size_multiple, self._cameras),
            parameters.adaptation_config(),
            parameters.teacher_config(),
        )

    # --- the way of an image ----------------------------------------------------------------------------------------

    def _receive(self, message: Image | CompressedImage) -> None:
        """In the node's executor: leave the image for the inference thread, unless it is one too many.

        Where two cameras publish on one topic, an image of the other one never takes the place of one that waits.
        """
        self._statistics.receive()
        received = ReceivedImage(message)
        if not self._pacing.passes(received.time, self._parameters.max_rate):
            self._statistics.skip()
            return
        foreign = self._frame_id not in (None, message.header.frame_id)
        self._mailbox.put(self.topics.name, received, yields=foreign)

    def segment(self, received: ReceivedImage) -> None:
        """In the inference thread: segment an image and publish; whatever is wrong with it, the stream goes on."""
        if self._pacing.paused:  # since it came
            self._statistics.skip()
            return
        try:
            self._segment_and_publish(received)
        except (ConversionError, FrameRejected) as error:
            self._statistics.reject(str(error))
            self._logger.warning(f"image rejected: {error}", throttle_duration_sec=WARNING_SECONDS)
        except Exception as error:
            self._statistics.fail(f"{type(error).__name__}: {error}")
            self._logger.error(
                f"an image could not be segmented:\n{traceback.format_exc()}", throttle_duration_sec=WARNING_SECONDS
            )

    def _segment_and_publish(self, received: ReceivedImage) -> None:
        header, parameters = received.message.header, self._parameters
        times = StageTimes(received.time)
        times.end("wait")
        frame = frame_of(received.message, self._to_rgb, self._white, round(parameters.max_megapixels * 1e6))
        times.end("convert")
        segmentation = self._segmenter.push(frame)
        self._frame_id = header.frame_id
        times.end("segment")
        self._outputs.publish_masks(segmentation, header)
        times.end("publish")
        self._statistics.publish({**times.milliseconds, **segmentation.latency_ms})
        self._outputs.publish_overlay(
            frame, segmentation, header, received.time, parameters.overlay_rate, parameters.overlay_opacity
        )
        if self._synchronized is not None:
            self._synchronized.take_mask(segmentation, header)

    # --- requests: answered by the adaptation executor ---------------------------------------------------------------

    def adapt(self) -> str:
        """Begin a warm-up with the next image."""
        self._segmenter.request_adaptation()
        return f"adapting to the next {self._segmenter.config.warmup_frames} images"

    def cancel(self) -> str:
        """Give up the warm-up or the adaptation that is under way.

        Raises:
            ValueError: none is.
        """
        status = self._segmenter.status
        if status.state not in (State.COLLECTING, State.ADAPTING) and not status.training:
            raise ValueError(f"expected a warm-up or an adaptation under way, but the state is {status.state.value}")
        self._segmenter.pause(cancel=True)
        return "given up; the model that serves goes on"

    def enable(self, wanted: bool) -> str:
        """Go on segmenting, or pause: the node stays active and subscribed, and keeps all that it has learned."""
        self._pacing.paused = not wanted
        self.publish_state()
        return "images are segmented" if wanted else "paused; images are received and left out"

    def reset(self) -> str:
        """Go back to the base model with the next image."""
        self._segmenter.reset()
        return "back to the base model with the next image"

    def restore(self) -> str:
        """Go on with the newest generation that is kept.

        Raises:
            ValueError: none is kept.
        """
        self._segmenter.request_restore()
        return "back to the newest generation with the next image"

    def save(self) -> str:
        """Write the generation that is serving.

        Raises:
            ValueError: there is no folder, nothing to be saved, or the folder cannot be written to.
        """
        if self._folder is None:
            raise ValueError("expected the parameter state_dir, but it is empty; set it before the node is configured")
        generation = self._segmenter.generation
        if generation is None:
            raise ValueError("expected an adapted generation, but the base model is serving; adapt first")
        return f"generation {generation.number} written to {self._folder.save(generation)}"

    # --- reports ----------------------------------------------------------------------------------------------------

    def poll(self) -> None:
        """Take in news of the adaptation."""
        self._segmenter.poll()
        if self._segmenter.status != self._published_status:
            self.publish_state()

    def watch(self) -> None:
        """Warn where no image comes in, or those of several cameras do."""
        problem = ""
        if self._subscription is not None:
            silent = self._snapshot().silence > self._parameters.input_timeout
            problem = (describe_silence if silent else describe_mixture)(self._node, self._subscription)
        if problem and problem != self._input_problem:  # the same cause is told once
            self._logger.warning(problem)
        self._input_problem = problem

    def diagnostics(self) -> list[DiagnosticStatus]:
        """Of the stream, and of its adaptation."""
        name = diagnostics_name(self._node)
        name = f"{name}: {self.topics.name}" if self.topics.name else name
        segmenter, topic = self._segmenter, self._input_topic
        return [
            stream_diagnostic(
                name, topic, self._snapshot(), self._input_problem, segmenter.runtime, self._pacing.paused
            ),
            adaptation_diagnostic(name, topic, segmenter.status, self._refusals, self._runner.idle_seconds),
        ]

    def publish_state(self) -> None:
        """Publish what the segmenter is doing, with the counters of the stream."""
        counters = self._snapshot()
        with self._state_lock:  # so that no older status is published after a newer one
            self._published_status = self._segmenter.status
            self._outputs.publish_state(state_of(self._published_status, counters, self._pacing.paused))

    def _snapshot(self) -> StreamSnapshot:
        return self._statistics.snapshot(self._dropped_before + self._mailbox.dropped(self.topics.name))

    def _on_event(self, message: str) -> None:
        """The segmenter has news."""
        if self._segmenter.status.state is State.FAILED:
            self._logger.warning(message)
        else:
            self._logger.info(message)
        self.publish_state()

    def _on_unpublished(self, problem: str) -> None:
        """A mask goes without its camera info or points."""
        self._logger.warning(problem, throttle_duration_sec=WARNING_SECONDS)

    def _on_incompatible_qos(self, _: QoSRequestedIncompatibleQoSInfo) -> None:
        if self._subscription is not None:
            reasons = describe_mismatches(self._node, self._subscription)
            self._logger.warning("; ".join(reasons) or "a publisher with an incompatible QoS came and went")


def state_of(status: StreamStatus, counters: StreamSnapshot, paused: bool) -> StreamState:
    """What is published on ``~/state``."""
    report = status.report
    return StreamState(
        state=status.state,
        generation=status.generation,
        collected=status.collected,
        warmup_frames=status.warmup_frames,
        training=status.training,
        progress=status.progress,
        losses=status.losses,
        message=status.message,
        remembered=status.remembered,
        adaptation_seconds=None if report is None else report.seconds,
        adaptation_reason="" if report is None else report.reason,
        statistics_share=None if report is None else report.statistics_share,
        deployed_share=None if report is None else report.deployed_share,
        input_width=status.input_size[1],
        input_height=status.input_size[0],
        size_agreement=None if report is None else report.size_agreement,
        dropped=counters.dropped,
        received=counters.received,
        published=counters.published,
        rejected=counters.rejected,
        skipped=counters.skipped,
        paused=paused,
    )
