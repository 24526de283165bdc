"""A node brought up from outside, as the launch file does."""

from __future__ import annotations

import threading
import time

import pytest
from node_probe import StartNode, lifecycle_state
from ros_harness import Probe, wait_until

from ditta_ros.process.lifecycle import LifecycleClient


@pytest.mark.slow
def test_a_node_that_was_killed_is_brought_up_again_at_once(probe: Probe, start_node: StartNode) -> None:
    client = LifecycleClient(probe.node, "/ditta")
    probe.film()
    for _ in range(2):
        node = start_node(autostart=False, warmup_on="service")
        assert client.bring_up(lambda: False) == ""
        probe.wait_for_masks()
        node.process.kill()  # its services stay in the graph for some seconds, and take requests that nobody reads
        node.process.wait()


def test_a_node_that_cannot_be_configured_is_said_to_be(probe: Probe, start_node: StartNode) -> None:
    node = start_node(autostart=False, model="nonsense")
    assert LifecycleClient(probe.node, "/ditta").bring_up(lambda: False) == "could not be configured"
    assert lifecycle_state(probe) == "unconfigured"
    wait_until(lambda: "expected the model" in node.output, lambda: node.output)


def test_it_waits_for_a_node_until_it_is_told_not_to(probe: Probe) -> None:
    client, stop = LifecycleClient(probe.node, "/nobody"), threading.Event()
    results: list[str] = []
    thread = threading.Thread(target=lambda: results.append(client.bring_up(stop.is_set)), daemon=True)
    thread.start()
    time.sleep(0.5)
    assert thread.is_alive()
    stop.set()
    thread.join(10)
    assert results == [""]
