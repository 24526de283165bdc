"""The node as a process while something around it fails: its worker, one of its cameras."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
from node_probe import ADAPTATION, StartNode, diagnostic
from ros_harness import Probe, wait_until


@pytest.mark.slow
def test_a_stopped_worker_fails_its_adaptation_and_the_next_one_succeeds(probe: Probe, start_node: StartNode) -> None:
    node = start_node(warmup_on="service", passes=1000, adaptation_timeout=12.0)
    probe.film()
    probe.wait_for_masks()
    assert probe.call("adapt").success
    wait_until(lambda: probe.state.get("progress", 0) > 0, lambda: f"progress; {probe.state}")
    stopped = node.worker()
    os.kill(stopped, signal.SIGSTOP)
    assert "made no progress for 12 s" in probe.wait_for_state("FAILED")["message"]
    assert "no progress" in diagnostic(probe, ADAPTATION, "adaptation failed").message
    probe.wait_for_masks()
    mark = len(probe.states)
    assert probe.call("adapt").success
    wait_until(lambda: probe.state.get("state") == "ADAPTING" and probe.state["progress"] > 0, "progress", 60)
    assert probe.states[mark:]
    assert node.worker() != stopped


def test_every_camera_answers_for_itself(probe: Probe, start_node: StartNode, tmp_path: Path) -> None:
    start_node(
        cameras="{dark: /nobody/image, front: /camera/image_raw}",
        image_reliability="reliable",
        warmup_on="service",
        passes=1,
        state_dir=str(tmp_path / "states"),
    )
    asked = wait_until(lambda: (got := probe.call("adapt")) and got.success and got, "an active node")
    assert asked.message == "dark: adapting to the next 4 images; front: adapting to the next 4 images"
    probe.film()
    answer = wait_until(lambda: (got := probe.call("save")) and "generation 1" in got.message and got, "a save", 60)
    assert not answer.success
    file = tmp_path / "states" / "front-generation-0001.safetensors"
    assert answer.message == (
        f"dark: expected an adapted generation, but the base model is serving; adapt first; front: generation 1 "
        f"written to {file}"
    )
    assert file.exists()
