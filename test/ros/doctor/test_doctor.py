"""The command `ditta doctor`."""

from __future__ import annotations

import argparse
import io
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from ros_harness import ROOT

from ditta_ros.cli import doctor
from ditta_ros.cli.doctor import add_doctor_parser, run_doctor_command
from ditta_ros.doctor.findings import Section, error, ok


def run(*arguments: str) -> int:
    parser = argparse.ArgumentParser()
    add_doctor_parser(parser.add_subparsers(dest="command"))
    return run_doctor_command(parser.parse_args(["doctor", *arguments]))


def params_file(folder: Path, **parameters: Any) -> Path:
    file = folder / "parameters.yaml"
    file.write_text(yaml.safe_dump({"/**": {"ros__parameters": parameters}}), encoding="utf-8")
    return file


@pytest.mark.slow
def test_everything_that_is_wrong_at_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("ROS_AUTOMATIC_DISCOVERY_RANGE", "OFF")
    file = params_file(tmp_path, model="espnetv2:absent.pth", state_dir=str(tmp_path / "file"), long_sid=96)
    assert run("--json", "--no-transport", "--params-file", str(file), "--image-topic", "/front/image") == 1
    result = json.loads(capsys.readouterr().out)
    assert result["level"] == "error"
    sections = {section["title"]: section["findings"] for section in result["sections"]}
    assert list(sections) == ["installation", "environment", "parameters", "graph", "models"]
    findings = [finding for section in sections.values() for finding in section]
    for finding in findings:
        assert set(finding) == {"name", "level", "finding", "remedy"}
        assert finding["level"] in ("ok", "warning", "error")
        assert finding["finding"] and (finding["remedy"] or finding["level"] == "ok")
    levels = {finding["name"]: finding["level"] for finding in findings}
    assert {name for name, level in levels.items() if level == "error"} == {"discovery", "model", "state_dir"}
    assert (levels["long_sid"], levels["/front/image"]) == ("warning", "warning")


@pytest.mark.slow
def test_a_middleware_that_ends_whoever_loads_it() -> None:
    command = [sys.executable, "-m", "ditta_ros.cli", "doctor", "--json", "--no-transport"]
    environment = {**os.environ, "RMW_IMPLEMENTATION": "rmw_carrier_pigeon_cpp"}
    result = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert result.returncode == 1, result.stderr
    findings = {each["name"]: each for section in json.loads(result.stdout)["sections"] for each in section["findings"]}
    assert findings["rclpy"]["remedy"].startswith("unset RMW_IMPLEMENTATION")
    assert findings["model"]["level"] == "ok"


@pytest.mark.slow
def test_without_ros_the_rest_is_examined() -> None:
    hidden = "import sys; sys.modules.update(dict.fromkeys(['rclpy', 'rcl_interfaces', 'sensor_msgs'])); "
    code = (
        f"{hidden}import argparse; from ditta_ros.cli.doctor import add_doctor_parser, run_doctor_command; "
        "parser = argparse.ArgumentParser(); add_doctor_parser(parser.add_subparsers()); "
        "code = run_doctor_command(parser.parse_args(['doctor'])); "
        "sys.exit(code if not {'torch', 'cv2', 'numpy'} & set(sys.modules) else 'what may kill it was loaded')"
    )
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 1, result.stderr
    assert not result.stderr
    lines = result.stdout.splitlines()
    (rclpy,) = [index for index, line in enumerate(lines) if line.startswith("  ✗ rclpy")]
    assert "→ source an installation" in lines[rclpy + 1]
    assert any(line.startswith("  ! graph") and "not checked without ROS 2" in line for line in lines)
    assert any(line.startswith("  ✓ model  ") and "camvid on cpu" in line for line in lines)
    assert lines[-1].endswith("1 error (rclpy)")


def test_a_terminal_without_unicode(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    found = Section("installation", (error("rclpy", "gone …", "install it"), ok("torch", "there")))
    monkeypatch.setattr(doctor, "examine", lambda *_: iter([found]))
    monkeypatch.setattr(sys, "stdout", terminal)
    assert run() == 1
    terminal.flush()
    lines = terminal.buffer.getvalue().decode("ascii").splitlines()
    assert lines[1].split() == ["?", "rclpy", "gone", "?"]
    assert lines[-1] == "2 checks: 1 ok, 1 error (rclpy)"


def test_a_file_that_is_not_there(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--params-file", "absent.yaml") == 2
    captured = capsys.readouterr()
    assert captured.err.startswith("ditta doctor: expected a file") and not captured.out
    with pytest.raises(SystemExit, match="2"):
        run("--no-such-flag")
