"""Which files of a folder are frames, and in which order."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from trees import write_image

from ditta_core.datasets.names import DataWarning, image_files, natural_key, times_of_names
from ditta_core.datasets.open import open_sequences


def write(folder: Path, names: list[str]) -> Path:
    for name in random.Random(0).sample(names, len(names)):
        write_image(folder / name)
    return folder


@pytest.mark.parametrize(
    "names",
    [
        [f"{index}.png" for index in (0, 1, 2, 9, 10, 11, 100)],
        ["cam0_8.jpg", "cam0_9.jpg", "cam0_10.jpg", "cam1_2.jpg"],
        ["img-009.webp", "img-10.jpeg", "img-0011.PNG"],
        ["1305031102.175304.png", "1305031102.201.png", "1305031103.1000.png"],
        ["999999999999.png", "1000000000000.png"],
        ["7.png", "a5²1.png", "a5²3.png", "٤.png"],
    ],
)
def test_frames_come_in_the_order_of_their_numbers(tmp_path: Path, names: list[str]) -> None:
    assert [path.name for path in image_files(write(tmp_path, names))] == names
    (sequence,) = open_sequences(tmp_path, frame_rate=10)
    assert [Path(sequence.origin(index)).name for index in range(len(sequence))] == names


def test_times_go_before_numbers() -> None:
    """The fraction 300 is a smaller number than 175304, but a later time."""
    names = ["1305031102.300", "1305031102.175304"]
    times = times_of_names(names)
    assert times == [1305031102300000000, 1305031102175304000]
    assert sorted(names, key=natural_key) == names


@pytest.mark.parametrize(
    ("names", "times"),
    [
        (["1403636579763555584", "1403636579813555456"], [1403636579763555584, 1403636579813555456]),
        (["left_1504105200123", "left_1504105200223"], [1504105200123 * 10**6, 1504105200223 * 10**6]),
        (["a/1504105200123456"], [1504105200123456000]),
        (["1504105200123", "12"], None),
        (["1504105200123", "x1504105200123"], None),
        (["0000000000000001", "0000000000000002"], None),
        (["20240131123456789"], None),
    ],
)
def test_times_in_names(names: list[str], times: list[int] | None) -> None:
    assert times_of_names(names) == times


def test_hidden_files_folders_and_others_are_no_frames(tmp_path: Path) -> None:
    write(tmp_path, ["2.png", "1.webp", "._1.webp", "._2.png", ".DS_Store.png"])
    (tmp_path / "3.png").mkdir()
    (tmp_path / "notes.txt").touch()
    assert [path.name for path in image_files(tmp_path)] == ["1.webp", "2.png"]


def test_of_files_that_differ_in_their_suffix_one_is_taken(tmp_path: Path) -> None:
    write(tmp_path, ["1.jpg", "1.png", "2.webp", "2.jpeg", "3.jpg"])
    with pytest.warns(DataWarning, match=r"2 images in .* are passed over, such as '1\.jpg': .* the suffix \.png"):
        assert [path.name for path in image_files(tmp_path)] == ["1.png", "2.jpeg", "3.jpg"]
