"""What the tests of the node share: the node as a process, a camera, and a probe that listens to it."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import yaml
from diagnostic_msgs.msg import DiagnosticArray
from lifecycle_msgs.srv import ChangeState, GetState
from numpy.typing import NDArray
from rcl_interfaces.srv import SetParameters
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import Image
from std_msgs.msg import Header, String
from std_srvs.srv import SetBool, Trigger

from ditta_ros.messages.images import image_message
from ditta_ros.process.executor import BackgroundExecutor

SERVICES = {
    **dict.fromkeys(("adapt", "cancel", "reset", "restore", "save"), Trigger),
    "enable": SetBool,
    "change_state": ChangeState,
    "set_parameters": SetParameters,
    "get_state": GetState,  # last, so that a node that answers it has found the others as well
}
ROOT = Path(__file__).resolve().parents[2]
RELIABLE = QoSProfile(depth=100, reliability=ReliabilityPolicy.RELIABLE)
BEST_EFFORT = QoSProfile(depth=100, reliability=ReliabilityPolicy.BEST_EFFORT)
LATCHED = QoSProfile(depth=10, reliability=ReliabilityPolicy.RELIABLE, durability=DurabilityPolicy.TRANSIENT_LOCAL)


def wait_until(condition: Callable[[], Any], what: str | Callable[[], str], timeout: float = 30.0) -> Any:
    """Wait for a condition and return what it returned; fail, saying for what was waited, when the time is up."""
    deadline = time.monotonic() + timeout
    while not (result := condition()):
        if time.monotonic() > deadline:
            pytest.fail(f"waited {timeout} s in vain for {what() if callable(what) else what}")
        time.sleep(0.01)
    return result


class NodeProcess:
    """The node as users start it, with a parameters file; its output in a file."""

    def __init__(self, folder: Path, parameters: dict[str, Any], arguments: Sequence[str] = ()) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        params_file = folder / "parameters.yaml"
        params_file.write_text(yaml.safe_dump({"/**": {"ros__parameters": parameters}}), encoding="utf-8")
        self.log = folder / "log.txt"
        command = [sys.executable, "-m", "ditta_ros.node", "--ros-args", "--params-file", str(params_file), *arguments]
        with self.log.open("w") as log:
            self.process = subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=subprocess.STDOUT)

    @property
    def output(self) -> str:
        """What it wrote so far."""
        return self.log.read_text(encoding="utf-8")

    def worker(self) -> int:
        """Process id of the adaptation's process."""
        children = Path(f"/proc/{self.process.pid}/task").glob("*/children")
        (pid,) = (int(pid) for file in children for pid in file.read_text().split())
        return pid

    def stop(self) -> None:
        """End it, however it is; by force only where it must be."""
        self.process.terminate()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


def texture(index: int, size: tuple[int, int] = (64, 96)) -> NDArray[np.uint8]:
    """Frame ``index`` of a moving texture, RGB uint8 [H, W, 3]."""
    noise = np.random.default_rng(5).integers(0, 256, (24, 60, 3), dtype=np.uint8)
    scene = cv2.resize(noise, (480, 192), interpolation=cv2.INTER_CUBIC)
    left = index % (scene.shape[1] - size[1])
    return np.ascontiguousarray(scene[: size[0], left : left + size[1]])


class Probe:
    """A camera, and a subscriber to everything the node says, in this process."""

    def __init__(self) -> None:
        self.node = Node("probe")
        self.sent: dict[int, Image] = {}
        self.masks: list[Image] = []
        self.confidences: list[Image] = []
        self.states: list[dict[str, Any]] = []
        self.classes: list[list[dict[str, Any]]] = []
        self.diagnostics: dict[str, Any] = {}
        self.subscribe(Image, "/ditta/semantic", self.masks.append)
        self.subscribe(Image, "/ditta/confidence", self.confidences.append)
        self.subscribe(String, "/ditta/state", lambda message: self.states.append(json.loads(message.data)), LATCHED)
        self.subscribe(String, "/ditta/classes", lambda message: self.classes.append(json.loads(message.data)), LATCHED)
        self.subscribe(
            DiagnosticArray,
            "/diagnostics",
            lambda message: self.diagnostics.update({status.name: status for status in message.status}),
        )
        self.camera = self.node.create_publisher(Image, "/camera/image_raw", RELIABLE)
        # All from the start: the answer to a client that the node has not found yet is lost.
        self.clients = {name: self.node.create_client(kind, f"/ditta/{name}") for name, kind in SERVICES.items()}
        self.executor = BackgroundExecutor(self.node, "probe")
        self.size = (64, 96)
        self.still = False
        self._filming = threading.Event()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._film, daemon=True)
        self._thread.start()

    def subscribe(self, kind: Any, topic: str, callback: Callable[[Any], Any], qos: Any = None) -> Any:
        """A subscription, reliable unless ``qos`` says otherwise."""
        return self.node.create_subscription(kind, topic, callback, qos or RELIABLE)

    def close(self) -> None:
        """Stop filming and listening."""
        self._ended.set()
        self._thread.join()
        self.executor.stop()
        self.node.destroy_node()

    def send(self, **changes: Any) -> Any:
        """Publish one more frame of the texture, with fields of the message changed; return the message."""
        now = time.time_ns()
        header = Header(frame_id="camera_optical_frame")
        header.stamp.sec, header.stamp.nanosec = divmod(now, 1_000_000_000)
        message = image_message(texture(0 if self.still else len(self.sent), self.size), header)
        for name, value in changes.items():
            setattr(message, name, value)
        self.sent[now] = message
        self.camera.publish(message)
        return message

    def _film(self) -> None:
        while not self._ended.wait(0.1):
            if self._filming.is_set():
                self.send()

    def film(self) -> None:
        """Send ten frames per second from now on."""
        self._filming.set()

    def hold(self) -> None:
        """Send none from now on."""
        self._filming.clear()
        time.sleep(0.2)

    @property
    def state(self) -> dict[str, Any]:
        """The last state heard of."""
        return self.states[-1] if self.states else {"state": "", "generation": -1}

    def wait_for_state(self, name: str, since: int = 0, timeout: float = 60.0) -> dict[str, Any]:
        """Wait until a state is among those heard of, the first ``since`` left out, and return it."""
        return wait_until(
            lambda: next((state for state in self.states[since:] if state["state"] == name), None),
            lambda: f"the state {name}; the last was {self.state}",
            timeout,
        )

    def wait_for_masks(self, count: int = 3) -> list[Any]:
        """Wait for so many more masks and return them."""
        begin = len(self.masks)
        wait_until(lambda: len(self.masks) >= begin + count, f"{count} more masks")
        return self.masks[begin:]

    def call(self, name: str, **fields: Any) -> Any:
        """Call a service with a request of these fields and return its answer."""
        client = self.clients[name]
        for _ in range(4):
            # The first answer is lost where the node has not found this client yet, though the client found the node.
            assert client.wait_for_service(20)
            future, done = client.call_async(client.srv_type.Request(**fields)), threading.Event()
            future.add_done_callback(lambda _, done=done: done.set())
            if done.wait(5):
                return future.result()
        return pytest.fail(f"{name} was not answered")

    @staticmethod
    def result(future: Any) -> Any:
        """Wait for the answer of a service."""
        done = threading.Event()
        future.add_done_callback(lambda _: done.set())
        assert done.wait(60), "a service did not answer"
        return future.result()
