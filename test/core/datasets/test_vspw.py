"""VSPW trees on disk: which videos and frames there are, and which label a mask value is."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from trees import HEIGHT, WIDTH, coloured_image, write_image, write_labels

from ditta_core.classes import ClassList
from ditta_core.datasets.vspw import VspwSequence, vspw_sequences


def published_labels(mask: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The three lines that the data set recommends (README of VSPW-dataset-download), 254 ignored beside."""
    label = mask.copy()
    label[label == 254] = 255
    label[label == 0] = 255
    label = label - 1
    label[label == 254] = 255
    return label


def mask_of(index: int) -> NDArray[np.uint8]:
    """A mask that holds all values of VSPW."""
    values = np.r_[0:125, 254, 255].astype(np.uint8)
    return np.resize(np.roll(values, index), (HEIGHT, WIDTH))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Three videos of four frames; the last one of ``101_c`` is not annotated."""
    root = tmp_path / "VSPW_480p"
    for video in ("100_a", "101_c", "99_b"):
        for frame in range(4):
            write_image(root / "data" / video / "origin" / f"{frame * 15:08}.jpg", frame)
            if video != "101_c" or frame < 3:
                write_labels(root / "data" / video / "mask" / f"{frame * 15:08}.png", mask_of(frame))
    (root / "val.txt").write_text("99_b\n101_c\n")
    (root / "train.txt").write_text("100_a\n")
    return root


def test_labels_are_those_of_the_published_recipe(root: Path) -> None:
    sequence = VspwSequence(root / "data" / "99_b")
    assert (sequence.name, len(sequence), sequence.frame_rate) == ("99_b", 4, 15)
    for index in range(4):
        np.testing.assert_array_equal(sequence.labels(index), published_labels(mask_of(index)))
        np.testing.assert_allclose(sequence.image(index).astype(float), coloured_image(index), atol=6)
    assert set(np.unique(sequence.labels(0))) == {*range(124), 255}
    assert sequence.stamp(3) == 200_000_000


def test_a_frame_without_a_mask_has_no_labels(root: Path) -> None:
    sequence = VspwSequence(root / "data" / "101_c")
    assert sequence.labels(2) is not None
    assert sequence.labels(3) is None
    assert sequence.classes == ClassList.packaged("vspw124")


def test_a_video_without_masks_has_no_classes(tmp_path: Path) -> None:
    write_image(tmp_path / "video" / "origin" / "0.jpg")
    sequence = VspwSequence(tmp_path / "video")
    assert sequence.classes is None
    assert sequence.labels(0) is None


def test_masks_of_other_names_are_refused(tmp_path: Path) -> None:
    write_image(tmp_path / "origin" / "0001.jpg")
    write_labels(tmp_path / "mask" / "1.png")
    with pytest.raises(ValueError, match=r"named like the 1 images in .*origin, but got masks such as '1' in .*mask"):
        VspwSequence(tmp_path)
    (tmp_path / "mask" / "1.png").unlink()
    with pytest.raises(ValueError, match=r"but got no mask at all in .*mask; remove the folder to go without labels"):
        VspwSequence(tmp_path)


def test_a_video_without_frames_is_refused(root: Path) -> None:
    (root / "data" / "empty" / "origin").mkdir(parents=True)
    with pytest.raises(ValueError, match="at least one frame in the sequence 'empty'"):
        VspwSequence(root / "data" / "empty")
    with pytest.raises(FileNotFoundError, match=r"folder origin in .*nowhere"):
        VspwSequence(root / "data" / "nowhere")
    with pytest.raises(FileNotFoundError, match=r"data/<video>/origin/ in .*99_b"):
        vspw_sequences(root / "data" / "99_b")


def test_a_value_between_the_classes_and_the_ignored_is_refused(root: Path) -> None:
    write_labels(root / "data" / "99_b" / "mask" / "00000000.png", np.full((HEIGHT, WIDTH), 125, np.uint8))
    with pytest.raises(ValueError, match=r"label values of 0\.\.124, 254\.\.255, but .*00000000\.png holds 125"):
        VspwSequence(root / "data" / "99_b").labels(0)


def test_splits(root: Path) -> None:
    assert [video.name for video in vspw_sequences(root)] == ["99_b", "101_c"]
    assert [video.name for video in vspw_sequences(root, "train", 5.0)] == ["100_a"]
    assert vspw_sequences(root, "train", 5.0)[0].frame_rate == 5
    (root / "val.txt").unlink()
    assert [video.name for video in vspw_sequences(root)] == ["99_b", "100_a", "101_c"]
    with pytest.raises(FileNotFoundError, match=r"one of the splits \['train'\] of .*, but got 'test'"):
        vspw_sequences(root, "test")


def test_a_list_names_a_video_per_line(root: Path) -> None:
    """Names with spaces, after the byte order mark and with the line ends of Windows."""
    for name in ("night drive 2", "\u96e8"):
        write_image(root / "data" / name / "origin" / "00000000.jpg")
    (root / "val.txt").write_bytes("\ufeffnight drive 2\r\n\r\n\u96e8 \r\n".encode())
    assert [video.name for video in vspw_sequences(root)] == ["night drive 2", "\u96e8"]


def test_a_list_that_does_not_fit_is_refused(root: Path) -> None:
    (root / "val.txt").write_text("99_b\nlost\nlost_too\n")
    with pytest.raises(FileNotFoundError, match=r"the 3 videos of .*val\.txt .* 2 are not there, such as 'lost'"):
        vspw_sequences(root)
    (root / "val.txt").write_text("\n")
    with pytest.raises(ValueError, match="at least one video"):
        vspw_sequences(root)


def test_a_pickled_video_is_the_same(root: Path) -> None:
    sequence = VspwSequence(root / "data" / "101_c")
    copy = pickle.loads(pickle.dumps(sequence))
    np.testing.assert_array_equal(copy.image(1), sequence.image(1))
    np.testing.assert_array_equal(copy.labels(1), sequence.labels(1))
    assert copy.labels(3) is None


def test_the_class_list() -> None:
    """Positions counted by hand in the list of the data set."""
    names = ClassList.packaged("vspw124").names
    assert len(names) == len(set(names)) == 124
    assert (names[0], names[9], names[123]) == ("wall", "rail", "train")
    assert (names[18], names[21], names[28], names[48], names[60]) == ("road", "building", "sky", "car", "person")
    assert all(name == name.lower().strip() for name in names)
    assert len(set(ClassList.packaged("vspw124").colors)) == 124
