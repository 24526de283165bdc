from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from ditta_core.classes import ClassList, ClassMap, translate_labels
from ditta_core.types import UNLABELLED

CITY = ClassList.packaged("cityscapes19")
CAMVID = ClassList.packaged("camvid11")


def test_cityscapes_to_camvid_is_the_documented_map() -> None:
    documented = [3, 4, 1, 7, 7, 2, 6, 6, 5, 5, 0, 9, 10, 8, 8, 8, 8, 10, 10]
    assert list(ClassMap.between(CITY, CAMVID).assignment) == documented


def test_merged_probability_is_the_sum_of_the_members() -> None:
    class_map = ClassMap.between(CITY, CAMVID)
    logits = torch.randn(2, 19, 3, 4)
    merged = class_map.merge_logits(logits).softmax(1)
    expected = torch.zeros(2, 11, 3, 4).index_add_(1, torch.tensor(class_map.assignment), logits.softmax(1))
    torch.testing.assert_close(merged, expected)


def test_subset_leaves_the_rest_unlabelled() -> None:
    class_map = ClassMap.between(CITY, ClassList.parse("[road, {obstacle: [car, person]}]"))
    assert class_map.channels == 3
    logits = torch.full((1, 19, 1, 3), -9.0)
    logits[0, 0, 0, 0] = logits[0, 11, 0, 1] = logits[0, 10, 0, 2] = 9.0  # road, person, sky
    winner = class_map.merge_logits(logits)[0].argmax(0).numpy()
    assert class_map.label_image(winner).tolist() == [[0, 1, UNLABELLED]]


def test_identity_passes_the_logits_through() -> None:
    logits = torch.randn(1, 19, 2, 2)
    assert ClassMap.identity(CITY).merge_logits(logits) is logits


def test_many_classes_need_sixteen_bits() -> None:
    many = ClassList.of_names([f"class {index}" for index in range(300)])
    label = ClassMap.identity(many).label_image(np.array([[0, 299]]))
    assert label.dtype == np.uint16 and label.tolist() == [[0, 299]]
    assert many.colorize(label).shape == (1, 2, 3)


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("camvid11", CAMVID.names),
        ("[road, sky]", ("road", "sky")),
        ("[{name: free, members: [road, sidewalk], color: [1, 2, 3]}]", ("free",)),
        ("{free: [road, sidewalk], person: person}", ("free", "person")),
    ],
)
def test_ways_to_write_classes(text: str, names: tuple[str, ...]) -> None:
    assert ClassList.parse(text).names == names


def test_class_file(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("classes:\n- {id: 0, name: road}\n- {id: 1, name: car, color: [9, 8, 7]}\n")
    classes = ClassList.parse(str(path))
    assert classes.names == ("road", "car") and classes.colors[1] == (9, 8, 7)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[road, road]", "every class once"),
        ("[]", "expected a list of classes"),
        ("cityscapes", "packaged class lists .*cityscapes19"),
        ("[{name: road, colour: red}]", "expected the keys"),
        ("[{name: road, color: [1, 2]}]", "expected a colour"),
        ("[{a: [x]}, {b: [x]}]", "'x' in one class"),
        ("[1, 2]", "expected a class name"),
        ("nowhere/classes.yaml", "does not exist"),
        ("[road", "expected YAML"),
    ],
)
def test_bad_class_lists(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ClassList.parse(text)


def test_class_of_which_the_model_knows_nothing() -> None:
    with pytest.raises(ValueError, match="giraffe"):
        ClassMap.between(CITY, ClassList.parse("[road, giraffe]"))


def test_colorize() -> None:
    colored = CAMVID.colorize(np.array([[3, UNLABELLED]], np.uint8))
    assert colored.tolist() == [[[128, 64, 128], [0, 0, 0]]]


def test_labels_in_the_published_classes() -> None:
    labels = ClassList.packaged("camvid11")
    np.testing.assert_array_equal(translate_labels(labels, labels)[[0, 10, 11, 255]], [0, 10, 255, 255])
    merged = translate_labels(labels, ClassList.parse("[road, {moving: [car, pedestrian, bicyclist]}]"))
    np.testing.assert_array_equal(merged[[3, 8, 9, 10, 0]], [0, 1, 1, 1, 255])
    with pytest.raises(ValueError, match="zebra"):
        translate_labels(labels, ClassList.parse("[road, zebra]"))
