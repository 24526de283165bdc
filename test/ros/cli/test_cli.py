"""The command `ditta` beside the demo."""

from __future__ import annotations

import subprocess
import sys

import pytest
import ros_harness
from ros_harness import ROOT, wait_until

from ditta_ros.cli.main import COMMANDS, main


def test_the_node_with_flags_and_arguments_of_ros(probe: ros_harness.Probe) -> None:
    """The classes are YAML, which ROS would take for a list of strings if it were not quoted."""
    classes = "[road, {moving: [car, 'bicyclist']}]"
    command = [sys.executable, "-m", "ditta_ros.cli", "node", "--model", "camvid", "--classes", classes]
    with subprocess.Popen([*command, "--ros-args", "-p", "long_side:=96"], cwd=ROOT) as process:
        try:
            wait_until(lambda: probe.classes, "classes")
            assert [entry["name"] for entry in probe.classes[-1]] == ["road", "moving", "unlabelled"]
        finally:
            process.terminate()
    assert process.returncode == 0


@pytest.mark.parametrize("command", ["demo", "node"])
def test_without_ros_the_remedy_is_named(command: str) -> None:
    code = (
        f"import sys; sys.modules['rclpy'] = None; from ditta_ros.cli.main import main; sys.exit(main(['{command}']))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=False)
    assert result.returncode == 2
    assert f"ditta {command}: expected ROS 2" in result.stderr
    assert "pip install" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["demo", "--vidoe", "x.mp4"], "unrecognized arguments: --vidoe"),
        (["demo", "--input-size", "640"], "expected WIDTHxHEIGHT such as 640x480, but got '640'"),
        (["demo", "--video", "a", "--clip", "b"], "not allowed with"),
        ([], "required: command"),
    ],
)
def test_wrong_arguments(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(arguments)
    assert message in capsys.readouterr().err


def test_the_version(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        main(["--version"])
    assert capsys.readouterr().out.startswith("ditta ")


@pytest.mark.parametrize("arguments", [["--help"], ["evaluate", "--help"], ["doctor", "--help"]])
def test_help_needs_no_heavy_package(arguments: list[str]) -> None:
    """Neither torch nor OpenCV is loaded, nor NumPy, and it takes less than half a second of CPU."""
    code = (
        "import resource, sys\n"
        "from ditta_ros.cli.main import main\n"
        "try:\n"
        f"    main({arguments})\n"
        "finally:\n"
        "    used = resource.getrusage(resource.RUSAGE_SELF)\n"
        "    loaded = sorted({'torch', 'cv2', 'numpy', 'rclpy', 'rosbags'} & set(sys.modules))\n"
        "    print(loaded, used.ru_utime + used.ru_stime, file=sys.stderr)\n"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=False)
    loaded, _, seconds = result.stderr.strip().rpartition(" ")
    assert (result.returncode, loaded) == (0, "[]")
    assert float(seconds) < 0.5
    assert result.stdout.startswith("usage: ditta")


def test_every_command_says_what_it_is_for(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        main(["--help"])
    text = capsys.readouterr().out
    for command in COMMANDS:
        assert f"\n    {command} " in text
