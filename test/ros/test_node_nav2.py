"""The node in the hands of Nav2's lifecycle manager: its calls in their order, with a bond and without."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from lifecycle_msgs.msg import State, Transition
from node_probe import StartNode, change_state
from rclpy.duration import Duration
from rclpy.node import Node
from ros_harness import Probe, wait_until

from ditta_ros.process.bond import ManagerBond
from ditta_ros.process.executor import BackgroundExecutor

HAS_BONDPY = find_spec("bondpy") is not None
FAKE = Path(__file__).parent / "fake_bond"
REACHED = {
    Transition.TRANSITION_CONFIGURE: State.PRIMARY_STATE_INACTIVE,
    Transition.TRANSITION_ACTIVATE: State.PRIMARY_STATE_ACTIVE,
    Transition.TRANSITION_DEACTIVATE: State.PRIMARY_STATE_INACTIVE,
    Transition.TRANSITION_CLEANUP: State.PRIMARY_STATE_UNCONFIGURED,
    Transition.TRANSITION_UNCONFIGURED_SHUTDOWN: State.PRIMARY_STATE_FINALIZED,
}


@pytest.fixture
def bondpy(monkeypatch: pytest.MonkeyPatch) -> None:
    """The package that the node forms bonds with: that of ROS, else one that speaks its protocol."""
    if not HAS_BONDPY:
        monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(FAKE), os.environ.get("PYTHONPATH", "")]))
        monkeypatch.syspath_prepend(FAKE)


class Manager:
    """As ``changeStateForNode`` and ``createBondConnection`` of nav2_lifecycle_manager."""

    def __init__(self, probe: Probe, bond_timeout: float) -> None:
        self.probe = probe
        self.bond_timeout = bond_timeout
        self.bond: Any = None

    def change(self, transition: int) -> bool:
        """Ask for a transition, and compare the state; form a bond or break it."""
        reached = change_state(self.probe, transition) and (
            self.probe.call("get_state").current_state.id == REACHED[transition]
        )
        if reached and transition == Transition.TRANSITION_ACTIVATE and self.bond_timeout:
            return self.form_bond()
        if transition == Transition.TRANSITION_DEACTIVATE:
            self.break_bond()
        return reached

    def form_bond(self) -> bool:
        from bondpy.bondpy import Bond

        # A node for each, since bondpy leaves its node with a subscription that is no more.
        self.node = Node("lifecycle_manager")
        self.executor = BackgroundExecutor(self.node, "manager")
        self.bond = Bond(self.node, "bond", "ditta")
        self.bond.heartbeat_timeout, self.bond.heartbeat_period = self.bond_timeout, 0.1
        self.bond.start()
        return self.bond.wait_until_formed(Duration(seconds=self.bond_timeout / 2))

    def break_bond(self) -> None:
        if self.bond is not None:
            self.executor.run(self.bond.shutdown)
            self.executor.stop()
            self.node.destroy_node()
            self.bond = None


@pytest.fixture
def manager(probe: Probe) -> Iterator[Manager]:
    manager = Manager(probe, bond_timeout=4.0)
    yield manager
    manager.break_bond()


@pytest.mark.slow
def test_the_manager_brings_it_up_twice_and_sees_it_die(
    bondpy: None, manager: Manager, probe: Probe, start_node: StartNode
) -> None:
    node = start_node(autostart=False, warmup_on="service")
    probe.film()
    assert probe.call("get_state").current_state.id == State.PRIMARY_STATE_UNCONFIGURED
    assert manager.change(Transition.TRANSITION_CONFIGURE)
    for _ in range(2):
        assert manager.change(Transition.TRANSITION_ACTIVATE)
        probe.wait_for_masks(30)  # some heartbeats long
        assert not manager.bond.is_broken()
        assert manager.change(Transition.TRANSITION_DEACTIVATE)
    assert manager.change(Transition.TRANSITION_ACTIVATE)
    probe.wait_for_masks(10)  # the time-out begins with the second heartbeat
    node.process.kill()
    wait_until(manager.bond.is_broken, "the bond to break", manager.bond_timeout + 2)
    assert "bondpy" not in node.output


@pytest.mark.slow
def test_the_manager_hears_at_once_when_the_node_is_told_to_end(
    bondpy: None, manager: Manager, start_node: StartNode
) -> None:
    node = start_node(autostart=False, warmup_on="service")
    assert manager.change(Transition.TRANSITION_CONFIGURE)
    assert manager.change(Transition.TRANSITION_ACTIVATE)
    node.process.terminate()
    assert node.process.wait(20) == 0
    wait_until(manager.bond.is_broken, "the bond to break", manager.bond_timeout / 2)
    assert "Traceback" not in node.output


@pytest.mark.slow
def test_without_a_bond_the_manager_needs_a_timeout_of_zero(
    manager: Manager, probe: Probe, start_node: StartNode
) -> None:
    if HAS_BONDPY:
        pytest.skip("bondpy is installed, so that the node forms a bond")
    manager.bond_timeout = 0.0
    node = start_node(autostart=False, warmup_on="service")
    for transition in (Transition.TRANSITION_CONFIGURE, Transition.TRANSITION_ACTIVATE):
        assert manager.change(transition)
    probe.film()
    probe.wait_for_masks()
    assert "bond_timeout: 0.0" in node.output
    for transition in (
        Transition.TRANSITION_DEACTIVATE,
        Transition.TRANSITION_CLEANUP,
        Transition.TRANSITION_UNCONFIGURED_SHUTDOWN,
    ):
        assert manager.change(transition)


def test_another_package_of_the_name_is_none(ros: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """PyPI has a bondpy of another kind."""
    (tmp_path / "bondpy").mkdir()
    (tmp_path / "bondpy" / "__init__.py").write_text("", encoding="utf-8")
    for name in [name for name in sys.modules if name.partition(".")[0] == "bondpy"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.syspath_prepend(tmp_path)
    node = Node("bonded")
    with pytest.raises(ImportError, match=r"bond_timeout: 0\.0"):
        ManagerBond(node)
    node.destroy_node()
