"""What an installation puts down, and whether imports, setup.py, package.xml and constraints.txt agree."""

from __future__ import annotations

import ast
import configparser
import os
import shutil
import subprocess
import sys
from importlib.metadata import Distribution, distributions
from pathlib import Path

import pytest
import yaml
from catkin_pkg.package import Package, parse_package
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("ditta_core", "ditta_ros")
SHARED_FOLDERS = ("config", "foxglove", "launch", "rviz")

# Where the name of a module is not the name of what installs it.
DISTRIBUTIONS = {"cv2": "opencv-python-headless", "yaml": "pyyaml"}
NOT_ON_PYPI = {"bondpy", "cv_bridge", "launch", "launch_ros", "message_filters", "vision_msgs"}


def files(folder: Path) -> set[str]:
    """The paths of all files below a folder, relative to it, without compiled Python."""
    return {
        path.relative_to(folder).as_posix()
        for path in folder.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }


def imports(*folders: str) -> set[str]:
    """The top-level names of what the Python files in these folders import, without the standard library."""
    names: set[str] = set()
    for path in (path for folder in folders for path in (ROOT / folder).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                names.update(alias.name.partition(".")[0] for alias in node.names)
            elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
                names.add(node.module.partition(".")[0])
    return names - set(sys.stdlib_module_names)


@pytest.fixture(scope="module")
def prefix(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A fresh prefix with a plain (not editable) installation by pip, built from a copy and without the network."""
    source = tmp_path_factory.mktemp("source") / "ditta_ros"
    source.mkdir()
    for name in (*PACKAGES, *SHARED_FOLDERS, "resource", "scripts"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("setup.py", "setup.cfg", "pyproject.toml", "package.xml", "LICENSE"):
        shutil.copy(ROOT / name, source / name)
    target = tmp_path_factory.mktemp("prefix")
    options = [
        "--quiet",
        "--no-index",
        "--no-deps",
        "--no-build-isolation",
        "--ignore-installed",
        "--no-warn-script-location",
    ]
    command = [sys.executable, "-m", "pip", "install", *options, "--prefix", str(target), str(source)]
    subprocess.run(command, check=True, timeout=100)
    return target


@pytest.fixture(scope="module")
def site(prefix: Path) -> Path:
    """The site-packages of the prefix."""
    (folder,) = prefix.glob("lib*/python*/site-packages")
    return folder


@pytest.fixture(scope="module")
def distribution(site: Path) -> Distribution:
    """The metadata of the installation."""
    (found,) = distributions(name="ditta_ros", path=[str(site)])
    return found


@pytest.fixture(scope="module")
def requirements(distribution: Distribution) -> list[Requirement]:
    """Everything setup.py asks for, extras included."""
    return [Requirement(text) for text in distribution.requires or []]


@pytest.fixture(scope="module")
def manifest() -> Package:
    """package.xml, validated the way colcon and bloom do."""
    warnings: list[str] = []
    package = parse_package(str(ROOT / "package.xml"), warnings=warnings)
    assert not warnings
    return package


@pytest.mark.parametrize("package", PACKAGES)
def test_every_file_of_a_package_is_installed(site: Path, package: str) -> None:
    assert files(ROOT / package) == files(site / package)


@pytest.mark.parametrize("folder", SHARED_FOLDERS)
def test_share_holds_what_ros2_launch_reads(prefix: Path, folder: str) -> None:
    expected = files(ROOT / folder)
    assert expected
    assert expected == files(prefix / "share/ditta_ros" / folder)


def test_ros_finds_the_package_and_its_node(prefix: Path) -> None:
    assert (prefix / "share/ament_index/resource_index/packages/ditta_ros").is_file()
    assert (prefix / "share/ditta_ros/package.xml").is_file()
    assert os.access(prefix / "lib/ditta_ros/ditta_node", os.X_OK)


def test_colcon_finds_the_hook_that_puts_ditta_on_the_path(prefix: Path) -> None:
    (hook,) = yaml.safe_load((ROOT / "colcon.pkg").read_text(encoding="utf-8"))["hooks"]
    action, variable, folder = (prefix / hook).read_text(encoding="utf-8").strip().split(";")
    assert (action, variable) == ("prepend-non-duplicate", "PATH")
    scripts = configparser.ConfigParser()
    scripts.read(ROOT / "setup.cfg")
    assert scripts["install"]["install_scripts"] == f"$base/{folder}", "where colcon puts ditta"


def test_installed_package_works_without_the_checkout(prefix: Path, site: Path, tmp_path: Path) -> None:
    program = (
        "import ditta_core\n"
        "from ditta_core.segmentation.registry import load_model\n"
        "from ditta_core.segmentation.source import ModelSource\n"
        "load_model(ModelSource('camvid'))\n"
        "print(ditta_core.__file__)"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(site), os.environ.get("PYTHONPATH", "")])}
    loaded = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=100
    )
    assert loaded.returncode == 0, loaded.stderr
    assert Path(loaded.stdout.strip()).parent == site / "ditta_core"
    usage = subprocess.run(
        [prefix / "bin/ditta", "--help"], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=100
    )
    assert usage.returncode == 0, usage.stderr
    assert "demo" in usage.stdout


def test_entry_points_are_there(distribution: Distribution) -> None:
    pytest.importorskip("rclpy")
    commands = {entry.name: entry.load() for entry in distribution.entry_points}
    assert set(commands) == {"ditta", "ditta_node"}
    assert all(callable(command) for command in commands.values())


def test_setup_and_manifest_describe_the_same_package(distribution: Distribution, manifest: Package) -> None:
    assert manifest.package_format == 3
    assert manifest.get_build_type() == "ament_python"
    assert (manifest.name, manifest.version) == (distribution.metadata["Name"], distribution.version)
    licenses = distribution.metadata.get("License-Expression") or distribution.metadata["License"]
    assert manifest.licenses == licenses.split(" AND ")
    assert all((ROOT / license.file).is_file() for license in manifest.licenses)
    assert manifest.maintainers[0].email == distribution.metadata["Author-email"]


def test_manifest_names_the_ros_packages_that_are_imported(manifest: Package, requirements: list[Requirement]) -> None:
    installed_by_pip = {canonicalize_name(requirement.name) for requirement in requirements}
    needed = imports("ditta_ros", "launch") - set(PACKAGES)
    ros = {name for name in needed if canonicalize_name(DISTRIBUTIONS.get(name, name)) not in installed_by_pip}
    assert ros == {depend.name for depend in manifest.exec_depends if not depend.name.startswith("python3-")}


@pytest.mark.parametrize(("extra", "ros_distribution"), [("ros", "jazzy"), ("ros-kilted", "kilted")])
def test_ros_wheels_cover_the_manifest(
    manifest: Package, requirements: list[Requirement], extra: str, ros_distribution: str
) -> None:
    wheels = {
        canonicalize_name(requirement.name)
        for requirement in requirements
        if requirement.marker and requirement.marker.evaluate({"extra": extra})
    }
    ros = {depend.name for depend in manifest.exec_depends if not depend.name.startswith("python3-")} - NOT_ON_PYPI
    assert wheels == {canonicalize_name(f"ros-{ros_distribution}-{name}") for name in ros}


def test_setup_names_the_libraries_that_are_imported(requirements: list[Requirement], manifest: Package) -> None:
    installed_by_pip = {canonicalize_name(requirement.name) for requirement in requirements}
    needed = imports(*PACKAGES) - set(PACKAGES) - {depend.name for depend in manifest.exec_depends}
    assert {canonicalize_name(DISTRIBUTIONS.get(name, name)) for name in needed} <= installed_by_pip


def test_pins_lie_in_the_ranges(requirements: list[Requirement]) -> None:
    lines = (line.partition("#")[0].strip() for line in (ROOT / "constraints.txt").read_text().splitlines())
    pins = {canonicalize_name(pin.name): pin for pin in map(Requirement, filter(None, lines))}
    for requirement in requirements:
        pin = pins[canonicalize_name(requirement.name)]
        (exact,) = pin.specifier
        assert exact.operator == "=="
        assert requirement.specifier.contains(exact.version), f"{requirement} does not admit {pin}"
