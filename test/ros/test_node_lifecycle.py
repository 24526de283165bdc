"""The node from start to end: transitions, wrong parameters, signals."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from diagnostic_msgs.msg import DiagnosticStatus
from lifecycle_msgs.msg import Transition
from node_probe import STREAM, StartNode, change_state, diagnostic, lifecycle_state, set_parameter
from rclpy.lifecycle import TransitionCallbackReturn
from rclpy.parameter import Parameter
from ros_harness import Probe, wait_until

from ditta_ros.camera.stream import CameraStream
from ditta_ros.node import DittaNode
from ditta_ros.process.executor import BackgroundExecutor


def silent_for(probe: Probe, seconds: float) -> bool:
    """Whether no mask comes for some time."""
    masks = len(probe.masks)
    time.sleep(seconds)
    return len(probe.masks) == masks


def test_lifecycle_twice(probe: Probe, start_node: StartNode) -> None:
    start_node(warmup_on="service", autostart=False)
    probe.film()
    assert lifecycle_state(probe) == "unconfigured"
    answer = probe.call("adapt")
    assert not answer.success
    assert answer.message == "expected an active node, but it is unconfigured; configure and activate it first"
    for _ in range(2):
        assert change_state(probe, Transition.TRANSITION_CONFIGURE)
        assert lifecycle_state(probe) == "inactive"
        assert "but it is inactive" in probe.call("reset").message
        assert change_state(probe, Transition.TRANSITION_ACTIVATE)
        probe.wait_for_masks()
        assert "long_side is read when the node is configured" in set_parameter(probe, "long_side", 64)
        assert set_parameter(probe, "passes", 3) == ""
        assert "out of range" in set_parameter(probe, "overlay_rate", 0.0)
        assert "read-only" in set_parameter(probe, "autostart", "no")
        assert set_parameter(probe, "overlay_rate", 3.0) == ""
        assert change_state(probe, Transition.TRANSITION_DEACTIVATE)
        wait_until(lambda: silent_for(probe, 1.0), "the end of the masks")
        assert change_state(probe, Transition.TRANSITION_CLEANUP)
        assert set_parameter(probe, "long_side", 64) == ""
    assert change_state(probe, Transition.TRANSITION_UNCONFIGURED_SHUTDOWN)
    assert lifecycle_state(probe) == "finalized"


def test_an_impossible_transition_is_refused_and_masks_go_on(probe: Probe, start_node: StartNode) -> None:
    """As a manager asks where the node has configured itself, or a script where it asks twice."""
    node = start_node(warmup_on="service")
    probe.film()
    probe.wait_for_masks()
    for transition in (
        Transition.TRANSITION_CONFIGURE,
        Transition.TRANSITION_ACTIVATE,
        Transition.TRANSITION_CLEANUP,
        Transition.TRANSITION_UNCONFIGURED_SHUTDOWN,
        99,
    ):
        assert not change_state(probe, transition)
    assert lifecycle_state(probe) == "active" and "Traceback" not in node.output
    masks = len(probe.masks)
    wait_until(lambda: len(probe.masks) > masks, "masks after the refusals")
    assert change_state(probe, Transition.TRANSITION_DEACTIVATE)
    assert not change_state(probe, Transition.TRANSITION_DEACTIVATE)
    assert lifecycle_state(probe) == "inactive"


def test_a_missing_model_fails_configure_and_can_be_corrected(
    probe: Probe, start_node: StartNode, tmp_path: Path
) -> None:
    node = start_node(model=f"espnetv2:{tmp_path / 'missing.pth'}", warmup_on="service")
    status = diagnostic(probe, STREAM, "missing.pth does not exist")
    assert status.level == DiagnosticStatus.ERROR
    assert "could not configure: expected a weight file, but" in node.output
    assert "Traceback" not in node.output
    assert lifecycle_state(probe) == "unconfigured"
    for name, value, reason in (
        ("model", "camvid", ""),
        ("classes", "[road, unicorn]", "['unicorn'], of which the model knows no member"),
    ):
        assert set_parameter(probe, name, value) == ""
        if reason:
            assert not change_state(probe, Transition.TRANSITION_CONFIGURE)
            assert reason in diagnostic(probe, STREAM, reason).message
    assert set_parameter(probe, "classes", "") == ""
    assert change_state(probe, Transition.TRANSITION_CONFIGURE)
    assert change_state(probe, Transition.TRANSITION_ACTIVATE)
    probe.film()
    probe.wait_for_masks()


def test_nodes_are_told_apart_by_their_namespace_and_namesakes_named(probe: Probe, collected: None) -> None:
    """Two robots with one name each, of which a second one starts."""

    def started(robot: str) -> tuple[DittaNode, BackgroundExecutor]:
        overrides = [Parameter("autostart", value=False), Parameter("image_topic", value="camera/image")]
        node = DittaNode(namespace=robot, parameter_overrides=overrides)
        return node, BackgroundExecutor(node, robot)

    nodes = [started("north"), started("south")]
    for name in ("north", "south"):
        status = diagnostic(probe, f"{name}/ditta: stream", "not configured")
        assert status.hardware_id == f"/{name}/camera/image"
    assert not any(name.endswith(": name") for name in probe.diagnostics)
    nodes.append(started("south"))
    status = diagnostic(probe, "south/ditta: name", "2 nodes are named /south/ditta")
    assert status.level == DiagnosticStatus.WARN
    assert "north/ditta: name" not in probe.diagnostics
    for node, executor in nodes:
        executor.stop()
        node.destroy_node()


def test_an_activation_that_fails_halfway_leaves_no_camera_active(
    probe: Probe, collected: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    cameras = "{front: /front/image, rear: /rear/image}"
    overrides = [Parameter("autostart", value=False), Parameter("cameras", value=cameras)]
    node = DittaNode(parameter_overrides=overrides)
    activate, deactivate, ended = CameraStream.activate, CameraStream.deactivate, []

    def fails(camera: CameraStream, *arguments: Any) -> None:
        activate(camera, *arguments)
        if camera.topics.name == "rear":
            raise RuntimeError("no such QoS")

    def ends(camera: CameraStream) -> None:
        ended.append(camera.topics.name)
        deactivate(camera)

    assert node.trigger_configure() == TransitionCallbackReturn.SUCCESS
    with monkeypatch.context() as patched:
        patched.setattr(CameraStream, "activate", fails)
        patched.setattr(CameraStream, "deactivate", ends)
        assert node.trigger_activate() == TransitionCallbackReturn.FAILURE
    assert ended == ["front", "rear"]
    assert not [each for each in node.subscriptions if "image" in each.topic_name]
    assert node.trigger_activate() == TransitionCallbackReturn.SUCCESS
    assert len([each for each in node.subscriptions if "image" in each.topic_name]) == 2
    node.destroy_node()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"passes": 0}, "passes out of range. Min: 1, Max: 1000, value: 0"),
        ({"mode": "fast"}, "expected live, parity for the parameter mode, but got 'fast'"),
        ({"smoothing": "much"}, "expecting type 'DOUBLE'"),
        ({"qos_overrides./diagnostics.publisher.reliability": "foo"}, "reliability"),
    ],
)
def test_a_wrong_parameter_ends_the_node_with_a_message(
    start_node: StartNode, parameters: dict[str, Any], message: str
) -> None:
    node = start_node(**parameters)
    assert node.process.wait(60) == 2
    assert message in node.output
    assert "Traceback" not in node.output


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signals_end_it_cleanly(probe: Probe, start_node: StartNode, number: signal.Signals) -> None:
    node = start_node(passes=1000)
    probe.film()
    probe.wait_for_state("ADAPTING")
    worker = node.worker()
    node.process.send_signal(number)
    node.process.send_signal(number)  # as ros2 launch does
    assert node.process.wait(60) == 0
    assert "Traceback" not in node.output
    assert not Path(f"/proc/{worker}").exists()


@pytest.mark.parametrize("start", [["-m", "ditta_ros.node"], ["-c", "from ditta_ros.cli.node import start; start()"]])
def test_a_signal_while_it_is_imported_ends_it_without_a_word(start: list[str]) -> None:
    process = subprocess.Popen(
        [sys.executable, *start], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, encoding="utf-8"
    )
    maps = Path(f"/proc/{process.pid}/maps")
    wait_until(lambda: "torch" in maps.read_text(encoding="utf-8"), "the import of torch")
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=60)
    assert (process.returncode, output) == (0, "")


class BrokenNode:
    """The node's process in which something was replaced, to fail as it never does in a test otherwise."""

    def __init__(self, folder: Path, replaced: str) -> None:
        program = f"import sys, time, ditta_ros.node as node\n{replaced}\nsys.exit(node.main())"
        self._log = folder / "log"
        with self._log.open("w") as log:
            self.process = subprocess.Popen([sys.executable, "-c", program], stdout=log, stderr=subprocess.STDOUT)

    @property
    def output(self) -> str:
        return self._log.read_text()


@pytest.fixture
def start_broken(tmp_path: Path) -> Iterator[Callable[[str], BrokenNode]]:
    """Starts the node with something replaced."""
    nodes: list[BrokenNode] = []

    def start(replaced: str) -> BrokenNode:
        nodes.append(BrokenNode(tmp_path, replaced))
        return nodes[-1]

    yield start
    for node in nodes:
        node.process.kill()
        node.process.wait()


HANG = "def hang(*_): print('hanging', flush=True); time.sleep(1000)\n"


def test_a_signal_ends_it_though_configuring_takes_for_ever(start_broken: Callable[[str], BrokenNode]) -> None:
    node = start_broken(HANG + "node.load_model = hang")
    wait_until(lambda: "hanging" in node.output, "the model")
    node.process.send_signal(signal.SIGTERM)
    assert node.process.wait(20) == 0
    assert node.output == "hanging\n"


def test_the_end_of_the_inference_thread_ends_the_node_with_the_reason(
    probe: Probe, start_broken: Callable[[str], BrokenNode]
) -> None:
    fail = "def fail(*_): raise RuntimeError('broken inference')\n"
    node = start_broken(fail + "node.CameraStream.segment = fail")
    probe.film()
    assert node.process.wait(60) == 1
    assert "RuntimeError: broken inference" in node.output


def test_a_network_that_hangs_in_a_frame_keeps_no_process_from_ending(
    probe: Probe, start_broken: Callable[[str], BrokenNode]
) -> None:
    node = start_broken(HANG + "node.CameraStream.segment = hang")
    probe.film()
    wait_until(lambda: "hanging" in node.output, "a frame")
    node.process.send_signal(signal.SIGINT)
    assert node.process.wait(30) == 1
    assert "expected the frame under way to end within 5 s, but the network hangs in it; start" in node.output
    assert "Traceback" not in node.output


@pytest.mark.slow
def test_a_network_that_hangs_is_told_where_the_node_is_deactivated(
    probe: Probe, start_broken: Callable[[str], BrokenNode]
) -> None:
    soon = "node.CameraStream.segment, node.DittaNode._deactivate.__defaults__ = hang, (1.0,)"
    node = start_broken(HANG + soon)
    probe.film()
    wait_until(lambda: "hanging" in node.output, "a frame")
    assert not change_state(probe, Transition.TRANSITION_DEACTIVATE)
    assert "expected the frame under way to end within 1 s, but the network hangs in it; start" in node.output
    assert lifecycle_state(probe) == "finalized"
    node.process.send_signal(signal.SIGINT)
    assert node.process.wait(30) == 1


def test_a_report_that_fails_does_not_end_the_node(collected: None, monkeypatch: pytest.MonkeyPatch) -> None:
    from rclpy.parameter import Parameter

    from ditta_ros.node import DittaNode

    node = DittaNode(parameter_overrides=[Parameter("autostart", value=False)])
    with monkeypatch.context() as broken:
        broken.setattr(node, "get_clock", lambda: None)
        node._report()
    node._report()
    assert node.error is None
    node.destroy_node()


def test_a_teacher_that_cannot_be_built_is_refused(probe: Probe, start_node: StartNode) -> None:
    node = start_node(teacher="object_vote:sam2", teacher_checkpoint="/nowhere/sam2.pt")
    wait_until(lambda: "could not configure" in node.output, lambda: node.output)
    # Without the package, that is what is missing first.
    assert "/nowhere/sam2.pt" in node.output or "pip install" in node.output


def test_rclpy_may_be_shut_down_with_the_node_in_it() -> None:
    """As in a program of one's own; rclpy destroys what is left while it holds a lock that executors ask for."""
    program = "import rclpy; from ditta_ros.node import DittaNode; rclpy.init(); node = DittaNode(); rclpy.shutdown()"
    subprocess.run([sys.executable, "-c", program], check=True, timeout=100)
