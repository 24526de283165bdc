"""Drives of VIPER on disk: which frames there are, when they were taken, and which class a label value is."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from trees import HEIGHT, WIDTH, write_image, write_labels

from ditta_core.classes import ClassList, translate_labels
from ditta_core.datasets.viper import bonnet, viper_sequences

# Values of the published scenario by class; everything else is ignored.
PUBLISHED = {
    "road": (3,),
    "sidewalk": (4,),
    "building": (9,),
    "fence": (11,),
    "traffic light": (13,),
    "traffic sign": (14,),
    "vegetation": (7, 8),
    "terrain": (6,),
    "sky": (2,),
    "person": (20,),
    "car": (24,),
    "truck": (27,),
    "bus": (26,),
    "motorcycle": (23,),
    "bicycle": (22,),
}


def write_frame(root: Path, split: str, drive: str, number: int, labels: np.ndarray | None = None) -> None:
    write_image(root / split / "img" / drive / f"{drive}_{number:05}.jpg", number % 10)
    if labels is not None:
        write_labels(root / split / "cls" / drive / f"{drive}_{number:05}.png", labels)


def test_every_value_has_the_class_of_the_published_scenario(tmp_path: Path) -> None:
    values = np.resize(np.arange(32, dtype=np.uint8), (HEIGHT, WIDTH))
    values[-1] = 255  # no car below
    write_frame(tmp_path, "train", "001", 1, values)
    (sequence,) = viper_sequences(tmp_path)
    assert sequence.classes is not None and sequence.classes.names == tuple(PUBLISHED)
    owner = {value: index for index, own in enumerate(PUBLISHED.values()) for value in own}
    found = sequence.labels(0)
    assert found is not None and found.tolist() == [[owner.get(value, 255) for value in row] for row in values.tolist()]


def test_the_own_bonnet_is_nothing(tmp_path: Path) -> None:
    values = np.full((HEIGHT, WIDTH), 3, np.uint8)
    values[2:5, 2:5] = 24  # another car
    values[-3:, 4:20] = 24  # the own one
    write_frame(tmp_path, "train", "001", 1, values)
    labels = viper_sequences(tmp_path)[0].labels(0)
    assert labels is not None
    assert (labels[2:5, 2:5] == 10).all() and (labels[-3:, 4:20] == 255).all() and (labels[-3:, :4] == 0).all()


def test_a_car_beside_the_middle_stays() -> None:
    cars = np.zeros((4, 9), np.bool_)
    cars[-1, :3] = True
    assert not bonnet(cars).any()
    cars[-1, 4] = True
    assert bonnet(cars).nonzero()[1].tolist() == [4]


def test_frames_are_timed_by_their_numbers(tmp_path: Path) -> None:
    for number in (21, 1, 11, 41):
        write_frame(tmp_path, "train", "004", number)
    (sequence,) = viper_sequences(tmp_path)
    assert sequence.classes is None and sequence.labels(0) is None
    seconds = [sequence.stamp(index) / 1e9 for index in range(4)]
    np.testing.assert_allclose(seconds, [0, 10 / 15, 20 / 15, 40 / 15], atol=1e-6)
    assert sequence.frame_rate == pytest.approx(1.5)
    (regular,) = viper_sequences(tmp_path, frame_rate=4.0)
    assert [regular.stamp(index) for index in (0, 3)] == [0, 750_000_000]


def test_splits_and_drives_in_order(tmp_path: Path) -> None:
    for split, drive in (("train", "010"), ("train", "002"), ("val", "044")):
        write_frame(tmp_path, split, drive, 1)
    (tmp_path / "train" / "img" / "003").mkdir()  # empty
    assert [sequence.name for sequence in viper_sequences(tmp_path)] == ["044"]
    assert [sequence.name for sequence in viper_sequences(tmp_path, "train")] == ["002", "010"]
    with pytest.raises(FileNotFoundError, match=r"one of the splits \['train', 'val'\] of .* but got 'test'"):
        viper_sequences(tmp_path, "test")


def test_a_copy_without_frames(tmp_path: Path) -> None:
    (tmp_path / "train" / "img" / "001").mkdir(parents=True)
    with pytest.raises(ValueError, match=r"expected frames train/img/<drive>/<drive>_<frame>\.jpg"):
        viper_sequences(tmp_path)


def test_values_that_viper_does_not_use(tmp_path: Path) -> None:
    write_frame(tmp_path, "train", "001", 1, np.full((HEIGHT, WIDTH), 77, np.uint8))
    with pytest.raises(ValueError, match=r"label values of 0\.\.31, 255, but .* holds 77"):
        viper_sequences(tmp_path)[0].labels(0)


def test_cityscapes_labels_in_these_classes() -> None:
    """Rider and person are one; wall, pole and train are none."""
    city, viper = ClassList.packaged("cityscapes19"), ClassList.packaged("viper15")
    table = dict(zip(city.names, translate_labels(city, viper), strict=False))
    assert table["rider"] == table["person"] == viper.names.index("person")
    assert {name for name, own in table.items() if own == 255} == {"wall", "pole", "train"}
