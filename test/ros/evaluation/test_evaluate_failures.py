"""Adaptations that fail in `ditta evaluate`: the user's own errors before the run, all others beside the numbers."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from ditta_ros.cli.main import main


def drive(folder: Path, dark: bool = False) -> Path:
    """Twelve labelled frames of a street, or of a covered lens."""
    for part in ("images", "labels"):
        (folder / part).mkdir(parents=True)
    for index in range(12):
        image = np.full((96, 128, 3), (190, 160, 120), np.uint8)
        image[56:] = (85, 90, 95)
        image[30:56, 8 + 5 * index : 50 + 5 * index] = (30, 50, 150)
        labels = np.zeros((96, 128), np.uint8)
        labels[56:] = 3
        cv2.imwrite(str(folder / "images" / f"{index:02}.png"), np.zeros_like(image) if dark else image)
        cv2.imwrite(str(folder / "labels" / f"{index:02}.png"), labels)
    return folder


def evaluate(tmp_path: Path, source: Path, *arguments: str) -> int:
    common = ["--warmup-ratio", "25", "--vc-windows", "0", "--long-side", "128", "--threads", "1"]
    files = ["--work", str(tmp_path / "work"), "--json", str(tmp_path / "out.json")]
    return main(["evaluate", str(source), *common, *files, *arguments])


def test_a_covered_lens_is_told_with_its_numbers(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    report = tmp_path / "report"
    source = drive(tmp_path / "night", dark=True)
    assert evaluate(tmp_path, source, "--method", "source,ditta", "--report", str(report)) == 1
    said = capfd.readouterr()
    (line,) = (line for line in said.out.splitlines() if line.startswith("! "))
    assert line.startswith(
        "! ditta (25 % warm-up): 1 of 1 adaptations failed, so that the unadapted model was measured: "
    )
    assert "every adaptation of ditta failed" in said.err
    plain, adapted = json.loads((tmp_path / "out.json").read_text())["results"]
    assert (plain["adaptations"], plain["problems"]) == (0, [])
    assert (adapted["adaptations"], adapted["failed_adaptations"]) == (1, 1)
    (problem,) = adapted["problems"]
    assert problem["failed"] and problem["count"] == 1 and problem["reason"] in line
    assert problem["reason"] in (report / "report.html").read_text(encoding="utf-8")


def test_a_network_input_that_the_model_does_not_take(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    command = ["evaluate", str(drive(tmp_path / "drive")), "--method", "source", "--vc-windows", "0"]
    assert main([*command, "--input-size", "130x90", "--work", str(tmp_path / "work")]) == 2
    said = capfd.readouterr().err
    assert "multiples of 16 pixels for this model, but got 130x90; take 128x96" in said
    assert not (tmp_path / "work").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--teacher", "sam3"), "sam3"),
        (("--teacher", "object_vote:sam2_transformers", "--teacher-checkpoint", "gone/folder"), "gone/folder"),
        (("--method", "tracker_refine", "--teacher", "object_vote:sam2_transformers"), "checkpoint"),
        (("--seed", "9999999999"), "--seed: expected a whole number of 0 to 2147483647"),
        (("--seed", "2147483647", "--repeats", "2"), "seeds of 0 to 2147483647"),
    ],
)
def test_a_wrong_option_is_told_before_the_run(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], arguments: tuple[str, ...], message: str
) -> None:
    try:
        code = evaluate(tmp_path, drive(tmp_path / "drive"), "--method", "ditta", *arguments)
    except SystemExit as end:  # a word that the command line does not know
        code = int(end.code or 0)
    assert code == 2
    said = capfd.readouterr().err
    assert message in said and "Traceback" not in said
    assert not (tmp_path / "out.json").exists()
    assert not (tmp_path / "work").exists() or not any((tmp_path / "work").iterdir())
