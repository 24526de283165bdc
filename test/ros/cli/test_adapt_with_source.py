"""`ditta adapt --source`: labelled drives in the layouts of data sets beside the unlabelled one."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

from ditta_core.segmentation.adapted import load_adapted
from ditta_ros.cli.main import main

SMALL = ("--long-side", "96", "--max-frames", "12", "--steps", "2")


def picture(seed: int) -> np.ndarray:
    return cv2.resize(np.random.default_rng(seed).integers(0, 256, (12, 40, 3), np.uint8), (320, 96))


@pytest.fixture
def drive(tmp_path: Path) -> Path:
    """A folder of images of a camera that slides over a picture."""
    folder = tmp_path / "drive"
    folder.mkdir()
    for index in range(12):
        cv2.imwrite(str(folder / f"{index:03}.png"), picture(0)[:, 6 * index : 6 * index + 128])
    return folder


def write_source(images: Path, labels: Path, name: str, ids: tuple[int, ...]) -> None:
    """Ten frames with blocks of label values."""
    for folder in (images, labels):
        folder.mkdir(parents=True)
    blocks = np.random.default_rng(1).choice(ids, (12, 40)).astype(np.uint8).repeat(8, 0).repeat(8, 1)
    for index in range(10):
        seen = slice(6 * index, 6 * index + 128)
        cv2.imwrite(str(images / f"{name}{index:05}.png"), picture(2)[:, seen])
        cv2.imwrite(str(labels / f"{name}{index:05}.png"), np.ascontiguousarray(blocks[:, seen]))


def camvid_source(root: Path) -> tuple[str, ...]:
    write_source(root / "source" / "images", root / "source" / "labels", "", (0, 1, 3, 5, 11))
    return ("--source", str(root / "source"))


def viper_source(root: Path) -> tuple[str, ...]:
    """Two splits, of which val, the default, has no labels of the right values."""
    for split, ids in (("train", (2, 3, 4, 9, 8)), ("val", (0, 1))):
        folders = (root / "source" / split / kind / "001" for kind in ("img", "cls"))
        write_source(*folders, "001_", ids)
    return ("--source", str(root / "source"), "--source-split", "train")


@pytest.mark.parametrize(
    ("method", "source"), [("tps", camvid_source), ("fda", viper_source), ("da_vsn", camvid_source)]
)
def test_from_a_labelled_and_an_unlabelled_drive_to_a_model(
    method: str, source: Callable[[Path], tuple[str, ...]], drive: Path, tmp_path: Path
) -> None:
    out = tmp_path / "adapted.safetensors"
    command = ["adapt", str(drive), "--out", str(out), "--frame-rate", "10", "--method", method, *SMALL]
    assert main([*command, *source(tmp_path)]) == 0
    adapted = load_adapted(out)
    assert adapted.details["method"] == method and adapted.details["steps"] == 2
    summary = json.loads((tmp_path / "adapted_report" / "summary.json").read_text())
    assert summary["losses"][0][1]["source"] > 0


def test_published_faults_are_asked_for(drive: Path, tmp_path: Path) -> None:
    out = tmp_path / "adapted.safetensors"
    command = ["adapt", str(drive), "--out", str(out), "--frame-rate", "10", "--method", "tps", "--published", *SMALL]
    assert main([*command, *camvid_source(tmp_path)]) == 0
    assert load_adapted(out).details["config"]["published"]


def test_a_source_in_other_classes_alone(drive: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The val split of this source has nothing but ignored pixels."""
    out = tmp_path / "adapted.safetensors"
    command = ["adapt", str(drive), "--out", str(out), "--frame-rate", "10", "--method", "tps", *SMALL]
    assert main([*command, *viper_source(tmp_path)[:2]]) == 2
    assert "expected a source of at least 8 frames with labels of the classes ['sky'" in capsys.readouterr().err


@pytest.mark.parametrize("method", ["source_only", "tps", "fda", "pixmatch", "da_vsn", "vat", "rda", "da_stc"])
def test_without_a_source(method: str, drive: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "adapted.safetensors"
    assert main(["adapt", str(drive), "--out", str(out), "--method", method, "--frame-rate", "10"]) == 2
    assert f"expected labelled drives for {method}, but got none; give --source" in capsys.readouterr().err
    assert not out.exists()
