from __future__ import annotations

import importlib.util
import shutil
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from types import ModuleType

import pytest

from ditta_ros.process import shared_memory
from ditta_ros.process.shared_memory import (
    OLD_PROFILE_VARIABLE,
    PROFILE_VARIABLE,
    TRANSPORTS_VARIABLE,
    share_folder,
    shared_memory_environment,
)

ROOT = Path(__file__).resolve().parents[3]


def load_copy(package: Path) -> ModuleType:
    """The module, installed in a folder ``package``."""
    file = package / "process" / "shared_memory.py"
    file.parent.mkdir(parents=True)
    shutil.copy(shared_memory.__file__, file)
    spec = importlib.util.spec_from_file_location("installed_shared_memory", file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_profile_of_the_checkout() -> None:
    assert share_folder() == ROOT
    added = shared_memory_environment({})
    assert added
    assert set(added) <= {PROFILE_VARIABLE, OLD_PROFILE_VARIABLE}
    assert set(added.values()) == {str(ROOT / "config" / "fastdds.xml")}


@pytest.mark.parametrize(("rclpy", "expected"), [("9.1.2", {PROFILE_VARIABLE}), ("7.1.6", {OLD_PROFILE_VARIABLE})])
def test_each_ros_gets_the_variable_that_it_reads(
    monkeypatch: pytest.MonkeyPatch, rclpy: str, expected: set[str]
) -> None:
    monkeypatch.setattr(shared_memory, "version", {"rclpy": rclpy}.__getitem__)
    assert set(shared_memory_environment({})) == expected


@pytest.mark.parametrize(
    "chosen",
    [
        {PROFILE_VARIABLE: "profile.xml"},
        {OLD_PROFILE_VARIABLE: "profile.xml"},
        {TRANSPORTS_VARIABLE: "UDPv4"},
    ],
)
def test_what_the_user_has_chosen_is_left_alone(chosen: dict[str, str]) -> None:
    assert shared_memory_environment(chosen) == {}


def test_profile_of_an_installation(tmp_path: Path) -> None:
    installed = load_copy(tmp_path / "prefix" / "lib" / "python3.11" / "site-packages" / "ditta_ros")
    with pytest.raises(FileNotFoundError, match=r"expected config/fastdds.xml in .*site-packages"):
        installed.share_folder()
    share = tmp_path / "prefix" / "share" / "ditta_ros"
    shutil.copytree(ROOT / "config", share / "config")
    assert installed.share_folder() == share.resolve()


def test_profile_holds_images_in_shared_memory_and_reaches_other_machines() -> None:
    space = "{http://www.eprosima.com}"
    root = ElementTree.parse(ROOT / "config" / "fastdds.xml").getroot()
    transports = {each.findtext(f"{space}transport_id"): each for each in root.iter(f"{space}transport_descriptor")}
    kinds = {each.findtext(f"{space}type") for each in transports.values()}
    assert kinds == {"SHM", "UDPv4"}
    (used,) = root.iter(f"{space}userTransports")
    assert {each.text for each in used} == set(transports)
    (size,) = root.iter(f"{space}segment_size")
    assert int(size.text or 0) >= 2 * 3840 * 2160 * 3
