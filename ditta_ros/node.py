"""The node: camera images in, label images out. No algorithm lives here; see :mod:`ditta_core.stream`."""

from __future__ import annotations

if __name__ == "__main__":  # what is imported below takes seconds
    from ditta_core.heap import postpone_collections
    from ditta_ros.process.stop import end_at_once_on_signals

    end_at_once_on_signals()
    postpone_collections()

import os
import sys
import threading
import traceback
from collections.abc import Callable
from functools import partial
from typing import Any, NoReturn

import cv2
import rclpy
import torch
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from rcl_interfaces.msg import SetParametersResult
from rclpy.clock import Clock, ClockType
from rclpy.exceptions import ParameterException
from rclpy.lifecycle import LifecycleNode, LifecycleState, TransitionCallbackReturn
from rclpy.parameter import Parameter
from rclpy.signals import SignalHandlerOptions

from ditta_core.heap import end_imports, keep_large_blocks_apart
from ditta_core.inference.compiled_network import Compiler
from ditta_core.inference.graph_store import GraphStore, default_graph_folder
from ditta_core.inference.temporal_branch import TemporalSegmenter
from ditta_core.segmentation.registry import load_model
from ditta_core.stream.generation_file import model_fingerprint
from ditta_core.teacher.build import check_teacher
from ditta_ros.adaptation.services import AdaptationExecutor, Answer, Switch
from ditta_ros.adaptation.worker import AdaptationWorker, ProcessRunner
from ditta_ros.camera.diagnostics import status_message
from ditta_ros.camera.mailbox import Mailbox
from ditta_ros.camera.outputs import OVERRIDABLE, reliable
from ditta_ros.camera.stream import CameraStream, ReceivedImage
from ditta_ros.camera.topics import CameraTopics, camera_topics
from ditta_ros.messages.cv_bridge import rgb_converter
from ditta_ros.parameters import NodeParameters, changed, declare
from ditta_ros.process.bond import ManagerBond
from ditta_ros.process.executor import BackgroundExecutor
from ditta_ros.process.graph import describe_namesake, diagnostics_name, resolved_topic
from ditta_ros.process.lifecycle import refuse_impossible_transitions
from ditta_ros.process.shared_memory import shared_memory_environment
from ditta_ros.process.stop import Stop

POLL_SECONDS = 0.2
"""How soon the end of a thread by an error is seen."""
COMPILE_SECONDS = 20.0
"""How long the activation waits for a network that is being compiled; then eager torch serves until it is there."""
FRAME_SECONDS = 30.0
"""How long the frame under way may take to come to its end when the node is deactivated."""
LAST_FRAME_SECONDS = 5.0
"""The same when the process ends: ros2 launch kills ten seconds after Ctrl-C."""
REPORT_SECONDS = 10.0
"""Least time between two messages about a report that failed."""
SERVICES: dict[str, Callable[[CameraStream], str]] = {
    "adapt": CameraStream.adapt,
    "cancel": CameraStream.cancel,
    "reset": CameraStream.reset,
    "restore": CameraStream.restore,
    "save": CameraStream.save,
}
"""The services of a camera, and those of the node, which ask all cameras; besides them there is ``enable``."""


class DittaNode(LifecycleNode):
    """Semantic segmentation of camera topics that adapts to what the cameras see.

    Subscribes to the cameras while active. Publishes ``~/semantic``, ``~/confidence``, ``~/overlay``, ``~/state``,
    ``~/classes`` (and what else :class:`CameraStream` has) and ``/diagnostics``; serves ``~/adapt``, ``~/cancel``,
    ``~/enable``, ``~/reset``, ``~/restore`` and ``~/save``. With several cameras each has its topics and services under
    its own name. Parameters: :class:`NodeParameters`.
    """

    def __init__(self, **arguments: Any) -> None:
        super().__init__("ditta", **arguments)
        refuse_impossible_transitions(self)
        try:
            self.parameters = declare(self)
        except Exception:
            super().destroy_node()
            raise
        self._cameras: dict[str, CameraStream] = {}
        self._worker: AdaptationWorker | None = None
        self._compiler: Compiler | None = None
        self.still_compiling = False
        self._mailbox: Mailbox[str, ReceivedImage] = Mailbox()
        self._inference: threading.Thread | None = None
        self._bond: ManagerBond | None = None
        self._problem = ""
        self._namesake = ""
        self._inference_error: Exception | None = None

        self._diagnostics = self.create_publisher(
            DiagnosticArray, "/diagnostics", reliable(), qos_overriding_options=OVERRIDABLE
        )
        self.add_on_set_parameters_callback(self._check_parameters)
        self.add_post_set_parameters_callback(self._take_parameters)
        # Steady, since simulated time may stand still or not have begun.
        steady = Clock(clock_type=ClockType.STEADY_TIME)
        self.create_timer(1.0, self._report, clock=steady)
        self._adaptation = AdaptationExecutor(self, self._poll, self._answers("", self._active_cameras))
        self._autostart = self.create_timer(0.0, self._start_by_itself, clock=steady)

    @property
    def error(self) -> Exception | None:
        """What ended a thread without which the node only seems to work; None where all of them run."""
        return self._inference_error or self._adaptation.error

    def destroy_node(self) -> None:
        """Stop everything, then destroy the node. Its executor must have stopped.

        Raises:
            TimeoutError: the network hangs in a frame; all that is left to do is to end the process.
        """
        self._deactivate(LAST_FRAME_SECONDS)
        self._clean_up()
        self._adaptation.close()
        super().destroy_node()

    # --- lifecycle --------------------------------------------------------------------------------------------------

    def _start_by_itself(self) -> None:
        self.destroy_timer(self._autostart)
        try:
            if self.parameters.autostart and self.trigger_configure() == TransitionCallbackReturn.SUCCESS:
                self.trigger_activate()
        except RuntimeError as error:  # a lifecycle manager was here before
            self.get_logger().info(f"not configured and activated by itself: {error}")

    def on_configure(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Load the model and begin to compile it."""
        try:
            self._configure()
        except Exception as error:  # a lifecycle transition answers; what went wrong is for the user to read
            self._clean_up()
            return self._refuse("configure", error)
        self._problem = ""
        return super().on_configure(state)

    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Subscribe to the cameras and segment."""
        try:
            self._activate()
        except Exception as error:
            self._deactivate()
            return self._refuse("activate", error)
        self._problem = ""
        return super().on_activate(state)

    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Stop segmenting; an adaptation that is running goes on, unless ``cancel_on_deactivate`` is set."""
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
        # Two threads on two cores slow the stream down while it adapts: docs/ablations.md#threads-of-the-inference.
        threads = parameters.threads or max((os.cpu_count() or 1) - 1, 1)
        torch.set_num_threads(threads)
        cv2.setNumThreads(threads)
        topics = self._camera_topics()
        source = parameters.model_source()
        model = load_model(source)
        check_teacher(parameters.teacher_config())
        parameters.stream_config(model.size_multiple)
        base = TemporalSegmenter(model)
        identity = model_fingerprint(base)
        to_rgb, choice = rgb_converter()
        self._worker = AdaptationWorker(
            parameters.adaptation_threads, parameters.adaptation_niceness, parameters.adaptation_timeout
        )
        graphs = GraphStore(default_graph_folder(), elsewhere=True)
        self._compiler = Compiler(parameters.runtime_config(), graphs)
        for each in topics:
            runner = ProcessRunner(self._worker)
            compiler, count = self._compiler, len(topics)
            camera = CameraStream(self, each, parameters, base, runner, compiler, identity, to_rgb, count)
            self._cameras[each.name] = camera
            if each.name:
                self._adaptation.serve(self._answers(each.name, partial(self._only_if_active, camera)))
        self._compiler.prepare(base, parameters.inference_config())
        if graphs.problem():
            self.get_logger().warning(f"networks are traced at every start: {graphs.problem()}")
        self.get_logger().info(choice)
        self.get_logger().info(f"model {source.name} on {source.device}: {', '.join(model.classes.names)}")

    def _activate(self) -> None:
        if self._compiler is not None:
            self._compiler.wait(COMPILE_SECONDS)
        self._mailbox = Mailbox()
        for camera in self._cameras.values():
            camera.activate(self._mailbox)
        self._inference = threading.Thread(target=self._segment_images, name="inference", daemon=True)
        self._inference.start()
        try:
            self._bond = ManagerBond(self)
        except ImportError as error:
            self.get_logger().info(str(error))
        except Exception as error:  # masks do not depend on it
            self.get_logger().warning(f"no bond is formed: {type(error).__name__}: {error}")

    def _deactivate(self, seconds: float = FRAME_SECONDS) -> None:
        if self._bond is not None:
            self._bond.close()
            self._bond = None
        for camera in self._cameras.values():
            camera.unsubscribe()
        self._mailbox.close()
        if self._inference is not None:
            self._inference.join(seconds)
            if self._inference.is_alive():  # as where a driver hangs; a thread cannot be ended
                self._problem = f"expected the frame under way to end within {seconds:g} s, but the network hangs in it"
                self.get_logger().error(f"{self._problem}; start the node again")
                raise TimeoutError(self._problem)
            self._inference = None
        for camera in self._cameras.values():  # also of an activation that failed halfway
            camera.deactivate()

    def _clean_up(self) -> None:
        cameras, self._cameras = self._cameras, {}
        for name, camera in cameras.items():
            if name:
                self._adaptation.withdraw(self._answers(name, list))
            camera.close()
        if self._worker is not None:
            self._worker.close()
            self._worker = None
        if self._compiler is not None:
            self.still_compiling = self._compiler.close()
            self._compiler = None

    def _segment_images(self) -> None:
        """Segment the newest image of each camera in turn, one at a time: they do not fight for the cores."""
        cameras, mailbox = dict(self._cameras), self._mailbox
        try:
            while (taken := mailbox.get()) is not None:
                name, received = taken
                cameras[name].segment(received)
        except Exception as error:  # segment keeps what is wrong with an image to itself
            self._inference_error = error

    # --- requests: answered by the adaptation executor ---------------------------------------------------------------

    def _answers(self, camera: str, asked: Callable[[], list[CameraStream]]) -> dict[str, Answer]:
        """The services of a camera, or of the node where there is no name; ``asked`` says whom they ask."""

        def answer(request: Callable[[CameraStream], str]) -> str:
            answers, refused = list[str](), False
            for each in asked():  # each for itself: what one cannot do keeps no other from doing it
                try:
                    text = request(each)
                except (ValueError, OSError) as error:
                    text, refused = str(error), True
                name = each.topics.name
                answers.append(f"{name}: {text}" if name and not camera else text)
            if refused:
                raise ValueError("; ".join(answers))
            return "; ".join(answers)

        prefix = f"~/{camera}/" if camera else "~/"
        answers: dict[str, Answer] = {f"{prefix}{name}": partial(answer, request) for name, request in SERVICES.items()}
        enable = Switch(lambda wanted: answer(lambda stream: stream.enable(wanted)))
        return {**answers, f"{prefix}enable": enable}

    def _active_cameras(self) -> list[CameraStream]:
        cameras = list(self._cameras.values())
        if not cameras or self._inference is None:
            state = "inactive" if cameras else "unconfigured"
            raise ValueError(f"expected an active node, but it is {state}; configure and activate it first")
        return cameras

    def _only_if_active(self, camera: CameraStream) -> list[CameraStream]:
        return [each for each in self._active_cameras() if each is camera]

    def _poll(self) -> None:
        for camera in list(self._cameras.values()):
            camera.poll()

    # --- topics -----------------------------------------------------------------------------------------------------

    def _camera_topics(self) -> tuple[CameraTopics, ...]:
        return camera_topics(self.parameters, self.get_namespace(), partial(resolved_topic, self))

    def _image_topic(self) -> str:
        """The topic that stands for the node's input where there is no camera yet."""
        try:
            return self._camera_topics()[0].image
        except ValueError:  # which configuring says
            return resolved_topic(self, self.parameters.image_topic)

    # --- reports ----------------------------------------------------------------------------------------------------

    def _report(self) -> None:
        """Once a second: watch the input, publish diagnostics and states. No report is worth the node."""
        try:
            self._publish_report()
        except Exception:
            self.get_logger().error(
                f"diagnostics could not be published:\n{traceback.format_exc()}", throttle_duration_sec=REPORT_SECONDS
            )

    def _publish_report(self) -> None:
        name, topic = diagnostics_name(self), self._image_topic()
        cameras = list(self._cameras.values())
        if self._problem:
            statuses = [status_message(DiagnosticStatus.ERROR, f"{name}: stream", self._problem, topic, {})]
        elif not cameras:
            statuses = [status_message(DiagnosticStatus.OK, f"{name}: stream", "not configured", topic, {})]
        else:
            statuses = []
            for camera in cameras:
                camera.watch()
                camera.publish_state()
                statuses += camera.diagnostics()
        namesake = describe_namesake(self)
        if namesake:
            statuses.append(status_message(DiagnosticStatus.WARN, f"{name}: name", namesake, topic, {}))
        if namesake and namesake != self._namesake:
            self.get_logger().warning(namesake)
        self._namesake = namesake
        array = DiagnosticArray(status=statuses)
        array.header.stamp = self.get_clock().now().to_msg()
        self._diagnostics.publish(array)

    # --- parameters -------------------------------------------------------------------------------------------------

    def _check_parameters(self, parameters: list[Parameter[Any]]) -> SetParametersResult:
        try:
            new = self._changed(parameters)
            for camera in self._cameras.values():
                camera.check_parameters(new)
        except ValueError as error:
            return SetParametersResult(successful=False, reason=str(error))
        return SetParametersResult(successful=True)

    def _take_parameters(self, parameters: list[Parameter[Any]]) -> None:
        self.parameters = self._changed(parameters)
        for camera in self._cameras.values():
            camera.take_parameters(self.parameters)

    def _changed(self, parameters: list[Parameter[Any]]) -> NodeParameters:
        changes = [(parameter.name, parameter.value) for parameter in parameters]
        return changed(self.parameters, changes, configured=bool(self._cameras))


def main(args: list[str] | None = None) -> int:
    """Run the node until SIGINT or SIGTERM.

    Returns:
        Exit code: 0 after a signal, 1 after an unexpected error, 2 where an argument or parameter is wrong.
    """
    end_imports()
    stop = Stop.by_signals()
    os.environ.update(shared_memory_environment(os.environ))
    keep_large_blocks_apart()
    try:
        # rclpy's own handlers turn every signal into an exception somewhere; a second Ctrl-C, or the one that ros2
        # launch adds to the terminal's, would then interrupt the clean-up.
        rclpy.init(args=args, signal_handler_options=SignalHandlerOptions.NO)
    except Exception as error:
        print(f"ditta: {error}", file=sys.stderr)
        return 2
    try:
        node = DittaNode()
    except (ParameterException, RuntimeError, ValueError) as error:  # RuntimeError: of rclpy, for QoS overrides
        rclpy.logging.get_logger("ditta").fatal(str(error))
        rclpy.shutdown()
        return 2
    executor = BackgroundExecutor(node, "stream executor")
    while not (stop.wait(POLL_SECONDS) or executor.ended.is_set() or node.error):
        pass
    stopped = executor.stop()
    failure = executor.error or node.error
    if failure is not None:
        node.get_logger().fatal("".join(traceback.format_exception(failure)))
    code = 0 if failure is None else 1
    try:
        if stopped:
            node.destroy_node()
    except TimeoutError:  # it is told; rclpy.shutdown would try the same again
        _exit(1)
    rclpy.shutdown()
    if node.still_compiling or not stopped:
        # Python would wait for it: up to ten seconds on a busy machine, after which ros2 launch kills.
        _exit(code)
    return code


def _exit(code: int) -> NoReturn:
    """End the process, whatever its threads do."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


if __name__ == "__main__":
    sys.exit(main())
