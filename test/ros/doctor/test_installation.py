"""Whether everything is installed and fits together."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
from ros_harness import ROOT

from ditta_ros.doctor import installation
from ditta_ros.doctor.findings import Level
from ditta_ros.doctor.installation import Import, check_installation, try_imports


def test_this_installation_works() -> None:
    imports = try_imports(os.environ)
    findings = {finding.name: finding for finding in check_installation(imports, os.environ)}
    assert not [finding for finding in findings.values() if finding.level is Level.ERROR]
    import torch
    from rclpy.utilities import get_rmw_implementation_identifier

    assert findings["torch"].finding.startswith(torch.__version__)
    assert findings["middleware"].finding == imports["rclpy"].facts["rmw"] == get_rmw_implementation_identifier()


def test_a_package_that_ends_the_interpreter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "deadly.py").write_text("import os\nos.kill(os.getpid(), 11)\n", encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    attempt = Import.attempt("deadly", "import deadly", {**os.environ, "PYTHONPATH": str(tmp_path)})
    assert "ended by signal 11" in attempt.problem and not attempt.missing
    assert Import.attempt("no_such_package", "", os.environ).missing


def test_a_broken_rclpy_is_told_from_a_missing_one() -> None:
    (missing,) = installation.check_ros(Import({}, "the package rclpy is not installed", missing=True), {})
    assert missing.level is Level.ERROR and "pip install" in missing.remedy
    (numpy,) = installation.check_ros(Import({}, "it cannot be used: ImportError: numpy.core.multiarray failed"), {})
    assert numpy.level is Level.ERROR and "numpy<2" in numpy.remedy
    (package,) = installation.check_ros(Import({}, "it cannot be used: No module named 'lifecycle_msgs'"), {})
    assert "ros-<distribution>-lifecycle-msgs" in package.remedy


def test_a_middleware_that_is_not_installed() -> None:
    """It ends whoever imports rclpy."""
    environment = {**os.environ, "RMW_IMPLEMENTATION": "rmw_carrier_pigeon_cpp"}
    attempt = Import.attempt("rclpy", installation.TRIALS["rclpy"], environment)
    (finding,) = installation.check_ros(attempt, environment)
    assert finding.level is Level.ERROR and "rmw_carrier_pigeon_cpp" in finding.finding
    assert finding.remedy.startswith("unset RMW_IMPLEMENTATION, which asks for 'rmw_carrier_pigeon_cpp', or install")
    assert "ros-<distribution>-rmw-carrier-pigeon-cpp" in finding.remedy


@pytest.mark.parametrize(
    ("code", "problem"),
    [("print('no answer')", "did not answer, but wrote 'no answer'"), ("pass", "did not answer, but wrote ''")],
)
def test_a_package_that_does_not_answer(code: str, problem: str) -> None:
    assert problem in Import.attempt("json", code, os.environ).problem


def test_wheels_and_a_sourced_installation_are_not_mixed(tmp_path: Path) -> None:
    if not installation.installed_version("ros-rclpy"):
        pytest.skip("ROS is not from wheels")
    (tmp_path / "share" / "rclpy").mkdir(parents=True)
    mixed = {"AMENT_PREFIX_PATH": f"{sys.prefix}{os.pathsep}{tmp_path}"}
    (finding,) = installation.check_ros(Import({"file": "", "rmw": ""}), mixed)
    assert finding.level is Level.ERROR and str(tmp_path) in finding.finding
    works = Import({"file": "/x/rclpy/__init__.py", "rmw": "rmw_cyclonedds_cpp"})
    rclpy, middleware = installation.check_ros(works, {"AMENT_PREFIX_PATH": sys.prefix})
    assert rclpy.level is Level.OK and "/x/rclpy" in rclpy.finding
    assert middleware.level is Level.WARNING and "RMW_IMPLEMENTATION" in middleware.remedy


def test_cv_bridge_is_tried() -> None:
    """It is compiled against one NumPy and one OpenCV; beside others it fails, or ends the process."""
    missing = installation.check_cv_bridge(Import({}, "the package cv_bridge is not installed", missing=True))
    assert missing.level is Level.OK and "NumPy and OpenCV convert" in missing.finding
    problem = "it cannot be used: ValueError: cv_bridge does not work here (signal 11)"
    broken = installation.check_cv_bridge(Import({}, problem))
    assert broken.level is Level.WARNING and problem in broken.finding and "NumPy" in broken.remedy
    works = installation.check_cv_bridge(Import({"encodings": ["bgr8", "mono8"]}))
    assert works.level is Level.OK and "bgr8, mono8" in works.finding


def test_the_trial_of_cv_bridge_tells_why_it_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "cv_bridge.py").write_text("import os\nos.kill(os.getpid(), 11)\n", encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    variables = {**os.environ, "PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}"}
    attempt = Import.attempt("cv_bridge", installation.TRIALS["cv_bridge"], variables)
    assert "cv_bridge does not work here (signal 11)" in attempt.problem and not attempt.missing
