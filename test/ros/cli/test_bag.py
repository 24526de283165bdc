"""The command `ditta bag`."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from bag_harness import Listed, numbered, storage_file
from ros_harness import ROOT

from ditta_ros.bags.sequence import BagSequence
from ditta_ros.bags.writer import (
    make_bag,
)
from ditta_ros.cli.main import main


def test_made_and_described_without_ros(camvid_clip: Path, tmp_path: Path) -> None:
    """Both commands where no part of ROS can be imported."""
    part = tmp_path / "clip"
    for name in ("images", "labels"):
        (part / name).mkdir(parents=True)
        for file in sorted((camvid_clip / name).iterdir())[:3]:
            shutil.copy(file, part / name)
    hide = "import sys; sys.modules.update(dict.fromkeys(['rclpy', 'sensor_msgs', 'std_msgs', 'message_filters']))"
    outputs = []
    for arguments in (
        ["make", str(part), str(tmp_path / "bag"), "--storage", "sqlite3", "--frame-rate", "5", "--compressed", "png"],
        ["info", str(tmp_path / "bag")],
    ):
        code = f"{hide}; from ditta_ros.cli.main import main; sys.exit(main({['bag', *arguments]}))"
        result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=False)
        assert (result.returncode, result.stderr) == (0, "")
        outputs.append(result.stdout)
    assert outputs[0] == f"{tmp_path / 'bag'}\n"
    assert (
        "/camera/image_raw/compressed (sensor_msgs/msg/CompressedImage, rgb8; png compressed bgr8, 480×360)"
        in outputs[1]
    )
    assert re.search(r"frames +3 at 5 Hz", outputs[1])
    assert re.search(r"ground truth +/ground_truth/semantic \(3 label images, 3 of 3 images matched\)", outputs[1])
    assert re.search(r"classes +11: sky, building, ", outputs[1])
    assert re.search(r"missing +nothing", outputs[1])


def test_the_summary_as_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_bag(Listed(numbered(3)._images), tmp_path / "bag")
    assert main(["bag", "info", str(tmp_path / "bag"), "--json"]) == 0
    summary = json.loads(capsys.readouterr().out)
    assert summary["frames"] == 3
    assert summary["size"] == [8, 6]
    assert summary["ground_truth_topic"] is None
    assert summary["missing"] == ["no ground truth: only consistency can be measured, not accuracy"]
    assert {"name": "/camera/camera_info", "message_type": "sensor_msgs/msg/CameraInfo", "count": 3} in summary[
        "topics"
    ]


def test_several_sequences_become_several_bags(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("morning", "evening"):
        for part in ("images", "labels"):
            (tmp_path / "clips" / name / part).mkdir(parents=True)
            cv2.imwrite(str(tmp_path / "clips" / name / part / "a.png"), np.full((4, 6), 3, np.uint8))
    out = tmp_path / "bags"
    assert main(["bag", "make", str(tmp_path / "clips"), str(out)]) == 0
    assert sorted(entry.name for entry in out.iterdir()) == ["evening", "morning"]
    assert BagSequence(out / "morning").name == "morning"
    assert main(["bag", "make", str(tmp_path / "clips"), str(out / "evening")]) == 2
    assert "expected a folder for 2 bags, but" in capsys.readouterr().err
    shutil.rmtree(out / "evening")
    assert main(["bag", "make", str(tmp_path / "clips"), str(out)]) == 2
    assert sorted(entry.name for entry in out.iterdir()) == ["morning"]  # nothing is made where one is in the way


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["info", "~no_such_user/x"], "ditta bag info: expected a bag, but "),
        (["info", "{tmp}/nowhere"], "ditta bag info: expected a bag, but {tmp}/nowhere does not exist"),
        (["make", "{tmp}/nowhere", "{tmp}/out"], "ditta bag make: expected a video file or a folder of frames"),
        (["make", "{tmp}", "{tmp}/out", "--image-topic", "image"], "ditta bag make: expected an absolute topic"),
        (["info", "{tmp}/bag", "--image-topic", "/left"], "ditta bag info: expected the topic /left in {tmp}/bag"),
        (["info", "{tmp}/bag", "--slop", "-1"], "ditta bag info: expected a slop of 0 or at least"),
        (["info", "{tmp}/bag", "--slop", "nan"], "ditta bag info: expected a slop of 0 or at least"),
        (["info", "{tmp}/cut.mcap"], "ditta bag info: expected a whole bag in {tmp}/cut.mcap, but cut.mcap is cut"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], expected: str
) -> None:
    make_bag(numbered(2), tmp_path / "bag")
    (tmp_path / "cut.mcap").write_bytes(storage_file(tmp_path / "bag").read_bytes()[:-8])
    assert main(["bag", *(argument.format(tmp=tmp_path) for argument in arguments)]) == 2
    output = capsys.readouterr()
    assert output.out == ""
    assert output.err.startswith(expected.format(tmp=tmp_path))
    assert output.err.count("\n") == 1


def test_without_rosbags_the_remedy_is_named() -> None:
    hide = "import sys; sys.modules['rosbags'] = None"
    code = f"{hide}; from ditta_ros.cli.main import main; sys.exit(main(['bag', 'info', 'x']))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=False)
    assert result.returncode == 2
    assert "pip install 'ditta_ros[evaluate]'" in result.stderr
    assert result.stderr.count("\n") == 1


def test_a_warning_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Of plain words, without the line of code that Python puts there; and given once."""
    for index in range(3):
        cv2.imwrite(str(tmp_path / f"{index}.webp"), np.full((6, 8, 3), index, np.uint8))
    assert main(["bag", "make", str(tmp_path), str(tmp_path / "bag")]) == 0
    (line,) = [line for line in capsys.readouterr().err.splitlines() if "Hz" in line]
    assert line.startswith(
        f"ditta bag make: warning: nothing tells the frame rate of the 3 images in {tmp_path}: 10 Hz"
    )
    assert main(["bag", "make", str(tmp_path), str(tmp_path / "other"), "--frame-rate", "2"]) == 0
    assert "warning" not in capsys.readouterr().err
    assert BagSequence(tmp_path / "other").frame_rate == 2
