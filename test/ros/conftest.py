"""Real ROS for the tests, in a domain of their own."""

from __future__ import annotations

import contextlib
import gc
import importlib.util
import os
import socket
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from ditta_ros.process.children import first_port, free_domain

if TYPE_CHECKING:
    from ros_harness import NodeProcess, Probe


def hold_domain() -> tuple[int, socket.socket]:
    """A ROS domain of this process and its children, and what keeps others from taking it between two tests."""
    while True:
        domain, held = free_domain(), socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        with contextlib.suppress(OSError):  # another one was quicker
            held.bind(("", first_port(domain)))
            return domain, held


# Before any rclpy.init, and inherited by every process the tests start. Other machines, and processes of this machine
# in other domains, are neither heard nor disturbed.
DOMAIN, HELD = hold_domain()
os.environ["ROS_DOMAIN_ID"] = str(DOMAIN)
os.environ["ROS_AUTOMATIC_DISCOVERY_RANGE"] = "LOCALHOST"
# Not Fast DDS's shared memory: a process that a test kills can leave its locks held, and 68 MB of it, behind.
os.environ["FASTDDS_BUILTIN_TRANSPORTS"] = "UDPv4"
os.environ["ROS_LOG_DIR"] = tempfile.mkdtemp(prefix="ditta_ros_test_log_")
os.environ.pop("XDG_CACHE_HOME", None)
os.environ["ROS_HOME"] = tempfile.mkdtemp(prefix="ditta_ros_test_home_")  # with the graphs of networks

HAS_ROS = importlib.util.find_spec("rclpy") is not None or os.environ.get("CI") == "true"


WITHOUT_ROS = ("test_stop.py", "test_matching.py")
"""Files of tests that run anywhere."""


class WithoutRos(pytest.Module):
    """A test file that is skipped because ROS is missing; in CI it is imported all the same, and fails."""

    def collect(self) -> list[Any]:
        pytest.skip("needs rclpy: source a ROS 2 installation or pip install '.[ros]'")


def pytest_pycollect_makemodule(module_path: Path, parent: pytest.Collector) -> pytest.Module | None:
    return None if HAS_ROS or module_path.name in WITHOUT_ROS else WithoutRos.from_parent(parent, path=module_path)


@pytest.fixture
def ros() -> Iterator[None]:
    """rclpy, initialised for this test alone: what an earlier test killed stays in its graph for twenty seconds."""
    import rclpy

    rclpy.init()
    yield
    rclpy.shutdown()


@pytest.fixture
def collected(ros: None) -> Iterator[None]:
    """For tests with a lifecycle node in this process: rclpy takes it out of the graph when it is collected."""
    yield
    gc.collect()


@pytest.fixture
def probe(ros: None) -> Iterator[Probe]:
    """A camera and a listener."""
    from ros_harness import Probe

    probe = Probe()
    yield probe
    probe.close()


@pytest.fixture
def start_node(tmp_path: Path) -> Iterator[Callable[..., NodeProcess]]:
    """Starts the node with arguments of ROS, and with parameters besides those that make it quick."""
    from ros_harness import NodeProcess

    processes: list[NodeProcess] = []

    def start(*arguments: str, **parameters: Any) -> NodeProcess:
        # At this size the packaged model is unsure of everything, so that with the guard nothing would be trained.
        quick = {"long_side": 96, "warmup_frames": 4, "threads": 1, "runtime": "torch", "guarded": False}
        quick |= {"self_training_steps": 0, "passes": 20}
        processes.append(NodeProcess(tmp_path / str(len(processes)), {**quick, **parameters}, arguments))
        return processes[-1]

    yield start
    for process in processes:
        process.stop()
        print(process.output)  # shown where the test failed
