"""What names an evaluation: every frame, label and weight file, and every option."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from small_evaluations import SETUP, Street, write_camvid

from ditta_core.datasets.camvid import CamVidSequence
from ditta_core.datasets.excerpt import Excerpt
from ditta_core.evaluation.fingerprint import evaluation_fingerprint
from ditta_core.evaluation.methods.base import MethodSetup

OPTIONS = {"method": ("source",), "seed": 3, "slop": 0.0}


def name_of(source: Path, setup: MethodSetup = SETUP, **options: object) -> str:
    sequences = [Excerpt(CamVidSequence(source, 10.0), 6)]
    return evaluation_fingerprint({**OPTIONS, **options}, sequences, setup, [source / "code"])


@pytest.fixture
def drive(tmp_path: Path) -> Path:
    write_camvid(tmp_path / "drive", Street(frames=6))
    (tmp_path / "drive" / "code" / "part").mkdir(parents=True)
    (tmp_path / "drive" / "code" / "part" / "a.py").write_text("x = 1\n", encoding="utf-8")
    return tmp_path / "drive"


def rewrite(file: Path) -> None:
    """Another picture of the same size."""
    picture = cv2.imread(str(file), cv2.IMREAD_UNCHANGED)
    cv2.imwrite(str(file), np.roll(picture, 1, axis=1))


@pytest.mark.parametrize(
    "change",
    [
        lambda drive: rewrite(drive / "images" / "004.png"),
        lambda drive: rewrite(drive / "labels" / "005.png"),
        lambda drive: os.utime(drive / "labels" / "002.png", ns=(1, 1)),
        lambda drive: (drive / "code" / "part" / "a.py").write_text("x = 2\n", encoding="utf-8"),
    ],
    ids=["frame", "label", "time of change", "code"],
)
def test_every_file_counts(drive: Path, change: Callable[[Path], object]) -> None:
    before = name_of(drive)
    assert name_of(drive) == before
    change(drive)
    assert name_of(drive) != before


def test_what_lies_beside_a_weight_file_counts(drive: Path, tmp_path: Path) -> None:
    for name in ("net[1].onnx", "net[1].yaml", "net[1].onnx.data"):
        (tmp_path / name).write_text(name, encoding="utf-8")
    setup = replace(SETUP, source=replace(SETUP.source, name=f"onnx:{tmp_path / 'net[1].onnx'}"))
    before = name_of(drive, setup)
    for name in ("net[1].yaml", "net[1].onnx.data"):
        (tmp_path / name).write_text("other", encoding="utf-8")
        after = name_of(drive, setup)
        assert after != before
        before = after
    (tmp_path / "results.json").write_text("{}", encoding="utf-8")
    assert name_of(drive, setup) == before


def test_every_option_counts(drive: Path) -> None:
    names = {name_of(drive), name_of(drive, slop=0.01), name_of(drive, something_new=1)}
    names |= {name_of(drive, replace(SETUP, teacher=replace(SETUP.teacher, checkpoint="a.pt")))}
    assert len(names) == 4


def test_weights_in_subfolders_count(drive: Path, tmp_path: Path) -> None:
    model = tmp_path / "model"
    (model / "deep").mkdir(parents=True)
    (model / "deep" / "part-2.safetensors").write_bytes(b"one")
    setup = replace(SETUP, source=replace(SETUP.source, name=f"hf:{model}"))
    before = name_of(drive, setup)
    (model / "deep" / "part-2.safetensors").write_bytes(b"three")
    assert name_of(drive, setup) != before


def test_what_an_id_of_the_hub_stands_for_counts(drive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    constants = pytest.importorskip("huggingface_hub.constants")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    repository = tmp_path / "models--someone--street"
    (repository / "refs").mkdir(parents=True)
    (repository / "blobs").mkdir()
    setup = replace(SETUP, source=replace(SETUP.source, name="hf:someone/street"))
    names = [name_of(drive, setup)]
    for commit in ("a" * 40, "b" * 40):
        (repository / "refs" / "main").write_text(commit, encoding="utf-8")
        (repository / "snapshots" / commit).mkdir(parents=True)
        (repository / "snapshots" / commit / "config.json").write_text("{}", encoding="utf-8")
        blob = repository / "blobs" / commit
        blob.write_bytes(b"weights")
        (repository / "snapshots" / commit / "model.safetensors").symlink_to(blob)
        names.append(name_of(drive, setup))
    blob.write_bytes(b"others!")
    names.append(name_of(drive, setup))
    assert len(set(names)) == 4


def test_frames_in_no_file_count_by_content() -> None:
    class Mended(Street):
        def labels(self, index: int) -> np.ndarray | None:
            return self.scene(0) if index == 5 else super().labels(index)

    Mended.__name__ = "Street"
    names = {evaluation_fingerprint(OPTIONS, [street], SETUP, []) for street in (Street(), Street(), Mended())}
    assert len(names) == 2


@pytest.mark.parametrize("classes", ["[road, sky]", "{a: [road], b: [" + "x" * 5000 + "]}", "nul\0byte"])
def test_a_class_list_is_no_path(drive: Path, classes: str) -> None:
    setup = replace(SETUP, source=replace(SETUP.source, classes=classes))
    assert name_of(drive, setup) != name_of(drive)
