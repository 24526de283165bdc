"""What images go through, and whether they arrive."""

from __future__ import annotations

import os
import re
from pathlib import Path
from types import SimpleNamespace

import pytest
from ros_harness import ROOT

from ditta_ros.doctor import transport
from ditta_ros.doctor.findings import Level
from ditta_ros.doctor.transport import Arrived, check_transport
from ditta_ros.process.shared_memory import profile_variables

PROFILE = ROOT / "config" / "fastdds.xml"


@pytest.mark.parametrize(
    ("variables", "level", "text"),
    [
        ({}, Level.OK, "domain 0, range SUBNET"),
        ({"ROS_DOMAIN_ID": "7", "ROS_AUTOMATIC_DISCOVERY_RANGE": "LOCALHOST"}, Level.OK, "domain 7, range LOCALHOST"),
        ({"ROS_AUTOMATIC_DISCOVERY_RANGE": "OFF"}, Level.ERROR, "no process hears"),
    ],
)
def test_discovery(variables: dict[str, str], level: Level, text: str) -> None:
    finding = transport.check_discovery(variables)
    assert finding.level is level and text in finding.finding


@pytest.mark.parametrize(("free", "level"), [(300, Level.OK), (100, Level.WARNING), (50, Level.ERROR)])
def test_shared_memory(free: int, level: Level, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = SimpleNamespace(free=free * 2**20, total=512 * 2**20)
    monkeypatch.setattr(transport.shutil, "disk_usage", lambda folder: usage)
    finding = transport.check_shared_memory()
    assert finding.level is level and f"{free} MB of 512 MB are free" in finding.finding
    assert ("--shm-size" in finding.remedy) == (level is not Level.OK)


USED = "<transport_id>ditta_shared_memory</transport_id>"


def test_images_arrive_through_shared_memory() -> None:
    variables = {**os.environ, **dict.fromkeys(profile_variables(), str(PROFILE))}
    finding = check_transport(variables, fast_dds=True)
    assert finding.level is Level.OK, finding
    assert re.search("1[45] of 15 best effort and 1[45] of 15 reliable arrived", finding.finding)


def test_images_are_lost_over_udp_and_the_remedy_is_tried(tmp_path: Path) -> None:
    """The same profile without shared memory."""
    file = tmp_path / "udp.xml"
    text = PROFILE.read_text(encoding="utf-8").replace(USED, "").replace("4194304", "65536")
    file.write_text(text, encoding="utf-8")
    finding = check_transport({**os.environ, **dict.fromkeys(profile_variables(), str(file))}, fast_dds=True)
    assert finding.level is Level.WARNING, finding
    assert "with the shared-memory profile 1" in finding.finding
    assert f"export {profile_variables()[0]}={PROFILE}" in finding.remedy


ALL, SOME, NONE = 15, 4, 0


@pytest.mark.parametrize(
    ("here", "profile", "level", "remedies"),
    [
        (Arrived(ALL, ALL), None, Level.OK, ()),
        (Arrived(SOME, ALL), Arrived(ALL, ALL), Level.WARNING, ("export", "image_reliability")),
        (Arrived(SOME, NONE), Arrived(ALL, ALL), Level.WARNING, ("export",)),
        (Arrived(NONE, ALL), Arrived(SOME, ALL), Level.WARNING, ("image_reliability",)),
        (Arrived(NONE, ALL), None, Level.WARNING, ("image_reliability",)),
        (Arrived(NONE, NONE), Arrived(SOME, SOME), Level.ERROR, ("shared memory",)),
    ],
)
def test_only_remedies_that_worked_are_named(
    here: Arrived, profile: Arrived | None, level: Level, remedies: tuple[str, ...]
) -> None:
    finding = transport.judge(here, profile)
    assert finding.level is level
    for remedy in ("export", "image_reliability", "shared memory"):
        assert (remedy in finding.remedy) == (remedy in remedies)
