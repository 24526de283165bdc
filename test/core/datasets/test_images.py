"""Sequences of image files: frames and labels belong together, and errors name the file."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
from trees import HEIGHT, WIDTH, write_image, write_labels

from ditta_core.classes import ClassList
from ditta_core.datasets.camvid import CamVidSequence
from ditta_core.datasets.images import ImageSequence, id_table, ranges
from ditta_core.datasets.timing import Timing


@pytest.fixture
def camvid(tmp_path: Path) -> Path:
    """A CamVid folder of two frames."""
    folder = tmp_path / "drive"
    for index in range(2):
        write_image(folder / "images" / f"{index}.png", index)
        write_labels(folder / "labels" / f"{index}.png", np.full((HEIGHT, WIDTH), 3 + index, np.uint8))
    return folder


@pytest.mark.parametrize("image_first", [False, True])
def test_labels_of_another_size_are_refused(camvid: Path, image_first: bool) -> None:
    write_labels(camvid / "labels" / "1.png", np.zeros((HEIGHT // 2, WIDTH // 2), np.uint8))
    sequence = CamVidSequence(camvid, 15.0)
    sequence.image(0)
    if image_first:
        sequence.image(1)
    assert sequence.labels(0) is not None
    with pytest.raises(ValueError, match=r"24x16 pixels, but .*labels/1\.png has 12x8"):
        sequence.labels(1)


def test_values_that_are_no_class_are_refused(camvid: Path) -> None:
    labels = np.full((HEIGHT, WIDTH), 11, np.uint8)
    labels[0] = 255
    write_labels(camvid / "labels" / "0.png", labels)
    assert np.unique(CamVidSequence(camvid, 15.0).labels(0)).tolist() == [255]
    labels[1, :3] = 12, 13, 40
    write_labels(camvid / "labels" / "0.png", labels)
    with pytest.raises(ValueError, match=r"label values of 0\.\.11, 255, but .*0\.png holds 12\.\.13, 40"):
        CamVidSequence(camvid, 15.0).labels(0)


def test_a_missing_label_file_is_refused(camvid: Path) -> None:
    (camvid / "labels" / "1.png").unlink()
    with pytest.raises(ValueError, match=r"got 2 images, 1 of them without one \['1\.png'\]"):
        CamVidSequence(camvid, 15.0)


def test_an_image_that_cannot_be_read_is_named(camvid: Path) -> None:
    (camvid / "images" / "1.png").write_text("not an image")
    with pytest.raises(ValueError, match=r"expected a readable image, but .*images/1\.png"):
        CamVidSequence(camvid, 15.0).image(1)


def test_an_empty_sequence_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one frame in the sequence 'nothing'"):
        ImageSequence("nothing", Timing(10.0), [], [], ClassList.packaged("camvid11"), id_table({0: 0}))


def test_a_pickled_sequence_is_the_same(camvid: Path) -> None:
    sequence = CamVidSequence(camvid, 15.0)
    sequence.image(1)
    copy = pickle.loads(pickle.dumps(sequence))
    assert (copy.name, len(copy), copy.frame_rate, copy.classes) == ("drive", 2, 15, ClassList.packaged("camvid11"))
    for index in range(2):
        np.testing.assert_array_equal(copy.image(index), sequence.image(index))
        np.testing.assert_array_equal(copy.labels(index), np.full((HEIGHT, WIDTH), 3 + index))


def test_numbers_as_text() -> None:
    assert ranges(np.array([0, 1, 2, 5, 7, 8])) == "0..2, 5, 7..8"
    assert ranges(np.array([4])) == "4"
