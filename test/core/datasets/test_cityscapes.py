"""Cityscapes trees on disk: which snippets there are, which frames are annotated, and which class a label id is."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
from trees import HEIGHT, WIDTH, coloured_image, write_image, write_labels

from ditta_core.classes import ClassList
from ditta_core.datasets.cityscapes import CityscapesSequence, cityscapes_sequences
from ditta_core.datasets.names import DataWarning

# Name, label id, train id of cityscapesScripts, helpers/labels.py; the licence plate's id -1 is stored as 255.
OFFICIAL = [
    ("unlabeled", 0, 255),
    ("ego vehicle", 1, 255),
    ("rectification border", 2, 255),
    ("out of roi", 3, 255),
    ("static", 4, 255),
    ("dynamic", 5, 255),
    ("ground", 6, 255),
    ("road", 7, 0),
    ("sidewalk", 8, 1),
    ("parking", 9, 255),
    ("rail track", 10, 255),
    ("building", 11, 2),
    ("wall", 12, 3),
    ("fence", 13, 4),
    ("guard rail", 14, 255),
    ("bridge", 15, 255),
    ("tunnel", 16, 255),
    ("pole", 17, 5),
    ("polegroup", 18, 255),
    ("traffic light", 19, 6),
    ("traffic sign", 20, 7),
    ("vegetation", 21, 8),
    ("terrain", 22, 9),
    ("sky", 23, 10),
    ("person", 24, 11),
    ("rider", 25, 12),
    ("car", 26, 13),
    ("truck", 27, 14),
    ("bus", 28, 15),
    ("caravan", 29, 255),
    ("trailer", 30, 255),
    ("train", 31, 16),
    ("motorcycle", 32, 17),
    ("bicycle", 33, 18),
    ("license plate", 255, 255),
]
LABEL_IDS = np.resize(np.array([label_id for _, label_id, _ in OFFICIAL], np.uint8), (HEIGHT, WIDTH))
TRAIN_IDS = np.resize(np.array([train_id for _, _, train_id in OFFICIAL], np.uint8), (HEIGHT, WIDTH))


def write_frame(root: Path, kind: str, split: str, city: str, sequence: int, frame: int, index: int = 0) -> None:
    write_image(root / kind / split / city / f"{city}_{sequence:06}_{frame:06}_leftImg8bit.png", index)


def annotate(root: Path, split: str, city: str, sequence: int, frame: int) -> None:
    write_labels(root / "gtFine" / split / city / f"{city}_{sequence:06}_{frame:06}_gtFine_labelIds.png", LABEL_IDS)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Snippets of five frames, the fourth annotated: two of one recording, one of another one, one to train on."""
    for split, city, sequence, first in (
        ("val", "lindau", 0, 275),
        ("val", "lindau", 0, 300),
        ("val", "lindau", 1, 305),
        ("val", "munster", 0, 0),
        ("train", "ulm", 0, 0),
    ):
        for index in range(5):
            write_frame(tmp_path, "leftImg8bit_sequence", split, city, sequence, first + index, index)
        annotate(tmp_path, split, city, sequence, first + 3)
    return tmp_path


def test_snippets_are_found(root: Path) -> None:
    """Consecutive frames of one recording are one snippet."""
    sequences = cityscapes_sequences(root)
    names = ["lindau_000000_000275", "lindau_000000_000300", "lindau_000001_000305", "munster_000000_000000"]
    assert [sequence.name for sequence in sequences] == names
    for sequence in sequences:
        assert len(sequence) == 5
        assert sequence.frame_rate == 17
        for index in range(5):
            np.testing.assert_array_equal(sequence.image(index), coloured_image(index))


def test_only_the_annotated_frame_has_labels_by_the_official_table(root: Path) -> None:
    sequence = cityscapes_sequences(root)[1]
    assert [sequence.labels(index) is None for index in range(5)] == [True, True, True, False, True]
    np.testing.assert_array_equal(sequence.labels(3), TRAIN_IDS)
    assert sequence.classes == ClassList.packaged("cityscapes19")


def test_the_class_list_is_in_the_order_of_the_official_table() -> None:
    official = [name for train_id, name in sorted((train_id, name) for name, _, train_id in OFFICIAL) if train_id < 255]
    assert list(ClassList.packaged("cityscapes19").names) == official


def test_splits(root: Path) -> None:
    assert [sequence.name for sequence in cityscapes_sequences(root, "train", 8.5)] == ["ulm_000000_000000"]
    assert cityscapes_sequences(root, "train", 8.5)[0].frame_rate == 8.5
    with pytest.raises(FileNotFoundError, match=r"one of the splits \['train', 'val'\] of .*, but got 'test'"):
        cityscapes_sequences(root, "test")


def test_without_a_validation_split_all_are_taken(tmp_path: Path) -> None:
    for split in ("train", "test"):
        write_frame(tmp_path, "leftImg8bit_sequence", split, f"city{split}", 0, 0)
    sequences = cityscapes_sequences(tmp_path)
    assert [sequence.name for sequence in sequences] == ["citytest_000000_000000", "citytrain_000000_000000"]
    assert sequences[0].classes is None
    assert sequences[0].labels(0) is None


def test_stills_are_a_sequence_for_each_city(tmp_path: Path) -> None:
    for city, frames in {"lindau": (19, 49, 7), "munster": (19,)}.items():
        for sequence, frame in enumerate(frames):
            write_frame(tmp_path, "leftImg8bit", "val", city, sequence, frame, sequence)
            annotate(tmp_path, "val", city, sequence, frame)
    sequences = cityscapes_sequences(tmp_path)
    assert [(sequence.name, len(sequence), sequence.frame_rate) for sequence in sequences] == [
        ("lindau", 3, 1),
        ("munster", 1, 1),
    ]
    for index in range(3):
        np.testing.assert_array_equal(sequences[0].image(index), coloured_image(index))
        np.testing.assert_array_equal(sequences[0].labels(index), TRAIN_IDS)


def test_an_id_beyond_the_table_is_refused(root: Path) -> None:
    path = root / "gtFine" / "val" / "munster" / "munster_000000_000003_gtFine_labelIds.png"
    write_labels(path, np.full((HEIGHT, WIDTH), 34, np.uint8))
    with pytest.raises(ValueError, match=r"label values of 0\.\.33, 255, but .*labelIds\.png holds 34"):
        cityscapes_sequences(root)[3].labels(3)


@pytest.mark.parametrize(
    "other", ["gtFine/{}_gtFine_labelTrainIds.png", "gtFine/{}_gtFine_color.png", "gtCoarse/{}_gtCoarse_labelIds.png"]
)
def test_annotations_of_another_kind_are_no_labels(tmp_path: Path, other: str) -> None:
    for frame in range(3):
        write_frame(tmp_path, "leftImg8bit_sequence", "val", "bonn", 4, frame)
    assert cityscapes_sequences(tmp_path)[0].classes is None
    kind, _, name = other.partition("/")
    write_labels(tmp_path / kind / "val" / "bonn" / name.format("bonn_000004_000001"))
    with pytest.raises(ValueError, match=rf"_gtFine_labelIds\.png in .*, but got none .*although there is {kind}; "):
        cityscapes_sequences(tmp_path)
    annotate(tmp_path, "val", "bonn", 4, 1)
    assert cityscapes_sequences(tmp_path)[0].labels(1) is not None


def test_a_sequence_without_labels_beside_others_is_told(root: Path) -> None:
    (root / "gtFine" / "val" / "munster" / "munster_000000_000003_gtFine_labelIds.png").unlink()
    with pytest.warns(DataWarning, match=r"1 of 4 sequences in .* have no labels .*such as 'munster_000000_000000'"):
        cityscapes_sequences(root)


def test_two_files_of_a_frame_are_one(root: Path) -> None:
    folder = root / "leftImg8bit_sequence" / "val" / "munster"
    write_image(folder / "munster_000000_000001_leftImg8bit.jpg")
    (folder / "._munster_000000_000002_leftImg8bit.png").write_bytes(b"of macOS")
    sequence = cityscapes_sequences(root)[3]
    assert len(sequence) == 5
    assert sequence.origin(1).endswith("000001_leftImg8bit.png")


def test_no_frames(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"leftImg8bit_sequence or leftImg8bit in"):
        cityscapes_sequences(tmp_path)
    (tmp_path / "leftImg8bit" / "val" / "lindau").mkdir(parents=True)
    (tmp_path / "leftImg8bit" / "val" / "lindau" / "notes.png").write_text("passed over")
    with pytest.raises(ValueError, match=r"expected frames leftImg8bit/val/<city>/.*but got none"):
        cityscapes_sequences(tmp_path)
    with pytest.raises(ValueError, match="at least one frame"):
        CityscapesSequence("nothing", [])


def test_a_pickled_snippet_is_the_same(root: Path) -> None:
    copy = pickle.loads(pickle.dumps(cityscapes_sequences(root)[0]))
    np.testing.assert_array_equal(copy.labels(3), TRAIN_IDS)
    np.testing.assert_array_equal(copy.image(2), coloured_image(2))
